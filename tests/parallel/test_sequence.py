from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
import torch._dynamo
from torch import Tensor

from livetalk.accelerate.fused_blocks import fuse_blocks
from livetalk.accelerate.fused_qkv import fuse_qkv
from livetalk.models import dit_precompute
from livetalk.models.dit_plan import ExecutionPlan, TokenShare
from livetalk.models.dit_precompute import precompute_chunk, precompute_stream
from livetalk.models.dit_speech import AbsorbedSpeech
from livetalk.ops.backends import ATTENTION_KERNELS, apply_attention
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.parallel.mesh import Axis, ParallelConfig, ParallelMesh, build_mesh
from livetalk.parallel.sequence import parallelize_dit
from parallel.gloo_ranks import run_ranks
from tiny import DIT_WITH_PROMPT, tiny_dit
from tolerance import assert_near, expect

CPU = torch.device("cpu")
Degrees = tuple[int, int]


def draw_inputs(frames: int, rows: int, columns: int) -> tuple[Tensor, ...]:
    """Draw inputs of the transformer for `frames` latent frames of `rows` x `columns` tokens."""
    rng = torch.Generator().manual_seed(0)
    config = DIT_WITH_PROMPT
    audio = config.audio

    def draw(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=rng)

    grid = (frames, 2 * rows, 2 * columns)
    return (
        draw(config.out_channels, *grid),
        torch.full((1,), 500.0),
        draw(config.in_channels - config.out_channels, *grid),
        draw(4 * frames - 3, audio.window, audio.num_blocks, audio.channels),
        draw(3, config.text_dim or 0),
        draw(7, config.image_dim or 0),
    )


SIZES = ((5, 5, 7), (3, 2, 2), (3, 3, 4))
"""Windows of 175 tokens, divisible by no number of ranks here; of 12 and 36, whose shards split frames."""


def velocities(degrees: Degrees) -> list[Tensor]:
    """Predict the velocity of a window of each size with one transformer."""
    config = ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1])
    dit = tiny_dit(DIT_WITH_PROMPT)
    parallelize_dit(dit, build_mesh(config, CPU))
    return [dit(*draw_inputs(*size)) for size in SIZES]


@cache
def expected_velocities() -> list[tuple[Tensor, float]]:
    """Predict the same on one rank without parallelism; with the limits for several ranks."""
    dit = tiny_dit(DIT_WITH_PROMPT)
    return [expect(partial(dit, *draw_inputs(*size)), dit) for size in SIZES]


def assert_all_equal_one(found: Sequence[list[Tensor]]) -> None:
    """Check that ranks agree bit for bit with each other, and up to rounding with one rank."""
    for rank in found:
        for own, first, expected in zip(rank, found[0], expected_velocities(), strict=True):
            assert torch.equal(own, first)
            assert_near(own, *expected)


@pytest.mark.parametrize("degrees", [(1, 1), (2, 1), (1, 2), (1, 3), (2, 2), (1, 4)])
def test_every_mesh_gives_the_velocities_of_one_rank(degrees: Degrees) -> None:
    assert_all_equal_one(run_ranks(velocities, degrees[0] * degrees[1], degrees))


def compiled_velocities(degrees: Degrees) -> list[Tensor]:
    config = ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1])
    dit = tiny_dit(DIT_WITH_PROMPT)
    parallelize_dit(dit, build_mesh(config, CPU))
    # A graph break would be an error.
    dit.compile(backend="aot_eager", fullgraph=True)
    return [dit(*draw_inputs(*size)) for size in SIZES[:1]]


def fast_velocities(degrees: Degrees) -> list[Tensor]:
    """Predict with all fast forms of the transformer that run on a CPU."""
    config = ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1])
    dit = fuse_qkv(tiny_dit(DIT_WITH_PROMPT))
    fuse_blocks(dit, TorchKernels())
    apply_attention(dit, ATTENTION_KERNELS["math"], ("self_attention",))
    plan = ExecutionPlan(tokens=parallelize_dit(dit, build_mesh(config, CPU)))
    velocities = []
    for size in SIZES:
        inputs = draw_inputs(*size)
        stream = precompute_stream(dit, plan, inputs[2], [500.0], *inputs[4:])
        chunk = precompute_chunk(dit, plan, stream, dit.project_audio(inputs[3]))
        velocities.append(dit(*inputs, prepared=stream.step(500.0, chunk)))
    return velocities


@pytest.mark.parametrize("degrees", [(2, 1), (2, 2)])
def test_fused_blocks_and_prepared_constants_are_sharded_like_plain_ones(degrees: Degrees) -> None:
    assert_all_equal_one(run_ranks(fast_velocities, degrees[0] * degrees[1], degrees))


def absorbed_velocity(degrees: Degrees) -> tuple[Tensor, list[int]]:
    """Predict with absorbed speech; also return the number of latent frames absorbed in each block."""
    config = ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1])
    dit_precompute.absorption_saves_work = lambda **sizes: True
    dit = fuse_qkv(tiny_dit(DIT_WITH_PROMPT))
    fuse_blocks(dit, TorchKernels())
    plan = ExecutionPlan(tokens=parallelize_dit(dit, build_mesh(config, CPU)))
    inputs = draw_inputs(*SIZES[0])
    stream = precompute_stream(dit, plan, inputs[2], [500.0], *inputs[4:])
    chunk = precompute_chunk(dit, plan, stream, dit.project_audio(inputs[3]))
    kept = [
        layer.speech.logit_weight.shape[1]
        for layer in chunk.layers
        if isinstance(layer.speech, AbsorbedSpeech)
    ]
    return dit(*inputs, prepared=stream.step(500.0, chunk)), kept


def test_ranks_absorb_the_speech_of_their_own_frames() -> None:
    # 5 frames of 35 tokens: the ranks hold 88 and 87 tokens, and share the third frame.
    for velocity, kept in run_ranks(absorbed_velocity, 2, (2, 1)):
        assert_near(velocity, *expected_velocities()[0])
        assert kept == [3] * DIT_WITH_PROMPT.num_layers


@pytest.mark.slow
def test_the_exchanges_compile_without_a_graph_break() -> None:
    found = run_ranks(compiled_velocities, 2, (2, 1))
    assert_near(found[0][0], *expected_velocities()[0])


def graphs_of_blocks() -> int:
    """Compile block by block, and return the number of graphs."""
    dit = tiny_dit(replace(DIT_WITH_PROMPT, num_layers=3))
    parallelize_dit(dit, build_mesh(ParallelConfig(ulysses_degree=2), CPU))
    for block in dit.blocks.layers:
        block.compile(backend="eager", fullgraph=True)
    for _ in range(2):
        dit(*draw_inputs(*SIZES[0]))
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.slow
def test_blocks_over_ranks_share_their_compiled_code() -> None:
    assert run_ranks(graphs_of_blocks, 2) == [1, 1]


def test_a_second_call_is_refused() -> None:
    axis = Axis("unused", 0, 2)
    mesh = ParallelMesh(world=axis, ulysses=axis, ring=Axis("", 0, 1), device=CPU)
    dit = tiny_dit()
    assert parallelize_dit(dit, mesh) == TokenShare(0, 2)
    with pytest.raises(ValueError, match="already parallelized"):
        parallelize_dit(dit, mesh)


def test_one_rank_leaves_the_transformer_unchanged() -> None:
    alone = Axis("", 0, 1)
    dit = tiny_dit()
    before = [type(module) for module in dit.modules()]
    mesh = ParallelMesh(world=alone, ulysses=alone, ring=alone, device=CPU)
    assert parallelize_dit(dit, mesh) == TokenShare(0, 1)
    assert [type(module) for module in dit.modules()] == before
    assert not dit.blocks._forward_pre_hooks and not dit.head._forward_hooks


def weight_names(degrees: Degrees) -> list[str]:
    config = ParallelConfig(ulysses_degree=degrees[0], ring_degree=degrees[1])
    dit = tiny_dit()
    parallelize_dit(dit, build_mesh(config, CPU))
    return list(dit.state_dict())


def test_the_weights_keep_their_names() -> None:
    assert run_ranks(weight_names, 2, (2, 1))[1] == list(tiny_dit().state_dict())
