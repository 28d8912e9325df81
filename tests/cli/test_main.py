"""The frame of the command line: lazy sub-commands, exit codes, one line for every mistake."""

import os
import signal
import subprocess
import sys
from types import ModuleType

import pytest

from livetalk import __version__
from livetalk.cli import main as cli
from livetalk.errors import InputError

OUT_OF_MEMORY = "livetalk: error: out of memory; close other programs, or ask livetalk doctor what fits\n"


def command_that(error: BaseException | None) -> ModuleType:
    module = ModuleType("fake_command")

    def run(args: object) -> int:
        if error is not None:
            raise error
        return 0

    module.add_parser = lambda subparsers: subparsers.add_parser("generate")  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (InputError("image a.png:\nis broken"), 2, "livetalk: error: image a.png: is broken\n"),
        (KeyboardInterrupt(), 130, "livetalk: interrupted\n"),
        (KeyboardInterrupt("interrupted; saved"), 130, "livetalk: interrupted; saved\n"),
        (
            MemoryError(),
            2,
            OUT_OF_MEMORY,
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            2,
            OUT_OF_MEMORY,
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
            2,
            OUT_OF_MEMORY,
        ),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException | None,
    code: int,
    line: str,
) -> None:
    monkeypatch.setattr(cli, "_import_command", lambda name: command_that(error))
    assert cli.main(["generate"]) == code
    assert capsys.readouterr().err == line


def test_a_defect_is_one_line_that_says_where(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_import_command", lambda name: command_that(RuntimeError("shape\nmismatch")))
    assert cli.main(["generate"]) == 70
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "RuntimeError: shape mismatch" in error and "main.py line" in error
    assert "LIVETALK_DEBUG=1 shows the traceback" in error


def test_a_request_to_stop_counts_as_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    module = command_that(None)

    def run(args: object) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setattr(cli, "_import_command", lambda name: module)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert cli.main(["generate"]) == 130
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_debugging_shows_the_traceback_of_user_errors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVETALK_DEBUG", "1")
    monkeypatch.setattr(cli, "_import_command", lambda name: command_that(InputError("broken")))
    with pytest.raises(InputError):
        cli.main(["generate"])


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'mediapipe'", name="mediapipe")

    monkeypatch.setattr("importlib.import_module", missing)
    assert cli.main(["evaluate", "a.mp4"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs the package mediapipe" in error


def test_without_a_command_the_overview_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    overview = capsys.readouterr().out
    assert all(name in overview for name in cli.COMMANDS)


def test_the_version_is_told_without_loading_anything() -> None:
    program = (
        "import sys\nfrom livetalk.cli.main import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"livetalk {__version__}\nFalse\n"


@pytest.mark.parametrize(("worker", "ordinary"), [(False, True), (True, False)])
@pytest.mark.parametrize("code", [0, 2])
def test_a_worker_that_did_not_succeed_ends_at_once(worker: bool, ordinary: bool, code: int) -> None:
    """What Python does at its own end is left out: threads of an unfinished exchange may abort it."""
    program = f"""
import atexit, sys
from livetalk.cli import main as cli
atexit.register(lambda: print("ordinary"))
def main():
    print("said", file=sys.stderr)
    return {code}
cli.main = main
cli.run_program()
"""
    places = {"RANK": "0", "WORLD_SIZE": "2"} if worker else {}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **places}
    )
    assert (done.returncode, done.stderr) == (code, "said\n")
    assert ("ordinary" in done.stdout) == (ordinary or code == 0)
