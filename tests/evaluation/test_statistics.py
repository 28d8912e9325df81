"""Correlations and slopes of series with unknown values."""

import numpy as np
import pytest

from livetalk.evaluation.statistics import correlate, slope_per_minute


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


def test_slope_is_per_minute() -> None:
    seconds = np.linspace(0, 60, 13)
    values = 0.2 + 0.05 * seconds / 60
    values[3] = np.nan
    assert slope_per_minute(values, seconds) == pytest.approx(0.05)


def test_short_clips_have_no_slope() -> None:
    seconds = np.linspace(0, 6, 13)
    assert np.isnan(slope_per_minute(seconds, seconds))
    assert np.isnan(slope_per_minute(np.full(3, np.nan), np.array([0.0, 30, 60])))
