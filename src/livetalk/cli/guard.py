"""One line for every error of a command, in each of its processes."""

import contextlib
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

from livetalk.cli.streams import lasting_streams
from livetalk.engine.group import WorkerGroup
from livetalk.env import WorkerPlace, debug_enabled
from livetalk.errors import LivetalkError
from livetalk.interruption import handling_requests
from livetalk.log import configure_logging
from livetalk.media.files import explain

EXIT_ERROR = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130

EXTRAS_HINT = "install it, or the extra of livetalk that has it: data, download, eval or flashtalk"

PATIENCE_SECONDS = 10.0
"""How long further requests to stop are ignored after one, while results are completed or removed."""

_OUT_OF_MEMORY = ("out of memory", "t allocate memory")


def run_guarded(work: Callable[[], int]) -> int:
    """Run a program whose messages cannot fail, and print one line for an error.

    Args:
        work: returns the exit code.

    Returns:
        The exit code: of the work, 2 for what the user can correct, 70 for a defect, 130 after Ctrl-C, the
        end of the terminal or another request to stop.
    """
    with lasting_streams(), _requests_to_stop():
        configure_logging(logging.WARNING)
        debug = False
        try:
            debug = debug_enabled()
            return work()
        except KeyboardInterrupt as interruption:
            _complain(str(interruption) or "interrupted")
            return EXIT_INTERRUPTED
        except Exception as error:
            if debug:
                raise
            line, code = _describe(error)
            _complain(f"error: {line}")
            return code


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


@contextlib.contextmanager
def _requests_to_stop() -> Iterator[None]:
    """Let every request to stop interrupt the block once, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handling_requests(_Interruption()):
        yield


class _Interruption:
    """Signal handler: raises `KeyboardInterrupt`, and ignores what comes within `PATIENCE_SECONDS` after."""

    def __init__(self) -> None:
        self._last: float | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if self._last is None or now - self._last > PATIENCE_SECONDS:
            self._last = now
            raise KeyboardInterrupt


def _describe(error: Exception) -> tuple[str, int]:
    """Return the line about an error and the exit code."""
    if isinstance(error, LivetalkError):
        return _one_line(error), EXIT_ERROR
    text = _one_line(error)
    if isinstance(error, MemoryError) or any(words in text.lower() for words in _OUT_OF_MEMORY):
        return "out of memory; close other programs, or ask livetalk doctor what fits", EXIT_ERROR
    if isinstance(error, ImportError):
        return f"a package is missing or cannot be loaded ({text}); {EXTRAS_HINT}", EXIT_ERROR
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: cannot be used ({explain(error)})", EXIT_ERROR
    return (
        f"{_place(error)}: {type(error).__name__}: {text[:300]}; this was not expected, please report it; "
        "LIVETALK_DEBUG=1 shows the traceback"
    ), EXIT_DEFECT


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _place(error: Exception) -> str:
    """Return the file and line of this package where an error was raised or passed first."""
    frames = traceback.extract_tb(error.__traceback__)
    package = Path(__file__).parent.parent
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(package)]
    frame = (own or frames)[-1]
    return f"{Path(frame.filename).name} line {frame.lineno}"


def _complain(message: str) -> None:
    print(f"livetalk: {message}", file=sys.stderr)
