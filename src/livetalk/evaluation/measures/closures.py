"""Lip closure during /p b m/."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.clip import Clip, Need
from livetalk.evaluation.lips import measure_range
from livetalk.evaluation.measure import COUNT, Column, Measure, Value
from livetalk.evaluation.phones import Phone

CLOSURE_THRESHOLD = 0.2
"""Relative opening below which a mouth counts as closed."""


@dataclass(frozen=True, slots=True)
class ClosureScore:
    """Share of closed phones that were shown with closed lips.

    Attributes:
        recall: 0..1, share of /p b m/ whose opening falls below the threshold; NaN without any.
        chance: 0..1, the same share for windows of the same lengths anywhere in the speech: the score of this
            mouth if its movement were independent of the audio.
    """

    recall: float  # 0..1, share of /p b m/ whose opening falls below the threshold; NaN without any
    chance: float
    num_closures: int


def score_closures(
    relative: NDArray[np.float64],
    phones: Iterable[Phone],
    speech: NDArray[np.bool_],
    fps: float,
    threshold: float = CLOSURE_THRESHOLD,
) -> ClosureScore:
    """Count the /p b m/ during which the relative opening [F] falls below a threshold.

    A closure counts in a frame of the phone, the frame before or the frame after. Such a window can contain a
    closure by chance, so the score of chance is also computed, over the frames with speech [F].
    """
    closed = np.where(np.isfinite(relative), relative, np.inf) < threshold
    hits, luck = [], []
    for phone in phones:
        # A frame lasts 40 ms, as long as a short closure, so timing errors of one frame are tolerated.
        start = max(int(phone.start_seconds * fps) - 1, 0)
        end = int(phone.end_seconds * fps) + 2
        if phone.closes_lips and start < len(closed):
            hits.append(bool(closed[start:end].any()))
            luck.append(_share_of_hits(closed, speech, end - start))
    if not hits:
        return ClosureScore(recall=float("nan"), chance=float("nan"), num_closures=0)
    return ClosureScore(recall=float(np.mean(hits)), chance=float(np.mean(luck)), num_closures=len(hits))


def measure_closures(clip: Clip) -> dict[str, float]:
    """Score the closures of the video and those of the reference video."""
    score = score_closures(clip.relative_lips, clip.phones, clip.speech, clip.track.fps)
    return {
        "num_closures": score.num_closures,
        "closure_recall": score.recall,
        "closure_chance": score.chance,
        "reference_closure_recall": _reference_recall(clip),
    }


def _reference_recall(clip: Clip) -> float:
    if not clip.provides(Need.REFERENCE):
        return float("nan")
    length = min(clip.reference.num_frames, clip.track.num_frames)
    lips, speech = clip.reference.lips[:length], clip.speech[:length]
    relative = measure_range(lips, speech).relative(lips)
    return score_closures(relative, clip.phones, speech, clip.reference.fps).recall


def _share_of_hits(closed: NDArray[np.bool_], speech: NDArray[np.bool_], length: int) -> float:
    """Return the share of windows, centred anywhere in the speech, that contain a closed frame."""
    centres = np.flatnonzero(speech[: len(closed)])
    frames = centres[:, None] + np.arange(length) - length // 2
    hits = closed[np.clip(frames, 0, len(closed) - 1)].any(axis=1)
    return float(hits.mean()) if len(hits) else float("nan")


MEASURE = Measure(
    name="closures",
    values=(
        Value(name="num_closures", unit=COUNT, meaning="/p b m/ within the video"),
        Value(
            name="closure_recall",
            unit="share",
            meaning="share of /p b m/ with the relative opening under 0.2 in a frame of the sound or one "
            "beside it",
            good="near 1",
            column=Column("closed", ".2f"),
        ),
        Value(
            name="closure_chance",
            unit="share",
            meaning="the same share for windows as long, anywhere in the speech",
            good="well below the recall",
            column=Column("luck", ".2f"),
        ),
        Value(
            name="reference_closure_recall",
            unit="share",
            meaning="the recall of the reference video",
            good="the ceiling",
        ),
    ),
    find=measure_closures,
    needs=frozenset({Need.PHONES}),
)
