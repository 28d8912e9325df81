"""One pass over a video: everything that is measured frame by frame."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.evaluation.identity import EMBEDDING_SIZE
from livetalk.evaluation.landmarks import eye_opening, face_box, lip_opening
from livetalk.evaluation.quality import measure_psnr, measure_sharpness
from livetalk.evaluation.seams import frame_change
from livetalk.evaluation.video import iterate_frames, read_fps


class Landmarker(Protocol):
    """Finds the landmarks of a face; `landmarks.FaceLandmarker` is one."""

    def find(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return [478, 2], pixels, for a frame [H, W, 3]; NaN when there is no face."""


class Embedder(Protocol):
    """Recognises people; `identity.FaceEmbedder` is one."""

    def embed(self, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return [128] for a frame [H, W, 3]; NaN when there is no face."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """The models that look at pictures.

    Attributes:
        landmarker: finds lips and eyes.
        embedder: recognises people; None leaves identity out.
        embed_every: frames from one embedding to the next (it takes far longer than the landmarks).
    """

    landmarker: Landmarker
    embedder: Embedder | None = None
    embed_every: int = 12


@dataclass(frozen=True, slots=True, eq=False)
class VideoTrack:
    """What was seen in a video of F frames.

    Attributes:
        fps: frames per second.
        lips: [F], float64, lip opening; NaN where no face was found.
        eyes: [F], float64, eye opening; NaN likewise.
        changes: [F], float64, mean absolute change from the frame before, levels 0..255; the first is 0.
        sharpness: [F], float64, variance of the Laplacian in the face box; NaN likewise.
        colors: [F, 3], float64, mean colour of the whole picture, levels 0..255.
        embeddings: [N, 128], float64, of every `embed_every`-th frame; NaN where no face was found.
        embedding_seconds: [N], float64, their times.
        face_psnr: [F], float64, dB in the face box against the frames of another video; empty without one.
    """

    fps: float
    lips: NDArray[np.float64]
    eyes: NDArray[np.float64]
    changes: NDArray[np.float64]
    sharpness: NDArray[np.float64]
    colors: NDArray[np.float64]
    embeddings: NDArray[np.float64]
    embedding_seconds: NDArray[np.float64]
    face_psnr: NDArray[np.float64]

    @property
    def num_frames(self) -> int:
        """Number of frames F."""
        return len(self.lips)


class _Notes:
    """What is written down while the frames go by; memory grows by a few kilobytes per frame."""

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._before: NDArray[np.uint8] | None = None
        self.landmarks: list[NDArray[np.float32]] = []
        self.changes: list[float] = []
        self.sharpness: list[float] = []
        self.colors: list[NDArray[np.float64]] = []
        self.embeddings: list[NDArray[np.float64]] = []
        self.psnr: list[float] = []

    def add(self, frame: NDArray[np.uint8], truth: NDArray[np.uint8] | None) -> None:
        """Measure one frame, and its distance to the true one if there is one of the same size."""
        landmarks = self._instruments.landmarker.find(frame)
        box = face_box(landmarks, frame.shape[0], frame.shape[1])
        embedder = self._instruments.embedder
        if embedder is not None and len(self.landmarks) % self._instruments.embed_every == 0:
            self.embeddings.append(embedder.embed(frame))
        self.landmarks.append(landmarks)
        self.changes.append(0.0 if self._before is None else frame_change(self._before, frame))
        self.sharpness.append(measure_sharpness(frame, box) if box else float("nan"))
        self.colors.append(frame.mean(axis=(0, 1), dtype=np.float64))
        if truth is not None and truth.shape == frame.shape:
            self.psnr.append(measure_psnr(frame, truth, box) if box else float("nan"))
        self._before = frame


def track_video(
    path: str | os.PathLike[str],
    instruments: Instruments,
    truth: str | os.PathLike[str] | None = None,
) -> VideoTrack:
    """Look at every frame of a video once.

    Args:
        path: the video.
        instruments: the models to look with.
        truth: a video whose frames should equal these, one by one.

    Raises:
        InputError: a video is missing or unreadable, or no frame shows a face.
    """
    fps = read_fps(path)
    notes = _Notes(instruments)
    true_frames: Iterator[NDArray[np.uint8]] = iterate_frames(truth) if truth is not None else iter(())
    for frame in iterate_frames(path):
        notes.add(frame, next(true_frames, None))
    if not notes.landmarks:
        raise InputError(f"video {path}: contains no frames")
    landmarks = np.stack(notes.landmarks)
    lips = lip_opening(landmarks)
    if not np.isfinite(lips).any():
        raise InputError(f"video {path}: no face found in any of its {len(lips)} frames")
    num_embeddings = len(notes.embeddings)
    return VideoTrack(
        fps=fps,
        lips=lips,
        eyes=eye_opening(landmarks),
        changes=np.asarray(notes.changes),
        sharpness=np.asarray(notes.sharpness),
        colors=np.stack(notes.colors),
        embeddings=np.asarray(notes.embeddings).reshape(num_embeddings, EMBEDDING_SIZE),
        embedding_seconds=np.arange(num_embeddings) * instruments.embed_every / fps,
        face_psnr=np.asarray(notes.psnr),
    )
