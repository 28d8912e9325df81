"""Progress in numbers a person can check."""

import pytest

from livetalk.cli import progress
from livetalk.cli.progress import VideoProgress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_tell_speed_and_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    with VideoProgress("tiny", fps=25) as shown:
        for step in range(1, 5):
            clock.now += 5.0
            shown(25 * step, 100)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == "tiny: 50/100 frames, 5.0 frames/s (0.20x real time), 10 s left\n"
    assert shown.speed == "5.0 frames/s (0.20x real time)"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with VideoProgress("tiny", fps=25) as shown:
        shown(28, 56)
        shown(56, 56)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "tiny: 56/56 frames" in captured.err
