"""How the mouth moves against a truth and against the voice: correlation, lag, closures, silence."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.phones import Phone
from livetalk.evaluation.voice import find_runs

MAX_LAG_FRAMES = 6
CLOSURE_THRESHOLD = 0.2
"""A mouth under this share of its speech range counts as closed."""

_MIN_FRAMES = 10
"""A correlation over fewer frames is noise."""
_STILL = 1e-9
"""A deviation as small as that of rounding: the series does not move."""


@dataclass(frozen=True, slots=True)
class SyncScore:
    """How well one opening follows another.

    Attributes:
        correlation: Pearson, -1..1, at lag 0; NaN when there are too few frames or no movement.
        best_lag: frames; positive means that the measured mouth comes later than the truth.
        best_correlation: at that lag.
    """

    correlation: float
    best_lag: int
    best_correlation: float


@dataclass(frozen=True, slots=True)
class OpeningRange:
    """What counts as closed and as wide open for one mouth.

    Attributes:
        closed: lip opening, 2nd percentile of all frames: silences and closures of the lips.
        wide: lip opening, 95th percentile of the frames with speech.
    """

    closed: float
    wide: float

    def relative(self, opening: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map openings [F] so that 0 is closed and 1 is wide; NaN when the mouth never moved."""
        span = self.wide - self.closed
        return (opening - self.closed) / (span if span > 0 else np.nan)


@dataclass(frozen=True, slots=True)
class ClosureScore:
    """How many closed sounds were shown with closed lips.

    Attributes:
        recall: 0..1, share of /p b m/ whose opening falls under the threshold; NaN without any.
        chance: 0..1, the same share for windows of the same lengths anywhere in the speech: what this mouth
            would score if it moved without listening.
        num_closures: how many were asked for.
    """

    recall: float
    chance: float
    num_closures: int


def correlate(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the Pearson correlation of two series [F] over the frames where both are finite.

    Series of different length are compared over the shorter one. NaN when fewer than ten frames are left
    or one of the two does not move.
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


def score_sync(
    measured: NDArray[np.float64], truth: NDArray[np.float64], max_lag: int = MAX_LAG_FRAMES
) -> SyncScore:
    """Compare a measured opening with the true one, also when shifted against each other.

    Args:
        measured: [F], lip opening of the video, NaN where unknown.
        truth: [F'], anything that rises and falls with the true opening.
        max_lag: frames to search on either side.
    """
    length = min(len(measured), len(truth))
    measured, truth = measured[:length], truth[:length]
    scores = {}
    for lag in sorted(range(-max_lag, max_lag + 1), key=abs):
        late, early = max(lag, 0), max(-lag, 0)
        scores[lag] = correlate(measured[late : length - early], truth[early : length - late])
    best = max(scores, key=lambda lag: scores[lag] if np.isfinite(scores[lag]) else -2.0)
    return SyncScore(correlation=scores[0], best_lag=best, best_correlation=scores[best])


def measure_range(opening: NDArray[np.float64], speech: NDArray[np.bool_]) -> OpeningRange:
    """Find what closed and wide open mean in one clip.

    Args:
        opening: [F], lip opening, NaN where unknown.
        speech: [F], whether the voice is heard.

    Returns:
        The range; NaN where there is no frame to tell: a silent clip has no wide opening.
    """
    known = np.isfinite(opening)
    return OpeningRange(closed=_percentile(opening[known], 2), wide=_percentile(opening[known & speech], 95))


def score_closures(
    relative: NDArray[np.float64],
    phones: Iterable[Phone],
    speech: NDArray[np.bool_],
    fps: float,
    threshold: float = CLOSURE_THRESHOLD,
) -> ClosureScore:
    """Count the /p b m/ at which the lips close.

    A closure is shown when the relative opening falls under the threshold in one of the frames that the
    sound touches, or in the frame before or after. That window is wide enough to be met by luck, so the
    score of luck is given as well.

    Args:
        relative: [F], opening as a share of the clip's range (`OpeningRange.relative`).
        phones: sounds of the clip; those that close no lips are passed over.
        speech: [F], whether the voice is heard.
        fps: frames per second.
        threshold: share of the range under which the mouth counts as closed.
    """
    closed = np.where(np.isfinite(relative), relative, np.inf) < threshold
    hits, luck = [], []
    for phone in phones:
        start = max(int(phone.start_seconds * fps) - 1, 0)
        end = int(phone.end_seconds * fps) + 2
        if phone.closes_lips and start < len(closed):
            hits.append(bool(closed[start:end].any()))
            luck.append(_share_of_hits(closed, speech, end - start))
    if not hits:
        return ClosureScore(recall=float("nan"), chance=float("nan"), num_closures=0)
    return ClosureScore(recall=float(np.mean(hits)), chance=float(np.mean(luck)), num_closures=len(hits))


def score_silence(opening: NDArray[np.float64], silence: NDArray[np.bool_]) -> float:
    """Return the opening that 95 % of the silent frames stay under; NaN without silence.

    Args:
        opening: [F], lip opening, absolute or as a share of the clip's range.
        silence: [F], frames well inside a silence.
    """
    return _percentile(opening[silence & np.isfinite(opening)], 95)


def count_blinks(eye_opening: NDArray[np.float64], fps: float) -> int:
    """Count the blinks of a clip: short dips under 60 % of the usual eye opening.

    Args:
        eye_opening: [F], lid gap over eye width, NaN where unknown.
        fps: frames per second. A dip of more than 0.5 s is a closed eye, not a blink.
    """
    known = eye_opening[np.isfinite(eye_opening)]
    if not len(known):
        return 0
    shut = np.nan_to_num(eye_opening, nan=np.inf) < 0.6 * np.percentile(known, 75)
    return sum(end - start <= 0.5 * fps for start, end in find_runs(np.asarray(shut)))


def _percentile(values: NDArray[np.float64], percentile: float) -> float:
    return float(np.percentile(values, percentile)) if len(values) else float("nan")


def _share_of_hits(closed: NDArray[np.bool_], speech: NDArray[np.bool_], length: int) -> float:
    """Return how many windows of a length, centred anywhere in the speech, hold a closed frame."""
    centres = np.flatnonzero(speech[: len(closed)])
    frames = centres[:, None] + np.arange(length) - length // 2
    hits = closed[np.clip(frames, 0, len(closed) - 1)].any(axis=1)
    return float(hits.mean()) if len(hits) else float("nan")
