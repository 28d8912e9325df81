"""Correlation, lag, range, closures, silence and blinks on series whose answer is known."""

import numpy as np
import pytest

from livetalk.evaluation.lips import (
    OpeningRange,
    correlate,
    count_blinks,
    measure_range,
    score_closures,
    score_silence,
    score_sync,
)
from livetalk.evaluation.phones import Phone

FPS = 25.0


def wander(num_frames: int, seed: int) -> np.ndarray:
    """Return a smooth random series."""
    steps = np.random.default_rng(seed).normal(size=num_frames + 4)
    return np.convolve(steps, np.ones(5) / 5, mode="valid")


def test_correlation_is_that_of_pearson() -> None:
    first, second = wander(80, 0), wander(80, 1)
    assert correlate(first, second) == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert correlate(first, -3 * first + 2) == pytest.approx(-1)


def test_correlation_passes_over_unknown_frames() -> None:
    first, second = wander(80, 0), wander(80, 1)
    holes = first.copy()
    holes[10:30] = np.nan
    kept = np.r_[0:10, 30:80]
    assert correlate(holes, second) == pytest.approx(np.corrcoef(first[kept], second[kept])[0, 1])


@pytest.mark.parametrize("series", [np.full(80, 0.3), np.full(80, np.nan), np.zeros(5)])
def test_correlation_of_nothing_is_unknown(series: np.ndarray) -> None:
    assert np.isnan(correlate(series, wander(80, 0)))


@pytest.mark.parametrize("lag", [-4, -1, 0, 2, 6])
def test_lag_is_positive_when_the_mouth_is_late(lag: int) -> None:
    truth = wander(200, 3)
    score = score_sync(np.roll(truth, lag), truth)
    assert score.best_lag == lag
    assert score.best_correlation > 0.999
    assert lag == 0 or score.correlation < 0.95


def test_equal_scores_prefer_the_smallest_lag() -> None:
    wave = np.tile([0.0, 1.0, 2.0, 1.0], 30)
    assert score_sync(wave, wave).best_lag == 0


def test_series_of_different_length_are_compared_over_the_shorter() -> None:
    truth = wander(200, 3)
    assert score_sync(truth[:150], truth).correlation == pytest.approx(1)


def test_range_takes_speech_for_wide_and_everything_for_closed() -> None:
    opening = np.concatenate([np.zeros(50), np.linspace(0.1, 0.5, 101), np.full(20, 0.9)])
    speech = np.zeros(171, dtype=bool)
    speech[50:151] = True
    found = measure_range(opening, speech)
    assert found.closed == pytest.approx(0.0)
    assert found.wide == pytest.approx(0.48)
    assert found.relative(np.array([0.0, 0.24, 0.48])) == pytest.approx([0, 0.5, 1])


def test_a_mouth_that_never_moves_has_no_relative_opening() -> None:
    still = np.full(50, 0.2)
    found = measure_range(still, np.ones(50, dtype=bool))
    assert np.isnan(found.relative(still)).all()


def test_range_of_a_clip_without_faces_is_unknown() -> None:
    found = measure_range(np.full(20, np.nan), np.ones(20, dtype=bool))
    assert np.isnan(found.closed) and np.isnan(found.wide)


def test_a_silent_clip_has_no_wide_opening() -> None:
    found = measure_range(np.linspace(0, 0.01, 50), np.zeros(50, dtype=bool))
    assert found.closed < 0.01
    assert np.isnan(found.wide)


def test_closures_are_counted_within_one_frame() -> None:
    relative = np.full(200, 0.8)
    relative[[20, 41, 63]] = 0.05
    phones = [
        Phone("b", 20 / FPS, 20.9 / FPS),  # closed in its own frame
        Phone("P", 42 / FPS, 43 / FPS),  # one frame early
        Phone("m", 60 / FPS, 61.5 / FPS),  # two frames after its last: too late
        Phone("s", 100 / FPS, 102 / FPS),  # no closure asked for
    ]
    score = score_closures(relative, phones, np.ones(200, dtype=bool), FPS)
    assert score.num_closures == 3
    assert score.recall == pytest.approx(2 / 3)
    assert score.chance < 0.1


def test_a_mouth_that_is_always_shut_gains_nothing_over_luck() -> None:
    score = score_closures(np.zeros(100), [Phone("b", 1, 1.1)], np.ones(100, dtype=bool), FPS)
    assert score.recall == 1
    assert score.chance == 1


def test_luck_is_measured_in_the_speech_only() -> None:
    relative = np.concatenate([np.zeros(100), np.full(100, 0.9)])
    speech = np.concatenate([np.zeros(110, dtype=bool), np.ones(90, dtype=bool)])
    score = score_closures(relative, [Phone("b", 6, 6.1)], speech, FPS)
    assert (score.recall, score.chance) == (0, 0)


def test_frames_without_a_face_close_nothing() -> None:
    score = score_closures(np.full(100, np.nan), [Phone("b", 1, 1.1)], np.ones(100, dtype=bool), FPS)
    assert score.recall == 0


def test_sounds_outside_the_video_are_passed_over() -> None:
    score = score_closures(np.zeros(50), [Phone("b", 10, 10.1)], np.ones(50, dtype=bool), FPS)
    assert score.num_closures == 0
    assert np.isnan(score.recall)


def test_silence_is_judged_by_its_wide_frames() -> None:
    relative = np.concatenate([np.full(100, 0.9), np.zeros(90), np.full(10, 0.5)])
    silence = np.arange(200) >= 100
    assert score_silence(relative, silence) == pytest.approx(0.5)
    assert score_silence(relative, silence & (np.arange(200) < 190)) == 0
    assert np.isnan(score_silence(relative, np.zeros(200, dtype=bool)))


def test_blinks_are_short_dips() -> None:
    eyes = np.full(250, 0.3) + 0.01 * np.sin(np.arange(250))
    for start in (30, 90, 91, 200):
        eyes[start : start + 4] = 0.1
    eyes[120:150] = 0.05  # eyes kept shut
    eyes[160:163] = np.nan
    assert count_blinks(eyes, FPS) == 3
    assert count_blinks(np.full(10, np.nan), FPS) == 0


def test_relative_opening_is_linear() -> None:
    assert OpeningRange(0.1, 0.3).relative(np.array([0.1, 0.2, 0.5])) == pytest.approx([0, 0.5, 2])
