import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from livetalk.engine.launch import EXIT_LOST, WorkerError, launch_workers

WAIT = """
import os, pathlib, signal, sys, threading, time
folder, rank = pathlib.Path(sys.argv[1]), int(os.environ["RANK"])
(folder / f"started{rank}.tmp").write_text(str(os.getpid()))
os.rename(folder / f"started{rank}.tmp", folder / f"started{rank}")
while len(list(folder.glob("started?"))) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.01)
"""
"""Start of every worker's program here: leave a trace, and wait for the others."""

HANG = """
rank == 0 and (folder / "ready").touch()
while True:
    time.sleep(0.1)
"""
"""End of a program that does not end."""

LAUNCH = """
import sys
from livetalk.engine.launch import launch_workers
sys.exit(launch_workers([sys.executable, "-c", sys.argv[1], sys.argv[2]], 3))
"""


def launch(folder: Path, program: str, num_workers: int = 3) -> int:
    """Launch workers that run a program."""
    return launch_workers([sys.executable, "-c", WAIT + program, str(folder)], num_workers)


def launch_apart(folder: Path, program: str) -> "subprocess.Popen[bytes]":
    """Launch them from a process that can be killed, and wait until they run."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCH, WAIT + program, str(folder)])
    wait_for(lambda: len(list(folder.glob("started?"))) == 3)
    return launcher


def wait_for(condition: object, seconds: float = 60.0) -> None:
    """Wait until a callable says true."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def assert_nothing_is_left(folder: Path) -> None:
    """Check that every worker that started has ended."""
    pids = [int(path.read_text()) for path in folder.glob("started?")]
    assert len(pids) == 3
    wait_for(lambda: not any(is_running(pid) for pid in pids), 5)


def test_every_worker_knows_its_place(tmp_path: Path) -> None:
    program = """
from livetalk.env import worker_place
place = worker_place()
words = (place.rank, place.local_rank, place.num_ranks, os.environ["NCCL_NVLS_ENABLE"])
# A Ctrl-C of the terminal goes to a process group: only the launcher's shall hear it.
assert os.getpgrp() == os.getpid()
(folder / f"place{rank}").write_text(" ".join(map(str, words)))
"""
    assert launch(tmp_path, program) == 0
    assert [(tmp_path / f"place{rank}").read_text() for rank in range(3)] == ["0 0 3 0", "1 1 3 0", "2 2 3 0"]


def test_a_killed_worker_gives_one_line_and_ends_all(tmp_path: Path) -> None:
    program = "rank == 1 and os.kill(os.getpid(), signal.SIGKILL); time.sleep(100)"
    with pytest.raises(WorkerError) as caught:
        launch(tmp_path, program)
    assert str(caught.value) == "GPU worker 2 of 3 was ended by SIGKILL; the others were stopped"
    assert_nothing_is_left(tmp_path)


def test_a_crashed_worker_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="GPU worker 3 of 3 failed; the others were stopped"):
        launch(tmp_path, "rank == 2 and sys.exit(1); time.sleep(100)")
    assert_nothing_is_left(tmp_path)


def test_a_worker_that_explained_itself_is_not_explained_again(tmp_path: Path) -> None:
    assert launch(tmp_path, "rank == 0 and sys.exit(2); time.sleep(100)") == 2
    assert_nothing_is_left(tmp_path)


def test_the_one_that_was_lost_is_named_not_those_who_lost_it(tmp_path: Path) -> None:
    program = f"""
if rank == 1:
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit({EXIT_LOST})
"""
    with pytest.raises(WorkerError, match="GPU worker 2 of 3 was ended by SIGKILL"):
        launch(tmp_path, program)


def test_workers_that_only_lost_one_another_say_how_to_learn_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livetalk.engine.launch.GRACE_SECONDS", 0.2)
    with pytest.raises(WorkerError, match="lost the others, none of which has failed; LIVETALK_DEBUG=1"):
        launch(tmp_path, f"sys.exit({EXIT_LOST})")


def test_followers_may_end_before_the_leader(tmp_path: Path) -> None:
    program = "time.sleep(0.3 if rank == 0 else 0); rank == 0 and (folder / 'done').touch()"
    assert launch(tmp_path, program) == 0
    assert (tmp_path / "done").exists()


def test_ctrl_c_goes_to_the_leader_who_completes_its_work(tmp_path: Path) -> None:
    program = """
try:
    (folder / f"ready{rank}").touch()
    time.sleep(100)
except KeyboardInterrupt:
    (folder / f"interrupted{rank}").touch()
    sys.exit(130)
"""
    launcher = launch_apart(tmp_path, program)
    wait_for(lambda: len(list(tmp_path.glob("ready?"))) == 3)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(30) == 130
    assert [path.name for path in tmp_path.glob("interrupted?")] == ["interrupted0"]
    assert_nothing_is_left(tmp_path)


def test_a_leader_that_does_not_catch_ctrl_c_is_no_failure(tmp_path: Path) -> None:
    launcher = launch_apart(tmp_path, "signal.signal(signal.SIGINT, signal.SIG_DFL)" + HANG)
    wait_for(lambda: (tmp_path / "ready").exists())
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(30) == 130
    assert_nothing_is_left(tmp_path)


def test_a_second_ctrl_c_ends_a_leader_that_does_not_listen(tmp_path: Path) -> None:
    program = """
signal.signal(signal.SIGINT, lambda *_: (folder / "heard").touch())
"""
    launcher = launch_apart(tmp_path, program + HANG)
    wait_for(lambda: (tmp_path / "ready").exists())
    launcher.send_signal(signal.SIGINT)
    wait_for(lambda: (tmp_path / "heard").exists())
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(30) != 0
    assert_nothing_is_left(tmp_path)


def test_workers_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    program = """
from livetalk.env import worker_place
threading.Thread(target=lambda: (os.read(worker_place().lifeline, 1), os._exit(0)), daemon=True).start()
time.sleep(100)
"""
    launcher = launch_apart(tmp_path, program)
    launcher.kill()
    launcher.wait(30)
    assert_nothing_is_left(tmp_path)


def test_the_rendezvous_is_gone_afterwards(tmp_path: Path) -> None:
    program = "rank == 0 and (folder / 'where').write_text(os.environ['LIVETALK_RENDEZVOUS'])"
    assert launch(tmp_path, program) == 0
    folder = Path((tmp_path / "where").read_text().removeprefix("file://")).parent
    assert folder.name.startswith("livetalk-") and not folder.exists()
    assert "RANK" not in os.environ
