"""What workers do in the tests of how they start and end; each worker imports this module, and no PyTorch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from livetalk.engine.group import EXIT_LOST, WorkerGroup
from livetalk.env import WorkerPlace


def enter(place: WorkerPlace, folder: Path, program: Callable[[WorkerPlace, Path], int]) -> int:
    """Leave a trace, wait for the others, and run a program."""
    new = folder / f"started{place.rank}.tmp"
    new.write_text(str(os.getpid()))
    new.rename(folder / f"started{place.rank}")
    while len(list(folder.glob("started?"))) < place.num_ranks:
        time.sleep(0.01)
    return program(place, folder)


def say_place(place: WorkerPlace, folder: Path) -> int:
    """Say who this is. A Ctrl-C of the terminal goes to a process group: only the launcher's may get it."""
    own_group = os.getpgrp() == os.getpid()
    words = (place.rank, place.local_rank, place.num_ranks, own_group, "torch" in sys.modules)
    (folder / f"place{place.rank}").write_text(" ".join(map(str, words)))
    return 0


def say_rendezvous(place: WorkerPlace, folder: Path) -> int:
    (folder / "where").write_text(place.rendezvous)
    return 0


def die(place: WorkerPlace, folder: Path) -> int:
    """Be killed, as the second worker."""
    if place.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return sleep(place, folder)


def crash(place: WorkerPlace, folder: Path) -> int:
    """Raise what nobody expects, as the third worker."""
    if place.rank == 2:
        raise LookupError("the third")
    return sleep(place, folder)


def explain(place: WorkerPlace, folder: Path) -> int:
    """End with a code that says that the cause was printed, as the leader."""
    return 2 if place.rank == 0 else sleep(place, folder)


def lose(place: WorkerPlace, folder: Path) -> int:
    """End as one that has lost the others; the second worker is the cause."""
    if place.rank == 1:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return EXIT_LOST


def lose_each_other(place: WorkerPlace, folder: Path) -> int:
    return EXIT_LOST


def follow_early(place: WorkerPlace, folder: Path) -> int:
    """Let the leader end last."""
    if place.rank == 0:
        time.sleep(0.3)
        (folder / "done").touch()
    return 0


def sleep(place: WorkerPlace, folder: Path) -> int:
    time.sleep(100)
    return 0


def complete(place: WorkerPlace, folder: Path) -> int:
    """Work until Ctrl-C, and complete the work then."""
    try:
        (folder / f"ready{place.rank}").touch()
        time.sleep(100)
    except KeyboardInterrupt:
        (folder / f"interrupted{place.rank}").touch()
        return 130
    return 0


def hang(place: WorkerPlace, folder: Path) -> NoReturn:
    if place.rank == 0:
        (folder / "ready").touch()
    while True:
        time.sleep(0.1)


def hang_deaf(place: WorkerPlace, folder: Path) -> NoReturn:
    """Take notice of Ctrl-C and go on."""
    signal.signal(signal.SIGINT, lambda *_: (folder / "heard").touch())
    hang(place, folder)


def hang_by_default(place: WorkerPlace, folder: Path) -> NoReturn:
    """Leave Ctrl-C to the system."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    hang(place, folder)


def launch(folder: Path, program: Callable[[WorkerPlace, Path], int], num_workers: int = 3) -> int:
    """Run a program in several workers, and return the exit code of all."""
    with WorkerGroup.start(enter, [(folder, program)] * num_workers) as group:
        return group.wait()


def launch_apart(folder: Path, program: Callable[[WorkerPlace, Path], int]) -> "subprocess.Popen[bytes]":
    """Launch workers from a process that can be killed."""
    command = [sys.executable, str(Path(__file__)), str(folder), program.__name__]
    return subprocess.Popen(command)


if __name__ == "__main__":
    sys.exit(launch(Path(sys.argv[1]), globals()[sys.argv[2]]))
