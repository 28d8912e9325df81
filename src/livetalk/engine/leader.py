"""Streams on several ranks: rank 0 schedules, and every rank runs the same calls.

Every rank runs all of `livetalk.streaming.chunk` with the same state and noise. Only the transformer and the
VAE, which `parallelize_model` has modified, split their work and exchange data. The ranks' states therefore
stay equal, and only audio and encoded portraits travel from the leader to the followers.
"""

from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from livetalk.assembly.model import AvatarModel
from livetalk.engine.backend import Made, Preparation
from livetalk.engine.host_copy import PendingFrames
from livetalk.engine.join import ControlChannel, is_loss
from livetalk.engine.messages import MIN_SIDE, OpenStream
from livetalk.engine.table import StreamTable
from livetalk.errors import PeerLostError
from livetalk.log import get_logger
from livetalk.types import VideoChunk

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Command:
    """A call of a `StreamTable` method, by name, that every rank makes."""

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ConfirmFailure:
    """Asks the followers whether the last call failed there, too."""


@dataclass(frozen=True, slots=True)
class StopFollowers:
    """Ends the followers' loops."""


class Leader:
    """Rank 0 as a `Backend` that runs streams on all ranks; the context manager stops the followers."""

    def __init__(self, table: StreamTable, channel: ControlChannel) -> None:
        self._table = table
        self._channel = channel

    @property
    def model(self) -> AvatarModel:
        return self._table.model

    @property
    def title(self) -> str:
        """Model and execution in one line."""
        return self._table.title

    def prepare(self, request: OpenStream) -> Preparation:
        """Encode portrait and prompt on this rank alone."""
        return self._table.prepare(request)

    def open(self, request: OpenStream, preparation: Preparation, audio: NDArray[np.float32]) -> None:
        """Open a stream on all ranks."""
        # The portrait is already encoded, so a valid minimum of its pixels travels.
        request = replace(request, image=request.image[:MIN_SIDE, :MIN_SIDE])
        self._run("open", request, preparation, audio)
        # Followers unpickle the encoded portrait after it was sent; waiting here keeps this out of the first
        # chunk's latency.
        with self._channel.in_step():
            self._channel.wait_for_all()

    def advance(
        self, stream: int, samples: NDArray[np.float32] | None = None, num_frames: int | None = None
    ) -> Made[VideoChunk]:
        """Generate the next frames of a chunk on all ranks."""
        made: Made[VideoChunk] = self._run("advance", stream, samples, num_frames)
        return made

    def start_copy(self, frames: VideoChunk) -> PendingFrames:
        """Start to copy frames to the host of this rank."""
        return self._table.start_copy(frames)

    def cut(self, stream: int, num_frames: int) -> None:
        """Cut a stream on all ranks."""
        self._run("cut", stream, num_frames)

    def snapshot(self, stream: int) -> bytes:
        """Return the state of a stream, which is the same on all ranks."""
        # A snapshot may cut the stream first, which all ranks must do.
        data: bytes = self._run("snapshot", stream)
        return data

    def close(self, stream: int) -> None:
        """Discard a stream on all ranks; after the loss of a peer the processes end anyway."""
        if self._channel.intact:
            self._run("close", stream)

    def _run(self, method: str, *arguments: Any) -> Any:
        """Call a method of the table on all ranks, and raise what it raises on all of them.

        Raises:
            PeerLostError: a follower was lost, or did not fail as this rank did.
        """
        failure: Exception
        with self._channel.in_step():
            self._channel.send(Command(method, arguments))
            try:
                return getattr(self._table, method)(*arguments)
            except Exception as error:
                if is_loss(error):
                    raise
                failure = error
            self._channel.send(ConfirmFailure())
            self._channel.confirm_failure(True)
        raise failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the followers while the channel is intact; otherwise the worker group kills them."""
        if self._channel.intact:
            self._channel.send(StopFollowers())


def follow(table: StreamTable, channel: ControlChannel) -> None:
    """Run the leader's calls until it stops this follower; `PeerLostError` if the ranks differ."""
    failed = False
    while not isinstance(message := channel.receive(), StopFollowers):
        with channel.in_step():
            # A call that fails here must have failed on the leader, too, which then asks for confirmation.
            if isinstance(message, ConfirmFailure):
                channel.confirm_failure(failed)
                failed = False
            elif failed:
                raise PeerLostError("a command has failed on this GPU worker and not on the leader")
            else:
                failed = not _obey(table, message)
                if message.method == "open" and not failed:
                    channel.wait_for_all()


def _obey(table: StreamTable, command: Command) -> bool:
    """Run a call; returns whether it succeeded."""
    try:
        getattr(table, command.method)(*command.arguments)
    except Exception as error:
        if is_loss(error):
            raise
        _log.exception("a follower could not %s", command.method)
        return False
    return True
