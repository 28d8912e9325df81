from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from livetalk.accelerate import graphs
from livetalk.accelerate.fused_blocks import fuse_blocks
from livetalk.accelerate.graphs import GraphedBlocks, graph_blocks, replace_leaves, walk_leaves
from livetalk.accelerate.selection import select_fused
from livetalk.models.dit import DiT
from livetalk.models.dit_blocks import BlockStack
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.dit_precompute import precompute_chunk, precompute_stream
from livetalk.ops.rope import RopeTables
from tiny import AUDIO, DIT_WITH_PROMPT, dit_inputs, tiny_dit

CONFIG = replace(DIT_WITH_PROMPT, dim=64, ffn_dim=128, num_heads=4, audio=replace(AUDIO, output_dim=16))
STEPS = (750.0, 500.0)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@dataclass
class SimulatedGraph:
    """Replays a captured pass on the same memory, as a CUDA graph does."""

    blocks: BlockStack
    static_inputs: Any
    result: Tensor
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.blocks.run(*self.static_inputs))


class PretendingBlocks(GraphedBlocks):
    """Blocks on a CPU with simulated graphs."""

    def _record(self, stack: BlockStack, static_inputs: Any) -> tuple[Any, Tensor]:
        result = stack.run(*static_inputs).mul(torch.nan)
        return SimulatedGraph(stack, static_inputs, result), result


def graphed_dit() -> tuple[DiT, PretendingBlocks]:
    dit = tiny_dit(CONFIG)
    dit.blocks.fast_form = blocks = PretendingBlocks()
    return dit, blocks


def velocities(dit: DiT, seed: int, batch: int = 1) -> list[Tensor]:
    """Return the velocities of all steps of a chunk."""
    device = next(dit.parameters()).device
    inputs = [None if x is None else x.to(device) for x in dit_inputs(CONFIG, batch, seed)]
    latents, _, condition, audio, *embeds = inputs
    assert condition is not None and audio is not None
    plan = ExecutionPlan()
    stream = precompute_stream(dit, plan, condition, STEPS, *embeds)
    chunk = precompute_chunk(dit, plan, stream, dit.project_audio(audio))
    timesteps = torch.tensor(STEPS, device=device)
    return [
        dit(
            latents,
            timesteps[index].expand(batch),
            condition,
            audio,
            *embeds,
            prepared=stream.step(step, chunk),
        ).clone()
        for index, step in enumerate(STEPS)
    ]


def test_replays_read_the_inputs_of_each_step_and_chunk() -> None:
    dit, blocks = graphed_dit()
    for seed in (1, 2, 3):
        for found, expected in zip(velocities(dit, seed), velocities(tiny_dit(CONFIG), seed), strict=True):
            assert torch.equal(found, expected)
    (graph,) = blocks._graphs.values()
    # All but the first step, which may compile.
    assert graph.graph.replays == 3 * len(STEPS) - 1


def test_unchanged_inputs_are_not_copied_again() -> None:
    dit, blocks = graphed_dit()
    velocities(dit, 1)
    (graph,) = blocks._graphs.values()
    # Copied inputs are not kept alive after their chunk.
    assert all(ref() is None for ref in graph.copied)
    inputs = replace_leaves(graph.graph.static_inputs, iter([x.clone() for x in graph.static_inputs]))
    graph.replay(inputs)
    graph.static_inputs[0].fill_(7)
    graph.replay(inputs)
    assert (graph.static_inputs[0] == 7).all()
    graph.replay((inputs[0].clone(), *inputs[1:]))
    assert torch.equal(graph.static_inputs[0], inputs[0])


def test_sizes_beyond_the_last_graph_run_without_one(caplog: pytest.LogCaptureFixture) -> None:
    dit, blocks = graphed_dit()
    for batch in (1, 2, 3, 3):
        for found, expected in zip(
            velocities(dit, 1, batch), velocities(tiny_dit(CONFIG), 1, batch), strict=True
        ):
            assert torch.equal(found, expected)
    assert len(blocks._graphs) == graphs.MAX_GRAPHS
    assert caplog.text.count("without a CUDA graph") == 1


def test_a_size_that_occurs_once_gets_no_graph(caplog: pytest.LogCaptureFixture) -> None:
    dit, blocks = graphed_dit()
    inputs = dit_inputs(CONFIG, batch=3)
    dit(*inputs)
    for batch in (1, 2):
        velocities(dit, 1, batch)
    assert len(blocks._graphs) == 2 and "without a CUDA graph" not in caplog.text


def test_nested_tuples_keep_their_types() -> None:
    tree = (RopeTables(torch.zeros(1), torch.zeros(2)), None, (3, torch.zeros(4)))
    numbered = replace_leaves(tree, iter([torch.tensor(index) for index in range(3)]))
    assert isinstance(numbered[0], RopeTables)
    assert [leaf for leaf in walk_leaves(numbered)] == [0, 1, None, 3, 2]


def test_hooks_of_the_stack_run_before_the_graph() -> None:
    """Ranks shard tokens by a hook, registered before the graph or after it."""
    for hook_first in (False, True):
        dit, plain = tiny_dit(CONFIG), tiny_dit(CONFIG)
        for network in (plain, dit) if hook_first else (plain,):
            network.blocks.register_forward_pre_hook(halve_tokens)
        dit.blocks.fast_form = PretendingBlocks()
        if not hook_first:
            dit.blocks.register_forward_pre_hook(halve_tokens)
        for seed in (1, 2):
            for found, expected in zip(velocities(dit, seed), velocities(plain, seed), strict=True):
                assert torch.equal(found, expected)


def halve_tokens(_blocks: Any, inputs: Any) -> Any:
    """Scale the tokens, whose number the head requires to stay the same."""
    tokens, *others = inputs
    return tokens / 2, *others


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_give_the_results_of_launches() -> None:
    device = torch.device("cuda")
    fast = []
    for graphed in (False, True):
        dit = tiny_dit(CONFIG).bfloat16().to(device)
        fuse_blocks(dit, select_fused("triton", device))
        if graphed:
            graph_blocks(dit)
        fast.append([velocity for seed in (1, 2, 3) for velocity in velocities(dit, seed)])
    assert all(torch.equal(one, other) for one, other in zip(*fast, strict=True))
