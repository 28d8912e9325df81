import pytest
import torch
from torch import Tensor

from livetalk.ops.partition import IndexRange, split_evenly
from livetalk.parallel.halo import HaloSizes, exchange_halo
from livetalk.parallel.mesh import Axis, ParallelConfig, build_mesh
from parallel.gloo_ranks import run_ranks

TOTAL = 7


def whole(dim: int) -> Tensor:
    """Return frames `[2, 3, 2, H, W]` with `TOTAL` lines along `dim` and distinct values."""
    size = [2, 3, 2, 5, 5]
    size[dim] = TOTAL
    frames = torch.arange(torch.Size(size).numel(), dtype=torch.float32).view(size)
    return frames.contiguous(memory_format=torch.channels_last_3d)


def with_halo(x: Tensor, dim: int, own: IndexRange, num_lines: int) -> Tensor:
    """Return a rank's lines and their halo."""
    start, stop = max(0, own.start - num_lines), min(TOTAL, own.stop + num_lines)
    return x.narrow(dim, start, stop - start).contiguous(memory_format=torch.channels_last_3d)


def this_axis() -> Axis:
    size = torch.distributed.get_world_size()
    return build_mesh(ParallelConfig(ulysses_degree=size), torch.device("cpu")).world


def with_stale_halo(dim: int, axis: Axis, num_lines: int) -> Tensor:
    """Return this rank's lines with NaN in the halo."""
    own = split_evenly(TOTAL, axis.size)[axis.rank]
    x = torch.full_like(with_halo(whole(dim), dim, own, num_lines), float("nan"))
    x.narrow(dim, min(num_lines, own.start), own.size).copy_(whole(dim).narrow(dim, own.start, own.size))
    return x


def exchange(dim: int, on_input: int, exchanged: int) -> tuple[bool, bool, bool]:
    """Return whether the lines are correct, in the memory of the input, and in channels_last_3d."""
    axis = this_axis()
    ranges, x = split_evenly(TOTAL, axis.size), with_stale_halo(dim, axis, on_input)
    halo = HaloSizes(on_input=on_input, exchanged=exchanged, on_output=0)
    extended = exchange_halo(x, dim, ranges, halo, axis)
    expected = with_halo(whole(dim), dim, ranges[axis.rank], exchanged)
    in_place = extended.data_ptr() == x.data_ptr()
    return (
        torch.equal(extended, expected),
        in_place,
        extended.is_contiguous(memory_format=torch.channels_last_3d),
    )


@pytest.mark.parametrize("dim", [3, 4])
@pytest.mark.parametrize(("num_ranks", "on_input", "exchanged"), [(2, 0, 2), (3, 2, 2), (4, 0, 1), (7, 2, 2)])
def test_a_halo_of_the_right_size_is_filled_in_place(
    dim: int, num_ranks: int, on_input: int, exchanged: int
) -> None:
    for right, in_place, channels_last in run_ranks(exchange, num_ranks, dim, on_input, exchanged):
        assert right and channels_last
        assert in_place == (on_input == exchanged)


def exchange_in_view(dim: int) -> tuple[bool, bool]:
    """Exchange for a view of a wider frame; return whether the lines are correct and the frame unchanged."""
    axis = this_axis()
    ranges = split_evenly(TOTAL, axis.size)
    own, wider = ranges[axis.rank], with_stale_halo(dim, axis, 2)
    before = wider.clone()
    start, size = own.start - min(2, own.start), with_halo(whole(dim), dim, own, 1).shape[dim]
    x = wider.narrow(dim, max(0, own.start - 1) - start, size)
    extended = exchange_halo(x, dim, ranges, HaloSizes(on_input=1, exchanged=1, on_output=0), axis)
    unaltered = torch.equal(wider.nan_to_num(-1), before.nan_to_num(-1))
    return torch.equal(extended, with_halo(whole(dim), dim, own, 1)), unaltered


@pytest.mark.parametrize("dim", [3, 4])
def test_a_view_of_a_wider_frame_is_copied(dim: int) -> None:
    assert run_ranks(exchange_in_view, 3, dim) == [(True, True)] * 3
