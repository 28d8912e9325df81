import logging

import pytest
import torch

from livetalk.parallel.mesh import Axis, ParallelMesh
from livetalk.parallel.peer_memory import open_peer_memory
from livetalk.parallel.sequence import meets_in_memory

ALONE, CPU, CUDA = Axis("", 0, 1), torch.device("cpu"), torch.device("cuda", 0)


def mesh_of(
    ulysses: int, ring: int = 1, device: torch.device = CUDA, apart: tuple[int, int] | None = None
) -> ParallelMesh:
    """Describe a mesh that nobody talks over."""
    axes = (Axis("unused", 0, size) if size > 1 else ALONE for size in (ulysses * ring, ulysses, ring))
    everyone, first, second = axes
    return ParallelMesh(everyone=everyone, ulysses=first, ring=second, device=device, apart=apart)


def test_gpus_that_are_apart_are_named_and_their_exchanges_are_collectives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "livetalk"):
        assert open_peer_memory(mesh_of(4, apart=(0, 3))) is None
    assert "GPU workers 1 and 4 cannot reach each other's memory" in caplog.text


def test_cpus_and_single_ranks_have_no_peers() -> None:
    assert open_peer_memory(mesh_of(2, device=CPU)) is None
    assert open_peer_memory(mesh_of(1)) is None


def test_only_even_shares_without_a_ring_meet_in_memory() -> None:
    assert meets_in_memory(mesh_of(4), num_heads=40)
    assert not meets_in_memory(mesh_of(3), num_heads=40)
    assert not meets_in_memory(mesh_of(2, ring=2), num_heads=40)
    assert not meets_in_memory(mesh_of(4, device=CPU), num_heads=40)
    assert not meets_in_memory(mesh_of(4, apart=(0, 3)), num_heads=40)
