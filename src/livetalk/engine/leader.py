"""Streams on several ranks: rank 0 schedules, and every rank runs the same calls.

Every rank runs the whole of `livetalk.streaming.chunk`, with the same state and the same noise. Only the
transformer and the VAE, which `parallelize_model` has altered, share the work and exchange data. Therefore
the ranks stay equal, and nothing but audio and encoded portraits travels from the leader to the followers.
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
    """A call of a `StreamTable` method that every rank makes.

    Attributes:
        method: of `StreamTable`.
        arguments: of it.
    """

    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ConfirmFailure:
    """Asks followers whether the last call has failed."""


@dataclass(frozen=True, slots=True)
class StopFollowers:
    """Ends the followers' loops."""


class Leader:
    """Rank 0: runs streams on all ranks; see `livetalk.engine.backend.Backend`.

    As a context manager it stops the followers at the end.
    """

    def __init__(self, table: StreamTable, channel: ControlChannel) -> None:
        """Lead the followers on the other end of a channel.

        Args:
            table: of this rank.
            channel: of all ranks.
        """
        self._table = table
        self._channel = channel

    @property
    def model(self) -> AvatarModel:
        """The model of this rank."""
        return self._table.model

    @property
    def title(self) -> str:
        """The model, in a line."""
        return self._table.title

    def prepare(self, request: OpenStream) -> Preparation:
        """Encode portrait and prompt on this rank alone."""
        return self._table.prepare(request)

    def open(self, request: OpenStream, preparation: Preparation, audio: NDArray[np.float32]) -> None:
        """Begin a stream on all ranks."""
        # The portrait is encoded; its pixels need not travel.
        request = replace(request, image=request.image[:MIN_SIDE, :MIN_SIDE])
        self._run("open", request, preparation, audio)
        # Followers unpack the encoded portrait after it was sent; the first chunk should not wait for that.
        with self._channel.in_step():
            self._channel.wait_for_all()

    def advance(
        self, stream: int, samples: NDArray[np.float32] | None = None, num_frames: int | None = None
    ) -> Made[VideoChunk]:
        """Compute the next frames of a chunk on all ranks."""
        made: Made[VideoChunk] = self._run("advance", stream, samples, num_frames)
        return made

    def start_copy(self, frames: VideoChunk) -> PendingFrames:
        """Begin to copy frames to the host of this rank."""
        return self._table.start_copy(frames)

    def cut(self, stream: int, num_frames: int) -> None:
        """Cut a stream on all ranks."""
        self._run("cut", stream, num_frames)

    def snapshot(self, stream: int) -> bytes:
        """Return the state of a stream; all ranks have the same."""
        data: bytes = self._run("snapshot", stream)
        return data

    def close(self, stream: int) -> None:
        """Discard a stream on all ranks; after a loss it ends with the processes."""
        if self._channel.intact:
            self._run("close", stream)

    def _run(self, method: str, *arguments: Any) -> Any:
        """Call a method of the table on all ranks.

        Raises:
            PeerLostError: a follower has gone, or does not do the same.
            Exception: what the method has raised on every rank.
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
        """Return the leader."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the followers while the control channel is intact; otherwise the worker group stops them."""
        if self._channel.intact:
            self._channel.send(StopFollowers())


def follow(table: StreamTable, channel: ControlChannel) -> None:
    """Run the leader's calls until it stops this follower.

    A command that fails here must have failed on the leader, which then asks after it.

    Raises:
        PeerLostError: another worker has gone, or the ranks no longer do the same.
    """
    failed = False
    while not isinstance(message := channel.receive(), StopFollowers):
        with channel.in_step():
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
    """Run a call, and return whether it succeeded."""
    try:
        getattr(table, command.method)(*command.arguments)
    except Exception as error:
        if is_loss(error):
            raise
        _log.exception("a follower could not %s", command.method)
        return False
    return True
