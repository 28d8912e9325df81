"""Seams in series of frame changes."""

import numpy as np
import pytest

from livetalk.evaluation.measures.seams import frame_change, score_seams


def changes_of(num_frames: int, seed: int = 0) -> np.ndarray:
    """Return changes as of a talking face: uneven, between 1 and 3 levels."""
    return np.random.default_rng(seed).uniform(1.0, 3.0, num_frames)


def test_even_changes_have_no_seam() -> None:
    score = score_seams(np.full(300, 1.5))
    assert score.ratio == pytest.approx(1)
    assert score.worst_ratio == pytest.approx(1)
    assert score.num_seams == 10


def test_jumps_at_the_borders_are_found() -> None:
    changes = changes_of(600)
    changes[28::28] *= 3
    score = score_seams(changes)
    assert score.ratio > 2
    assert score.z_score > 3


def test_jumps_elsewhere_are_not_seams() -> None:
    changes = changes_of(600)
    changes[10::28] *= 3
    score = score_seams(changes)
    assert score.ratio < 1.5
    assert abs(score.z_score) < 3


def test_chunk_length_can_be_another() -> None:
    changes = np.ones(200)
    changes[16::16] = 4
    assert score_seams(changes, chunk_frames=16).ratio == pytest.approx(4)
    assert score_seams(changes, chunk_frames=28).ratio == pytest.approx(1)


def test_a_picture_that_stands_still_has_no_infinite_ratio() -> None:
    assert score_seams(np.zeros(100)).ratio == 0


def test_clip_of_one_chunk_has_no_seam() -> None:
    score = score_seams(changes_of(28))
    assert score.num_seams == 0
    assert np.isnan(score.ratio)


def test_change_is_signed_nowhere() -> None:
    dark, light = np.zeros((4, 4, 3), dtype=np.uint8), np.full((4, 4, 3), 200, dtype=np.uint8)
    assert frame_change(dark, light) == frame_change(light, dark) == 200
