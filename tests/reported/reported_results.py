"""The last step of a result, its name, and the ends that a run can have."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from process_inputs import generate_arguments, names, run_in_process

from livetalk.avatar import Avatar
from livetalk.cli.main import main
from livetalk.errors import OutputError, PeerLostError
from livetalk.media.files import (
    TEMPORARY_PREFIX,
    PendingFile,
    PendingFolder,
    remove_leftovers,
    require_output_file,
    write_text_file,
)
from livetalk.media.video import VideoWriter
from media_files import read_frames
from reported import Case


def _refuse(*arguments: object, **options: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def _no_permissions(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "chmod", _refuse)
    assert main(generate_arguments(folder)) == 0
    assert names(folder) == ["out.mp4"]


def _no_links(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refuse)
    assert main([*generate_arguments(folder), "--preview", str(folder / "sheet.png")]) == 0
    assert names(folder) == ["out.mp4", "sheet.png"]


def _no_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pending = PendingFile(folder / "out.txt")
    pending.path.write_text("all the work")
    for owner, name in ((os, "link"), (os, "open"), (Path, "replace"), (Path, "rename")):
        monkeypatch.setattr(owner, name, _refuse)
    with pytest.raises(OutputError, match="the finished result is ") as caught:
        pending.keep()
    pending.discard()
    monkeypatch.undo()
    stranded = Path(str(caught.value).rpartition(" is ")[2])
    remove_leftovers(folder)
    assert stranded.read_text() == "all the work"


def _no_name_and_private(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o077)
    try:
        pending = PendingFile(folder / "out.txt")
        pending.path.write_text("all the work")
        for name in ("link", "open"):
            monkeypatch.setattr(os, name, _refuse)
        with pytest.raises(OutputError, match="the finished result is ") as caught:
            pending.keep()
    finally:
        os.umask(before)
    monkeypatch.undo()
    remove_leftovers(folder)
    assert Path(str(caught.value).rpartition(" is ")[2]).read_text() == "all the work"


def _tried_beforehand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "rename", _refuse)
    with pytest.raises(OutputError, match=r"cannot be written \(operation not permitted\)"):
        require_output_file(folder / "out.mp4", ".mp4")
    assert names(folder) == []


def _folder_that_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "disk").mkdir()
    with PendingFolder(folder / "disk") as pending:
        (pending.path / "config.json").write_text("{}")
        assert pending.keep() == folder / "disk"
    assert names(folder / "disk") == ["config.json"]


def _taken_meanwhile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PendingFile(folder / "a.txt") as first, PendingFile(folder / "a.txt") as second:
        first.path.write_text("first")
        second.path.write_text("second")
        assert first.keep() == folder / "a.txt"
        assert second.keep() == folder / "a-2.txt"
    assert [(folder / name).read_text() for name in names(folder)] == ["second", "first"]


def _taken_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PendingFolder(folder / "model") as first, PendingFolder(folder / "model") as second:
        (first.path / "first").touch()
        (second.path / "second").touch()
        assert [first.keep(), second.keep()] == [folder / "model", folder / "model-2"]
    assert names(folder) == ["model", "model-2"] and names(folder / "model") == ["first"]


def _taken_video(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def take(writer: VideoWriter) -> Path:
        (folder / "out.mp4").write_text("of another run")
        return finish(writer)

    finish = VideoWriter.finish
    monkeypatch.setattr(VideoWriter, "finish", take)
    assert main(generate_arguments(folder)) == 0
    assert (folder / "out.mp4").read_text() == "of another run"
    assert len(read_frames(folder / "out-2.mp4")) == 5


def _kept(name: str, *command: str) -> Case:
    """Check that a command leaves an existing file or folder as it is."""

    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        generate = generate_arguments(folder)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
        arguments = [*generate, *command[1:]] if command[0] == "generate" else list(command)
        run_in_process(arguments)
        assert (folder / name).read_text() == "precious"
        assert not [path for path in names(folder) if path.startswith(TEMPORARY_PREFIX)]

    return Case("names", " ".join(command), check)


def _new_portrait(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for _ in range(2):
        assert main(["avatar", "new", "--seed", "7", "--size", "64"]) == 0
    assert names(folder) == ["portrait-2.png", "portrait.png"]


def _interrupting(number: signal.Signals, after: int) -> Callable[[VideoWriter, object], None]:
    """Return a `VideoWriter.write` that sends a signal to this process after some frames, twice."""
    write = VideoWriter.write

    def interrupt(writer: VideoWriter, frames: object) -> None:
        write(writer, frames)  # type: ignore[arg-type]
        if writer.num_frames >= after:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)

    return interrupt


def _stopped(number: signal.Signals, expected: list[str]) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = generate_arguments(folder, seconds=4.0)
        monkeypatch.setattr(VideoWriter, "write", _interrupting(number, 20))
        assert main(arguments) == 130
        assert names(folder) == expected

    return Case("endings", f"{number.name} twice in the middle", check)


def _ignored_hangup(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(VideoWriter, "write", _interrupting(signal.SIGHUP, 1))
        assert main(generate_arguments(folder)) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert names(folder) == ["out.mp4"]


def _stopped_while_finishing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep = PendingFile.keep

    def interrupted_keep(pending: PendingFile, destination: Path | None = None) -> Path:
        os.kill(os.getpid(), signal.SIGTERM)
        return keep(pending, destination)

    monkeypatch.setattr(PendingFile, "keep", interrupted_keep)
    assert main(generate_arguments(folder)) == 0
    assert names(folder) == ["out.mp4"]


def _failing(error: Exception) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = generate_arguments(folder, seconds=4.0)
        write = VideoWriter.write

        def fail(writer: VideoWriter, frames: object) -> None:
            write(writer, frames)  # type: ignore[arg-type]
            if writer.num_frames >= 20:
                raise error

        monkeypatch.setattr(VideoWriter, "write", fail)
        assert main(arguments) != 0
        assert names(folder) == ["out.partial.mp4"]

    return Case("endings", f"{type(error).__name__} in the middle", check)


_HOLDER = """
import sys, time
from livetalk.media.files import PendingFile
pending = PendingFile(sys.argv[1])
print("ready", flush=True)
time.sleep(60)
"""


@contextlib.contextmanager
def _other_run(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run another process that is about to write a file."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def _dead_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _other_run(folder / "other.mp4") as process:
        assert len(names(folder)) == 1
        write_text_file(folder / "mine.txt", "mine")
        assert len(names(folder)) == 2, "the file of a run that is alive was removed"
        process.kill()
        process.wait()
        write_text_file(folder / "mine.txt", "again", overwrite=True)
    assert names(folder) == ["mine.txt"]


def _dead_export(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leftover = folder / f"{TEMPORARY_PREFIX}dead"
    leftover.mkdir(mode=0o700)
    (leftover / "weights").write_bytes(bytes(9))
    with PendingFolder(folder / "alive") as alive:
        write_text_file(folder / "mine.txt", "mine")
        assert not leftover.exists() and alive.path.exists()


def _forgotten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.suppress(KeyboardInterrupt):
        pending = PendingFile(folder / "new" / "a.txt")
        assert pending.path.exists()
        raise KeyboardInterrupt
    del pending
    deadline = time.monotonic() + 5
    while names(folder) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert names(folder) == []


def _still_writing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = VideoWriter(folder / "out.mp4", width=32, height=32)
    write, begun = VideoWriter._write_frame, threading.Event()

    def write_slowly(writer: VideoWriter, picture: NDArray[np.uint8]) -> None:
        begun.set()
        time.sleep(0.05)
        write(writer, picture)

    monkeypatch.setattr(VideoWriter, "_write_frame", write_slowly)
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    with ThreadPoolExecutor(max_workers=1) as pool:
        encoding = pool.submit(writer.write, frames)
        begun.wait()
        assert writer.save_partial() == folder / "out.partial.mp4"
        encoding.result()
    assert len(read_frames(folder / "out.partial.mp4")) == 8


def _lost_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(avatar: Avatar, writer: VideoWriter) -> None:
        pytest.fail("a lost worker is not an interruption")

    monkeypatch.setattr(Avatar, "_interrupted", lose)
    _failing(PeerLostError("another GPU worker has gone")).check(folder, monkeypatch)


CASES = (
    Case("last step", "permissions cannot be set", _no_permissions),
    Case("last step", "a file system without links", _no_links),
    Case("last step", "no name can be given", _no_name),
    Case("last step", "no name can be given, and new files are private", _no_name_and_private),
    Case("last step", "renaming is refused, which shows beforehand", _tried_beforehand),
    Case("last step", "an empty folder that may be a mounted disk", _folder_that_waits),
    Case("names", "two files of one name", _taken_meanwhile),
    Case("names", "two folders of one name", _taken_folder),
    Case("names", "a video that appears during the run", _taken_video),
    Case("names", "two portraits without a name", _new_portrait),
    _kept("out.mp4", "generate"),
    _kept("sheet.png", "generate", "--preview", "sheet.png"),
    _kept("p.png", "avatar", "new", "--seed", "7", "--size", "64", "--out", "p.png"),
    _kept("m.json", "evaluate", "face.png", "--json", "m.json"),
    _kept("r.json", "bench", "--output", "r.json"),
    _kept("t.json", "bench", "--trace", "t.json"),
    _kept("corpus/index.json", "data", "speech", "--out", "corpus"),
    _kept("to/x", "train", "pack", "--corpus", "c", "--work", "w", "--out", "o", "--to", "to"),
    _kept("w/config.json", "train", "export", "--corpus", "c", "--work", "w", "--out", "o", "--weights", "w"),
    _stopped(signal.SIGHUP, ["out.partial.mp4"]),
    _stopped(signal.SIGTERM, ["out.partial.mp4"]),
    _stopped(signal.SIGINT, ["out.partial.mp4"]),
    Case("endings", "SIGHUP that nohup ignores", _ignored_hangup),
    Case("endings", "SIGTERM while the file is being named", _stopped_while_finishing),
    _failing(MemoryError()),
    _failing(RuntimeError("CUDA error: an illegal memory access")),
    Case("endings", "a worker is lost", _lost_worker),
    Case("endings", "an interruption while another thread encodes", _still_writing),
    Case("endings", "a leftover of a killed run, and a file of a living one", _dead_run),
    Case("endings", "a leftover folder of a killed export", _dead_export),
    Case("endings", "an interruption before the work has begun", _forgotten),
)
