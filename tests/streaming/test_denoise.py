"""Prepared streams make the frames of plain ones."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from livetalk.models.dit_plan import ExecutionPlan
from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.conditioning import Prepared, prepare_stream
from livetalk.streaming.settings import SamplerConfig, SamplerKind
from livetalk.types import PromptEmbeds
from tiny import DIT_WITH_PROMPT, IMAGE_DIM, IMAGE_SIDE, TEXT_DIM, TinyModel, tiny_model
from tolerance import assert_same_network

RNG = torch.Generator().manual_seed(0)
IMAGE = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=RNG) * 2 - 1
TEXT = torch.randn(1, 3, TEXT_DIM, generator=RNG)
PICTURE = torch.randn(1, 7, IMAGE_DIM, generator=RNG)
DIT_CONFIG = replace(DIT_WITH_PROMPT, text_len=200)
NUM_CHUNKS = 2


def prepare_model(model: TinyModel) -> Prepared:
    return prepare_stream(*model, IMAGE, PromptEmbeds(text_embeds=TEXT, image_embeds=PICTURE))


def run_with(model: TinyModel, plan: ExecutionPlan | None) -> TinyModel:
    return model._replace(executor=replace(model.executor, plan=plan))


def stream(model: TinyModel, prepared: Prepared | None = None) -> Tensor:
    """Return the frames of two chunks, `[2, 3, F, H, W]`."""
    prepared = prepare_model(model) if prepared is None else prepared
    state = create_state(*model, prepared, 0)
    rng = torch.Generator().manual_seed(7)
    chunks = []
    for _ in range(NUM_CHUNKS):
        audio = torch.randn(model.settings.geometry.chunk_samples, generator=rng) * 0.1
        chunk, state = generate_chunk(*model, prepared, audio, state)
        chunks.append(chunk.pixels)
    return torch.stack(chunks)


@pytest.mark.parametrize("kind", SamplerKind)
@pytest.mark.parametrize(
    "plan", [ExecutionPlan(), ExecutionPlan(absorb_audio=False), ExecutionPlan(max_absorbed_bytes=0)]
)
def test_a_prepared_stream_is_a_plain_stream(kind: SamplerKind, plan: ExecutionPlan) -> None:
    model = tiny_model(dit=DIT_CONFIG, sampler=SamplerConfig(num_steps=3, kind=kind))
    plain = run_with(model, None)
    assert prepare_model(plain).constants is None
    assert prepare_model(model).constants is not None
    assert_same_network(stream(run_with(model, plan)), lambda: stream(plain), plain.executor.networks.dit)


def test_constants_are_computed_where_none_are_given() -> None:
    model = tiny_model(dit=DIT_CONFIG)
    prepared = prepare_model(model)
    bare = replace(prepared, constants=None)
    assert torch.equal(stream(model, bare), stream(model, prepared))


def test_constants_serve_any_number_of_steps() -> None:
    model = tiny_model(dit=DIT_CONFIG)
    sampler = SamplerConfig(num_steps=4, shift=2.0)
    more = model._replace(settings=replace(model.settings, sampler=sampler))
    assert torch.equal(stream(more, prepare_model(model)), stream(more))


def test_what_steps_share_is_made_once() -> None:
    model = tiny_model(dit=DIT_CONFIG, sampler=SamplerConfig(num_steps=3))
    calls: Counter[str] = Counter()

    def count(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _inputs, _output: calls.update([name]))

    parts = ["time_embedding", "text_projection", "image_projection", "audio_projection", "head"]
    parts += ["blocks.layers.1.context_attention.text.k", "blocks.layers.1.audio_attention.kv"]
    for part in parts:
        count(part, model.executor.networks.dit.get_submodule(part))
    stream(model)
    assert calls == {
        "head": 3 * NUM_CHUNKS,
        "time_embedding": 3,
        "text_projection": 1,
        "image_projection": 1,
        "audio_projection": NUM_CHUNKS,
        "blocks.layers.1.context_attention.text.k": 1,
        "blocks.layers.1.audio_attention.kv": NUM_CHUNKS,
    }
