"""Messages between an engine and its clients: frozen values that are checked on construction.

A client sends requests, an engine answers with events. In all of them `stream` is a number of the client's
choice and `epoch` counts the cuts of that stream. This module needs no PyTorch.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.streaming.settings import AudioMode
from livetalk.streaming.spec import StreamSpec

MIN_SIDE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """Properties of an open stream that its client needs."""

    fps: int
    sample_rate: int
    height: int  # of the frames, pixels
    width: int  # of the frames, pixels
    chunk_frames: int
    lookahead_frames: int  # frames of audio that a chunk needs beyond its own end
    audio_mode: AudioMode
    cut_frames: int  # number of frames already read that a cut can still discard

    @property
    def samples_per_frame(self) -> int:
        """Audio samples per video frame."""
        return self.sample_rate // self.fps

    @property
    def chunk_samples(self) -> int:
        """Audio samples per chunk."""
        return self.chunk_frames * self.samples_per_frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """State of a stream between two chunks, which any engine of the same model and settings can continue."""

    data: bytes  # the state, opaque
    num_frames: int  # frames generated before it
    num_samples: int  # samples consumed before it, which is the offset of the next sample to push


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Class name and one-line message of an error, for a process that may lack the class itself."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe an error."""
        # Clients print a failure on one line.
        return cls(kind=type(error).__name__, message=" ".join(str(error).split()))

    def __str__(self) -> str:
        """Return name and message."""
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """Open a stream; answered by `StreamOpened` or `StreamFailed`."""

    stream: int  # a number that the client has not used before
    image: NDArray[np.uint8] = field(repr=False)  # `[H, W, 3]` uint8 RGB, the portrait
    spec: StreamSpec = field(default_factory=StreamSpec)
    snapshot: Snapshot | None = field(default=None, repr=False)  # to continue from; None starts anew

    def __post_init__(self) -> None:
        """Raise `InputError` where the image has another shape or dtype, or is too small."""
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise InputError(f"image {self.image.shape}, {self.image.dtype}: must be [H, W, 3], uint8")
        if min(self.image.shape[:2]) < MIN_SIDE:
            raise InputError(f"image {self.image.shape}: sides must have at least {MIN_SIDE} pixels")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushAudio:
    """Append `samples`, `[n]` float32, -1..1, mono, to a stream; ignored if the epoch is not the stream's."""

    stream: int
    epoch: int
    samples: NDArray[np.float32] = field(repr=False)

    def __post_init__(self) -> None:
        """Raise `InputError` for another shape or dtype, and for values that are not finite."""
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            raise InputError(
                f"audio {self.samples.shape}, {self.samples.dtype}: must be [samples], float32, one channel"
            )
        if not np.isfinite(self.samples).all():
            raise InputError("audio: holds values that are not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndAudio:
    """Declare the audio of an epoch complete; answered by `StreamEnded` after its last frame."""

    stream: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutStream:
    """Discard frames and audio after the first `num_frames` frames; answered by `StreamCut`."""

    stream: int
    epoch: int
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesTaken:
    """Report that the client has read `num_frames` frames, which permits more; `Stream` sends it itself."""

    stream: int
    epoch: int
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeSnapshot:
    """Request the state at the next boundary between two chunks; answered by `SnapshotTaken`."""

    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStream:
    """Discard a stream; answered by `StreamClosed`."""

    stream: int


@dataclass(frozen=True, slots=True)
class StopEngine:
    """Stop the engine; answered by `EngineStopped`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReady:
    """The model is loaded; `model` describes it and how it runs in one line."""

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """Portrait and prompt are encoded."""

    stream: int
    info: StreamInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesReady:
    """Frames to show, in order and without gaps."""

    stream: int
    epoch: int
    first_frame: int  # index of the first of them in the stream
    frames: NDArray[np.uint8] = field(repr=False)  # `[F, H, W, 3]` uint8 RGB, F >= 1; may be read-only


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded:
    """All frames of the epoch's audio were delivered; the client may still cut the stream and continue it."""

    stream: int
    epoch: int
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCut:
    """A stream was cut; with a look-ahead, `num_samples` is later than the next frame."""

    stream: int
    epoch: int  # the new one
    num_frames: int  # frames that remain, and the index of the next frame
    num_samples: int  # offset in the stream of the next sample to push


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken:
    """The answer to `TakeSnapshot`."""

    stream: int
    epoch: int
    snapshot: Snapshot = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed:
    """The engine has discarded a stream; this is the stream's last event."""

    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFailed:
    """A stream has failed and was discarded; this is its last event, and other streams continue."""

    stream: int
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStopped:
    """The engine and all of its streams have ended; `failure` is None after `StopEngine`."""

    failure: Failure | None = None


Request = (
    OpenStream | PushAudio | EndAudio | CutStream | FramesTaken | TakeSnapshot | CloseStream | StopEngine
)
StreamEvent = (
    StreamOpened | FramesReady | StreamEnded | StreamCut | SnapshotTaken | StreamClosed | StreamFailed
)
Event = EngineReady | StreamEvent | EngineStopped
