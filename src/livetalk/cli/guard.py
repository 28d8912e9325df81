"""One-line errors of a command, in each of its processes."""

import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from livetalk.engine.group import WorkerGroup
from livetalk.env import WorkerPlace, debug_enabled
from livetalk.errors import LivetalkError
from livetalk.log import configure_logging

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def run_guarded(work: Callable[[], int]) -> int:
    """Run a program, and print one line for errors that the user can fix.

    Args:
        work: returns the exit code.

    Returns:
        The exit code: of the work, 2 for anything the user can mend, 130 after Ctrl-C or a request to stop.
    """
    configure_logging(logging.WARNING)
    # A request to stop is an interruption too: results are completed or removed, never left halfway.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except KeyboardInterrupt as interruption:
        _complain(str(interruption) or "interrupted")
        return EXIT_INTERRUPTED
    except (LivetalkError, MemoryError, RuntimeError) as error:
        message = _one_line(error)
        if message is None or debug_enabled():
            raise
        _complain(f"error: {message}")
        return EXIT_ERROR


def run_workers(target: Callable[..., int], arguments: Sequence[Any], num_workers: int) -> int:
    """Call `target(place, *arguments)` in several processes that share the work, and wait for all of them.

    Args:
        target: a function of a module.
        arguments: the same for all; they can be pickled.
        num_workers: processes.

    Returns:
        The exit code of the worker that ended the work.

    Raises:
        WorkerError: a worker was killed or crashed.
    """
    with WorkerGroup.start(_run_guarded, [(target, *arguments)] * num_workers) as group:
        return group.wait()


def _run_guarded(place: WorkerPlace, target: Callable[..., int], *arguments: Any) -> int:
    return run_guarded(lambda: target(place, *arguments))


def _one_line(error: Exception) -> str | None:
    """Return the line for the user, or None for a defect, which keeps its traceback."""
    if isinstance(error, LivetalkError):
        return " ".join(str(error).split())
    text = str(error).lower()
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text:
        return "out of memory; close other programs, or ask livetalk doctor what fits"
    return None


def _complain(message: str) -> None:
    print(f"livetalk: {message}", file=sys.stderr)
