"""The interface between the scheduler and the streams of one model."""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from livetalk.engine.messages import OpenStream, StreamInfo

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Preparation:
    """Encoded portrait and prompt of a stream that is not open yet; `value` is private to the backend."""

    info: StreamInfo
    value: Any


@dataclass(frozen=True, slots=True)
class Made(Generic[F]):
    """Result of one call of `Backend.advance`; `chunk_ended` means that the next call begins a chunk."""

    frames: F | None  # in the backend's own form; None if there are none
    num_frames: int
    chunk_ended: bool


class HostFrames(Protocol):
    """Frames on their way to the host."""

    @property
    def arrived(self) -> bool:
        """Whether `wait` returns at once."""

    def wait(self) -> NDArray[np.uint8]:
        """Return the frames, `[F, H, W, 3]` uint8 RGB, once they have arrived."""


class Backend(Protocol[F]):
    """The streams of one model. One thread calls all methods except `prepare`, one after the other.

    Every method may raise `PeerLostError`, which ends the engine; any other error ends its stream only.
    """

    @property
    def title(self) -> str:
        """Model and execution in one line."""

    def prepare(self, request: OpenStream) -> Preparation:
        """Encode portrait and prompt, possibly slowly and in parallel with the other methods.

        Raises:
            InputError: the model cannot use the portrait or an option.
        """

    def open(self, request: OpenStream, preparation: Preparation, audio: NDArray[np.float32]) -> None:
        """Open a stream, or continue the request's snapshot.

        `audio`, `[n]` float32, is from `AudioQueue.take_start` and empty for a snapshot.
        """

    def advance(
        self, stream: int, samples: NDArray[np.float32] | None = None, num_frames: int | None = None
    ) -> Made[F]:
        """Generate the next frames: a piece of a progressive stream, the whole chunk otherwise.

        `samples`, `[chunk_samples]` float32, -1..1, begin a chunk, which delivers `num_frames` frames (None:
        all). Without samples the current chunk continues.
        """

    def start_copy(self, frames: F) -> HostFrames:
        """Start to copy frames to the host."""

    def cut(self, stream: int, num_frames: int) -> None:
        """Reset a stream to the state after `num_frames` frames; `InputError` if it is not retained."""

    def snapshot(self, stream: int) -> bytes:
        """Return the state after the newest frame; called between two chunks only."""

    def close(self, stream: int) -> None:
        """Discard a stream; does nothing if there is none of this number."""
