"""Head, gaze, lids, brows and breath around a voice."""

import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.synthetic.performance.motion import PerformanceStyle, build_performance, draw_style, perform
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.performance.prosody import measure_prosody
from livetalk.synthetic.performance.visemes import MouthStyle, PhonemeEvent

Samples = NDArray[np.float32]
FRAMES = 200


def voice(pitch_hz: float = 140.0) -> tuple[list[PhonemeEvent], Samples]:
    """Syllables between 1 and 6 s: phonemes and a tone that swells with them."""
    time = np.arange(8 * 16_000) / 16_000
    events = []
    envelope = np.zeros_like(time)
    for k in range(20):
        start = 1.0 + 0.25 * k
        events += [PhonemeEvent("t", start, start + 0.08), PhonemeEvent("aa", start + 0.08, start + 0.25)]
        loud = 0.3 + 0.7 * (k % 4 == 0)
        envelope += loud * np.clip(1.0 - np.abs(time - start - 0.16) / 0.1, 0.0, 1.0)
    tone = sum(np.sin(2 * np.pi * pitch_hz * k * time) / k for k in range(1, 8))
    return events, (0.3 * envelope * tone).astype(np.float32)


def unit(performance: Performance, name: str) -> NDArray[np.float32]:
    return performance.units[:, FACE_UNITS.index(name)]


@pytest.fixture(scope="module")
def many() -> list[Performance]:
    events, waveform = voice()
    prosody = measure_prosody(waveform, FRAMES)
    return [perform(events, prosody, FRAMES, seed) for seed in range(60)]


def test_shapes_types_and_ranges(many: list[Performance]) -> None:
    for performance in many:
        assert performance.num_frames == FRAMES
        assert performance.units.shape == (FRAMES, 52)
        assert performance.head_rotation.shape == performance.head_translation.shape == (FRAMES, 3)
        assert performance.gaze.shape == (FRAMES, 2) and performance.breath.shape == (FRAMES,)
        arrays = (performance.units, performance.head_rotation, performance.gaze, performance.breath)
        assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays)
        assert performance.units.min() >= 0.0 and performance.units.max() <= 1.2
        assert np.abs(performance.head_rotation).max() <= 0.3
        assert np.abs(performance.breath).max() <= 1.0


def test_one_seed_one_performance() -> None:
    events, waveform = voice()
    first, again = (build_performance(events, waveform, FRAMES, 7) for _ in range(2))
    other = build_performance(events, waveform, FRAMES, 8)
    assert np.array_equal(first.units, again.units)
    assert np.array_equal(first.head_rotation, again.head_rotation)
    assert np.array_equal(first.gaze, again.gaze)
    assert not np.array_equal(first.head_rotation, other.head_rotation)


def test_pose_amplitudes_and_varied_starts(many: list[Performance]) -> None:
    rotation = np.stack([performance.head_rotation for performance in many])
    yaw, pitch, roll = rotation.reshape(-1, 3).std(0)
    assert 0.04 < yaw < 0.09 and 0.02 < pitch < 0.05 and 0.012 < roll < 0.03
    assert rotation[:, 0, 0].std() > 0.03
    assert np.abs(np.diff(rotation, axis=1)).max() < 0.06


def test_silence_is_still_and_closed() -> None:
    events, waveform = voice()
    silent = [build_performance([], np.zeros(8 * 16_000, np.float32), FRAMES, seed) for seed in range(30)]
    spoken = [build_performance(events, waveform, FRAMES, seed) for seed in range(30)]

    def speed(performances: list[Performance]) -> float:
        return float(np.mean([np.abs(np.diff(p.head_rotation[:, :2], axis=0)).mean() for p in performances]))

    assert speed(silent) < 0.5 * speed(spoken)
    shaping = [
        i for i, n in enumerate(FACE_UNITS) if n.startswith(("jaw", "mouth", "tongue")) and "Smile" not in n
    ]
    assert max(performance.units[:, shaping].max() for performance in silent) == 0.0


def test_hiss_without_phonemes_counts_as_silence() -> None:
    hiss = np.random.default_rng(0).normal(0.0, 0.05, 8 * 16_000).astype(np.float32)
    performance = build_performance([], hiss, FRAMES, 1)
    assert unit(performance, "jawOpen").max() == 0.0


def test_the_head_nods_with_loud_syllables() -> None:
    events, waveform = voice()
    prosody = measure_prosody(waveform, FRAMES)
    pitch = np.mean([perform(events, prosody, FRAMES, s).head_rotation[:, 1] for s in range(200)], 0)
    times = (np.arange(FRAMES) + 0.5) / 25
    accented = [1.0 + 0.25 * k + 0.16 for k in range(0, 20, 4)]
    on = np.mean([np.interp(t + 0.03, times, pitch) for t in accented])
    between = np.mean([np.interp(t + 0.5, times, pitch) for t in accented])
    assert on > between + 0.006


def test_blinks_are_complete_brief_and_as_frequent_as_in_people(many: list[Performance]) -> None:
    lids = np.stack([unit(performance, "eyeBlinkLeft") for performance in many])
    shut = lids > 0.5
    count = int((np.diff(shut.astype(int), axis=1) == 1).sum())
    per_second = count / (len(many) * FRAMES / 25)
    assert 1 / 6 < per_second < 1 / 1.5
    frames_per_blink = shut.sum() / count
    assert 2.0 < frames_per_blink < 5.0
    assert np.mean(lids > 0.05) < 0.25
    peaks = [lids[i, j - 3 : j + 4].max() for i, j in np.argwhere(shut) if 3 <= j < FRAMES - 4]
    assert min(peaks) > 0.75


def test_eyes_rest_on_the_camera(many: list[Performance]) -> None:
    gaze = np.stack([performance.gaze for performance in many])
    away = np.abs(gaze).max(2) > 0.06
    assert 0.02 < away.mean() < 0.3
    assert np.abs(gaze).max() < 0.32


def test_breath_moves_and_goes_out_along_speech(many: list[Performance]) -> None:
    breath = np.stack([performance.breath for performance in many])
    assert breath.std() > 0.15
    assert breath[:, 145].mean() < breath[:, 20].mean()


def test_style_is_obeyed() -> None:
    events, waveform = voice()
    calm = PerformanceStyle(liveliness=0.3, brow_activity=0.0, mouth=MouthStyle(smile=0.2))
    lively = PerformanceStyle(liveliness=1.5, brow_activity=1.0)
    quiet = [build_performance(events, waveform, FRAMES, seed, calm) for seed in range(10)]
    busy = [build_performance(events, waveform, FRAMES, seed, lively) for seed in range(10)]
    assert np.mean([p.head_rotation.std(0).sum() for p in quiet]) < np.mean(
        [p.head_rotation.std(0).sum() for p in busy]
    )
    assert np.mean([unit(p, "browInnerUp").max() for p in quiet]) < np.mean(
        [unit(p, "browInnerUp").max() for p in busy]
    )
    assert min(unit(p, "mouthSmileLeft").min() for p in quiet) > 0.1
    assert draw_style(np.random.default_rng(3)) == draw_style(np.random.default_rng(3))


@pytest.mark.parametrize("num_frames", [0, 1, 3])
def test_very_short_clips_work(num_frames: int) -> None:
    performance = build_performance([], np.zeros(640 * num_frames, np.float32), num_frames, 0)
    assert performance.num_frames == num_frames


@pytest.mark.parametrize("pitch_hz", [85.0, 140.0, 230.0])
def test_pitch_and_loudness_are_measured(pitch_hz: float) -> None:
    _, waveform = voice(pitch_hz)
    prosody = measure_prosody(waveform, FRAMES)
    voiced = prosody.pitch_hz[prosody.pitch_hz > 0]
    assert len(voiced) > 60
    assert np.median(voiced) == pytest.approx(pitch_hz, rel=0.04)
    assert prosody.energy_db[:20].max() == -90.0
    assert prosody.level()[:20].max() == 0.0 and prosody.level().max() > 0.8
