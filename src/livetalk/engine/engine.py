"""The client of an engine: opens, feeds, cuts and closes streams without blocking.

It needs no PyTorch, and is the same for an engine in a thread or in other processes, real or double.
"""

import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from livetalk.engine.backend import Backend
from livetalk.engine.mailbox import Mailbox
from livetalk.engine.messages import (
    CloseStream,
    CutStream,
    EndAudio,
    EngineReady,
    EngineStopped,
    Event,
    Failure,
    FramesReady,
    FramesTaken,
    OpenStream,
    PushAudio,
    Request,
    Snapshot,
    StopEngine,
    StreamClosed,
    StreamEvent,
    StreamFailed,
    StreamOpened,
    TakeSnapshot,
)
from livetalk.engine.transport import ProcessTransport, ThreadTransport, Transport
from livetalk.errors import EngineStoppedError, InputError, StreamError
from livetalk.streaming.settings import AudioMode
from livetalk.streaming.spec import StreamSpec


class Engine:
    """A running engine, which any thread may open streams of; the context manager stops it on exit."""

    def __init__(self, transport: Transport) -> None:
        """Start an engine and connect to it."""
        self._transport = transport
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._state: Mailbox[EngineReady | EngineStopped] = Mailbox()
        self._stopped: EngineStopped | None = None
        transport.start(self._receive)

    @classmethod
    def in_thread(cls, backend: Backend[Any]) -> Self:
        """Run an engine in a thread of this process; the backend must have no other user."""
        return cls(ThreadTransport(backend))

    @classmethod
    def in_process(cls, host: str, *arguments: Any, num_workers: int = 1) -> Self:
        """Run an engine in separate processes; see `ProcessTransport`."""
        return cls(ProcessTransport(host, arguments, num_workers))

    def wait_ready(self, timeout: float | None = None) -> str:
        """Return the description of the model once it is loaded; streams may be opened earlier.

        Raises:
            EngineStoppedError: the engine has stopped.
            TimeoutError: `timeout` seconds have passed; None waits without limit.
        """
        event = self._state.get(timeout)
        # Any number of threads may wait for the engine, so the event stays for the next one.
        self._state.put(event)
        if isinstance(event, EngineStopped):
            raise EngineStoppedError(f"the engine has stopped: {event.failure or 'it was asked to'}")
        return event.model

    @property
    def failure(self) -> Failure | None:
        """Why the engine has stopped; None while it runs and after `close`."""
        return None if self._stopped is None else self._stopped.failure

    @property
    def running(self) -> bool:
        """Whether the engine has not stopped."""
        return self._stopped is None

    def open(
        self, image: NDArray[np.uint8], spec: StreamSpec | None = None, snapshot: Snapshot | None = None
    ) -> "Stream":
        """Open a stream, whose events report the outcome.

        Args:
            image: `[H, W, 3]` uint8 RGB, the portrait.
            spec: options; None selects the model's own.
            snapshot: continue this state, taken from a stream of the same portrait and options.

        Raises:
            InputError: the image cannot be used.
            EngineStoppedError: the engine has stopped.
        """
        spec = spec or StreamSpec()
        number = next(self._numbers)
        request = OpenStream(stream=number, image=image, spec=spec, snapshot=snapshot)
        stream = Stream(number, spec, self._transport.post)
        with self._lock:
            if self._stopped is not None:
                raise EngineStoppedError(f"the engine has stopped: {self.failure or 'it was asked to'}")
            self._streams[number] = stream
        self._transport.post(request)
        return stream

    def close(self) -> None:
        """Stop the engine and wait until it has ended."""
        self._transport.post(StopEngine())
        self._transport.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the engine."""
        self.close()

    def _receive(self, event: Event) -> None:
        if isinstance(event, EngineReady):
            self._state.put(event)
        elif isinstance(event, EngineStopped):
            self._end(event)
        else:
            with self._lock:
                stream = self._streams.get(event.stream)
                if isinstance(event, StreamClosed | StreamFailed):
                    self._streams.pop(event.stream, None)
            if stream is not None:
                stream.put(event)

    def _end(self, event: EngineStopped) -> None:
        with self._lock:
            self._stopped = event
            streams, self._streams = self._streams, {}
        for number, stream in streams.items():
            if event.failure is None:
                stream.put(StreamClosed(stream=number))
            else:
                stream.put(StreamFailed(stream=number, failure=event.failure))
        self._state.put(event)


class Stream:
    """A stream as its client sees it, with one caller at a time. Only methods that read events block."""

    def __init__(self, number: int, spec: StreamSpec, post: Any) -> None:
        """Use `Engine.open` instead; `post` sends a request to the engine."""
        self.number = number
        # The number of cuts; events of older epochs are dropped.
        self.epoch = 0
        self._spec = spec
        self._post = post
        self._events: Mailbox[StreamEvent] = Mailbox()
        self._over = False

    def push_audio(self, samples: NDArray[np.float32]) -> None:
        """Append audio, `[n]` float32, -1..1, mono, at the stream's sample rate; else `InputError`."""
        # The caller may reuse its buffer before the engine has read it.
        self._send(PushAudio(stream=self.number, epoch=self.epoch, samples=samples.copy()))

    def end_audio(self) -> None:
        """Declare the audio of this epoch complete; `StreamEnded` follows its last frame."""
        self._send(EndAudio(stream=self.number, epoch=self.epoch))

    def cut(self, num_frames: int) -> None:
        """Continue the stream after an earlier frame, and discard its later frames and their audio.

        Unread frames are discarded, too. `StreamCut` reports the offset of the next sample to push.

        Args:
            num_frames: frames that remain, at most `StreamInfo.cut_frames` below the number of frames read.

        Raises:
            InputError: the audio mode is WHOLE, or the stream is not cuttable.
        """
        if self._spec.audio_mode is AudioMode.WHOLE or not self._spec.cuttable:
            raise InputError("cut: only a cuttable stream in the audio mode stream can be cut")
        self.epoch += 1
        self._send(CutStream(stream=self.number, epoch=self.epoch, num_frames=num_frames))

    def take_snapshot(self) -> None:
        """Request a `SnapshotTaken` at the end of the chunk; `InputError` for the audio mode WHOLE."""
        if self._spec.audio_mode is AudioMode.WHOLE:
            raise InputError("snapshot: a stream of a whole recording has none")
        self._send(TakeSnapshot(stream=self.number))

    def close(self) -> None:
        """Discard the stream; its last event is `StreamClosed`."""
        self._send(CloseStream(stream=self.number))

    def next_event(self, timeout: float | None = None) -> StreamEvent | None:
        """Return the next event, or None after the last; `TimeoutError` after `timeout` seconds, if given."""
        while not self._over:
            event = self._accept(self._events.get(timeout))
            if event is not None:
                return event
        return None

    def __iter__(self) -> Iterator[StreamEvent]:
        """Yield events until the stream ends."""
        while (event := self.next_event()) is not None:
            yield event

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Yield events until the stream ends, without blocking the event loop."""
        while not self._over:
            event = self._accept(await self._events.get_async())
            if event is not None:
                yield event

    def put(self, event: StreamEvent) -> None:
        """Deliver an event; called by the engine's thread."""
        self._events.put(event)

    def _accept(self, event: StreamEvent) -> StreamEvent | None:
        """Return an event of the current epoch, and report its frames as read."""
        if isinstance(event, StreamClosed | StreamFailed):
            self._over = True
        elif not isinstance(event, StreamOpened) and event.epoch != self.epoch:
            return None
        elif isinstance(event, FramesReady):
            taken = FramesTaken(stream=self.number, epoch=event.epoch, num_frames=event.frames.shape[0])
            self._send(taken)
        return event

    def _send(self, request: Request) -> None:
        if not self._over:
            self._post(request)


def raise_failure(event: StreamEvent) -> None:
    """Raise a `StreamError` for a `StreamFailed`; ignore other events."""
    if isinstance(event, StreamFailed):
        raise StreamError(str(event.failure))
