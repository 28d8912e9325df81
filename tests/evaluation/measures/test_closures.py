"""Closures, and closures by luck, in series whose answer is known."""

import numpy as np
import pytest

from livetalk.evaluation.measures.closures import score_closures
from livetalk.evaluation.phones import Phone

FPS = 25.0


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
