"""Runs commands on hundreds of bad or odd inputs and endings, drawn from a seed.

Each attempt makes its own files in an empty folder and runs a command in this process. What must hold for all
of them is checked by `find_problems`: no traceback and no unexpected error, nothing half-written, nothing
replaced, and a video as long as its audio whenever the exit code is 0.

    scripts/try_odd_inputs [SEED]
"""

import contextlib
import hashlib
import io
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import av
from drawn_face import BrightnessLandmarker, ColourEmbedder
from odd_attempts import Attempt, make_attempts
from process_inputs import run_in_process

from livetalk.cli import evaluate
from livetalk.cli.guard import EXIT_DEFECT
from livetalk.media.files import TEMPORARY_PREFIX
from livetalk.media.video import VideoWriter

LIMIT_SECONDS = 60


def find_problems(attempt: Attempt, folder: Path) -> list[str]:
    """Run an attempt in an empty folder, and return what must not happen."""
    with _inside(folder, attempt.environment):
        arguments = attempt.prepare(folder)
        before = _contents(folder)
        code, text = _run(attempt, arguments)
        after = _contents(folder)
    problems = []
    if "Traceback" in text or code == EXIT_DEFECT or code is None:
        problems.append(f"exit code {code}: {text[-600:]}")
    if code == 2 and not text.strip():
        problems.append("exit code 2 without a word")
    if lines := [line for line in text.splitlines() if line.startswith("livetalk: error")][1:]:
        problems.append(f"more than one line: {lines}")
    problems += [f"left behind: {name}" for name in after if TEMPORARY_PREFIX in name]
    problems += [f"replaced or gone: {name}" for name in before if after.get(name) != before[name]]
    made = [name for name in after.keys() - before.keys() if name.lower().endswith(".mp4")]
    if code == 0 and arguments[:1] == ["generate"] and "--help" not in arguments and not made:
        problems.append("exit code 0 without a video")
    if code == 0 and attempt.frames is not None:
        counts = [_count_frames(folder / name) for name in made]
        problems += [
            f"{count} frames instead of {attempt.frames}" for count in counts if count != attempt.frames
        ]
    return problems


class _Hang(BaseException):
    """A command has not ended in time."""


def _run(attempt: Attempt, arguments: list[str]) -> tuple[int | None, str]:
    """Return the exit code, None for an exception, and all that was printed."""
    out, text = _LimitedOutput(attempt.lines), io.StringIO()
    previous = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(LIMIT_SECONDS)
    code: int | None = None
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(text),
            _interrupted(attempt.interrupt),
        ):
            code = run_in_process(arguments)
    except (Exception, _Hang):  # noqa: BLE001
        text.write(traceback.format_exc())
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    return code, out.getvalue() + text.getvalue()


class _LimitedOutput(io.StringIO):
    """Fails after some lines, as a pipe does whose reader has ended."""

    def __init__(self, lines: int | None) -> None:
        super().__init__()
        self._left = sys.maxsize if lines is None else lines

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left < 0:
            raise BrokenPipeError(32, "Broken pipe")
        return super().write(text)


@contextlib.contextmanager
def _interrupted(after: int | None) -> Iterator[None]:
    write = VideoWriter.write

    def interrupt(writer: VideoWriter, frames: object) -> None:
        write(writer, frames)  # type: ignore[arg-type]
        if after is not None and writer.num_frames >= after:
            os.kill(os.getpid(), signal.SIGTERM)

    VideoWriter.write = interrupt  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        VideoWriter.write = write  # type: ignore[method-assign]


def _hang(number: int, frame: FrameType | None) -> None:
    raise _Hang


@contextlib.contextmanager
def _inside(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Work in a folder, with variables, and with instruments for drawn faces in `evaluate`."""
    variables, instruments = dict(os.environ), (evaluate.FaceLandmarker, evaluate.FaceEmbedder)
    evaluate.FaceLandmarker, evaluate.FaceEmbedder = _Landmarker, ColourEmbedder  # type: ignore[misc, assignment]
    os.environ.update(environment)
    try:
        with contextlib.chdir(folder):
            yield
    finally:
        os.environ.clear()
        os.environ.update(variables)
        evaluate.FaceLandmarker, evaluate.FaceEmbedder = instruments  # type: ignore[misc]


class _Landmarker(BrightnessLandmarker):
    def __enter__(self) -> "_Landmarker":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _contents(folder: Path) -> dict[str, str]:
    """Return the hash of every file, and the kind of everything else, by name."""
    found = {}
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = hashlib.sha1(content).hexdigest()
    return found


def _count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def main() -> int:
    """Try all inputs of a seed, print the problems, and return 1 if there are any."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    attempts = make_attempts(seed)
    bad = 0
    write = sys.stdout.write
    for attempt in attempts:
        sys.stderr.write(f"{attempt.name!a}\n")
        with tempfile.TemporaryDirectory() as folder:
            problems = find_problems(attempt, Path(folder).resolve())
        bad += bool(problems)
        for problem in problems:
            write(f"{attempt.name!a}: {problem!a}\n")
            sys.stdout.flush()
    write(f"seed {seed}: {len(attempts)} attempts, {bad} with problems\n")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
