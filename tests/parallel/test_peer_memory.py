import logging

import pytest
import torch

from livetalk.parallel.mesh import Axis, ParallelMesh
from livetalk.parallel.peer_memory import open_peer_memory
from livetalk.parallel.sequence import uses_peer_memory

ALONE, CPU, CUDA = Axis("", 0, 1), torch.device("cpu"), torch.device("cuda", 0)


def mesh_of(
    ulysses: int, ring: int = 1, device: torch.device = CUDA, non_peer_pair: tuple[int, int] | None = None
) -> ParallelMesh:
    """Return a mesh whose process groups are never used."""
    axes = (Axis("unused", 0, size) if size > 1 else ALONE for size in (ulysses * ring, ulysses, ring))
    world, first, second = axes
    return ParallelMesh(world=world, ulysses=first, ring=second, device=device, non_peer_pair=non_peer_pair)


def test_non_peer_gpus_are_named_in_the_log_and_exchange_by_collectives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "livetalk"):
        assert open_peer_memory(mesh_of(4, non_peer_pair=(0, 3))) is None
    assert "GPU workers 1 and 4 cannot access each other's memory" in caplog.text


def test_cpus_and_single_ranks_have_no_peers() -> None:
    assert open_peer_memory(mesh_of(2, device=CPU)) is None
    assert open_peer_memory(mesh_of(1)) is None


def test_only_even_shards_without_a_ring_use_peer_memory() -> None:
    assert uses_peer_memory(mesh_of(4), num_heads=40)
    assert not uses_peer_memory(mesh_of(3), num_heads=40)
    assert not uses_peer_memory(mesh_of(2, ring=2), num_heads=40)
    assert not uses_peer_memory(mesh_of(4, device=CPU), num_heads=40)
    assert not uses_peer_memory(mesh_of(4, non_peer_pair=(0, 3)), num_heads=40)
