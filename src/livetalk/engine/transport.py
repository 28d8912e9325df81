"""How a client reaches an engine: in a thread of its own process or in separate processes.

This module needs no PyTorch. A string names the function that runs an engine in another process, so that only
that process imports it.
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
"""Time that an engine has to end after `StopEngine` before its processes are killed."""

EXIT_EXPLAINED = 2
"""Exit code of an engine's process that has already reported the cause to its client."""


class Transport(Protocol):
    """Connection to an engine, whose last event is always `EngineStopped`."""

    def start(self, deliver: Deliver) -> None:
        """Start the engine; one thread calls `deliver` with its events. `deliver` must not block."""

    def post(self, request: Request) -> None:
        """Send a request without blocking."""

    def join(self) -> None:
        """Wait for the engine to end after `StopEngine`, and kill it after a timeout."""


class ThreadTransport:
    """An engine in a thread of this process."""

    def __init__(self, backend: Backend[Any]) -> None:
        """Use a backend that no other engine uses."""
        self._backend = backend
        self._loop: EngineLoop[Any] | None = None
        self._thread: threading.Thread | None = None

    def start(self, deliver: Deliver) -> None:
        self._loop = EngineLoop(self._backend, deliver)
        self._thread = threading.Thread(target=self._loop.run, name="engine", daemon=True)
        self._thread.start()

    def post(self, request: Request) -> None:
        assert self._loop is not None
        self._loop.post(request)

    def join(self) -> None:
        assert self._thread is not None
        self._thread.join()


class ProcessTransport:
    """An engine in separate processes, which end with this one."""

    def __init__(self, host: str, arguments: tuple[Any, ...] = (), num_workers: int = 1) -> None:
        """Select the function that runs in the processes.

        Args:
            host: "module:function", called as `function(place, lead, *arguments)` in each process. On rank 0
                it calls `lead(backend)`. It returns the exit code.
            arguments: must be picklable.
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
        own, other = multiprocessing.Pipe()
        shared = (self._host, self._arguments)
        followers = [(None, *shared)] * (self._num_workers - 1)
        self._group = WorkerGroup.start(_run_engine, [(other, *shared), *followers])
        # The engine's process holds the only open end, so that its exit closes the connection.
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
        assert self._link is not None
        self._link.send(request)

    def join(self) -> None:
        assert self._supervisor is not None and self._group is not None
        self._supervisor.join(STOP_SECONDS)
        self._group.end()
        self._supervisor.join()

    def _supervise(self, group: WorkerGroup, link: "Link", deliver: Deliver) -> None:
        """Wait for all processes to end, and deliver why they did."""
        with group:
            try:
                code = group.wait()
                cause = Failure(kind="WorkerError", message=f"the engine ended with exit code {code}")
            except WorkerError as error:
                cause = Failure.of(error)
        link.join()
        last = self._last
        # An engine that has lost a worker does not know why; the group does, from the exit codes.
        if last is None or (last.failure is not None and last.failure.kind == PeerLostError.__name__):
            last = EngineStopped(failure=cause)
        deliver(last)


class Link:
    """Messages over a connection, sent without waiting for the peer to read."""

    def __init__(self, connection: Connection, receive: Callable[[Any], None]) -> None:
        """Start reading and writing a duplex connection.

        `receive` is called in a thread of the link with every message, and with None after the last.
        """
        self._connection = connection
        self._receive = receive
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="link-read", daemon=True)
        self._writer = threading.Thread(target=self._write, name="link-write", daemon=True)
        self._reader.start()
        self._writer.start()

    def send(self, message: object) -> None:
        """Queue a message; it is dropped once the peer has closed the connection."""
        self._outbox.put(message)

    def flush(self) -> None:
        """Write all queued messages and close the sending side."""
        self._outbox.put(None)
        self._writer.join()

    def join(self) -> None:
        """Wait until the peer has closed the connection, and close this side."""
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
            # Arrays are sent out of band, after the message: pickling them into it would copy every frame.
            body = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
            with contextlib.suppress(OSError):
                self._connection.send_bytes(body)
                self._connection.send_bytes(len(arrays).to_bytes(4, "little"))
                for array in arrays:
                    self._connection.send_bytes(array.raw())


def _run_engine(
    place: WorkerPlace, connection: Connection | None, host: str, arguments: tuple[Any, ...]
) -> int:
    """Run one process of an engine."""
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
        # Requests may arrive while the model is loading; the first one waits here for the loop.
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
