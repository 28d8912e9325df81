"""Time stamps of every quality: gaps become silence, overlaps are heard once, and nonsense loses no sound."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from livetalk.media.timeline import SampleClock, TimedBlock, lay_out

RATE = 1000
BLOCK = 20
NUM_BLOCKS = 100


def timed(stamp: Callable[[int], Fraction | None]) -> list[TimedBlock]:
    """Make 2 s of audio in blocks of 20 ms whose samples count from 1."""
    samples = np.arange(1, NUM_BLOCKS * BLOCK + 1, dtype=np.float32).reshape(NUM_BLOCKS, 1, BLOCK)
    return [TimedBlock(block, stamp(number)) for number, block in enumerate(samples)]


def heard(stamp: Callable[[int], Fraction | None], origin: Fraction | None = Fraction(0)) -> list[int]:
    """Return the samples as a reader of a file yields them; 0 is silence."""
    clock = SampleClock(RATE, origin)
    for block in timed(stamp):
        clock.place(block.seconds, BLOCK)
    if not clock.is_plausible:
        return [int(sample) for block in timed(stamp) for sample in block.samples[0]]
    parts = list(lay_out(timed(stamp), SampleClock(RATE, origin)))
    assert max(part.shape[1] for part in parts) <= RATE
    return np.concatenate(parts, axis=1)[0].astype(int).tolist()


WHOLE = list(range(1, NUM_BLOCKS * BLOCK + 1))
TICK = Fraction(1, 50)
"""A block of 20 samples at 1000 Hz."""
TOLERANCE = 20
"""Samples by which a time stamp may be off without any effect."""


@pytest.mark.parametrize(
    "stamp",
    [
        lambda number: number * TICK,
        lambda number: number * TICK + (number % 3) * Fraction(9, 1000),
        lambda number: Fraction(round(number * TICK * 30), 30),
        lambda number: None,
        lambda number: Fraction(0),
        lambda number: 5 - number * TICK,
        lambda number: number * TICK + (7200 if number > 40 else 0),
        lambda number: number * TICK - (4 if number > 40 else 0),
        lambda number: number * 5000 * TICK,
    ],
    ids=["exact", "jitter", "rounded", "none", "zero", "descending", "hours later", "restart", "stretched"],
)
def test_stamps_that_mean_nothing_change_nothing(stamp: Callable[[int], Fraction | None]) -> None:
    assert heard(stamp) == WHOLE


def test_a_gap_and_a_late_start_are_silence() -> None:
    found = heard(lambda number: number * TICK + (Fraction(3, 2) if number < 50 else Fraction(7, 4)))
    assert found == [0] * 1500 + WHOLE[:1000] + [0] * 250 + WHOLE[1000:]


def test_a_long_gap_is_silence_in_small_blocks() -> None:
    assert len(heard(lambda number: number * TICK + (500 if number else 0))) == 500 * RATE + len(WHOLE)


def test_an_overlap_is_heard_once() -> None:
    found = heard(lambda number: number * TICK - (Fraction(1, 10) if number >= 50 else 0))
    assert found[:1000] == WHOLE[:1000]
    assert found[1000:] == WHOLE[-len(found[1000:]) :]
    assert len(found) == pytest.approx(1900, abs=TOLERANCE)


def test_samples_before_the_start_are_not_heard() -> None:
    found = heard(lambda number: number * TICK - Fraction(3, 100))
    assert found == WHOLE[-len(found) :]
    assert len(found) == pytest.approx(len(WHOLE) - 30, abs=TOLERANCE)


def test_times_count_from_the_first_block_without_an_origin() -> None:
    assert heard(lambda number: 90 + number * TICK, origin=None) == WHOLE
