"""Blinks in a series of eye openings."""

import numpy as np

from livetalk.evaluation.measures.blinks import count_blinks

FPS = 25.0


def test_blinks_are_short_dips() -> None:
    eyes = np.full(250, 0.3) + 0.01 * np.sin(np.arange(250))
    for start in (30, 90, 91, 200):
        eyes[start : start + 4] = 0.1
    eyes[120:150] = 0.05  # eyes kept shut
    eyes[160:163] = np.nan
    assert count_blinks(eyes, FPS) == 3
    assert count_blinks(np.full(10, np.nan), FPS) == 0
