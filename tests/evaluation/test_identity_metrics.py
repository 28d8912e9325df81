"""Distances, percentiles and slopes of embeddings made up for the purpose."""

import numpy as np
import pytest

from livetalk.evaluation.identity import across_identities, measure_distances, slope_per_minute


def test_distance_is_that_of_euclid() -> None:
    embeddings = np.zeros((3, 128))
    embeddings[1, 0], embeddings[1, 1] = 3, 4
    embeddings[2] = np.nan
    distances = measure_distances(embeddings, np.zeros(128))
    assert distances[:2] == pytest.approx([0, 5])
    assert np.isnan(distances[2])


def test_close_pairs_make_the_low_percentile() -> None:
    people = [np.eye(128)[i] for i in range(6)]
    assert across_identities(people) == pytest.approx(np.sqrt(2))
    twins = [*people, np.eye(128)[0], np.full(128, np.nan)]
    assert across_identities(twins, percentile=0) == pytest.approx(0)
    assert np.isnan(across_identities(people[:1]))


def test_slope_is_per_minute() -> None:
    seconds = np.linspace(0, 60, 13)
    values = 0.2 + 0.05 * seconds / 60
    values[3] = np.nan
    assert slope_per_minute(values, seconds) == pytest.approx(0.05)


def test_short_clips_have_no_slope() -> None:
    seconds = np.linspace(0, 6, 13)
    assert np.isnan(slope_per_minute(seconds, seconds))
    assert np.isnan(slope_per_minute(np.full(3, np.nan), np.array([0.0, 30, 60])))
