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
from livetalk.models.dit_constants import prepare_chunk, prepare_session
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.ops.rope import RopeTables
from tiny import AUDIO, DIT_WITH_PROMPT, dit_inputs, tiny_dit

CONFIG = replace(DIT_WITH_PROMPT, dim=64, ffn_dim=128, num_heads=4, audio=replace(AUDIO, output_dim=16))
STEPS = (750.0, 500.0)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@dataclass
class PretendedGraph:
    """Runs again what was captured, as a graph does: from the same memory, to the same memory."""

    blocks: BlockStack
    room: Any
    result: Tensor
    replays: int = 0

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.blocks.run(*self.room))


class PretendingBlocks(GraphedBlocks):
    """Blocks on a CPU, where there are no graphs."""

    def _record(self, stack: BlockStack, room: Any) -> tuple[Any, Tensor]:
        result = stack.run(*room).mul(torch.nan)
        return PretendedGraph(stack, room, result), result


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
    session = prepare_session(dit, plan, condition, STEPS, *embeds)
    chunk = prepare_chunk(dit, plan, session, dit.project_audio(audio))
    timesteps = torch.tensor(STEPS, device=device)
    return [
        dit(
            latents, timesteps[index].expand(batch), condition, audio, *embeds, prepared=chunk.step(step)
        ).clone()
        for index, step in enumerate(STEPS)
    ]


def test_replays_read_what_each_step_and_each_chunk_bring() -> None:
    dit, blocks = graphed_dit()
    for seed in (1, 2, 3):
        for found, expected in zip(velocities(dit, seed), velocities(tiny_dit(CONFIG), seed), strict=True):
            assert torch.equal(found, expected)
    (graph,) = blocks._graphs.values()
    # All but the very first step, which may compile.
    assert graph.graph.replays == 3 * len(STEPS) - 1


def test_what_comes_again_is_not_copied_again() -> None:
    dit, blocks = graphed_dit()
    velocities(dit, 1)
    (graph,) = blocks._graphs.values()
    # Nothing holds what was copied: it ends with its chunk.
    assert all(ref() is None for ref in graph.copied)
    inputs = replace_leaves(graph.graph.room, iter([x.clone() for x in graph.room]))
    graph.replay(inputs)
    graph.room[0].fill_(7)
    graph.replay(inputs)
    assert (graph.room[0] == 7).all()
    graph.replay((inputs[0].clone(), *inputs[1:]))
    assert torch.equal(graph.room[0], inputs[0])


def test_sizes_beyond_the_last_graph_run_without_one(caplog: pytest.LogCaptureFixture) -> None:
    dit, blocks = graphed_dit()
    for batch in (1, 2, 3, 3):
        for found, expected in zip(
            velocities(dit, 1, batch), velocities(tiny_dit(CONFIG), 1, batch), strict=True
        ):
            assert torch.equal(found, expected)
    assert len(blocks._graphs) == graphs.MAX_GRAPHS
    assert caplog.text.count("without a CUDA graph") == 1


def test_a_size_that_comes_once_takes_no_graph_from_others(caplog: pytest.LogCaptureFixture) -> None:
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


def test_hooks_of_the_stack_cut_what_a_graph_reads() -> None:
    """Ranks cut tokens by a hook, which may come before the graph or after it."""
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
    """Scale the tokens; their number must stay, for the head."""
    tokens, *others = inputs
    return tokens / 2, *others


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_graphs_give_what_launches_give() -> None:
    device = torch.device("cuda")
    fast = []
    for graphed in (False, True):
        dit = tiny_dit(CONFIG).bfloat16().to(device)
        fuse_blocks(dit, select_fused("triton", device))
        if graphed:
            graph_blocks(dit)
        fast.append([velocity for seed in (1, 2, 3) for velocity in velocities(dit, seed)])
    assert all(torch.equal(one, other) for one, other in zip(*fast, strict=True))
