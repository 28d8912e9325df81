"""The live step: shapes, determinism, state as a value, settings."""

import pytest
import torch
from torch import Tensor

from livetalk.diffusion.samplers import NoiseSource
from livetalk.models.vae import VAEConfig
from livetalk.streaming import step
from livetalk.streaming.audio import AudioBuffer
from livetalk.streaming.conditioning import ReferenceLayout
from livetalk.streaming.config import SamplerConfig, SamplerKind
from livetalk.streaming.hearing import encode_audio_context
from livetalk.streaming.models import Models
from livetalk.streaming.state import StreamState
from livetalk.streaming.step import create_state, generate_chunk, prepare_conditioning
from livetalk.types import Conditioning, VideoChunk
from tiny import DIT_WITH_PROMPT, IMAGE_DIM, IMAGE_SIDE, TEXT_DIM, VAE, VAE_PATCHED, tiny_models

IMAGE = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def speech(models: Models, chunk: int) -> Tensor:
    rng = torch.Generator().manual_seed(100 + chunk)
    return torch.randn(models.config.geometry.chunk_samples, generator=rng) * 0.1


def start(models: Models, seed: int = 0) -> tuple[Conditioning, StreamState]:
    conditioning = prepare_conditioning(models, IMAGE)
    return conditioning, create_state(models, conditioning, seed)


def stream(models: Models, num_chunks: int, seed: int = 0) -> list[VideoChunk]:
    conditioning, state = start(models, seed)
    chunks = []
    for index in range(num_chunks):
        chunk, state = generate_chunk(models, conditioning, speech(models, index), state)
        chunks.append(chunk)
    return chunks


def test_chunks_follow_each_other() -> None:
    models = tiny_models()
    chunks = stream(models, 3)
    assert [chunk.first_frame for chunk in chunks] == [0, 8, 16]
    for chunk in chunks:
        assert chunk.pixels.shape == (3, 8, IMAGE_SIDE, IMAGE_SIDE)
        assert chunk.pixels.dtype == torch.float32 and chunk.pixels.abs().max() <= 1
        assert chunk.to_uint8().shape == (8, IMAGE_SIDE, IMAGE_SIDE, 3)
    assert not torch.equal(chunks[1].pixels, chunks[2].pixels)


def test_one_seed_is_bit_equal_and_another_is_not() -> None:
    first, again, other = (stream(tiny_models(), 2, seed) for seed in (5, 5, 6))
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].pixels, other[0].pixels)


def test_state_is_a_value() -> None:
    models = tiny_models()
    conditioning, state = start(models)
    _, middle = generate_chunk(models, conditioning, speech(models, 0), state)
    once, after = generate_chunk(models, conditioning, speech(models, 1), middle)
    twice, _ = generate_chunk(models, conditioning, speech(models, 1), middle)
    assert torch.equal(once.pixels, twice.pixels)
    assert [s.chunk_index for s in (state, middle, after)] == [0, 1, 2]
    assert state.motion_latents.shape[2] == 1 and middle.motion_latents.shape[2] == 2


def test_state_does_not_grow() -> None:
    models = tiny_models()
    conditioning, state = start(models)
    sizes = []
    for index in range(4):
        _, state = generate_chunk(models, conditioning, speech(models, index), state)
        sizes.append(state.num_bytes)
        assert state.motion_latents.untyped_storage().nbytes() <= 4 * state.motion_latents.nbytes
        assert isinstance(state.audio, AudioBuffer)
        assert state.audio.waveform.untyped_storage().nbytes() <= 2 * state.audio.waveform.nbytes
    assert len(set(sizes)) == 1


def test_streams_share_models_without_touching_each_other() -> None:
    models = tiny_models()
    alone = stream(models, 2, seed=1)
    (conditioning, a), (_, b) = start(models, 1), start(models, 2)
    mixed = []
    for index in range(2):
        chunk, a = generate_chunk(models, conditioning, speech(models, index), a)
        _, b = generate_chunk(models, conditioning, speech(models, index + 7), b)
        mixed.append(chunk)
    assert all(torch.equal(x.pixels, y.pixels) for x, y in zip(alone, mixed, strict=True))


def test_audio_reaches_the_frames() -> None:
    models = tiny_models()
    conditioning, state = start(models)
    silent, _ = generate_chunk(models, conditioning, torch.zeros(8 * 640), state)
    loud, _ = generate_chunk(models, conditioning, speech(models, 0), state)
    assert (silent.pixels - loud.pixels).abs().max() > 1e-3


@pytest.mark.parametrize("vae", [VAE, VAE_PATCHED], ids=["plain", "patched"])
@pytest.mark.parametrize("latents_per_decode", [1, 2, 3, None])
@pytest.mark.parametrize("decode_dropped", [True, False])
def test_how_a_window_is_decoded_changes_nothing(
    vae: VAEConfig, latents_per_decode: int | None, decode_dropped: bool
) -> None:
    whole = stream(tiny_models(vae=vae), 2)
    models = tiny_models(vae=vae, latents_per_decode=latents_per_decode, decode_dropped=decode_dropped)
    pieces = stream(models, 2)
    for a, b in zip(whole, pieces, strict=True):
        torch.testing.assert_close(a.pixels, b.pixels, atol=1e-4, rtol=1e-4)


def test_lookahead_shifts_the_audio_only() -> None:
    plain, ahead = tiny_models(), tiny_models(lookahead_frames=3)
    conditioning, state = start(ahead)
    audio, lead = speech(ahead, 0), torch.ones(3 * 640)
    lead_state = create_state(ahead, conditioning, 0, lead)
    late = encode_audio_context(ahead, lead_state.audio.push(audio))
    now = encode_audio_context(plain, state.audio.push(torch.cat((lead, audio))[: audio.shape[0]]))
    torch.testing.assert_close(late[:, :-2], now[:, :-2])
    assert not torch.allclose(late[:, -2:], now[:, -2:])
    short = create_state(ahead, conditioning, 0, lead[:640])
    assert isinstance(short.audio, AudioBuffer)
    assert torch.equal(short.audio.waveform[-2 * 640 :], torch.zeros(2 * 640))
    with pytest.raises(ValueError, match="640 samples longer"):
        create_state(ahead, conditioning, 0, torch.zeros(4 * 640))


def test_settings_change_the_result() -> None:
    base = stream(tiny_models(), 1)[0].pixels
    for models in (
        tiny_models(sampler=SamplerConfig(num_steps=3)),
        tiny_models(sampler=SamplerConfig(num_steps=2, kind=SamplerKind.EULER)),
        tiny_models(sampler=SamplerConfig(num_steps=2, shift=1.0)),
        tiny_models(sampler=SamplerConfig(num_steps=2, color_strength=0.0)),
        tiny_models(layout=ReferenceLayout.BROADCAST),
    ):
        assert (stream(models, 1)[0].pixels - base).abs().max() > 1e-3


def test_prompt_reaches_the_frames() -> None:
    models = tiny_models(dit=DIT_WITH_PROMPT)
    results = []
    for value in (0.5, 1.5):
        text = torch.linspace(0, value, TEXT_DIM).expand(1, 3, -1)
        image = torch.linspace(0, 1, IMAGE_DIM).square().expand(1, 7, -1)
        conditioning = prepare_conditioning(models, IMAGE, text, image)
        state = create_state(models, conditioning, 0)
        results.append(generate_chunk(models, conditioning, speech(models, 0), state)[0].pixels)
    assert (results[0] - results[1]).abs().max() > 1e-4


def test_refuses_the_wrong_number_of_samples() -> None:
    models = tiny_models()
    conditioning, state = start(models)
    with pytest.raises(ValueError, match="audio must be"):
        generate_chunk(models, conditioning, torch.zeros(8 * 640 - 1), state)


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
    models = tiny_models(sampler=SamplerConfig(num_steps=3, kind=kind))
    models.dit.to(precision)
    drawn: list[Tensor] = []
    normal_noise = step.normal_noise

    def keep(rng: torch.Generator) -> NoiseSource:
        source = normal_noise(rng)

        def draw(like: Tensor) -> Tensor:
            drawn.append(source(like))
            return drawn[-1]

        return draw

    monkeypatch.setattr(step, "normal_noise", keep)
    stream(models, 1, seed=9999)
    assert [noise.dtype for noise in drawn] == expected
    # One generator for the session: the same numbers as drawing them one after the other.
    rng = torch.Generator().manual_seed(9999)
    for noise in drawn:
        assert torch.equal(noise, torch.randn(noise.shape, generator=rng, dtype=noise.dtype))
