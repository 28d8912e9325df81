"""Fused blocks, FP8 and named attention kernels on tokens that are sharded over ranks."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from threading import Barrier
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from livetalk.accelerate.fused_attention import attend_to_tokens
from livetalk.accelerate.fused_blocks import fuse_blocks
from livetalk.accelerate.fused_qkv import fuse_qkv
from livetalk.models.dit import DiT
from livetalk.ops.backends import ATTENTION_KERNELS, apply_attention
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.rope import RopeTables, grid_positions, rope_tables
from livetalk.parallel.mesh import Axis, ParallelConfig, ParallelMesh, build_mesh
from livetalk.parallel.peer_memory import PeerBuffer, PeerMemory
from livetalk.parallel.sequence import parallelize_dit
from livetalk.parallel.shard import Shard
from livetalk.parallel.ulysses import SendBuffer, UlyssesAttention
from livetalk.placement.float8 import apply_float8
from parallel.gloo_ranks import run_ranks
from tiny import AUDIO, DIT_WITH_PROMPT, dit_inputs, tiny_dit
from tolerance import assert_near, expect

CONFIG = replace(DIT_WITH_PROMPT, dim=64, ffn_dim=128, num_heads=4, audio=replace(AUDIO, output_dim=16))


def build(*, fused: bool, attention: str, float8: bool) -> DiT:
    """Build the same transformer on every rank, with the given fast forms."""
    dit = fuse_qkv(tiny_dit(CONFIG))
    if float8:
        apply_float8(dit, allow_reference=True)
    apply_attention(dit, ATTENTION_KERNELS[attention], ("self_attention",))
    if fused:
        fuse_blocks(dit, TorchKernels())
    return dit


def velocity(degrees: tuple[int, int], attention: str, *, float8: bool) -> Tensor:
    """Predict a velocity together with the other ranks."""
    mesh = build_mesh(ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1]), torch.device("cpu"))
    dit = build(fused=True, attention=attention, float8=float8)
    parallelize_dit(dit, mesh)
    result: Tensor = dit(*dit_inputs(CONFIG))
    return result


def exact_velocity(degrees: tuple[int, int]) -> Tensor:
    """Predict without FP8."""
    return velocity(degrees, "flash", float8=False)


def rounded_velocity(degrees: tuple[int, int]) -> Tensor:
    """Predict with products and attention in FP8."""
    return velocity(degrees, "fp8-reference", float8=True)


@pytest.mark.parametrize("degrees", [(2, 1), (1, 2)])
def test_ranks_give_the_velocity_of_the_plain_transformer(degrees: tuple[int, int]) -> None:
    plain = tiny_dit(CONFIG)
    expected, limit = expect(lambda: plain(*dit_inputs(CONFIG)), plain)
    for found in run_ranks(exact_velocity, 2, degrees):
        assert_near(found, expected, limit)


def test_fp8_on_ranks_is_as_near_as_on_one() -> None:
    with torch.no_grad():
        exact = tiny_dit(CONFIG)(*dit_inputs(CONFIG))
        alone = build(fused=True, attention="fp8-reference", float8=True)(*dit_inputs(CONFIG))
    error = (alone - exact).norm()
    # Two ranks hold equally many of four heads and exchange FP8; three quantise after the exchange.
    for num_ranks in (2, 3):
        for found in run_ranks(rounded_velocity, num_ranks, (num_ranks, 1)):
            # Not bit for bit: sums round differently with other tokens in a product.
            assert (found - exact).norm() < 1.2 * error
            assert (found - alone).norm() < error


def bytes_exchanged() -> list[tuple[torch.dtype, int]]:
    """Predict with attention in FP8, and record what the ranks exchange."""
    exchanged = []

    class RecordedExchanges(UlyssesAttention):
        def send_heads(self, buffer: SendBuffer) -> tuple[Tensor, Tensor, Tensor]:
            exchanged.append((buffer.memory.dtype, buffer.memory.numel()))
            return super().send_heads(buffer)

    mesh = build_mesh(ParallelConfig(ulysses_degree=2), torch.device("cpu"))
    dit = build(fused=True, attention="fp8-reference", float8=True)
    parallelize_dit(dit, mesh)
    for core in dit.modules():
        if isinstance(core, UlyssesAttention):
            core.__class__ = RecordedExchanges
    dit(*dit_inputs(CONFIG))
    return exchanged


def test_fp8_attention_exchanges_fp8() -> None:
    for found in run_ranks(bytes_exchanged, 2):
        assert len(found) == CONFIG.num_layers
        assert {dtype for dtype, _ in found} == {torch.float8_e4m3fn}


class ThreadMemory:
    """Simulates peer memory with threads and a barrier between them."""

    def __init__(self, num_ranks: int) -> None:
        self.barrier = Barrier(num_ranks, timeout=60)
        self.built = [torch.empty(0)] * num_ranks

    def of_rank(self, axis: Axis) -> PeerMemory:
        shared = self

        class Peers(PeerMemory):
            def _build(self, num_bytes: int) -> PeerBuffer:
                shared.built[axis.rank] = torch.full((num_bytes,), 77, dtype=torch.uint8)
                shared.barrier.wait()
                parts = list(shared.built)
                shared.barrier.wait()
                return PeerBuffer(parts, SimpleNamespace(barrier=lambda timeout_ms: shared.barrier.wait()))

        return Peers(axis, torch.device("cpu"))


def attend_alone(attention: nn.Module, x: Tensor, rope: RopeTables) -> Tensor:
    found = attend_to_tokens(attention, TorchKernels(), x, rope)
    # With peer memory the result is one group of heads per rank.
    whole = found if isinstance(found, Tensor) else torch.cat([*found], dim=2)
    return whole.flatten(2).float()


def attend_in_threads(
    attention: nn.Module, windows: list[Tensor], rope: RopeTables, size: int
) -> list[Tensor]:
    """Attend to the tokens of each window on ranks that are threads."""
    memory = ThreadMemory(size)

    def run(rank: int) -> list[Tensor]:
        axis = Axis("", rank, size)
        mesh = ParallelMesh(world=axis, ulysses=axis, ring=Axis("", 0, 1), device=torch.device("cpu"))
        shard = Shard(axis, "tokens", dim=1)
        sharded = deepcopy(attention)
        core = UlyssesAttention(
            sharded.get_submodule("core"), shard, mesh, CONFIG.num_heads, memory.of_rank(axis)
        )
        sharded.register_module("core", core)
        found = []
        with torch.no_grad():
            for x in windows:
                own = shard.resize(x.shape[1]).span
                part = RopeTables(rope.cos[: x.shape[1]][own], rope.sin[: x.shape[1]][own])
                found.append(attend_alone(sharded, x[:, own], part).clone())
        return found

    with ThreadPoolExecutor(size) as pool:
        ranks = list(pool.map(run, range(size)))
    return [torch.cat(parts, dim=1) for parts in zip(*ranks, strict=True)]


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize(
    ("attention", "float8", "limit"), [("flash", False, 1e-6), ("fp8-reference", True, 0.01)]
)
def test_peer_memory_gives_the_heads_of_an_exchange(
    num_ranks: int, attention: str, float8: bool, limit: float
) -> None:
    block = build(fused=True, attention=attention, float8=float8).blocks.layers[0]
    rng = torch.Generator().manual_seed(0)
    # Uneven shards, several windows, and later ones that need larger buffers.
    windows = [torch.randn(batch, 7 * batch, CONFIG.dim, generator=rng) for batch in (1, 1, 2, 1, 3)]
    rope = rope_tables(grid_positions(3, 1, 7, torch.device("cpu")), CONFIG.head_dim)
    found = attend_in_threads(block.self_attention, windows, rope, num_ranks)
    for x, y in zip(windows, found, strict=True):
        part = RopeTables(rope.cos[: x.shape[1]], rope.sin[: x.shape[1]])
        with torch.no_grad():
            expected = attend_alone(block.self_attention, x, part)
        assert (y - expected).norm() <= limit * expected.norm()
