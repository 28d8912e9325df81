"""The interface between a scheduler and the streams of one model, computed one piece at a time."""

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from livetalk.engine.messages import OpenStream, StreamInfo

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class Preparation:
    """What was encoded for a stream before it is opened.

    Attributes:
        info: about the stream.
        value: the backend's own.
    """

    info: StreamInfo
    value: Any


@dataclass(frozen=True, slots=True)
class Made(Generic[F]):
    """What came of a piece of work.

    Attributes:
        frames: in the backend's own form; None where there are none.
        num_frames: how many.
        chunk_ended: the next piece of work begins a chunk.
    """

    frames: F | None
    num_frames: int
    chunk_ended: bool


class HostFrames(Protocol):
    """Frames on their way to the host."""

    @property
    def arrived(self) -> bool:
        """`wait` would return at once."""

    def wait(self) -> NDArray[np.uint8]:
        """Wait for them: `[F, H, W, 3]` uint8 RGB."""


class Backend(Protocol[F]):
    """The streams of one model. All methods but `prepare` are called by one thread, in turn.

    Any of them may raise `PeerLostError`, which ends the engine; other errors end the stream.
    """

    @property
    def title(self) -> str:
        """The model, in a line."""

    def prepare(self, request: OpenStream) -> Preparation:
        """Encode portrait and prompt; may take long, and may run beside the other methods.

        Raises:
            InputError: something cannot be used with this model.
        """

    def open(self, request: OpenStream, preparation: Preparation, audio: NDArray[np.float32]) -> None:
        """Begin a stream.

        Args:
            request: that asked for it; its snapshot is continued where it has one.
            preparation: of the stream.
            audio: from `AudioQueue.take_start`; empty for a snapshot.
        """

    def advance(
        self, stream: int, samples: NDArray[np.float32] | None = None, num_frames: int | None = None
    ) -> Made[F]:
        """Make the next frames of a chunk.

        Args:
            stream: its number.
            samples: `[chunk_samples]` float32, -1..1, begin a chunk; None continues the one that was begun.
            num_frames: frames that the new chunk delivers, fewer where the audio ends; None for all.
        """

    def start_copy(self, frames: F) -> HostFrames:
        """Begin to copy frames to the host."""

    def cut(self, stream: int, num_frames: int) -> None:
        """Return a stream to the state after some of its frames.

        Raises:
            InputError: the frame is not one of those that are kept.
        """

    def snapshot(self, stream: int) -> bytes:
        """Return the state of a stream after its newest frame, between two chunks."""

    def close(self, stream: int) -> None:
        """Forget a stream; nothing happens if there is none of that number."""
