"""Start one process per GPU, and see to it that all of them end together."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from livetalk.env import WorkerPlace, worker_environment
from livetalk.errors import LivetalkError

GRACE_SECONDS = 10.0
"""How long workers may take to follow the first one that ended."""

EXIT_LOST = 75
"""A worker ends so when another one has gone: whoever asks why must ask that one."""

_FAILED = 1
_INTERRUPTED = 130


class WorkerError(LivetalkError):
    """A worker ended that should not have."""


def launch_workers(command: Sequence[str], num_workers: int) -> int:
    """Run a command in several processes that share the work, and wait for all of them.

    Each finds its place by `livetalk.env.worker_place` and meets the others by `join_workers`. Ctrl-C is
    passed to the leader alone, which may complete what it has; a second one ends all at once. Should this
    process die, so do the workers.

    Args:
        command: program and arguments.
        num_workers: processes.

    Returns:
        The exit code of the worker that ended the work, usually the leader, which has said what it means.

    Raises:
        WorkerError: a worker was killed or crashed; names it. All others have been ended.
    """
    with _started(command, num_workers) as workers:
        return _Supervisor(workers).wait()


@contextlib.contextmanager
def _started(command: Sequence[str], num_workers: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Start the workers; none of them outlives the block."""
    workers: list[subprocess.Popen[bytes]] = []
    lifeline, own_end = os.pipe()
    with tempfile.TemporaryDirectory(prefix="livetalk-") as folder:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        try:
            for rank in range(num_workers):
                place = WorkerPlace(
                    rank=rank,
                    num_ranks=num_workers,
                    local_rank=rank,
                    rendezvous=rendezvous,
                    lifeline=lifeline,
                )
                workers.append(
                    subprocess.Popen(
                        command,
                        env=worker_environment(place),
                        stdin=None if rank == 0 else subprocess.DEVNULL,
                        pass_fds=(lifeline,),
                        # A Ctrl-C of the terminal reaches this process only, which decides who is told.
                        process_group=0,
                    )
                )
            yield workers
        finally:
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.wait()
            os.close(lifeline)
            os.close(own_end)


def end_worker(code: int) -> NoReturn:
    """End this process at once, its output written.

    Exchanges that were cut short go on in threads of their own. Where Python shuts down in the ordinary way,
    one that then wants to return to it aborts the process, and the exit code is lost.

    Args:
        code: to end with.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Supervisor:
    """Waits for workers, and decides what the end of each means for the others."""

    def __init__(self, workers: Sequence["subprocess.Popen[bytes]"]) -> None:
        self._workers = workers
        self._ended: queue.SimpleQueue[int] = queue.SimpleQueue()
        for rank in range(len(workers)):
            threading.Thread(target=self._report, args=(rank,), daemon=True).start()

    def wait(self) -> int:
        """Return the exit code of all the work; see `launch_workers`."""
        interrupted = False
        while True:
            try:
                rank = self._ended.get()
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                self._workers[0].send_signal(signal.SIGINT)
                continue
            code = self._workers[rank].returncode
            if code == EXIT_LOST:
                rank, code = self._find_cause(rank)
            if interrupted and rank == 0 and code == -signal.SIGINT:
                return _INTERRUPTED
            if rank == 0 or code != 0:
                return self._conclude(rank, code)

    def _report(self, rank: int) -> None:
        self._workers[rank].wait()
        self._ended.put(rank)

    def _find_cause(self, rank: int) -> tuple[int, int]:
        """Return the worker that a lost one was lost by, or the lost one where nobody else has ended."""
        with contextlib.suppress(queue.Empty):
            while True:
                other = self._ended.get(timeout=GRACE_SECONDS)
                if (code := self._workers[other].returncode) not in (0, EXIT_LOST):
                    return other, code
        return rank, EXIT_LOST

    def _conclude(self, rank: int, code: int) -> int:
        """Let the others follow one that ended, and say what its end means."""
        if code == 0:
            for worker in self._workers:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(GRACE_SECONDS)
        who = f"GPU worker {rank + 1} of {len(self._workers)}"
        if code < 0:
            raise WorkerError(f"{who} was ended by {signal.Signals(-code).name}; the others were stopped")
        if code == EXIT_LOST:
            raise WorkerError(f"{who} lost the others, none of which has failed; LIVETALK_DEBUG=1 says more")
        if code == _FAILED:
            raise WorkerError(f"{who} failed; the others were stopped")
        return code
