"""Openings and boxes from drawn landmarks."""

import numpy as np
import pytest
from drawn_face import draw_landmarks

from livetalk.evaluation.landmarks import eye_opening, face_box, lip_opening


def test_openings_are_gaps_over_widths() -> None:
    landmarks = np.stack([draw_landmarks(0.0, 0.1), draw_landmarks(0.4, 0.35)])
    assert lip_opening(landmarks) == pytest.approx([0, 0.4], abs=1e-6)
    assert eye_opening(landmarks) == pytest.approx([0.1, 0.35], abs=1e-6)


def test_openings_do_not_depend_on_size_turn_or_place() -> None:
    landmarks = draw_landmarks(0.4)[None]
    turn = np.array([[0.8, -0.6], [0.6, 0.8]], dtype=np.float32)
    moved = 3 * landmarks @ turn + 100
    assert lip_opening(moved) == pytest.approx(lip_opening(landmarks), rel=1e-5)
    assert eye_opening(moved) == pytest.approx(eye_opening(landmarks), rel=1e-5)


def test_no_face_is_unknown() -> None:
    nothing = np.full((1, 478, 2), np.nan, dtype=np.float32)
    assert np.isnan(lip_opening(nothing)).all()
    assert np.isnan(eye_opening(nothing)).all()
    assert face_box(nothing[0], 64, 64) is None


def test_box_holds_the_face_and_stays_in_the_picture() -> None:
    landmarks = draw_landmarks(0.2)
    assert face_box(landmarks, 64, 64) == (8, 8, 56, 60)
    assert face_box(landmarks + 20, 64, 64) == (28, 28, 64, 64)
    assert face_box(landmarks + 100, 64, 64) is None
