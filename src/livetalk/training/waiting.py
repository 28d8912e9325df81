"""Waiting for what another process makes, with words about it and with an end."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from livetalk.datasets.clips import ClipMemory
from livetalk.disk import try_lock
from livetalk.errors import InputError
from livetalk.synthetic.clips import ClipStore

PATIENCE_SECONDS = 30.0
"""How long to wait while nothing arrives and no process is there that could deliver."""

RENDER_ADVICE = "check --work, or run livetalk train render with the same --work"

_SAY_SECONDS = 30.0
_SUFFIX = ".alive"


@contextlib.contextmanager
def announced(folder: Path, name: str) -> Iterator[None]:
    """Let other processes know that this one is making files in `folder` for the duration of a block.

    The sign is a locked file, which no end of the process can leave locked.

    Raises:
        InputError: another process does the same there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".{name}{_SUFFIX}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if try_lock(descriptor) is False:
            raise InputError(f"{folder}: another process runs {name} there; wait for its end or stop it")
        yield
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def is_anyone_at_work(folder: Path) -> bool:
    """Return whether a process has announced itself in a folder and is alive."""
    for path in folder.glob(f".*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDWR)
            alive = try_lock(descriptor) is not True
            os.close(descriptor)
            if alive:
                return True
    return False


def wait_for(folder: Path, arrived: Callable[[], bool], describe: Callable[[], str], advice: str) -> None:
    """Wait until something has arrived that processes make in `folder`; say so at once and from time to time.

    Args:
        folder: where those processes announce themselves.
        arrived: looks for it.
        describe: says in a few words what is awaited and what is there; a change counts as a sign of life.
        advice: what to do if nobody makes it.

    Raises:
        InputError: for `PATIENCE_SECONDS` nothing has arrived, and no process is at work there.
    """
    began = alive = time.monotonic()
    told, state = -_SAY_SECONDS, ""
    while not arrived():
        now, seen = time.monotonic(), describe()
        if seen != state or is_anyone_at_work(folder):
            state, alive = seen, now
        if now - alive >= PATIENCE_SECONDS:
            waited = f"waited {now - began:.0f} s"
            raise InputError(f"{folder}: {seen}, and no process makes more ({waited}); {advice}")
        if now - told >= _SAY_SECONDS:
            told = now
            sys.stderr.write(
                f"waiting in {folder}: {seen}; gives up {PATIENCE_SECONDS:.0f} s after the last sign of a "
                "process that makes more\n"
            )
            sys.stderr.flush()
        time.sleep(0.5)


def open_clips(clips: Path, device: torch.device, max_clips: int) -> ClipMemory:
    """Return the rendered clips of a folder, none of them loaded yet.

    Raises:
        InputError: there is no such folder.
    """
    if not clips.is_dir():
        raise InputError(f"work folder {clips.parent}: has no folder of clips; {RENDER_ADVICE}")
    return ClipMemory(ClipStore(clips), device, max_clips)


def wait_for_clips(memory: ClipMemory, count: int, clips: Path) -> None:
    """Load `count` clips of a folder, waiting for those that are still being rendered; see `wait_for`."""

    def load() -> bool:
        while len(memory) < count and memory.refresh(limit=count - len(memory)):
            pass
        return len(memory) >= count

    wait_for(clips, load, lambda: f"{len(memory)} of {count} clips", RENDER_ADVICE)
