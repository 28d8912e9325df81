"""Decides which work an engine does next, without a thread or a connection of its own.

Requests enter through `submit`. `step` runs at most one unit of work (open, cut, snapshot, or one piece or
chunk) and returns the outputs; an engine's loop or an offline caller drives it.

The stream whose viewer runs out of frames first is served first. Its deadline is the time at which all
delivered frames, shown at the stream's frame rate, have been shown.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, TypeVar

from livetalk.engine.audio_queue import AudioQueue
from livetalk.engine.backend import Backend, Preparation
from livetalk.engine.messages import (
    CloseStream,
    CutStream,
    EndAudio,
    FramesTaken,
    OpenStream,
    PushAudio,
    Request,
    Snapshot,
    SnapshotTaken,
    StopEngine,
    StreamClosed,
    StreamCut,
    StreamEnded,
    StreamInfo,
    StreamOpened,
    TakeSnapshot,
)
from livetalk.errors import InputError, PeerLostError

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class FramesMade(Generic[F]):
    """Computed frames in the backend's own form; `first_frame` is the index of the first in the stream."""

    stream: int
    epoch: int
    first_frame: int
    num_frames: int
    frames: F


@dataclass(frozen=True, slots=True)
class StreamRaised:
    """A stream has failed and was discarded."""

    stream: int
    error: Exception


@dataclass(frozen=True, slots=True)
class Prepared:
    """Result, or error, of encoding portrait and prompt outside the scheduler."""

    stream: int
    result: Preparation | Exception


Output = FramesMade[F] | StreamOpened | StreamEnded | StreamCut | SnapshotTaken | StreamClosed | StreamRaised


class _Phase(Enum):
    PREPARING = auto()
    WAITING = auto()
    """Waits for the audio that the first state needs."""
    OPEN = auto()


@dataclass(slots=True)
class _Stream:
    request: OpenStream
    deadline: float
    epoch: int = 0
    phase: _Phase = _Phase.PREPARING
    preparation: Preparation | None = None
    queue: AudioQueue | None = None
    delivered: int = 0
    pending: int = 0
    in_chunk: bool = False
    ended: bool = False
    early: list[PushAudio | EndAudio | CutStream] = field(default_factory=list)
    """Requests that came before the stream was prepared."""
    cuts: deque[CutStream] = field(default_factory=deque)
    snapshots: deque[TakeSnapshot] = field(default_factory=deque)

    @property
    def info(self) -> StreamInfo:
        """Properties of the stream; available once it is prepared."""
        assert self.preparation is not None
        return self.preparation.info

    @property
    def audio(self) -> AudioQueue:
        """The audio, once the stream is prepared."""
        assert self.queue is not None
        return self.queue

    @property
    def may_begin_chunk(self) -> bool:
        """There is audio for a chunk, and the consumer keeps up."""
        limit = self.request.spec.max_pending_frames or self.info.chunk_frames
        return self.audio.has_chunk and self.pending < limit

    @property
    def next_urgent(self) -> CutStream | TakeSnapshot | None:
        """The request that is worked on before anything else; a snapshot waits for the end of the chunk."""
        if self.cuts:
            return self.cuts[0]
        return self.snapshots[0] if self.snapshots and not self.in_chunk else None

    @property
    def has_work(self) -> bool:
        """There is something to compute."""
        if self.phase is _Phase.WAITING:
            return self.audio.has_start
        return self.phase is _Phase.OPEN and (
            self.next_urgent is not None or self.in_chunk or self.may_begin_chunk
        )


class Scheduler(Generic[F]):
    """The streams of one backend."""

    def __init__(self, backend: Backend[F], clock: Callable[[], float] = time.monotonic) -> None:
        """Start without streams; `clock` returns seconds since any origin."""
        self._backend = backend
        self._clock = clock
        self._streams: dict[int, _Stream] = {}
        self._outputs: deque[Output[F]] = deque()

    @property
    def has_work(self) -> bool:
        """Whether `step` would compute something."""
        return any(stream.has_work for stream in self._streams.values())

    @property
    def streams(self) -> tuple[int, ...]:
        """Numbers of all streams."""
        return tuple(self._streams)

    def epoch(self, stream: int) -> int | None:
        """Return the epoch of a stream, or None if there is no such stream."""
        return self._streams[stream].epoch if stream in self._streams else None

    def submit(self, request: Request | Prepared) -> None:
        """Accept a request without computing anything; requests for unknown streams are ignored.

        After `OpenStream` the caller runs `Backend.prepare`, in any thread, and submits its result.

        Raises:
            ValueError: `OpenStream` with a number in use, or `StopEngine`.
        """
        if isinstance(request, OpenStream):
            if request.stream in self._streams:
                raise ValueError(f"stream {request.stream} is open already")
            self._streams[request.stream] = _Stream(request, self._clock())
            return
        if isinstance(request, StopEngine):
            raise ValueError("only a loop can be stopped")
        stream = self._streams.get(request.stream)
        if stream is not None:
            self._accept(stream, request)

    def step(self) -> list[Output[F]]:
        """Run the most urgent unit of work, if any, and return all outputs since the last call.

        Raises:
            PeerLostError: a worker of the backend was lost.
        """
        ready = [stream for stream in self._streams.values() if stream.has_work]
        if ready:
            stream = min(ready, key=_urgency)
            try:
                if stream.phase is _Phase.WAITING:
                    self._open(stream)
                elif stream.cuts:
                    self._cut(stream, stream.cuts.popleft())
                elif stream.snapshots and not stream.in_chunk:
                    self._take_snapshot(stream, stream.snapshots.popleft())
                else:
                    self._advance(stream)
            # The ranks share all streams, so the loss of one ends the engine and not this stream alone.
            except PeerLostError:
                raise
            except Exception as error:  # noqa: BLE001  whatever it is, it ends this stream and no other
                self._fail(stream, error)
        outputs = list(self._outputs)
        self._outputs.clear()
        return outputs

    def _accept(self, stream: _Stream, request: Request | Prepared) -> None:
        if isinstance(request, Prepared):
            self._take_preparation(stream, request.result)
        elif isinstance(request, CloseStream):
            self._forget(stream)
            self._outputs.append(StreamClosed(stream=request.stream))
        elif isinstance(request, FramesTaken):
            # A cut has already reset the count of unread frames of older epochs.
            if request.epoch == stream.epoch:
                stream.pending -= request.num_frames
        elif isinstance(request, TakeSnapshot):
            stream.snapshots.append(request)
        elif isinstance(request, PushAudio | EndAudio | CutStream):
            if stream.phase is _Phase.PREPARING:
                # The queue needs the stream's rates, which are known once it is prepared.
                stream.early.append(request)
            else:
                self._change_audio(stream, request)

    def _take_preparation(self, stream: _Stream, result: Preparation | Exception) -> None:
        if isinstance(result, Exception):
            self._fail(stream, result)
            return
        number, snapshot = stream.request.stream, stream.request.snapshot
        stream.preparation, stream.phase = result, _Phase.WAITING
        stream.queue = AudioQueue(result.info, snapshot)
        stream.delivered = 0 if snapshot is None else snapshot.num_frames
        self._outputs.append(StreamOpened(stream=number, info=result.info))
        for request in stream.early:
            if number in self._streams:
                self._change_audio(stream, request)

    def _change_audio(self, stream: _Stream, request: PushAudio | EndAudio | CutStream) -> None:
        if isinstance(request, CutStream):
            self._begin_cut(stream, request)
        elif request.epoch == stream.epoch and not stream.audio.ended:
            if isinstance(request, PushAudio):
                stream.audio.push(request.samples)
            else:
                stream.audio.ended = True
                self._note_end(stream)

    def _begin_cut(self, stream: _Stream, cut: CutStream) -> None:
        """Drop queued audio now; the state is cut when the stream is next scheduled."""
        if cut.epoch != stream.epoch + 1 or not 0 <= cut.num_frames <= stream.delivered:
            message = (
                f"cut to frame {cut.num_frames} and epoch {cut.epoch}: the stream has made "
                f"{stream.delivered} frames and is in epoch {stream.epoch}"
            )
            self._fail(stream, InputError(message))
            return
        # The epoch changes at once, so that frames in flight of the old one are dropped before delivery.
        stream.audio.cut(cut.num_frames)
        stream.epoch, stream.delivered, stream.pending = cut.epoch, cut.num_frames, 0
        stream.ended, stream.deadline = False, self._clock()
        if stream.phase is _Phase.OPEN:
            stream.cuts.append(cut)
        else:
            self._report_cut(stream, cut)

    def _open(self, stream: _Stream) -> None:
        assert stream.preparation is not None
        audio = stream.audio.take_start()
        self._backend.open(stream.request, stream.preparation, audio)
        stream.phase = _Phase.OPEN
        self._note_end(stream)

    def _cut(self, stream: _Stream, cut: CutStream) -> None:
        self._backend.cut(cut.stream, cut.num_frames)
        stream.in_chunk = False
        self._report_cut(stream, cut)
        self._note_end(stream)

    def _take_snapshot(self, stream: _Stream, request: TakeSnapshot) -> None:
        snapshot = Snapshot(
            data=self._backend.snapshot(request.stream),
            num_frames=stream.delivered,
            num_samples=stream.audio.position_after(stream.delivered),
        )
        self._outputs.append(SnapshotTaken(stream=request.stream, epoch=stream.epoch, snapshot=snapshot))

    def _advance(self, stream: _Stream) -> None:
        number = stream.request.stream
        chunk_audio = () if stream.in_chunk else stream.audio.take_chunk()
        made = self._backend.advance(number, *chunk_audio)
        stream.in_chunk = not made.chunk_ended
        if made.frames is not None:
            self._outputs.append(
                FramesMade(number, stream.epoch, stream.delivered, made.num_frames, made.frames)
            )
            stream.delivered += made.num_frames
            stream.pending += made.num_frames
            shown = made.num_frames / stream.info.fps
            # A late stream restarts its schedule: the viewer shows late frames from when they arrive.
            stream.deadline = max(stream.deadline, self._clock()) + shown
        self._note_end(stream)

    def _report_cut(self, stream: _Stream, cut: CutStream) -> None:
        self._outputs.append(
            StreamCut(
                stream=cut.stream,
                epoch=cut.epoch,
                num_frames=cut.num_frames,
                num_samples=stream.audio.position_after(cut.num_frames),
            )
        )

    def _note_end(self, stream: _Stream) -> None:
        """Report the end of an epoch once all frames of its audio were computed."""
        busy = stream.phase is not _Phase.OPEN or stream.in_chunk or stream.cuts
        if stream.audio.exhausted and not busy and not stream.ended:
            stream.ended = True
            self._outputs.append(
                StreamEnded(stream=stream.request.stream, epoch=stream.epoch, num_frames=stream.delivered)
            )

    def _fail(self, stream: _Stream, error: Exception) -> None:
        self._forget(stream)
        self._outputs.append(StreamRaised(stream.request.stream, error))

    def _forget(self, stream: _Stream) -> None:
        del self._streams[stream.request.stream]

        if stream.phase is not _Phase.PREPARING:
            self._backend.close(stream.request.stream)


def _urgency(stream: _Stream) -> tuple[bool, float]:
    """Sort key of ready streams: cuts and snapshots first, then the earliest deadline."""
    return stream.next_urgent is None, stream.deadline
