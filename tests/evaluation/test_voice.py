"""Speech and silence in audio made for the purpose."""

import numpy as np
import pytest

from livetalk.evaluation.voice import find_runs, find_silence, find_speech, measure_levels

FPS = 25.0


def test_levels_are_those_of_the_frame() -> None:
    samples = np.concatenate([np.full(640, 0.1), np.full(640, 1.0), np.zeros(300)]).astype(np.float32)
    levels = measure_levels(samples, FPS, 5)
    assert levels == pytest.approx([-20, 0, -120, -120, -120], abs=1e-3)


def test_short_dips_belong_to_speech_and_long_ones_do_not() -> None:
    levels = np.full(100, -20.0)
    levels[:10] = levels[40:43] = levels[60:75] = -80
    speech = find_speech(levels, FPS)
    assert find_runs(speech) == [(10, 60), (75, 100)]
    assert find_runs(find_silence(speech, FPS)) == [(0, 4), (66, 69)]


def test_hiss_alone_is_no_speech() -> None:
    assert not find_speech(np.full(50, -70.0), FPS).any()
    assert find_silence(np.zeros(50, dtype=bool), FPS).all()


def test_silence_of_no_length_is_none() -> None:
    speech = np.ones(40, dtype=bool)
    speech[20:28] = False
    assert not find_silence(speech, FPS).any()
    assert len(find_speech(np.zeros(0), FPS)) == 0
