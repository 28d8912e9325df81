"""Prepared streams: the frames of plain ones, whoever prepared them and for whatever steps."""

from collections import Counter
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from livetalk.models.dit_plan import ExecutionPlan
from livetalk.streaming.config import SamplerConfig, SamplerKind
from livetalk.streaming.models import Models
from livetalk.streaming.step import create_state, generate_chunk, prepare_conditioning
from livetalk.streaming.velocity import PreparedConditioning
from livetalk.types import Conditioning
from tiny import DIT_WITH_PROMPT, IMAGE_DIM, IMAGE_SIDE, TEXT_DIM, randomize, tiny_dit, tiny_models

RNG = torch.Generator().manual_seed(0)
IMAGE = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=RNG) * 2 - 1
TEXT = torch.randn(1, 3, TEXT_DIM, generator=RNG)
PICTURE = torch.randn(1, 7, IMAGE_DIM, generator=RNG)
DIT_CONFIG = replace(DIT_WITH_PROMPT, text_len=200)
NUM_CHUNKS = 2


def condition(models: Models) -> Conditioning:
    return prepare_conditioning(models, IMAGE, TEXT, PICTURE)


def stream(models: Models, conditioning: Conditioning | None = None) -> Tensor:
    """Return the frames of two chunks, `[2, 3, F, H, W]`."""
    conditioning = condition(models) if conditioning is None else conditioning
    state = create_state(models, conditioning, 0)
    rng = torch.Generator().manual_seed(7)
    chunks = []
    for _ in range(NUM_CHUNKS):
        audio = torch.randn(models.config.geometry.chunk_samples, generator=rng) * 0.1
        chunk, state = generate_chunk(models, conditioning, audio, state)
        chunks.append(chunk.pixels)
    return torch.stack(chunks)


def assert_same_frames(found: Tensor, expected: Tensor) -> None:
    """The tiny VAE's random weights enlarge what is rounded in its latents."""
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", SamplerKind)
@pytest.mark.parametrize(
    "prepare", [ExecutionPlan(), ExecutionPlan(absorb_audio=False), ExecutionPlan(max_absorbed_bytes=0)]
)
def test_a_prepared_stream_is_a_plain_stream(kind: SamplerKind, prepare: ExecutionPlan) -> None:
    models = tiny_models(dit=DIT_CONFIG, sampler=SamplerConfig(num_steps=3, kind=kind))
    plain = replace(models, prepare=None)
    assert type(condition(plain)) is Conditioning
    assert isinstance(condition(models), PreparedConditioning)
    assert_same_frames(stream(replace(models, prepare=prepare)), stream(plain))


def test_conditioning_that_nobody_prepared_will_do() -> None:
    models = tiny_models(dit=DIT_CONFIG)
    prepared = condition(models)
    bare = Conditioning(**{field.name: getattr(prepared, field.name) for field in fields(Conditioning)})
    assert torch.equal(stream(models, bare), stream(models, prepared))


def test_constants_of_another_transformer_are_not_used() -> None:
    models = tiny_models(dit=DIT_CONFIG)
    other = tiny_dit(DIT_CONFIG)
    randomize(other, seed=5)
    changed = replace(models, dit=other)
    found = stream(changed, condition(models))
    assert torch.equal(found, stream(changed))
    assert (found - stream(models)).abs().max() > 1e-2


def test_constants_serve_any_number_of_steps() -> None:
    models = tiny_models(dit=DIT_CONFIG)
    sampler = SamplerConfig(num_steps=4, shift=2.0)
    more = replace(models, config=replace(models.config, sampler=sampler))
    assert torch.equal(stream(more, condition(models)), stream(more))


def test_what_steps_share_is_made_once() -> None:
    models = tiny_models(dit=DIT_CONFIG, sampler=SamplerConfig(num_steps=3))
    calls: Counter[str] = Counter()

    def count(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _inputs, _output: calls.update([name]))

    parts = ["time_embedding", "text_projection", "image_projection", "audio_projection", "head"]
    parts += ["blocks.layers.1.context_attention.text.k", "blocks.layers.1.audio_attention.kv"]
    for part in parts:
        count(part, models.dit.get_submodule(part))
    stream(models)
    assert calls == {
        "head": 3 * NUM_CHUNKS,
        "time_embedding": 3,
        "text_projection": 1,
        "image_projection": 1,
        "audio_projection": NUM_CHUNKS,
        "blocks.layers.1.context_attention.text.k": 1,
        "blocks.layers.1.audio_attention.kv": NUM_CHUNKS,
    }
