"""How a client reaches an engine: in a thread of its own process, or in processes of their own.

This module needs no PyTorch. The function that runs an engine in another process is named by a string, so
that nobody but that process imports it.
"""

import contextlib
import importlib
import multiprocessing
import pickle
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Protocol

from livetalk.engine.backend import Backend
from livetalk.engine.group import WorkerGroup
from livetalk.engine.loop import EngineLoop
from livetalk.engine.messages import EngineStopped, Event, Failure, Request, StopEngine
from livetalk.env import WorkerPlace
from livetalk.errors import LivetalkError, PeerLostError, WorkerError

Deliver = Callable[[Event], None]

STOP_SECONDS = 10.0
"""How long an engine may take to end after it was asked to; then its processes are killed."""

EXIT_EXPLAINED = 2
"""Exit code of an engine's process that has told its client why it ends."""


class Transport(Protocol):
    """The way to an engine. Its last event is always `EngineStopped`."""

    def start(self, deliver: Deliver) -> None:
        """Start the engine; `deliver` is given its events, by one thread, and must not block."""

    def post(self, request: Request) -> None:
        """Send a request without waiting."""

    def join(self) -> None:
        """Wait for the end of the engine, after `StopEngine`, or end it where it does not end by itself."""


class ThreadTransport:
    """An engine in a thread of this process."""

    def __init__(self, backend: Backend[Any]) -> None:
        """Take the backend; its streams are this engine's alone."""
        self._backend = backend
        self._loop: EngineLoop[Any] | None = None
        self._thread: threading.Thread | None = None

    def start(self, deliver: Deliver) -> None:
        """See `Transport`."""
        self._loop = EngineLoop(self._backend, deliver)
        self._thread = threading.Thread(target=self._loop.run, name="engine", daemon=True)
        self._thread.start()

    def post(self, request: Request) -> None:
        """See `Transport`."""
        assert self._loop is not None
        self._loop.post(request)

    def join(self) -> None:
        """See `Transport`."""
        assert self._thread is not None
        self._thread.join()


class ProcessTransport:
    """An engine in processes of its own, which end with this one."""

    def __init__(self, host: str, arguments: tuple[Any, ...] = (), num_workers: int = 1) -> None:
        """Choose what runs in the process.

        Args:
            host: "module:function"; called as `function(place, lead, *arguments)` in each process. It calls
                `lead(backend)` in the process of rank 0, and returns the exit code.
            arguments: can be pickled.
            num_workers: processes that compute every stream together.
        """
        self._host = host
        self._arguments = arguments
        self._num_workers = num_workers
        self._last: EngineStopped | None = None
        self._group: WorkerGroup | None = None
        self._link: Link | None = None
        self._supervisor: threading.Thread | None = None

    def start(self, deliver: Deliver) -> None:
        """See `Transport`."""
        own, other = multiprocessing.Pipe()
        shared = (self._host, self._arguments)
        followers = [(None, *shared)] * (self._num_workers - 1)
        self._group = WorkerGroup.start(_run_engine, [(other, *shared), *followers])
        # Only the engine's process keeps the other end, so that its end is noticed here.
        other.close()

        def receive(event: Any) -> None:
            if isinstance(event, EngineStopped):
                self._last = event
            elif event is not None:
                deliver(event)

        self._link = Link(own, receive)
        self._supervisor = threading.Thread(
            target=self._supervise, args=(self._group, self._link, deliver), name="engine", daemon=True
        )
        self._supervisor.start()

    def post(self, request: Request) -> None:
        """See `Transport`."""
        assert self._link is not None
        self._link.send(request)

    def join(self) -> None:
        """See `Transport`."""
        assert self._supervisor is not None and self._group is not None
        self._supervisor.join(STOP_SECONDS)
        self._group.end()
        self._supervisor.join()

    def _supervise(self, group: WorkerGroup, link: "Link", deliver: Deliver) -> None:
        """Wait for the end of all processes, and say why they ended."""
        with group:
            try:
                code = group.wait()
                cause = Failure(kind="WorkerError", message=f"the engine ended with exit code {code}")
            except WorkerError as error:
                cause = Failure.of(error)
        link.join()
        last = self._last
        # An engine that has lost a worker does not know how that one ended.
        if last is None or (last.failure is not None and last.failure.kind == PeerLostError.__name__):
            last = EngineStopped(failure=cause)
        deliver(last)


class Link:
    """Messages over a connection; neither side waits for the other to read.

    Arrays travel beside the pickled message, without a copy into it.
    """

    def __init__(self, connection: Connection, receive: Callable[[Any], None]) -> None:
        """Start to read and to write.

        Args:
            connection: both ways; closed at the end.
            receive: is given every message, by a thread of the link; and None after the last one.
        """
        self._connection = connection
        self._receive = receive
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="link-read", daemon=True)
        self._writer = threading.Thread(target=self._write, name="link-write", daemon=True)
        self._reader.start()
        self._writer.start()

    def send(self, message: object) -> None:
        """Send a message; it is dropped once the peer has closed the connection."""
        self._outbox.put(message)

    def flush(self) -> None:
        """Flush the messages sent so far and close the sending side."""
        self._outbox.put(None)
        self._writer.join()

    def join(self) -> None:
        """Wait until the other side has closed the connection, and close this side."""
        self._reader.join()
        self.flush()
        self._connection.close()

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                body = self._connection.recv_bytes()
                num_arrays = int.from_bytes(self._connection.recv_bytes(), "little")
                arrays = [self._connection.recv_bytes() for _ in range(num_arrays)]
                self._receive(pickle.loads(body, buffers=arrays))
        self._receive(None)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            arrays: list[pickle.PickleBuffer] = []
            body = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
            with contextlib.suppress(OSError):
                self._connection.send_bytes(body)
                self._connection.send_bytes(len(arrays).to_bytes(4, "little"))
                for array in arrays:
                    self._connection.send_bytes(array.raw())


def _run_engine(
    place: WorkerPlace, connection: Connection | None, host: str, arguments: tuple[Any, ...]
) -> int:
    """Be one process of an engine."""
    module, _, name = host.partition(":")
    function = getattr(importlib.import_module(module), name)
    if connection is None:
        return int(function(place, _refuse_to_lead, *arguments))
    return _run_leader(place, connection, function, arguments)


def _run_leader(
    place: WorkerPlace, connection: Connection, function: Callable[..., int], arguments: tuple[Any, ...]
) -> int:
    loops: queue.SimpleQueue[EngineLoop[Any]] = queue.SimpleQueue()
    loop: list[EngineLoop[Any]] = []

    def receive(request: Any) -> None:
        # Requests that come before the model is loaded wait here.
        if not loop:
            loop.append(loops.get())
        loop[0].post(StopEngine() if request is None else request)

    link = Link(connection, receive)

    def lead(backend: Backend[Any]) -> int:
        running = EngineLoop(backend, link.send)
        loops.put(running)
        running.run()
        return 0

    try:
        return function(place, lead, *arguments)
    except LivetalkError as error:
        link.send(EngineStopped(failure=Failure.of(error)))
        return EXIT_EXPLAINED
    finally:
        link.flush()


def _refuse_to_lead(backend: Backend[Any]) -> int:
    raise AssertionError("only rank 0 leads")
