"""A step with precomputed constants predicts what a plain step predicts."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from livetalk.models.dit import DiT, DiTConfig, StepInputs
from livetalk.models.dit_context import BlockConditioning, StackConditioning
from livetalk.models.dit_plan import ExecutionPlan, TokenShare
from livetalk.models.dit_precompute import (
    StreamConstants,
    precompute_chunk,
    precompute_stream,
    with_timesteps,
)
from livetalk.models.dit_speech import AbsorbedSpeech, SpeechKeysValues
from livetalk.placement.linear import quantize_linears
from tiny import DIT, DIT_WITH_PROMPT, dit_inputs, tiny_dit
from tolerance import assert_near, assert_same_network, expect, relative, rounding

CONFIGS = [
    DIT,
    DIT_WITH_PROMPT,
    replace(DIT_WITH_PROMPT, text_len=200),
    replace(DIT_WITH_PROMPT, image_dim=None),
    replace(DIT_WITH_PROMPT, text_dim=None),
]
NAMES = ["audio", "text and image", "long padding", "text", "image"]
PREPARED = [
    (ExecutionPlan(), AbsorbedSpeech),
    (ExecutionPlan(max_absorbed_bytes=0), SpeechKeysValues),
    (ExecutionPlan(absorb_audio=False), SpeechKeysValues),
]
KINDS = ["absorbed once", "absorbed in each step", "keys and values"]
TIMESTEPS = (1000.0, 600.0, 250.0)
DEFAULT_PLAN = ExecutionPlan()


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def prepare(
    dit: DiT, inputs: tuple[Tensor | None, ...], plan: ExecutionPlan = DEFAULT_PLAN
) -> tuple[StreamConstants, StackConditioning]:
    """Compute the constants of a stream and of a chunk for a transformer's inputs."""
    _, _, condition, audio, text, image = inputs
    assert condition is not None and audio is not None
    stream = precompute_stream(dit, plan, condition, TIMESTEPS, text, image)
    return stream, precompute_chunk(dit, plan, stream, dit.project_audio(audio))


def prepare_chunk(
    dit: DiT, inputs: tuple[Tensor | None, ...], plan: ExecutionPlan = DEFAULT_PLAN
) -> StackConditioning:
    """Compute the conditioning of each block."""
    return prepare(dit, inputs, plan)[1]


def prepare_step(
    dit: DiT, inputs: tuple[Tensor | None, ...], timestep: float, plan: ExecutionPlan = DEFAULT_PLAN
) -> StepInputs:
    """Compute the inputs of a step."""
    stream, conditioning = prepare(dit, inputs, plan)
    return stream.step(timestep, conditioning)


def both(
    dit: DiT, inputs: tuple[Tensor | None, ...], timestep: float, plan: ExecutionPlan = DEFAULT_PLAN
) -> tuple[Tensor, Tensor]:
    """Return the velocity of a plain and of a prepared step."""
    latents, timesteps, *others = at_time(inputs, timestep)
    with torch.no_grad():
        plain = dit(latents, timesteps, *others)
        prepared = dit(latents, timesteps, *others, prepared=prepare_step(dit, inputs, timestep, plan))
    return plain, prepared


def at_time(inputs: tuple[Tensor | None, ...], timestep: float) -> tuple[Tensor | None, ...]:
    """Return the inputs of a transformer at a timestep."""
    latents, _, *others = inputs
    assert latents is not None
    return latents, torch.full(latents.shape[:1], timestep, device=latents.device), *others


def assert_is_plain_step(
    prepared: Tensor, dit: DiT, inputs: tuple[Tensor | None, ...], timestep: float
) -> None:
    """Check that a prepared step equals a plain one up to rounding."""
    assert_same_network(prepared, lambda: dit(*at_time(inputs, timestep)), dit)


@pytest.mark.parametrize("preparation", PREPARED, ids=KINDS)
@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_prepared_step_is_a_plain_step(
    config: DiTConfig, preparation: tuple[ExecutionPlan, type[object]]
) -> None:
    dit, inputs = tiny_dit(config), dit_inputs(config, batch=2)
    conditioning = prepare_chunk(dit, inputs, preparation[0])
    assert [type(layer.speech) for layer in conditioning.layers] == [preparation[1]] * config.num_layers
    for layer in conditioning.layers:
        if isinstance(layer.speech, SpeechKeysValues):
            assert layer.speech.absorb == preparation[0].absorb_audio
    for timestep in TIMESTEPS:
        plain, prepared = both(dit, inputs, timestep, preparation[0])
        assert prepared.shape == plain.shape and prepared.dtype == plain.dtype
        assert_is_plain_step(prepared, dit, inputs, timestep)


@pytest.mark.parametrize("preparation", PREPARED, ids=KINDS)
def test_in_bfloat16_a_prepared_step_is_as_close_to_float32_as_a_plain_one(
    preparation: tuple[ExecutionPlan, type[object]],
) -> None:
    config = replace(DIT_WITH_PROMPT, text_len=200)
    exact = tiny_dit(config)
    rounded = tiny_dit(config).to(torch.bfloat16)
    plain_errors, errors = [], []
    for seed in range(12):
        inputs = dit_inputs(config, seed=seed)
        reference, _ = both(exact, inputs, 600.0)
        plain, prepared = both(rounded, inputs, 600.0, preparation[0])
        plain_errors.append(relative(plain, reference))
        errors.append(relative(prepared, reference))
    assert sum(errors) < 1.05 * sum(plain_errors)


def test_a_prepared_step_reads_none_of_the_arguments_that_were_prepared() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    latents, _, *others = inputs
    step = prepare_step(dit, inputs, 600.0)
    with torch.no_grad():
        expected = dit(latents, torch.tensor([600.0]), *others, prepared=step)
        nonsense = [None if x is None else torch.full_like(x, math.nan) for x in others]
        found = dit(latents, torch.tensor([math.nan]), *nonsense, prepared=step)
    assert torch.equal(found, expected)


def test_a_prepared_step_leaves_out_what_was_done() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    step, used = prepare_step(dit, inputs, 600.0), []

    def note(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda _module, _inputs, _output: used.append(name)

    for name, module in dit.named_modules():
        module.register_forward_hook(note(name))
    latents, _, *others = inputs
    with torch.no_grad():
        dit(latents, torch.tensor([600.0]), *others, prepared=step)
    skipped = (
        "time_embedding",
        "text_projection",
        "image_projection",
        "audio_projection",
        *(f"blocks.layers.{i}.audio_attention.{part}" for i in range(2) for part in ("q", "kv")),
        *(f"blocks.layers.{i}.context_attention.text.k" for i in range(2)),
        *(f"blocks.layers.{i}.context_attention.image.v" for i in range(2)),
    )
    assert "blocks.layers.1.ffn.0" in used
    assert [name for name in used if name.startswith(skipped)] == []


@pytest.mark.parametrize("byte_format", ["int8", "float8"])
def test_weights_of_one_byte_are_absorbed_as_they_are_used(byte_format: str) -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    quantize_linears(dit, byte_format)  # type: ignore[arg-type]
    _, prepared = both(dit, inputs, 600.0)
    assert isinstance(prepare_chunk(dit, inputs).layers[0].speech, AbsorbedSpeech)
    assert_is_plain_step(prepared, dit, inputs, 600.0)


def test_layers_of_unknown_kind_are_not_absorbed() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    dit, inputs = tiny_dit(DIT), dit_inputs(DIT)
    torch.manual_seed(0)
    dit.get_submodule("blocks.layers.1.audio_attention").q = Doubled(DIT.dim, DIT.dim)
    speech = [type(layer.speech) for layer in prepare_chunk(dit, inputs).layers]
    assert speech == [AbsorbedSpeech, SpeechKeysValues]
    _, prepared = both(dit, inputs, 600.0)
    assert_is_plain_step(prepared, dit, inputs, 600.0)


def test_hooks_on_blocks_change_nothing() -> None:
    """A profiler or sharded weights may register hooks on any block."""
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    expected = prepare(dit, inputs)
    before = both(dit, inputs, 600.0)
    for module in (dit.blocks, *dit.blocks.layers):
        module.register_forward_pre_hook(lambda _module, _inputs: None)
        module.register_forward_hook(lambda _module, _inputs, _output: None)
    found, structure = torch.utils._pytree.tree_flatten(prepare(dit, inputs))
    leaves, expected_structure = torch.utils._pytree.tree_flatten(expected)
    assert structure == expected_structure
    assert all(torch.equal(a, b) for a, b in zip(found, leaves, strict=True) if isinstance(a, Tensor))
    assert all(torch.equal(a, b) for a, b in zip(both(dit, inputs, 600.0), before, strict=True))


@pytest.mark.parametrize("preparation", PREPARED, ids=KINDS)
def test_an_offloaded_block_computes_its_own_projections(
    preparation: tuple[ExecutionPlan, type[object]],
) -> None:
    """Its weights exist only between its hooks."""
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    plan = replace(preparation[0], offloaded=frozenset({1}))
    block = dit.blocks.layers[1]
    weights = {name: weight.clone() for name, weight in block.state_dict().items()}

    def load(module: nn.Module, _inputs: object) -> None:
        module.load_state_dict(weights)

    def invalidate(module: nn.Module, _inputs: object, _output: object) -> None:
        for parameter in module.parameters():
            parameter.data.fill_(math.nan)

    plain, prepared = both(dit, inputs, 600.0, plan)
    invalidate(block, None, None)
    block.register_forward_pre_hook(load)
    block.register_forward_hook(invalidate)
    found = both(dit, inputs, 600.0, plan)
    assert torch.equal(found[0], plain) and torch.equal(found[1], prepared)


def test_only_the_speech_of_the_own_tokens_is_absorbed() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    whole = prepare_chunk(dit, inputs).layers[0].speech
    # Three latent frames of six tokens: the second of two shards begins within the second frame.
    plan = ExecutionPlan(tokens=TokenShare(1, 2))
    own = prepare_chunk(dit, inputs, plan).layers[0].speech
    assert isinstance(whole, AbsorbedSpeech) and isinstance(own, AbsorbedSpeech)
    assert own.first_frame == 1
    torch.testing.assert_close(own.logit_weight, whole.logit_weight[:, 1:])


@pytest.mark.parametrize("preparation", PREPARED, ids=KINDS)
def test_compiles_without_graph_breaks(preparation: tuple[ExecutionPlan, type[object]]) -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    compiled = torch.compile(dit, backend="eager", fullgraph=True)
    stream, conditioning = prepare(dit, inputs, preparation[0])
    latents, _, *others = inputs
    with torch.no_grad():
        for timestep in TIMESTEPS:
            step = stream.step(timestep, conditioning)
            arguments = (latents, torch.tensor([timestep]), *others)
            found = compiled(*arguments, prepared=step)
            assert_same_network(found, partial(dit, *arguments, prepared=step), dit)


@pytest.mark.parametrize("preparation", PREPARED, ids=KINDS)
def test_prepared_conditioning_is_sharded_with_the_tokens(
    preparation: tuple[ExecutionPlan, type[object]],
) -> None:
    """Without self-attention tokens do not interact, so each range of them gives its part of the result."""
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT, batch=2)
    for name, parameter in dit.named_parameters():
        if name.endswith("self_attention.out.weight"):
            parameter.data.zero_()
    _, rope, frame_ids, _, modulation, conditioning = prepare_step(dit, inputs, 600.0, preparation[0])
    tokens = torch.randn(2, 18, DIT.dim, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        whole, limit = expect(
            lambda: dit.blocks(tokens, rope, frame_ids, modulation, conditioning), dit.blocks
        )
        # Nine tokens are one and a half of the three latent frames; 6 to 12 are one of them.
        for start, stop in ((0, 9), (9, 18), (6, 12), (4, 17), (17, 18)):
            cut = (type(rope)(*(table[start:stop] for table in rope)), frame_ids[start:stop], modulation)
            part = dit.blocks(tokens[:, start:stop], *cut, conditioning.cut(start, stop))
            assert_near(part, whole[:, start:stop], limit)


def test_plain_conditioning_is_right_whether_it_is_cut_or_not() -> None:
    dit, inputs = tiny_dit(DIT), dit_inputs(DIT)
    for name, parameter in dit.named_parameters():
        if name.endswith("self_attention.out.weight"):
            parameter.data.zero_()
    seen: list[tuple[Any, ...]] = []
    handle = dit.blocks.register_forward_pre_hook(lambda _module, args: seen.append(args))
    with torch.no_grad():
        dit(*inputs)
        handle.remove()
        tokens, rope, frame_ids, modulation, conditioning = seen[0]
        assert isinstance(conditioning, BlockConditioning)
        whole, limit = expect(
            lambda: dit.blocks(tokens, rope, frame_ids, modulation, conditioning), dit.blocks
        )
        rest = (type(rope)(*(table[:9] for table in rope)), frame_ids[:9], modulation)
        for own in (conditioning, conditioning.cut(0, 9), conditioning._replace(frame_lengths=None)):
            part = dit.blocks(tokens[:, :9], *rest, own)
            assert_near(part, whole[:, :9], limit)


def test_absorbed_speech_refuses_tokens_of_other_frames() -> None:
    dit, inputs = tiny_dit(DIT), dit_inputs(DIT)
    _, rope, frame_ids, _, modulation, conditioning = prepare_step(dit, inputs, 600.0)
    cut = type(rope)(*(table[:9] for table in rope))
    with pytest.raises(ValueError, match="cut"), torch.no_grad():
        dit.blocks(torch.zeros(1, 9, DIT.dim), cut, frame_ids[:9], modulation, conditioning)


def test_constants_pass_gradients_on_where_they_are_not_switched_off() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    for learns in (False, True):
        with torch.set_grad_enabled(learns):
            leaves, _ = torch.utils._pytree.tree_flatten(prepare(dit, inputs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        assert len(tensors) > 20
        assert any(tensor.requires_grad for tensor in tensors) == learns


def test_constants_hold_their_timesteps() -> None:
    dit, inputs = tiny_dit(DIT), dit_inputs(DIT)
    stream, conditioning = prepare(dit, inputs)
    with pytest.raises(ValueError, match="timestep 500"):
        stream.step(500.0, conditioning)
    assert with_timesteps(dit, stream, TIMESTEPS) is stream
    step = with_timesteps(dit, stream, (500.0,)).step(500.0, conditioning)
    with torch.no_grad():
        time, modulation = dit.time_embedding(torch.tensor([500.0]))
    # Two products of the embedding, and one for the modulation of the blocks.
    limit = rounding(DIT.freq_dim + 2 * DIT.dim)
    assert_near(step.time, time, limit)
    assert_near(step.modulation, modulation, limit)


def test_refuses_shapes_that_do_not_fit() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    _, _, condition, audio, _, image = inputs
    assert condition is not None and audio is not None
    with pytest.raises(ValueError, match="text_embeds"):
        precompute_stream(dit, DEFAULT_PLAN, condition, TIMESTEPS, None, image)
    with pytest.raises(ValueError, match="audio_context"):
        dit.project_audio(audio[:, :2])


@pytest.mark.gpu
@pytest.mark.parametrize("preparation", PREPARED, ids=KINDS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_on_a_gpu_a_prepared_step_is_as_close_to_float32_as_a_plain_one(
    preparation: tuple[ExecutionPlan, type[object]], compiled: bool
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    config = replace(DIT_WITH_PROMPT, dim=256, ffn_dim=512, num_heads=4, text_len=512)
    exact, rounded = tiny_dit(config), tiny_dit(config).to("cuda", torch.bfloat16)
    inputs = dit_inputs(config)
    on_gpu = tuple(None if x is None else x.to("cuda") for x in inputs)
    reference, _ = both(exact, inputs, 600.0)
    plain, _ = both(rounded, on_gpu, 600.0)
    if compiled:
        rounded.compile()
    _, prepared = both(rounded, on_gpu, 600.0, preparation[0])
    error = relative(prepared.cpu(), reference)
    assert error < 1.3 * relative(plain.cpu(), reference)
