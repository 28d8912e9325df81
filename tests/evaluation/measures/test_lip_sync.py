"""Lags and correlations of series whose answer is known."""

import numpy as np
import pytest

from livetalk.evaluation.measures.lip_sync import score_sync


def wander(num_frames: int, seed: int) -> np.ndarray:
    """Return a smooth random series."""
    steps = np.random.default_rng(seed).normal(size=num_frames + 4)
    return np.convolve(steps, np.ones(5) / 5, mode="valid")


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
