"""A queue that threads and coroutines of any event loop can wait for."""

import asyncio
import contextlib
import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Queue in order of arrival, for one reader."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def put(self, item: T) -> None:
        """Append an item without blocking; safe from any thread."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()
            waiting, self._waiting = self._waiting, []
        # Outside the lock, on which a woken reader would block again.
        for loop, future in waiting:
            # A reader whose event loop has been closed needs no wake-up.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_wake, future)

    def get(self, timeout: float | None = None) -> T:
        """Return the next item; `TimeoutError` if none arrives within `timeout` seconds (None: no limit)."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._items, timeout):
                raise TimeoutError("nothing came")
            return self._items.popleft()

    async def get_async(self) -> T:
        """Return the next item without blocking the event loop."""
        loop = asyncio.get_running_loop()
        while True:
            with self._changed:
                if self._items:
                    return self._items.popleft()
                future = loop.create_future()
                self._waiting.append((loop, future))
            await future


def _wake(future: "asyncio.Future[None]") -> None:
    # The reader's task may have been cancelled meanwhile.
    if not future.done():
        future.set_result(None)
