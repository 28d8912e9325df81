"""A single pass over a video: signals of every frame, and face embeddings of some."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.evaluation.landmarks import face_box
from livetalk.evaluation.recognition import EMBEDDING_SIZE
from livetalk.evaluation.signals import LIPS, FrameView, Signal
from livetalk.media.video_reading import resample_frames
from livetalk.streaming.geometry import ChunkGeometry

FPS = ChunkGeometry().fps
"""Frames per second of all curves, so that videos of different rates, truths and audio have one clock."""


class Landmarker(Protocol):
    """Finds the landmarks of a face, such as `landmarks.FaceLandmarker`."""

    def find(self, frame: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return [478, 2], pixels, for a frame [H, W, 3]; NaN without a face."""


class Embedder(Protocol):
    """Embeds faces, such as `recognition.FaceEmbedder`."""

    def embed(self, frame: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return [128] for a frame [H, W, 3]; NaN without a face."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """The models that analyse frames; `embedder` None disables identity measures.

    Attributes:
        embed_every: frames between embeddings, which take far longer than landmarks.
    """

    landmarker: Landmarker
    embedder: Embedder | None = None  # recognises people; None disables identity measures
    embed_every: int = 12  # frames between embeddings, which take far longer than landmarks


@dataclass(frozen=True, slots=True, eq=False)
class VideoTrack:
    """Signals of a video at 25 frames a second, `FPS`, whatever the rate of the file.

    Attributes:
        source_frames: [F], int64, index of the frame of the file that is shown then.
        signals: [F] or [F, D], float64, of each requested signal and of `LIPS`.
    """

    source_frames: NDArray[np.int64]
    signals: dict[Signal, NDArray[np.float64]]
    embeddings: NDArray[np.float64]  # [N, 128], float64, of every `embed_every`-th frame; NaN without a face
    embedding_seconds: NDArray[np.float64]  # [N], float64, their times

    @property
    def fps(self) -> int:
        """Frames per second of all signals."""
        return FPS

    @property
    def lips(self) -> NDArray[np.float64]:
        """[F], lip opening; NaN without a face."""
        return self.signals[LIPS]

    @property
    def num_frames(self) -> int:
        """Number of frames F."""
        return len(self.lips)


def track_video(
    path: str | os.PathLike[str],
    instruments: Instruments,
    signals: Collection[Signal] = (),
    reference: str | os.PathLike[str] | None = None,
) -> VideoTrack:
    """Analyse a video at 25 frames a second, for `LIPS` and the requested signals.

    `reference` is a video whose frames should equal these at the same times.

    Raises:
        InputError: a video is missing or unreadable, or no frame shows a face.
    """
    rows: dict[Signal, list[float | NDArray[np.float64]]] = {signal: [] for signal in (LIPS, *signals)}
    embeddings = []
    source_frames = []
    for number, (source, view) in enumerate(_iterate_views(path, instruments.landmarker, reference)):
        source_frames.append(source)
        for signal, values in rows.items():
            values.append(signal.read(view))
        if instruments.embedder is not None and number % instruments.embed_every == 0:
            embeddings.append(instruments.embedder.embed(view.frame))
    lips = np.asarray(rows[LIPS])
    if not len(lips):
        raise InputError(f"video {path}: contains no frames")
    if not np.isfinite(lips).any():
        raise InputError(f"video {path}: no face found in any of its {len(lips)} frames")
    return VideoTrack(
        source_frames=np.asarray(source_frames, dtype=np.int64),
        signals={signal: np.asarray(values, dtype=np.float64) for signal, values in rows.items()},
        embeddings=np.asarray(embeddings).reshape(len(embeddings), EMBEDDING_SIZE),
        embedding_seconds=np.arange(len(embeddings)) * instruments.embed_every / FPS,
    )


def _iterate_views(
    path: str | os.PathLike[str], landmarker: Landmarker, reference: str | os.PathLike[str] | None
) -> Iterator[tuple[int, FrameView]]:
    """Yield the index of each frame in the file, and what is known about it."""
    others = resample_frames(reference, FPS) if reference is not None else iter(())
    before = None
    for timed in resample_frames(path, FPS):
        frame = timed.pixels
        other = next(others, None)
        landmarks = landmarker.find(frame)
        yield (
            timed.index,
            FrameView(
                frame=frame,
                before=before,
                landmarks=landmarks,
                face=face_box(landmarks, frame.shape[0], frame.shape[1]),
                reference=other.pixels if other is not None and other.pixels.shape == frame.shape else None,
            ),
        )
        before = frame
