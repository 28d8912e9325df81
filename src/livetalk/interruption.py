"""Short steps that a request to stop must not cut in half."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

REQUESTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that ask a program to stop."""


@contextlib.contextmanager
def handling_requests(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Send requests to stop to `handler` during a block; those ignored from the start stay ignored."""
    # `nohup` ignores the end of the terminal.
    heeded = [number for number in REQUESTS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore requests to stop while the last step of a result runs, which is shorter than doing it again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _ignore) for number in REQUESTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _ignore(number: int, frame: object) -> None:
    """Do nothing. `SIG_IGN` instead would be inherited by processes that are started meanwhile."""
