"""Distances and percentiles of embeddings made up for the purpose."""

import numpy as np
import pytest

from livetalk.evaluation.recognition import across_identities, measure_distances


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
