import pytest
import torch
from torch import Tensor

from livetalk.ops.pieces import Piece, cut
from livetalk.parallel.halo import Margins, borrow_lines
from livetalk.parallel.mesh import Axis, ParallelConfig, build_mesh
from parallel.gloo_ranks import run_ranks

TOTAL = 7


def whole(dim: int) -> Tensor:
    """Return frames `[2, 3, 2, H, W]` with `TOTAL` lines along `dim`, every value another."""
    size = [2, 3, 2, 5, 5]
    size[dim] = TOTAL
    frames = torch.arange(torch.Size(size).numel(), dtype=torch.float32).view(size)
    return frames.contiguous(memory_format=torch.channels_last_3d)


def with_margin(x: Tensor, dim: int, own: Piece, margin: int) -> Tensor:
    """Cut a piece with its margins out of `whole`."""
    start, stop = max(0, own.start - margin), min(TOTAL, own.stop + margin)
    return x.narrow(dim, start, stop - start).contiguous(memory_format=torch.channels_last_3d)


def this_axis() -> Axis:
    size = torch.distributed.get_world_size()
    return build_mesh(ParallelConfig(ulysses_degree=size), torch.device("cpu")).everyone


def spoiled(dim: int, axis: Axis, margin: int) -> Tensor:
    """Return this rank's piece with margins that hold no numbers."""
    own = cut(TOTAL, axis.size)[axis.rank]
    x = torch.full_like(with_margin(whole(dim), dim, own, margin), float("nan"))
    x.narrow(dim, min(margin, own.start), own.size).copy_(whole(dim).narrow(dim, own.start, own.size))
    return x


def borrowed(dim: int, given: int, shown: int) -> tuple[bool, bool, bool]:
    """Say whether the lines are right, lie in the old memory, and have the layout that they should."""
    axis = this_axis()
    pieces, x = cut(TOTAL, axis.size), spoiled(dim, axis, given)
    margins = Margins(given=given, shown=shown, left=0)
    wide = borrow_lines(x, dim, pieces, margins, axis)
    expected = with_margin(whole(dim), dim, pieces[axis.rank], shown)
    in_place = wide.data_ptr() == x.data_ptr()
    return torch.equal(wide, expected), in_place, wide.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("dim", [3, 4])
@pytest.mark.parametrize(("num_ranks", "given", "shown"), [(2, 0, 2), (3, 2, 2), (4, 0, 1), (7, 2, 2)])
def test_lines_are_borrowed_in_place_where_there_is_room(
    dim: int, num_ranks: int, given: int, shown: int
) -> None:
    for right, in_place, channels_last in run_ranks(borrowed, num_ranks, dim, given, shown):
        assert right and channels_last
        assert in_place == (given == shown)


def borrowed_for_a_part(dim: int) -> tuple[bool, bool]:
    """Borrow for lines that lie within a wider picture; say whether they are right, and that is unaltered."""
    axis = this_axis()
    pieces = cut(TOTAL, axis.size)
    own, wider = pieces[axis.rank], spoiled(dim, axis, 2)
    before = wider.clone()
    start, size = own.start - min(2, own.start), with_margin(whole(dim), dim, own, 1).shape[dim]
    x = wider.narrow(dim, max(0, own.start - 1) - start, size)
    wide = borrow_lines(x, dim, pieces, Margins(given=1, shown=1, left=0), axis)
    unaltered = torch.equal(wider.nan_to_num(-1), before.nan_to_num(-1))
    return torch.equal(wide, with_margin(whole(dim), dim, own, 1)), unaltered


@pytest.mark.parametrize("dim", [3, 4])
def test_a_part_of_a_wider_picture_is_copied_once(dim: int) -> None:
    assert run_ranks(borrowed_for_a_part, 3, dim) == [(True, True)] * 3
