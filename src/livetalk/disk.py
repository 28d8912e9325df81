"""Locks that end with the process that holds them, and files that survive a power cut."""

import contextlib
import fcntl
import os
from pathlib import Path

PARTIAL_SUFFIX = ".partial"


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder without waiting, until it is closed or the process ends in any way.

    Returns:
        True if this process has the lock now, False if another one has it, None where the file system has no
        locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def flush_file(path: Path) -> None:
    """Wait until the content of a file or the names in a folder are on the disk.

    Raises:
        OSError: the disk has failed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes) -> None:
    """Write a file that has its old content or all of the new one, even after a power cut.

    Raises:
        OSError: the disk is full or not writable; the old content is still there.
    """
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    partial.write_bytes(data)
    flush_file(partial)
    partial.replace(path)
    # Some file systems refuse to flush a folder; there the order of writing is theirs alone.
    with contextlib.suppress(OSError):
        flush_file(path.parent)
