"""Statistics of series in which some values are unknown (NaN)."""

import numpy as np
from numpy.typing import NDArray

_MIN_FRAMES = 10
"""A correlation over fewer frames is noise."""
_STILL = 1e-9
"""Deviations below this are rounding: the series is constant."""
_SHORTEST_SLOPE_SECONDS = 20.0


def correlate(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the Pearson correlation of two series [F] over the frames where both are finite.

    The longer series is truncated. NaN for fewer than ten such frames or if a series is constant.
    """
    length = min(len(first), len(second))
    first, second = first[:length], second[:length]
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < _MIN_FRAMES:
        return float("nan")
    first, second = first[both] - first[both].mean(), second[both] - second[both].mean()
    deviations = float(first.std()), float(second.std())
    if min(deviations) < _STILL:
        return float("nan")
    return float((first * second).mean() / (deviations[0] * deviations[1]))


def slope_per_minute(values: NDArray[np.float64], seconds: NDArray[np.float64]) -> float:
    """Return the slope per minute of the least-squares line through values [N] at times `seconds` [N].

    NaN values are ignored; the result is NaN for fewer than three values or less than 20 s between them.
    """
    known = np.isfinite(values)
    times = seconds[known]
    # The fluctuations of a short clip do not extrapolate to a minute.
    if len(times) < 3 or float(np.ptp(times)) < _SHORTEST_SLOPE_SECONDS:
        return float("nan")
    times = times - times.mean()
    return float((times * values[known]).sum() / (times**2).sum() * 60)


def median(values: NDArray[np.float64]) -> float:
    """Return the median of the finite or infinite values; NaN if all are NaN."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else float("nan")


def largest(values: NDArray[np.float64]) -> float:
    """Return the largest value that is not NaN; NaN if all are."""
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else float("nan")


def percentile(values: NDArray[np.float64], percent: float) -> float:
    """Return a percentile (0..100) of values without NaN; NaN for an empty array."""
    return float(np.percentile(values, percent)) if len(values) else float("nan")
