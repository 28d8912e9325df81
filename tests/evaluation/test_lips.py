"""The range of a mouth in series whose answer is known."""

import numpy as np
import pytest

from livetalk.evaluation.lips import OpeningRange, measure_range


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


def test_relative_opening_is_linear() -> None:
    assert OpeningRange(0.1, 0.3).relative(np.array([0.1, 0.2, 0.5])) == pytest.approx([0, 0.5, 2])
