import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from livetalk.parallel.collectives import exchange, gather
from livetalk.parallel.mesh import Axis, ParallelConfig, build_mesh
from parallel.gloo_ranks import run_ranks

SENT = [[1, 0, 2], [0, 3, 1], [2, 2, 0]]
"""Rows from each rank (first index) to each rank."""


def world() -> Axis:
    return build_mesh(ParallelConfig(ulysses_degree=3), torch.device("cpu")).world


def exchanged() -> Tensor:
    """Send rows that name their sender, their receiver and their number."""
    rank = dist.get_rank()
    rows = [(rank, peer, number) for peer in range(3) for number in range(SENT[rank][peer])]
    return exchange(torch.tensor(rows), SENT[rank], [sent[rank] for sent in SENT], world())


def test_every_part_reaches_its_receiver_and_parts_may_be_empty() -> None:
    for rank, rows in enumerate(run_ranks(exchanged, 3)):
        expected = [(sender, rank, number) for sender in range(3) for number in range(SENT[sender][rank])]
        assert rows.tolist() == [list(row) for row in expected]


def gathered(sizes: list[int]) -> Tensor:
    whole = torch.arange(2 * sum(sizes) * 3).view(2, sum(sizes), 3)
    return gather(whole.split(sizes, dim=1)[dist.get_rank()], 1, sizes, world())


@pytest.mark.parametrize("sizes", [[2, 2, 2], [3, 2, 2], [1, 0, 4]])
def test_shards_of_any_size_are_gathered_on_all_ranks(sizes: list[int]) -> None:
    whole = torch.arange(2 * sum(sizes) * 3).view(2, sum(sizes), 3)
    for found in run_ranks(gathered, 3, sizes):
        assert torch.equal(found, whole)


def test_sizes_that_do_not_fit_are_refused() -> None:
    axis = Axis("unused", 0, 2)
    with pytest.raises(ValueError, match="do not fit 2 ranks and 3 rows"):
        exchange(torch.zeros(3, 1), [1, 1], [1, 1], axis)
    with pytest.raises(ValueError, match="shard of 3 on rank 0 does not fit"):
        gather(torch.zeros(3, 1), 0, [2, 2], axis)


def test_a_single_rank_gathers_nothing() -> None:
    x = torch.zeros(3, 1)
    assert gather(x, 0, [3], Axis("", 0, 1)) is x
