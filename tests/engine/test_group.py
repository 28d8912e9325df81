"""Workers start with a function and end together, whatever ends first; with real processes."""

import signal
import time
from pathlib import Path

import pytest

from engine import group_programs as programs
from engine.group_programs import launch, launch_apart
from livetalk.errors import WorkerError


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


def test_every_worker_knows_its_place_and_needs_no_pytorch(tmp_path: Path) -> None:
    assert launch(tmp_path, programs.say_place) == 0
    found = [(tmp_path / f"place{rank}").read_text() for rank in range(3)]
    assert found == [f"{rank} {rank} 3 True False" for rank in range(3)]


def test_a_killed_worker_gives_one_line_and_ends_all(tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as caught:
        launch(tmp_path, programs.die)
    assert str(caught.value) == "GPU worker 2 of 3 was ended by SIGKILL; the others were stopped"
    assert_nothing_is_left(tmp_path)


def test_a_crashed_worker_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WorkerError, match="GPU worker 3 of 3 failed; the others were stopped"):
        launch(tmp_path, programs.crash)
    assert_nothing_is_left(tmp_path)
    assert "LookupError: the third" in capfd.readouterr().err


def test_a_worker_that_explained_itself_is_not_explained_again(tmp_path: Path) -> None:
    assert launch(tmp_path, programs.explain) == 2
    assert_nothing_is_left(tmp_path)


def test_the_one_that_was_lost_is_named_not_those_who_lost_it(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match="GPU worker 2 of 3 was ended by SIGKILL"):
        launch(tmp_path, programs.lose)


def test_workers_that_only_lost_one_another_say_how_to_learn_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livetalk.engine.group.GRACE_SECONDS", 0.2)
    with pytest.raises(WorkerError, match="lost the others, none of which has failed; LIVETALK_DEBUG=1"):
        launch(tmp_path, programs.lose_each_other)


def test_followers_may_end_before_the_leader(tmp_path: Path) -> None:
    assert launch(tmp_path, programs.follow_early) == 0
    assert (tmp_path / "done").exists()


def test_ctrl_c_goes_to_the_leader_who_completes_its_work(tmp_path: Path) -> None:
    with launch_apart(tmp_path, programs.complete) as launcher:
        wait_for(lambda: len(list(tmp_path.glob("ready?"))) == 3)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) == 130
    assert [path.name for path in tmp_path.glob("interrupted?")] == ["interrupted0"]
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("program", [programs.hang, programs.hang_by_default])
def test_a_leader_that_does_not_catch_ctrl_c_is_no_failure(tmp_path: Path, program: object) -> None:
    assert callable(program)
    with launch_apart(tmp_path, program) as launcher:
        wait_for(lambda: (tmp_path / "ready").exists())
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) == 130
    assert_nothing_is_left(tmp_path)


def test_a_second_ctrl_c_ends_a_leader_that_does_not_listen(tmp_path: Path) -> None:
    with launch_apart(tmp_path, programs.hang_deaf) as launcher:
        wait_for(lambda: (tmp_path / "ready").exists())
        launcher.send_signal(signal.SIGINT)
        wait_for(lambda: (tmp_path / "heard").exists())
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(30) != 0
    assert_nothing_is_left(tmp_path)


def test_workers_end_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    with launch_apart(tmp_path, programs.sleep) as launcher:
        wait_for(lambda: len(list(tmp_path.glob("started?"))) == 3)
        launcher.kill()
        launcher.wait(30)
    assert_nothing_is_left(tmp_path)


def test_the_rendezvous_is_gone_afterwards(tmp_path: Path) -> None:
    assert launch(tmp_path, programs.say_rendezvous) == 0
    folder = Path((tmp_path / "where").read_text().removeprefix("file://")).parent
    assert folder.name.startswith("livetalk-") and not folder.exists()
