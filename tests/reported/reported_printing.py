"""Printing is never in the way of the result."""

import errno
import io
import sys
from pathlib import Path

import pytest
from process_inputs import generate_arguments, names, run_shell

from livetalk.cli import progress
from livetalk.cli.main import main
from media_files import read_frames
from reported import Case


class _FailingStream(io.StringIO):
    """A stream that fails after some writes, as a closed pipe, a full disk or a vanished terminal does."""

    def __init__(self, number: int, after: int = 0, terminal: bool = False) -> None:
        super().__init__()
        self._number, self._left, self._terminal = number, after, terminal

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left < 0:
            raise OSError(self._number, "the stream has failed")
        return super().write(text)

    def flush(self) -> None:
        if self._left < 0:
            raise OSError(self._number, "the stream has failed")

    def isatty(self) -> bool:
        return self._terminal


def _require_video(folder: Path, name: str = "out.mp4") -> None:
    assert names(folder) == [name]
    assert len(read_frames(folder / name)) == 5


def _every_line_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LINE_INTERVAL_SECONDS", 0.0)


def _closed_pipe(after: int) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _every_line_is_progress(monkeypatch)
        monkeypatch.setattr(sys, "stdout", _FailingStream(errno.EPIPE, after))
        assert main(generate_arguments(folder)) == 0
        _require_video(folder)

    return Case("printing", f"the reader of a pipe ends after {after} writes", check)


def _full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", _FailingStream(errno.ENOSPC))
    monkeypatch.setattr(sys, "stderr", _FailingStream(errno.ENOSPC))
    assert main(generate_arguments(folder)) == 0
    _require_video(folder)


def _vanished_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", _FailingStream(errno.EIO, after=1, terminal=True))
    assert main(generate_arguments(folder)) == 0
    _require_video(folder)


def _no_streams(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(generate_arguments(folder)) == 0
    _require_video(folder)


def _poor_encoding(encoding: str, name: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        assert main(generate_arguments(folder, output=name)) == 0
        sys.stdout.flush()
        _require_video(folder, name)
        assert b"5 frames" in written.getvalue()

    return Case("printing", f"{encoding} and a name that it lacks: {name!a}", check)


def _end_of_process(line: str, expected: int) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        done = run_shell(line, folder)
        assert done.returncode == expected, done
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr

    return Case("printing", f"the exit code of: {line}", check)


CASES = (
    _closed_pipe(0),
    _closed_pipe(2),
    Case("printing", "full disk under both streams", _full_disk),
    Case("printing", "the terminal of a progress bar is gone", _vanished_terminal),
    Case("printing", "no standard streams at all", _no_streams),
    _poor_encoding("cp1252", "你好.mp4"),
    _poor_encoding("ascii", "é.mp4"),
    _poor_encoding("utf-8", "\udcff\udcfe.mp4"),
    _end_of_process("livetalk --help | true; exit ${PIPESTATUS[0]}", 0),
    _end_of_process("livetalk --help > /dev/full", 0),
    _end_of_process("livetalk --version >&- 2>&- <&-", 0),
    _end_of_process("livetalk no-such-command 2>/dev/full", 2),
)
