import pytest
import torch
from torch import Tensor, nn

from livetalk.errors import InputError
from livetalk.ops.attention import AttentionCore, attention
from livetalk.ops.backends import ATTENTION_KERNELS, KernelCore
from livetalk.ops.low_precision import FLOAT8
from livetalk.parallel.mesh import Axis, ParallelConfig, ParallelMesh, build_mesh
from livetalk.parallel.ring import RingAttention
from livetalk.parallel.shard import Shard
from livetalk.parallel.ulysses import UlyssesAttention
from parallel.gloo_ranks import run_ranks
from tolerance import assert_near, relative, rounding, unit_roundoff

CPU = torch.device("cpu")


def qkv(num_tokens: int, num_heads: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Draw queries, keys and values `[batch, num_tokens, num_heads, 8]`; values decide the precision."""
    rng = torch.Generator().manual_seed(num_tokens)
    shape = (3, batch, num_tokens, num_heads, 8)
    q, k, v = torch.randn(shape, generator=rng).unbind(0)
    return q, k, v


def attend(
    degrees: tuple[int, int],
    num_tokens: int,
    num_heads: int,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Attend from this rank's tokens to all."""
    mesh = build_mesh(ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1]), CPU)
    shard = Shard(mesh.world, "tokens", dim=1)
    core: nn.Module = AttentionCore()
    if mesh.ring.size > 1:
        core = RingAttention(core, shard, mesh)
    if mesh.ulysses.size > 1:
        core = UlyssesAttention(core, shard, mesh, num_heads)
    own = shard.resize(num_tokens).span
    q, k, v = qkv(num_tokens, num_heads, batch)
    return core(q[:, own], k[:, own], v[:, own].to(dtype))


@pytest.mark.parametrize(
    ("degrees", "num_tokens", "num_heads"),
    [((2, 1), 31, 4), ((3, 1), 31, 4), ((4, 1), 31, 5), ((1, 3), 31, 2), ((3, 2), 31, 5), ((2, 2), 5, 3)],
)
def test_uneven_tokens_and_heads(degrees: tuple[int, int], num_tokens: int, num_heads: int) -> None:
    pieces = run_ranks(attend, degrees[0] * degrees[1], degrees, num_tokens, num_heads, 2)
    # Products of 8 wide heads, a softmax over the tokens and a sum over them.
    expected = attention(*qkv(num_tokens, num_heads, 2))
    assert_near(torch.cat(pieces, dim=1), expected, rounding(8 + 2 * num_tokens))


@pytest.mark.parametrize("degrees", [(2, 1), (2, 2), (4, 2)])
def test_the_tokens_of_a_whole_window(degrees: tuple[int, int]) -> None:
    # 10,530 tokens divide by 2 only; the published network has 40 heads of 128.
    pieces = run_ranks(attend, degrees[0] * degrees[1], degrees, 10_530, 4)
    sizes = [piece.shape[1] for piece in pieces]
    assert sum(sizes) == 10_530 and max(sizes) - min(sizes) <= 1
    assert_near(torch.cat(pieces, dim=1), attention(*qkv(10_530, 4)), rounding(8 + 2 * 10_530))


def test_ulysses_rounds_as_one_rank_does() -> None:
    pieces = run_ranks(attend, 3, (3, 1), 31, 4, 1, torch.bfloat16)
    q, k, v = qkv(31, 4)
    expected = attention(q, k, v.bfloat16())
    found = torch.cat(pieces, dim=1)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


def test_a_ring_is_within_the_rounding_of_bfloat16() -> None:
    found = torch.cat(run_ranks(attend, 3, (1, 3), 31, 4, 1, torch.bfloat16), dim=1)
    exact = attention(*(x.bfloat16().float() for x in qkv(31, 4)))
    one_rank = attention(*(x.bfloat16() for x in qkv(31, 4)))
    error = (found.float() - exact).norm() / exact.norm()
    assert found.dtype == torch.bfloat16
    # Each part is rounded once, and their sum once more.
    assert error < 2 * (one_rank.float() - exact).norm() / exact.norm()


def attend_in_bytes() -> Tensor:
    """Attend around a ring with a kernel that subtracts the mean of the keys it is given."""
    mesh = build_mesh(ParallelConfig(ulysses_degree=1, ring_degree=3), CPU)
    shard = Shard(mesh.world, "tokens", dim=1)
    own = shard.resize(31).span
    q, k, v = far_keys()
    core = KernelCore(ATTENTION_KERNELS["fp8-reference"])
    return RingAttention(core, shard, mesh)(q[:, own], k[:, own], v[:, own])


def far_keys() -> tuple[Tensor, Tensor, Tensor]:
    """Draw keys whose mean differs between shards."""
    q, k, v = qkv(31, 4)
    return q, k + torch.linspace(-3, 3, 31)[:, None, None], v


def test_a_ring_merges_parts_of_a_kernel_that_subtracts_the_mean_of_keys() -> None:
    found = torch.cat(run_ranks(attend_in_bytes, 3), dim=1)
    exact = attention(*far_keys())
    # Queries, keys and values are rounded, each on its own.
    assert relative(found, exact) < 3**0.5 * unit_roundoff(FLOAT8)


def mesh_of(ulysses: int) -> ParallelMesh:
    """Return a mesh whose process groups are never used."""
    axis = Axis("unused", 0, ulysses)
    return ParallelMesh(world=axis, ulysses=axis, ring=Axis("", 0, 1), device=CPU)


def test_more_ranks_than_heads_are_refused() -> None:
    mesh = mesh_of(8)
    with pytest.raises(InputError, match="8 GPUs cannot share 4 attention heads; use a ring"):
        UlyssesAttention(AttentionCore(), Shard(mesh.world, "tokens", dim=1), mesh, 4)


def test_more_ranks_than_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="8 GPUs cannot share 7 tokens; use fewer GPUs"):
        Shard(mesh_of(8).world, "tokens", dim=1).resize(7)


def test_masks_are_refused() -> None:
    mesh = mesh_of(2)
    shard = Shard(mesh.world, "tokens", dim=1)
    q, k, v = qkv(4, 2)
    for core in (
        UlyssesAttention(AttentionCore(), shard, mesh, 2),
        RingAttention(AttentionCore(), shard, mesh),
    ):
        with pytest.raises(ValueError, match="takes no mask"):
            core(q, k, v, torch.ones(4, 4, dtype=torch.bool))
