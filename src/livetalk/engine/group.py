"""A group of worker processes that compute one stream together: started with a function, ended together.

This module needs no PyTorch: whoever starts workers need not load it.
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
from multiprocessing import connection
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
    """Worker processes with a common start and end. On exit of the context manager all of them are stopped.

    Ctrl-C of a terminal reaches this process only, which decides who is told. When this process dies, its
    workers end too.
    """

    def __init__(self, workers: Sequence[SpawnProcess], folder: "tempfile.TemporaryDirectory[str]") -> None:
        """Supervise workers; `start` is the way to get a group.

        Args:
            workers: by rank, started.
            folder: where they meet; removed at the end.
        """
        self._workers = workers
        self._folder = folder
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._watcher = threading.Thread(target=self._watch, name="workers", daemon=True)
        self._watcher.start()

    @classmethod
    def start(cls, target: Callable[..., int], arguments: Sequence[tuple[Any, ...]]) -> Self:
        """Start workers that call `target(place, *arguments)` and exit with the code that it returns.

        Args:
            target: a function of a module; the workers import it.
            arguments: of each worker, by rank; they can be pickled.
        """
        context = multiprocessing.get_context("spawn")
        folder = tempfile.TemporaryDirectory(prefix="livetalk-")
        rendezvous = (Path(folder.name) / "rendezvous").as_uri()
        workers: list[SpawnProcess] = []
        try:
            for rank, own in enumerate(arguments):
                place = WorkerPlace(
                    rank=rank, num_ranks=len(arguments), local_rank=rank, rendezvous=rendezvous
                )
                worker = context.Process(target=_run_worker, args=(place, target, own))
                with _interrupts_blocked():
                    worker.start()
                workers.append(worker)
        finally:
            # Of what could not be started, what could is ended again.
            group = cls(workers, folder)
            if len(workers) < len(arguments):
                group.end()
        return group

    def wait(self) -> int:
        """Wait for the work to end; Ctrl-C is passed to the leader alone, a second one is raised.

        Returns:
            The exit code of the worker that ended the work, usually the leader, which has said what it means.

        Raises:
            WorkerError: a worker was killed or crashed; names it.
            KeyboardInterrupt: a second Ctrl-C.
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
        """Return the group."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the group."""
        self.end()

    def _watch(self) -> None:
        """Report workers as they end. No other thread waits for them: only one would learn the exit code."""
        running = {worker.sentinel: rank for rank, worker in enumerate(self._workers)}
        while running:
            for sentinel in connection.wait(list(running)):
                assert isinstance(sentinel, int)
                rank = running.pop(sentinel)
                worker = self._workers[rank]
                # The start of another process asks after all children, too, and may be a moment ahead.
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
        """Return the first worker that ended for a reason of its own, or the given one if none did."""
        with contextlib.suppress(queue.Empty):
            while True:
                other = self._ended.get(timeout=GRACE_SECONDS)
                if (code := self._exit_code(other)) not in (0, EXIT_LOST):
                    return other, code
        return rank, EXIT_LOST

    def _conclude(self, rank: int, code: int) -> int:
        """Stop the remaining workers after one has ended, and return the group's exit code."""
        if code == 0:
            self._watcher.join(GRACE_SECONDS)
        who = f"GPU worker {rank + 1} of {len(self._workers)}"
        if code < 0:
            raise WorkerError(f"{who} was ended by {signal.Signals(-code).name}; the others were stopped")
        if code == EXIT_LOST:
            raise WorkerError(f"{who} lost the others, none of which has failed; LIVETALK_DEBUG=1 says more")
        if code == _FAILED:
            raise WorkerError(f"{who} failed; the others were stopped")
        return code


def end_worker(code: int) -> NoReturn:
    """End this process at once, its output written.

    An exchange that was cut short continues in a thread of its own. When Python shuts down in the ordinary
    way and that thread then returns to it, the process aborts and the exit code is lost.

    Args:
        code: to end with.
    """
    for stream in (sys.stdout, sys.stderr):
        # Output that cannot be written any more must not change the exit code.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block SIGINT in this thread; a process that is started meanwhile starts with it blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_worker(place: WorkerPlace, target: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    """Be a worker, from the start of its process to its end."""
    # Out of the terminal's process group; a Ctrl-C that came before is for the process that started this one.
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
