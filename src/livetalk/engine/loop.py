"""The loop of an engine: accepts requests from any thread, drives the scheduler and delivers events.

Portraits and prompts are encoded in a second thread. Frames are copied to the host while the next piece or
chunk is computed: on a GPU one copy stays in flight as long as there is work.
"""

import queue
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from livetalk.engine.backend import Backend, HostFrames, Preparation
from livetalk.engine.messages import (
    EngineReady,
    EngineStopped,
    Event,
    Failure,
    FramesReady,
    OpenStream,
    Request,
    StopEngine,
    StreamClosed,
    StreamFailed,
)
from livetalk.engine.scheduler import FramesMade, Output, Prepared, Scheduler, StreamRaised
from livetalk.errors import LivetalkError
from livetalk.log import get_logger

F = TypeVar("F")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Arriving:
    """Frames on their way to the host."""

    stream: int
    epoch: int
    first_frame: int
    frames: HostFrames


class EngineLoop(Generic[F]):
    """Runs the streams of a backend until it is asked to stop."""

    def __init__(self, backend: Backend[F], deliver: Callable[[Event], None]) -> None:
        """Prepare a loop, whose thread calls `deliver` with every event; `deliver` must not block."""
        self._backend = backend
        self._deliver = deliver
        self._scheduler = Scheduler(backend)
        self._inbox: queue.SimpleQueue[Request | Prepared] = queue.SimpleQueue()
        self._outbox: deque[Event | _Arriving] = deque()
        self._stopping = False

    def post(self, request: Request) -> None:
        """Queue a request without blocking; safe from any thread."""
        self._inbox.put(request)

    def run(self) -> None:
        """Run until `StopEngine`. The last event is `EngineStopped`, also before an error is raised."""
        self._deliver(EngineReady(model=self._backend.title))
        failure = None
        # One thread: two portraits encoded at once would need twice the memory.
        encoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")
        try:
            while not self._stopping:
                self._turn(encoder)
            for stream in self._scheduler.streams:
                self._backend.close(stream)
                self._deliver(StreamClosed(stream=stream))
        except BaseException as error:
            failure = Failure.of(error)
            raise
        finally:
            encoder.shutdown(wait=False, cancel_futures=True)
            self._deliver(EngineStopped(failure=failure))

    def _turn(self, encoder: ThreadPoolExecutor) -> None:
        """Accept pending requests, run one unit of work, and deliver finished outputs."""
        if not self._scheduler.has_work and not self._outbox:
            self._take(self._inbox.get(), encoder)
        while not self._inbox.empty():
            self._take(self._inbox.get(), encoder)
        for output in self._scheduler.step():
            self._outbox.append(self._translate(output))
        # Waiting for the newest copy would leave the GPU idle, so it overlaps with the next unit of work.
        self._flush(keep_last=self._scheduler.has_work)

    def _take(self, request: Request | Prepared, encoder: ThreadPoolExecutor) -> None:
        if isinstance(request, StopEngine):
            self._stopping = True
            return
        self._scheduler.submit(request)
        if isinstance(request, OpenStream):
            encoder.submit(self._backend.prepare, request).add_done_callback(
                lambda future: self._inbox.put(Prepared(request.stream, _result(future)))
            )

    def _translate(self, output: Output[F]) -> Event | _Arriving:
        if isinstance(output, FramesMade):
            copy = self._backend.start_copy(output.frames)
            return _Arriving(output.stream, output.epoch, output.first_frame, copy)
        if isinstance(output, StreamRaised):
            # An error of this package explains itself; any other is a bug whose traceback is needed.
            if not isinstance(output.error, LivetalkError):
                _log.error("stream %d failed", output.stream, exc_info=output.error)
            return StreamFailed(stream=output.stream, failure=Failure.of(output.error))
        return output

    def _flush(self, *, keep_last: bool) -> None:
        while self._outbox:
            head = self._outbox[0]
            arriving = isinstance(head, _Arriving) and not head.frames.arrived
            if keep_last and arriving and len(self._outbox) == 1:
                return
            self._outbox.popleft()
            if not isinstance(head, _Arriving):
                self._deliver(head)
            # Frames that a cut has outdated are dropped.
            elif head.epoch == self._scheduler.epoch(head.stream):
                self._deliver(
                    FramesReady(
                        stream=head.stream,
                        epoch=head.epoch,
                        first_frame=head.first_frame,
                        frames=head.frames.wait(),
                    )
                )


def _result(future: "Future[Preparation]") -> Preparation | Exception:
    """Return the result of a future, or the exception that ended it."""
    if future.cancelled():
        return RuntimeError("the engine has stopped")
    error = future.exception()
    if error is None:
        return future.result()
    return error if isinstance(error, Exception) else RuntimeError(repr(error))
