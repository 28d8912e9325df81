"""What the speech encoder hears under each loudness mode, live and recorded."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from livetalk.models.wav2vec import Wav2Vec2Config, Wav2Vec2Encoder
from livetalk.streaming.chunk import create_recorded_state, create_state, generate_chunk
from livetalk.streaming.conditioning import prepare_stream
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.loudness import LoudnessState, normalize_published, normalize_running, silence_noise
from livetalk.streaming.settings import LoudnessMode
from tiny import IMAGE_SIDE, FrameEncoder, TinyModel, randomize, tiny_model
from tolerance import assert_near, assert_same_network, distance, rounding

CHUNK = ChunkGeometry(window_frames=13).chunk_samples
BUFFER = 2 * 16_000
LIMIT = rounding()
"""Gains are float64; the sound is rounded once."""


class Listener(FrameEncoder):
    """Keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Tensor] = []

    def __call__(self, samples: Tensor) -> Tensor:
        self.heard.append(samples[0])
        return super().__call__(samples)


def listening_model(mode: LoudnessMode, lookahead_frames: int) -> tuple[TinyModel, Listener]:
    listener = Listener()
    model = tiny_model(lookahead_frames=lookahead_frames).with_networks(audio_encoder=listener)
    return model._replace(settings=replace(model.settings, loudness=mode)), listener


def hear(mode: LoudnessMode, audio: Tensor, *, whole: bool = False, lead: int = 0) -> list[Tensor]:
    """Return the audio that the encoder of a stream was given."""
    model, listener = listening_model(mode, lead // 640)
    prepared = prepare_stream(*model, torch.zeros(3, IMAGE_SIDE, IMAGE_SIDE))
    if whole:
        state = create_recorded_state(*model, prepared, 0, audio)
    else:
        state = create_state(*model, prepared, 0, audio[:lead])
    for start in range(lead, len(audio) - CHUNK + 1, CHUNK):
        _, state = generate_chunk(*model, prepared, audio[start : start + CHUNK], state)
    return listener.heard


def babble(num_chunks: int, level: float) -> Tensor:
    """Make noise that rises and falls four times a second, as speech does."""
    time = torch.arange(num_chunks * CHUNK) / 16_000
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(1))
    return level * noise * (torch.sin(2 * torch.pi * 4 * time).clamp_min(0) + 1e-3)


def tiny_published_encoder() -> Wav2Vec2Encoder:
    """Build an encoder of the published form, which standardises what it hears."""
    config = Wav2Vec2Config(
        width=32,
        num_layers=2,
        num_heads=4,
        ffn_dim=48,
        conv_dims=(16,) * 7,
        position_kernel=16,
        position_groups=4,
    )
    encoder = Wav2Vec2Encoder(config).eval()
    randomize(encoder)
    return encoder


def rms(audio: Tensor) -> float:
    return float(audio.square().mean().sqrt())


def test_off_is_the_audio_itself() -> None:
    audio = babble(3, 0.02)
    heard = hear(LoudnessMode.OFF, audio)
    assert torch.equal(heard[-1][-len(audio) :], audio)
    assert torch.equal(hear(LoudnessMode.OFF, audio, whole=True)[0][5 * 640 :], audio)


def test_published_gives_all_that_is_heard_one_gain() -> None:
    audio = babble(3, 0.02)
    for index, heard in enumerate(hear(LoudnessMode.PUBLISHED, audio), start=1):
        so_far = torch.nn.functional.pad(audio[: index * CHUNK], (BUFFER - index * CHUNK, 0))
        assert_near(heard, normalize_published(so_far), LIMIT)
    whole = hear(LoudnessMode.PUBLISHED, audio, whole=True)[0]
    assert_near(whole[5 * 640 :], normalize_published(audio), LIMIT)


@pytest.mark.parametrize("lead", [0, 3 * 640])
def test_running_is_one_gain_curve_however_the_stream_is_cut(lead: int) -> None:
    audio = babble(6, 0.01)[: 5 * CHUNK + lead]
    expected, _ = normalize_running(audio, LoudnessState.create())
    assert rms(expected[-CHUNK:]) > 1.3 * rms(audio[-CHUNK:])
    heard = hear(LoudnessMode.RUNNING, audio, lead=lead)[-1]
    assert_near(heard[-len(expected) :], expected, LIMIT)
    if not lead:
        assert_near(hear(LoudnessMode.RUNNING, audio, whole=True)[0][5 * 640 :], expected, LIMIT)


def test_hiss_alone_is_lifted_by_the_published_gain_only() -> None:
    hiss = 1e-3 * torch.randn(4 * CHUNK, generator=torch.Generator().manual_seed(2))
    levels = {mode: rms(hear(mode, hiss)[-1][-CHUNK:]) for mode in LoudnessMode}
    assert levels[LoudnessMode.OFF] == levels[LoudnessMode.RUNNING]
    assert levels[LoudnessMode.PUBLISHED] > 30 * levels[LoudnessMode.OFF]


@pytest.mark.parametrize("whole", [False, True])
def test_faint_hiss_reaches_the_encoder_as_silence_in_the_running_mode_only(whole: bool) -> None:
    hiss = 4e-4 * torch.randn(4 * CHUNK, generator=torch.Generator().manual_seed(2))
    assert rms(hear(LoudnessMode.RUNNING, hiss, whole=whole)[-1]) == 0
    assert rms(hear(LoudnessMode.OFF, hiss, whole=whole)[-1][-CHUNK:]) == pytest.approx(rms(hiss), rel=0.2)
    speech = hiss + babble(4, 0.02) * (torch.arange(len(hiss)) > 3 * CHUNK)
    heard = hear(LoudnessMode.RUNNING, speech, whole=whole)[-1]
    expected, _ = normalize_running(speech, LoudnessState.create())
    assert_near(heard[-CHUNK:] if not whole else heard[5 * 640 :][-CHUNK:], expected[-CHUNK:], LIMIT)


def test_the_published_encoder_hears_nothing_in_faint_hiss_after_all() -> None:
    encoder = tiny_published_encoder()
    hiss = 4e-4 * torch.randn(BUFFER, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        lifted, silent, gated = (
            encoder(audio[None]) for audio in (hiss, torch.zeros(BUFFER), silence_noise(hiss))
        )
    assert torch.equal(gated, silent)
    assert distance(lifted, silent) > 0.01, "standardising lifts the hiss"


def test_one_gain_for_all_that_is_heard_is_nothing_to_the_published_encoder() -> None:
    encoder = tiny_published_encoder()
    audio = babble(3, 0.02)
    with torch.no_grad():
        lifted = encoder(10 * audio[None])
        ramped = encoder((audio * torch.linspace(1, 10, len(audio)))[None])
    assert_same_network(lifted, lambda: encoder(audio[None]), encoder)
    assert distance(ramped, lifted) > 0.01
