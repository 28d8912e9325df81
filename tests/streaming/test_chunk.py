"""The live step: shapes, determinism, state as a value, settings."""

import pytest
import torch
from torch import Tensor

from livetalk.diffusion.samplers import NoiseSource
from livetalk.models.vae import VAEConfig
from livetalk.streaming import chunk as chunk_module
from livetalk.streaming.audio import AudioBuffer
from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.conditioning import Prepared, prepare_stream
from livetalk.streaming.settings import ReferenceLayout, SamplerConfig, SamplerKind
from livetalk.streaming.speech import encode_audio_context
from livetalk.streaming.state import StreamState
from livetalk.types import PromptEmbeds, VideoChunk
from tiny import (
    DIT_WITH_PROMPT,
    IMAGE_DIM,
    IMAGE_SIDE,
    TEXT_DIM,
    VAE,
    VAE_PATCHED,
    TinyModel,
    tiny_model,
)
from tolerance import assert_near, distance, expect_each, rounding

IMAGE = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def speech(model: TinyModel, chunk: int) -> Tensor:
    rng = torch.Generator().manual_seed(100 + chunk)
    return torch.randn(model.settings.geometry.chunk_samples, generator=rng) * 0.1


def start(model: TinyModel, seed: int = 0) -> tuple[Prepared, StreamState]:
    prepared = prepare_stream(*model, IMAGE)
    return prepared, create_state(*model, prepared, seed)


def stream(model: TinyModel, num_chunks: int, seed: int = 0) -> list[VideoChunk]:
    prepared, state = start(model, seed)
    chunks = []
    for index in range(num_chunks):
        chunk, state = generate_chunk(*model, prepared, speech(model, index), state)
        chunks.append(chunk)
    return chunks


def test_chunks_follow_each_other() -> None:
    model = tiny_model()
    chunks = stream(model, 3)
    assert [chunk.first_frame for chunk in chunks] == [0, 8, 16]
    for chunk in chunks:
        assert chunk.pixels.shape == (3, 8, IMAGE_SIDE, IMAGE_SIDE)
        assert chunk.pixels.dtype == torch.float32 and chunk.pixels.abs().max() <= 1
        assert chunk.to_uint8().shape == (8, IMAGE_SIDE, IMAGE_SIDE, 3)
    assert not torch.equal(chunks[1].pixels, chunks[2].pixels)


def test_one_seed_is_bit_equal_and_another_is_not() -> None:
    first, again, other = (stream(tiny_model(), 2, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].pixels, other[0].pixels)


def test_state_is_a_value() -> None:
    model = tiny_model()
    prepared, state = start(model)
    _, middle = generate_chunk(*model, prepared, speech(model, 0), state)
    once, after = generate_chunk(*model, prepared, speech(model, 1), middle)
    twice, _ = generate_chunk(*model, prepared, speech(model, 1), middle)
    assert torch.equal(once.pixels, twice.pixels)
    assert [s.next_frame for s in (state, middle, after)] == [0, 8, 16]
    assert state.motion_latents.shape[2] == 1 and middle.motion_latents.shape[2] == 2


def test_state_does_not_grow() -> None:
    model = tiny_model()
    prepared, state = start(model)
    sizes = []
    for index in range(4):
        _, state = generate_chunk(*model, prepared, speech(model, index), state)
        sizes.append(state.num_bytes)
        assert state.motion_latents.untyped_storage().nbytes() <= 4 * state.motion_latents.nbytes
        assert isinstance(state.audio, AudioBuffer)
        assert state.audio.samples.untyped_storage().nbytes() <= 2 * state.audio.samples.nbytes
    assert len(set(sizes)) == 1


def test_streams_share_models_without_touching_each_other() -> None:
    model = tiny_model()
    alone = stream(model, 2, seed=1)
    (prepared, a), (_, b) = start(model, 1), start(model, 2)
    mixed = []
    for index in range(2):
        chunk, a = generate_chunk(*model, prepared, speech(model, index), a)
        _, b = generate_chunk(*model, prepared, speech(model, index + 7), b)
        mixed.append(chunk)
    assert all(torch.equal(x.pixels, y.pixels) for x, y in zip(alone, mixed, strict=True))


def test_audio_reaches_the_frames() -> None:
    model = tiny_model()
    prepared, state = start(model)
    silent, _ = generate_chunk(*model, prepared, torch.zeros(8 * 640), state)
    loud, _ = generate_chunk(*model, prepared, speech(model, 0), state)
    assert (silent.pixels - loud.pixels).abs().max() > 1e-3


@pytest.mark.parametrize("vae", [VAE, VAE_PATCHED], ids=["plain", "patched"])
@pytest.mark.parametrize("latents_per_decode", [1, 2, 3, None])
@pytest.mark.parametrize("decode_dropped", [True, False])
def test_how_a_window_is_decoded_changes_nothing(
    vae: VAEConfig, latents_per_decode: int | None, decode_dropped: bool
) -> None:
    whole = tiny_model(vae=vae)
    model = tiny_model(vae=vae, latents_per_decode=latents_per_decode, decode_dropped=decode_dropped)
    expected = expect_each(
        lambda: {f"chunk {index}": chunk.pixels for index, chunk in enumerate(stream(whole, 2))},
        whole.executor.networks.vae,
    )
    for chunk, (name, (pixels, limit)) in zip(stream(model, 2), expected.items(), strict=True):
        assert_near(chunk.pixels, pixels, limit, name)


def test_lookahead_shifts_the_audio_only() -> None:
    plain, ahead = tiny_model(), tiny_model(lookahead_frames=3)
    prepared, state = start(ahead)
    audio, lead = speech(ahead, 0), torch.ones(3 * 640)
    lead_state = create_state(*ahead, prepared, 0, lead)
    late = encode_audio_context(
        ahead.executor.networks.audio_encoder, ahead.settings, lead_state.audio.push(audio)
    )
    now = encode_audio_context(
        plain.executor.networks.audio_encoder,
        plain.settings,
        state.audio.push(torch.cat((lead, audio))[: audio.shape[0]]),
    )
    limit = rounding(640)  # The encoder of this test adds as many products.
    assert_near(late[:, :-2], now[:, :-2], limit)
    assert distance(late[:, -2:], now[:, -2:]) > 100 * limit
    short = create_state(*ahead, prepared, 0, lead[:640])
    assert isinstance(short.audio, AudioBuffer)
    assert torch.equal(short.audio.samples[-2 * 640 :], torch.zeros(2 * 640))
    with pytest.raises(ValueError, match="640 samples longer"):
        create_state(*ahead, prepared, 0, torch.zeros(4 * 640))


def test_settings_change_the_result() -> None:
    base = stream(tiny_model(), 1)[0].pixels
    for model in (
        tiny_model(sampler=SamplerConfig(num_steps=3)),
        tiny_model(sampler=SamplerConfig(num_steps=2, kind=SamplerKind.EULER)),
        tiny_model(sampler=SamplerConfig(num_steps=2, shift=1.0)),
        tiny_model(sampler=SamplerConfig(num_steps=2, color_strength=0.0)),
        tiny_model(layout=ReferenceLayout.BROADCAST),
    ):
        assert (stream(model, 1)[0].pixels - base).abs().max() > 1e-3


def test_prompt_reaches_the_frames() -> None:
    model = tiny_model(dit=DIT_WITH_PROMPT)
    results = []
    for value in (0.5, 1.5):
        text = torch.linspace(0, value, TEXT_DIM).expand(1, 3, -1)
        image = torch.linspace(0, 1, IMAGE_DIM).square().expand(1, 7, -1)
        prepared = prepare_stream(*model, IMAGE, PromptEmbeds(text_embeds=text, image_embeds=image))
        state = create_state(*model, prepared, 0)
        results.append(generate_chunk(*model, prepared, speech(model, 0), state)[0].pixels)
    assert (results[0] - results[1]).abs().max() > 1e-4


def test_refuses_the_wrong_number_of_samples() -> None:
    model = tiny_model()
    prepared, state = start(model)
    with pytest.raises(ValueError, match="audio must be"):
        generate_chunk(*model, prepared, torch.zeros(8 * 640 - 1), state)


def test_levels_are_truncated() -> None:
    pixels = torch.tensor([-1.0, 1.0, 0.0]).view(3, 1, 1, 1)
    chunk = VideoChunk(pixels=pixels, first_frame=0)
    assert chunk.to_uint8().flatten().tolist() == [0, 255, 127]


@pytest.mark.parametrize(
    ("kind", "precision", "expected"),
    [
        (SamplerKind.RENOISE, torch.bfloat16, [torch.bfloat16, *[torch.float32] * 3]),
        (SamplerKind.RENOISE, torch.float32, [torch.float32] * 4),
        (SamplerKind.EULER, torch.bfloat16, [torch.float32]),
    ],
)
def test_noise_is_drawn_in_the_published_order_and_precision(
    monkeypatch: pytest.MonkeyPatch, kind: SamplerKind, precision: torch.dtype, expected: list[torch.dtype]
) -> None:
    model = tiny_model(sampler=SamplerConfig(num_steps=3, kind=kind))
    model.executor.networks.dit.to(precision)
    drawn: list[Tensor] = []
    normal_noise = chunk_module.normal_noise

    def keep(rng: torch.Generator) -> NoiseSource:
        source = normal_noise(rng)

        def draw(like: Tensor) -> Tensor:
            drawn.append(source(like))
            return drawn[-1]

        return draw

    monkeypatch.setattr(chunk_module, "normal_noise", keep)
    stream(model, 1, seed=9999)
    assert [noise.dtype for noise in drawn] == expected
    # One generator for the stream: the same numbers as drawing them one after the other.
    rng = torch.Generator().manual_seed(9999)
    for noise in drawn:
        assert torch.equal(noise, torch.randn(noise.shape, generator=rng, dtype=noise.dtype))
