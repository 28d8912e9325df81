import pytest
import torch

from livetalk.errors import InputError
from livetalk.ops.partition import IndexRange, split_evenly
from livetalk.parallel.mesh import Axis, ParallelConfig, build_mesh, choose_degrees
from parallel.gloo_ranks import run_ranks

WINDOW_TOKENS = 10_530


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 7, 8])
def test_pieces_cover_everything_once_and_differ_by_one_at_most(num_ranks: int) -> None:
    pieces = split_evenly(WINDOW_TOKENS, num_ranks)
    assert [index for piece in pieces for index in range(piece.start, piece.stop)] == list(
        range(WINDOW_TOKENS)
    )
    sizes = [piece.size for piece in pieces]
    assert len(sizes) == num_ranks and max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_overlap() -> None:
    assert IndexRange(2, 6).overlap(IndexRange(4, 9)) == IndexRange(4, 6)
    assert IndexRange(2, 6).overlap(IndexRange(7, 9)).size == 0
    assert IndexRange(7, 9).overlap(IndexRange(2, 6)).size == 0


@pytest.mark.parametrize(
    ("num_ranks", "num_heads", "degrees"),
    [(1, 40, (1, 1)), (2, 40, (2, 1)), (3, 40, (3, 1)), (8, 40, (8, 1)), (6, 4, (3, 2)), (5, 4, (1, 5))],
)
def test_a_ring_only_where_heads_run_out(num_ranks: int, num_heads: int, degrees: tuple[int, int]) -> None:
    config = choose_degrees(num_ranks, num_heads)
    assert (config.ulysses_degree, config.ring_degree) == degrees
    assert config.num_ranks == num_ranks


def test_degrees_below_one_are_refused() -> None:
    with pytest.raises(InputError, match="parallel degrees 2 x 0: must be 1 or more"):
        ParallelConfig(ulysses_degree=2, ring_degree=0)


def axes() -> tuple[Axis, Axis, Axis]:
    mesh = build_mesh(ParallelConfig(ulysses_degree=2, ring_degree=2), torch.device("cpu"))
    return mesh.world, mesh.ulysses, mesh.ring


def test_neighbours_share_a_group_and_the_ring_joins_the_groups() -> None:
    found = run_ranks(axes, 4)
    places = [tuple((axis.rank, axis.size) for axis in ranks) for ranks in found]
    assert places == [
        ((0, 4), (0, 2), (0, 2)),
        ((1, 4), (1, 2), (0, 2)),
        ((2, 4), (0, 2), (1, 2)),
        ((3, 4), (1, 2), (1, 2)),
    ]
    names = [[axis.group_name for axis in ranks] for ranks in found]
    assert names[0][1] == names[1][1] != names[2][1] == names[3][1]
    assert names[0][2] == names[2][2] != names[1][2] == names[3][2]


def refusal() -> str:
    with pytest.raises(InputError) as caught:
        build_mesh(ParallelConfig(ulysses_degree=3), torch.device("cpu"))
    return str(caught.value)


def test_degrees_that_do_not_make_the_ranks_are_refused() -> None:
    messages = run_ranks(refusal, 2)
    assert messages == ["parallel degrees 3 x 1: make 3 ranks, but 2 are running"] * 2
