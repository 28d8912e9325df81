"""The client of an engine: streams that are opened, fed, cut and closed without ever waiting for the engine.

It needs no PyTorch. The same client talks to an engine in a thread and to one in processes of its own, to the
real one and to its double.
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
    StreamSpec,
    TakeSnapshot,
)
from livetalk.engine.transport import ProcessTransport, ThreadTransport, Transport
from livetalk.errors import EngineStoppedError, InputError, StreamError
from livetalk.streaming.settings import AudioMode


class Engine:
    """A running engine. As a context manager it is stopped at the end of the block.

    Any thread may open streams; each stream is for one caller at a time.
    """

    def __init__(self, transport: Transport) -> None:
        """Start an engine.

        Args:
            transport: the way to it.
        """
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
        """Run an engine in processes of its own, see `ProcessTransport`."""
        return cls(ProcessTransport(host, arguments, num_workers))

    def wait_ready(self, timeout: float | None = None) -> str:
        """Wait until the model is loaded; streams may be opened before.

        Args:
            timeout: seconds; None waits for ever.

        Returns:
            The model, in a line.

        Raises:
            EngineStoppedError: it was not loaded.
            TimeoutError: it takes longer.
        """
        event = self._state.get(timeout)
        self._state.put(event)
        if isinstance(event, EngineStopped):
            raise EngineStoppedError(f"the engine has stopped: {event.failure or 'it was asked to'}")
        return event.model

    @property
    def failure(self) -> Failure | None:
        """Why the engine has stopped; None while it runs and where it was asked to stop."""
        return None if self._stopped is None else self._stopped.failure

    @property
    def running(self) -> bool:
        """The engine has not stopped."""
        return self._stopped is None

    def open(
        self, image: NDArray[np.uint8], spec: StreamSpec | None = None, snapshot: Snapshot | None = None
    ) -> "Stream":
        """Open a stream; its events report the outcome.

        Args:
            image: `[H, W, 3]` uint8 RGB, the portrait.
            spec: how the stream is made; None is the model's own choice.
            snapshot: of a stream of the same portrait and spec, to be continued.

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
        """Stop the engine and wait for its end."""
        self._transport.post(StopEngine())
        self._transport.join()

    def __enter__(self) -> Self:
        """Return the engine."""
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
    """A stream of an engine, as its client sees it. No method waits but those that read events.

    Attributes:
        number: of the stream.
        epoch: raised by every cut; frames of an older one are dropped.
    """

    def __init__(self, number: int, spec: StreamSpec, post: Any) -> None:
        """Begin; `Engine.open` is the way to a stream.

        Args:
            number: of the stream.
            spec: how it is made.
            post: sends a request.
        """
        self.number = number
        self.epoch = 0
        self._spec = spec
        self._post = post
        self._events: Mailbox[StreamEvent] = Mailbox()
        self._over = False

    def push_audio(self, samples: NDArray[np.float32]) -> None:
        """Append audio, `[n]` float32, -1..1, mono, at the stream's sample rate.

        Raises:
            InputError: it is something else.
        """
        # A copy: the caller may use its buffer again before the engine has read it.
        self._send(PushAudio(stream=self.number, epoch=self.epoch, samples=samples.copy()))

    def end_audio(self) -> None:
        """Say that no more audio follows in this epoch; `StreamEnded` comes after its last frame."""
        self._send(EndAudio(stream=self.number, epoch=self.epoch))

    def cut(self, num_frames: int) -> None:
        """Continue the stream after an earlier frame, and discard its later frames and their audio.

        Frames that were made after them and not read yet are dropped from now on. `StreamCut` says which
        sample is to be pushed next.

        Args:
            num_frames: frames that stay: those that were shown. At most `StreamInfo.cut_frames` less than
                were read.

        Raises:
            InputError: the stream makes frames of a whole recording, or keeps nothing for a cut.
        """
        if self._spec.audio_mode is AudioMode.WHOLE or not self._spec.cuttable:
            raise InputError("cut: only a cuttable stream in the audio mode stream can be cut")
        self.epoch += 1
        self._send(CutStream(stream=self.number, epoch=self.epoch, num_frames=num_frames))

    def take_snapshot(self) -> None:
        """Ask for the state at the next border between two chunks, see `SnapshotTaken`.

        Raises:
            InputError: the stream makes frames of a whole recording.
        """
        if self._spec.audio_mode is AudioMode.WHOLE:
            raise InputError("snapshot: a stream of a whole recording has none")
        self._send(TakeSnapshot(stream=self.number))

    def close(self) -> None:
        """Forget the stream; its last event is `StreamClosed`."""
        self._send(CloseStream(stream=self.number))

    def next_event(self, timeout: float | None = None) -> StreamEvent | None:
        """Wait for the next event; None after the last one.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            TimeoutError: none came.
        """
        while not self._over:
            event = self._accept(self._events.get(timeout))
            if event is not None:
                return event
        return None

    def __iter__(self) -> Iterator[StreamEvent]:
        """Yield events until the stream is over."""
        while (event := self.next_event()) is not None:
            yield event

    async def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Yield events until the stream is over, without blocking the event loop."""
        while not self._over:
            event = self._accept(await self._events.get_async())
            if event is not None:
                yield event

    def put(self, event: StreamEvent) -> None:
        """Take an event from the engine."""
        self._events.put(event)

    def _accept(self, event: StreamEvent) -> StreamEvent | None:
        """Return an event for the caller, and report consumed frames to the engine."""
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
    """Raise the error of a `StreamFailed`; do nothing for other events.

    Raises:
        StreamError: the stream has failed.
    """
    if isinstance(event, StreamFailed):
        raise StreamError(str(event.failure))
