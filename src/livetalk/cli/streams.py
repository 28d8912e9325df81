"""Standard output and error as streams that never fail, so that no message can end the work.

A pipe may be closed by its reader, the disk of a log may be full, a terminal may be gone, and an encoding may
lack characters of a file's name. None of these is a reason to lose a result.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, cast


def open_missing_descriptors() -> None:
    """Open the null device in place of closed standard descriptors, for the whole process.

    Otherwise the next file that is opened, such as the result, would take the place of standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr` for the duration of a block by streams that never fail."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        lasting = [LastingStream(stream or nowhere) for stream in before]
        sys.stdout, sys.stderr = (cast(TextIO, stream) for stream in lasting)
        try:
            yield
        finally:
            for stream in lasting:
                stream.flush()
            sys.stdout, sys.stderr = before


class LastingStream:
    """A text stream whose `write` and `flush` never fail; all else is that of the stream behind it.

    Characters that its encoding lacks are written as escape sequences. After a failure nothing more is
    written.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._lost = False

    def write(self, text: str) -> int:
        """Write as much as is possible; return the length of the text."""
        self._try(lambda: self._write(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered, if that is possible."""
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _try(self, action: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            action()
        except BlockingIOError:
            # The reader is slow and the pipe does not wait for it; later lines may get through.
            pass
        except (OSError, ValueError):
            self._lost = True
            self._drop_buffered()

    def _drop_buffered(self) -> None:
        """Send what is still buffered to the null device, since Python flushes again when it ends."""
        with contextlib.suppress(OSError, ValueError):
            number = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)
            self._stream.flush()
