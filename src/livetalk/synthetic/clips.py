"""Rendered training clips: their specification, and the folder that passes finished clips to training."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import UNSUITABLE_CONTENT, InputError


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """Numbers that determine one clip."""

    index: int
    identity_seed: int  # face, clothes, light, camera and background
    motion_seed: int  # head motion, blinks, gaze and style
    corpus_clip: int  # speech clip of the corpus
    start_frame: int
    num_frames: int


def clip_specs(seed: int, corpus_clips: int, corpus_frames: int, num_frames: int) -> Iterator[ClipSpec]:
    """Yield clips without end, each with its own identity; speech clips come in shuffled rounds.

    Runs with different seeds share no identity. The corpus has `corpus_clips` clips of `corpus_frames`
    frames.
    """
    rng = np.random.default_rng(seed)
    index = 0
    while True:
        for corpus_clip in rng.permutation(corpus_clips):
            start = int(rng.integers(0, max(1, corpus_frames - num_frames + 1)))
            base = seed * 1_000_000 + index
            yield ClipSpec(index, base, base + 500_000, int(corpus_clip), start, num_frames)
            index += 1


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """Description of a finished clip.

    Attributes:
        face_box: left, top, right, bottom over the whole clip, shares of the frame 0..1.
    """

    spec: ClipSpec
    face_box: tuple[float, float, float, float]
    mouth_box: tuple[float, float, float, float]  # in the same form
    lip_opening: tuple[float, ...]  # [F], exact gap of the inner lips over the mouth's width, from the mesh


class ClipStore:
    """A folder of clips: `clip_000007.npy` (uint8 [F, H, W, 3]) and `clip_000007.json`.

    The record is written last and by renaming, so that a reader never sees an incomplete clip.
    """

    def __init__(self, directory: Path) -> None:
        """Use `directory`, which is created if missing."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def write(self, record: ClipRecord, frames: NDArray[np.uint8]) -> None:
        """Store one clip with frames [F, H, W, 3], uint8."""
        stem = self.directory / f"clip_{record.spec.index:06d}"
        np.save(stem.with_suffix(".npy"), frames)
        partial = stem.with_suffix(".json.partial")
        partial.write_text(json.dumps(asdict(record)), encoding="utf-8")
        partial.rename(stem.with_suffix(".json"))

    def indices(self) -> list[int]:
        """Return the indices of finished clips, ascending."""
        return sorted(int(path.stem.removeprefix("clip_")) for path in self.directory.glob("clip_*.json"))

    def record(self, index: int) -> ClipRecord:
        """Read the record of a finished clip.

        Raises:
            InputError: the file is damaged.
        """
        path = self.directory / f"clip_{index:06d}.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return ClipRecord(
                spec=ClipSpec(**values["spec"]),
                face_box=_box(values["face_box"]),
                mouth_box=_box(values["mouth_box"]),
                lip_opening=tuple(values["lip_opening"]),
            )
        except UNSUITABLE_CONTENT as error:
            raise _damaged(path, error) from error

    def frames(self, index: int) -> NDArray[np.uint8]:
        """Read the frames of a finished clip, [F, H, W, 3], uint8.

        Raises:
            InputError: the file is damaged.
        """
        path = self.directory / f"clip_{index:06d}.npy"
        try:
            frames: NDArray[np.uint8] = np.load(path)
        except UNSUITABLE_CONTENT as error:
            raise _damaged(path, error) from error
        return frames


def _damaged(path: Path, error: Exception) -> InputError:
    # After a power cut, a file may be shorter than its name promises.
    return InputError(f"clip {path}: is damaged ({error}); remove it and its .json file, and render it again")


def _box(values: list[float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = values
    return left, top, right, bottom
