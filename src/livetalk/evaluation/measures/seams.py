"""Visibility of chunk borders: the change between frames there, compared with other frames."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.evaluation.clip import Clip
from livetalk.evaluation.measure import COUNT, Column, Measure, Value
from livetalk.evaluation.signals import FrameView, Signal
from livetalk.streaming.geometry import ChunkGeometry

CHUNK_FRAMES = ChunkGeometry().chunk_frames
"""New frames per chunk of the default settings."""
_STILL = 0.05
"""Mean change, in levels, of a still video; ratios are not computed against less."""
_NEIGHBOURS = 6
"""Frames on either side of a border that determine the usual change."""


@dataclass(frozen=True, slots=True)
class SeamScore:
    """Visibility of the chunk borders.

    Attributes:
        ratio: median over the borders of their change divided by the median change around them; 1 = no seam.
        z_score: distance of `ratio` from the same statistic at all other positions within a chunk, in
            standard deviations; above 3 the difference is significant.
    """

    ratio: float
    worst_ratio: float
    z_score: float
    num_seams: int


def frame_change(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Return the mean absolute difference of two frames [H, W, 3], uint8, in levels 0..255."""
    return float(np.abs(after.astype(np.int16) - before).mean())


def _read(view: FrameView) -> float:
    return 0.0 if view.before is None else frame_change(view.before, view.frame)


CHANGES = Signal("change of the picture", _read)
"""`frame_change` from the previous frame, levels 0..255; 0 for the first frame."""


def score_seams(changes: NDArray[np.float64], chunk_frames: int = CHUNK_FRAMES) -> SeamScore:
    """Compare `changes` [F], from the previous frame, at chunk borders and at other frames.

    Borders are before every frame k * chunk_frames, k >= 1. Ratios are NaN for a clip of at most one chunk.
    """
    at_border = _ratios(changes, np.arange(chunk_frames, len(changes), chunk_frames))
    if not len(at_border):
        return SeamScore(float("nan"), float("nan"), float("nan"), 0)
    elsewhere = []
    # The same statistic at every other phase shows how much it varies without a border.
    for phase in range(1, chunk_frames):
        ratios = _ratios(changes, np.arange(chunk_frames + phase, len(changes), chunk_frames))
        if len(ratios):
            elsewhere.append(float(np.median(ratios)))
    ratio = float(np.median(at_border))
    spread = float(np.std(elsewhere)) if len(elsewhere) > 2 else 0.0
    z_score = (ratio - float(np.mean(elsewhere))) / spread if spread > 0 else float("nan")
    return SeamScore(ratio, float(at_border.max()), z_score, len(at_border))


def _ratios(changes: NDArray[np.float64], positions: NDArray[np.int_]) -> NDArray[np.float64]:
    ratios = []
    for position in positions:
        # The first frame has no change and is left out.
        around = np.concatenate(
            [
                changes[max(position - _NEIGHBOURS, 1) : position],
                changes[position + 1 : position + 1 + _NEIGHBOURS],
            ]
        )
        usual = max(float(np.median(around)), _STILL) if len(around) else float("nan")
        ratios.append(float(changes[position]) / usual)
    return np.asarray([ratio for ratio in ratios if np.isfinite(ratio)])


def measure_seams(clip: Clip) -> dict[str, float]:
    """Score the borders of chunks."""
    score = score_seams(clip.track.signals[CHANGES], clip.chunk_frames)
    return {
        "num_seams": score.num_seams,
        "seam_ratio": score.ratio,
        "seam_worst_ratio": score.worst_ratio,
        "seam_z_score": score.z_score,
    }


MEASURE = Measure(
    name="seams",
    values=(
        Value(name="num_seams", unit=COUNT, meaning="chunk borders within the video"),
        Value(
            name="seam_ratio",
            unit="ratio",
            meaning="change of the picture at a chunk border over the median change of the six frames on "
            "either side; median over the borders",
            good="1",
            column=Column("seam", ".2f"),
        ),
        Value(name="seam_worst_ratio", unit="ratio", meaning="the largest of these ratios", good="1"),
        Value(
            name="seam_z_score",
            unit="standard deviations",
            meaning="distance of that median from the same statistic at all other positions within a chunk",
            good="under 3",
            column=Column("seam z", "+.1f"),
        ),
    ),
    find=measure_seams,
    signals=(CHANGES,),
)
