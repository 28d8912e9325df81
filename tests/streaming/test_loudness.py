"""Loudness: the published gain over everything heard, and the running gain that leaves noise alone."""

import math

import pytest
import torch
from torch import Tensor

from livetalk.streaming.loudness import (
    TARGET_LUFS,
    LoudnessState,
    integrated_loudness,
    normalize_published,
    normalize_running,
    silence_noise,
)
from tolerance import assert_near, rounding

RATE = 16_000


def hiss(seconds: float, decibels: float, seed: int = 0) -> Tensor:
    """Return white noise of a level relative to full scale: `[samples]`."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(round(seconds * RATE), generator=rng) * 10 ** (decibels / 20)


def syllables(seconds: float, decibels: float) -> Tensor:
    """Return noise in four pulses a second, with a pause in every second, over a faint hiss."""
    time = torch.arange(round(seconds * RATE)) / RATE
    envelope = torch.sin(math.pi * 4 * time).square() * (time % 1 < 0.75)
    return hiss(seconds, decibels, seed=1) * envelope + hiss(seconds, decibels - 40, seed=2)


def run(audio: Tensor, cuts: int = 0) -> tuple[Tensor, LoudnessState]:
    """Apply the running gain, to the whole sound or in pieces of `cuts` samples."""
    state, pieces = LoudnessState.create(), []
    for piece in audio.split(cuts or audio.shape[0]):
        louder, state = normalize_running(piece, state)
        assert louder.shape == piece.shape
        pieces.append(louder)
    return torch.cat(pieces), state


def decibels_of_gain(before: Tensor, after: Tensor) -> Tensor:
    """Return the gain at each sample, in dB."""
    return 20 * (after.double() / before.double()).log10()


@pytest.mark.parametrize("level", [-50.0, -20.0, 0.0])
def test_published_reaches_the_target(level: float) -> None:
    audio = syllables(3.0, level)
    louder = normalize_published(audio)
    assert louder.dtype == audio.dtype
    assert integrated_loudness(louder).item() == pytest.approx(TARGET_LUFS, abs=1e-4)
    # The sound is rounded once, the gain is float64.
    assert decibels_of_gain(audio, louder).std() < 20 * math.log10(1 + rounding())


def test_published_gates_pauses() -> None:
    speech = syllables(3.0, -20.0)
    padded = torch.cat((torch.zeros(5 * RATE), speech))
    assert integrated_loudness(padded).item() == pytest.approx(integrated_loudness(speech).item(), abs=0.3)


def test_published_leaves_silence_alone() -> None:
    for audio in (torch.zeros(2 * RATE), hiss(2.0, -80.0)):
        assert integrated_loudness(audio).item() == -math.inf
        assert torch.equal(normalize_published(audio), audio)


@pytest.mark.parametrize("num_samples", [0, 1, 100, 6399])
def test_published_takes_the_shortest_audio(num_samples: int) -> None:
    audio = hiss(1.0, -20.0)[:num_samples]
    assert normalize_published(audio).isfinite().all()
    padded = torch.cat((audio, torch.zeros(6400 - num_samples)))
    assert_near(normalize_published(padded)[:num_samples], normalize_published(audio), rounding())


def test_published_lifts_hiss() -> None:
    assert integrated_loudness(normalize_published(hiss(8.0, -60.0))).item() == pytest.approx(TARGET_LUFS)


@pytest.mark.parametrize("level", [-75.0, -60.0, -45.0, -30.0])
def test_running_never_lifts_hiss(level: float) -> None:
    noise = hiss(6.0, level)
    switched_on = torch.cat((torch.zeros(2 * RATE), noise))
    grown = torch.cat((hiss(4.0, level - 15, seed=3), noise))
    for audio in (noise, switched_on, grown):
        assert torch.equal(run(audio)[0], audio)


@pytest.mark.parametrize("level", [-40.0, -25.0, -5.0])
def test_running_brings_speech_near_the_target(level: float) -> None:
    louder, state = run(syllables(10.0, level))
    assert integrated_loudness(louder[-4 * RATE :]).item() == pytest.approx(TARGET_LUFS, abs=2.5)
    assert state.gain_db != 0


def test_running_moves_slowly() -> None:
    audio = syllables(6.0, -45.0)
    gain = decibels_of_gain(audio, run(audio)[0])
    per_second = gain[RATE::100] - gain[:-RATE:100]
    assert 5 < per_second.max() < 6.2
    assert per_second.min() > -6.2


def test_running_does_not_depend_on_cuts() -> None:
    audio = syllables(3.0, -40.0)
    whole, end = run(audio)
    for cuts in (17_920, 1_600, 777):
        pieces, state = run(audio, cuts)
        assert_near(pieces, whole, rounding())
        assert torch.equal(state.pending, end.pending)
        assert state.gain_db == pytest.approx(end.gain_db)


def test_running_hears_only_the_past() -> None:
    audio = syllables(4.0, -40.0)
    changed = torch.cat((audio[: 2 * RATE], hiss(2.0, 0.0)))
    assert torch.equal(run(audio)[0][: 2 * RATE], run(changed)[0][: 2 * RATE])


def test_running_state_is_a_value() -> None:
    _, state = run(syllables(2.03, -40.0))
    audio = syllables(1.0, -40.0)
    first, second = normalize_running(audio, state), normalize_running(audio, state)
    assert torch.equal(first[0], second[0])
    assert first[1].gain_db == second[1].gain_db != state.gain_db
    assert state.num_bytes == 4 * state.pending.shape[0] > 0


@pytest.mark.parametrize("level", [-90.0, -75.0, -63.0])
def test_noise_too_faint_for_speech_becomes_silence(level: float) -> None:
    for audio in (hiss(8.0, level), torch.zeros(RATE), torch.zeros(0)):
        assert torch.equal(silence_noise(audio), torch.zeros_like(audio))


@pytest.mark.parametrize("level", [-50.0, -30.0, 0.0])
def test_quiet_speech_is_never_taken_for_noise(level: float) -> None:
    for audio in (syllables(8.0, level), syllables(0.5, level)):
        assert torch.equal(silence_noise(audio), audio)


@pytest.mark.parametrize("seconds", [0.02, 0.1, 1.0])
def test_speech_that_begins_after_hiss_is_whole(seconds: float) -> None:
    audio = torch.cat((hiss(8.0 - seconds, -65.0), hiss(seconds, -30.0, seed=4)))
    assert torch.equal(silence_noise(audio), audio)
