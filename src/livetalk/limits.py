"""Memory and cores that this process may use: the least of the machine's, its control groups' and its own."""

import contextlib
import math
import os
import re
import resource
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_UNLIMITED = 1 << 60
"""Limits from here on are none: version 1 of control groups writes the largest multiple of a page."""


def available_memory(root: Path = _ROOT) -> int | None:
    """Return the bytes of host memory that this process can still take; None if nothing says how many.

    `root` is where `proc` and the control groups are mounted.
    """
    status = _read(root / "proc/self/status")
    answers = [_kilobytes(_read(root / "proc/meminfo"), "MemAvailable")]
    for kind, name in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            answers.append(max(0, limit - (_kilobytes(status, name) or 0)))
    answers += [_free_in_group(folder) for folder in _control_groups(root, "memory")]
    return min((answer for answer in answers if answer is not None), default=None)


def available_cores(physical: int, root: Path = _ROOT) -> int:
    """Return how many cores this process can keep busy, of so many physical ones, at least 1."""
    answers = [physical] if physical > 0 else []
    with contextlib.suppress(AttributeError):  # not on every system
        answers.append(len(os.sched_getaffinity(0)))
    answers += [_cores_of_group(folder) for folder in _control_groups(root, "cpu")]
    return max(1, min((answer for answer in answers if answer > 0), default=1))


def _control_groups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's control groups and of those around them, which limit it as well."""
    paths: dict[str, str] = {}
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in _read(root / "proc/self/mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = (*rest.split(), "", "", "")[:3]
        name = {"cgroup2": "", "cgroup": controller}.get(kind)
        if name is None or name not in paths or (name and name not in options.split(",")):
            continue
        inside, mount = fields.split()[3:5]
        top = root / mount.lstrip("/")
        # Within a container, the mounted part of the tree may begin at this process's own group.
        folder = top / paths[name].removeprefix(inside.rstrip("/")).lstrip("/")
        if not folder.is_dir():
            folder = top
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(top))


def _free_in_group(folder: Path) -> int | None:
    """Return the limit of a control group minus its use, without the files in its cache."""
    limits = [_number(folder / name) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")]
    limit = min((limit for limit in limits if limit is not None), default=_UNLIMITED)
    if limit >= _UNLIMITED:
        return None
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
    cached = re.search(r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE)
    return max(0, limit - max(0, used - (int(cached[1]) if cached else 0)))


def _cores_of_group(folder: Path) -> int:
    """Return the cores that the quota of a control group amounts to, rounded up; 0 for no quota."""
    words = _read(folder / "cpu.max").split()
    if len(words) != 2:
        words = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if not all(word.isdecimal() for word in words) or int(words[1]) == 0:
        return 0
    return math.ceil(int(words[0]) / int(words[1]))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _kilobytes(text: str, name: str) -> int | None:
    match = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return None if match is None else 1024 * int(match[1])
