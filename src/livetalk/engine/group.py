"""A group of worker processes that compute streams together, started with a function and stopped together.

This module needs no PyTorch, so that a client can start workers without loading it.
"""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from livetalk.env import WorkerPlace
from livetalk.errors import WorkerError

GRACE_SECONDS = 10.0
"""How long other workers may take to end after the first one."""

EXIT_LOST = 75
"""Exit code of a worker that ended because another one did, which is the one to ask for the cause."""

_FAILED = 1
_INTERRUPTED = 130


class WorkerGroup:
    """Worker processes with a common start and end; the context manager stops all of them on exit.

    Ctrl-C in a terminal reaches this process only, which forwards it. The workers end when this process does.
    """

    def __init__(self, workers: Sequence[SpawnProcess], folder: "tempfile.TemporaryDirectory[str]") -> None:
        """Supervise started workers, in order of rank, and own `folder`; use `start` instead."""
        self._workers = workers
        self._folder = folder
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)
        self._watcher.start()

    @classmethod
    def start(cls, target: Callable[..., int], arguments: Sequence[tuple[Any, ...]]) -> Self:
        """Start workers that call `target(place, *arguments)` and exit with its return value.

        Args:
            target: a module-level function, which the workers import.
            arguments: one tuple per rank; must be picklable.
        """
        # A forked child cannot use CUDA once the parent has initialized it.
        context = multiprocessing.get_context("spawn")
        # Its start would unblock SIGINT for the first worker.
        resource_tracker.ensure_running()
        folder = tempfile.TemporaryDirectory(prefix="livetalk-")
        rendezvous = (Path(folder.name) / "rendezvous").as_uri()
        workers: list[SpawnProcess] = []
        try:
            for rank, own in enumerate(arguments):
                place = WorkerPlace(
                    rank=rank, num_ranks=len(arguments), local_rank=rank, rendezvous=rendezvous
                )
                worker = context.Process(target=_run_worker, args=(place, target, own))
                # A worker that is interrupted before it has installed its handler would print a traceback.
                with _interrupts_blocked():
                    worker.start()
                workers.append(worker)
        finally:
            # If one worker fails to start, the earlier ones must not remain.
            group = cls(workers, folder)
            if len(workers) < len(arguments):
                group.end()
        return group

    def wait(self) -> int:
        """Wait for the work to end; the first Ctrl-C goes to the leader alone, a second one is raised.

        Returns:
            The exit code of the worker that ended the work, usually the leader, which has reported the cause.

        Raises:
            WorkerError: a worker crashed or was killed; names it.
            KeyboardInterrupt: at a second Ctrl-C.
        """
        interrupted = False
        while True:
            try:
                rank = self._ended.get()
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self._send_signal(0, signal.SIGINT)
                continue
            code = self._exit_code(rank)
            if code == EXIT_LOST:
                rank, code = self._find_cause(rank)
            if interrupted and rank == 0 and code == -signal.SIGINT:
                return _INTERRUPTED
            if rank == 0 or code != 0:
                return self._conclude(rank, code)

    def end(self) -> None:
        """Kill and reap the remaining processes, and remove the group's temporary files."""
        for worker in self._workers:
            worker.kill()
        self._watcher.join()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the group."""
        self.end()

    def _watch(self) -> None:
        """Report workers as they end, in the only thread that waits for them: an exit code is reaped once."""
        running = {worker.sentinel: rank for rank, worker in enumerate(self._workers)}
        while running:
            for sentinel in connection.wait(list(running)):
                assert isinstance(sentinel, int)
                rank = running.pop(sentinel)
                worker = self._workers[rank]
                # Starting another process reaps all children, too, and may be ahead of this thread for a
                # moment.
                while worker.exitcode is None:
                    time.sleep(0.001)
                self._ended.put(rank)

    def _send_signal(self, rank: int, number: signal.Signals) -> None:
        pid = self._workers[rank].pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def _exit_code(self, rank: int) -> int:
        code = self._workers[rank].exitcode
        assert code is not None
        return code

    def _find_cause(self, rank: int) -> tuple[int, int]:
        """Return the first worker that ended for a reason of its own, or the given one if there is none."""
        with contextlib.suppress(queue.Empty):
            while True:
                other = self._ended.get(timeout=GRACE_SECONDS)
                if (code := self._exit_code(other)) not in (0, EXIT_LOST):
                    return other, code
        return rank, EXIT_LOST

    def _let_leader_end(self) -> None:
        """Interrupt the leader, which may keep what it has finished, and give it some time."""
        self._send_signal(0, signal.SIGINT)
        end = time.monotonic() + GRACE_SECONDS
        with contextlib.suppress(queue.Empty):
            while self._ended.get(timeout=max(0.0, end - time.monotonic())) != 0:
                pass

    def _conclude(self, rank: int, code: int) -> int:
        """Stop the remaining workers, and return the group's exit code."""
        if code == 0:
            self._watcher.join(GRACE_SECONDS)
        if rank != 0:
            self._let_leader_end()
        who = f"GPU worker {rank + 1} of {len(self._workers)}"
        if code < 0:
            raise WorkerError(f"{who} was ended by {signal.Signals(-code).name}; the others were stopped")
        if code == EXIT_LOST:
            raise WorkerError(f"{who} lost the others, none of which has failed; LIVETALK_DEBUG=1 says more")
        if code == _FAILED:
            raise WorkerError(f"{who} failed; the others were stopped")
        return code


def end_worker(code: int) -> NoReturn:
    """Flush the output and end this process at once."""
    for stream in (sys.stdout, sys.stderr):
        # Output that cannot be written any more must not change the exit code.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # An interrupted collective continues in a background thread. If that thread calls into Python during a
    # regular shutdown, the process aborts and its exit code is lost.
    os._exit(code)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread; a child process inherits the blocked mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_worker(place: WorkerPlace, target: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    """Run in a worker process from its start to its end."""
    # A process group of its own, so that Ctrl-C in the terminal reaches the parent alone. An interrupt that
    # was pending from before belongs to the parent, too; ignoring the signal for a moment discards it.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    try:
        code = target(place, *arguments)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except Exception:  # noqa: BLE001  whatever it is, the process says it and ends
        traceback.print_exc()
        code = _FAILED
    if code:
        end_worker(code)


def _end_with_parent() -> None:
    """End this process when its parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(EXIT_LOST)
