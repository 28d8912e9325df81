"""The only reader of environment variables. None of them changes a result.

A variable that is empty counts as unset; one with a value that makes no sense is named in one line.
"""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from livetalk.errors import InputError

_INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_TRITON_CACHE = "TRITON_CACHE_DIR"
_UNWANTED_CACHE = "torchinductor_"
_YES = ("1", "true", "yes", "on")
_NO = ("0", "false", "no", "off")
_MANY = 1 << 20
FROM_ENVIRONMENT = "env://"
_NO_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1"}
"""A killed process leaves NVLink multicast resources of the switch allocated; no feature here needs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """Rank of this process within a worker group.

    Attributes:
        rendezvous: address of PyTorch's rendezvous, such as "tcp://host:port"; "env://" takes it from the
            environment, as torchrun sets it.
    """

    rank: int  # 0 for the leader
    num_ranks: int
    local_rank: int  # index among the workers of this host, and of the GPU if several are visible
    rendezvous: str = FROM_ENVIRONMENT


def debug_enabled() -> bool:
    """Return whether LIVETALK_DEBUG requests tracebacks instead of one-line errors.

    Raises:
        InputError: its value is neither yes nor no.
    """
    value = _read("LIVETALK_DEBUG")
    word = "0" if value is None else value.lower()
    if word not in _YES + _NO:
        raise _nonsense("LIVETALK_DEBUG", word, "1 or 0")
    return word in _YES


def huggingface_endpoint() -> str | None:
    """Return the mirror that HF_ENDPOINT names, without a trailing slash; None for the hub itself.

    Raises:
        InputError: its value is not the address of a server.
    """
    value = _read("HF_ENDPOINT")
    if value is None:
        return None
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise _nonsense("HF_ENDPOINT", value, "an address such as https://mirror.example")
    return value.rstrip("/")


def cache_folder() -> Path:
    """Return the folder for reproducible files: `livetalk` in XDG_CACHE_HOME or `~/.cache`.

    Without a home it is in the folder for temporary files. A relative XDG_CACHE_HOME is ignored, as its
    specification says.
    """
    named = Path(_read("XDG_CACHE_HOME") or "")
    if named.is_absolute():
        return named / "livetalk"
    try:
        return Path.home() / ".cache" / "livetalk"
    except RuntimeError:
        return _temporary_cache()


def keep_compiled_code(folder: Path) -> None:
    """Let PyTorch and Triton cache compiled code in `folder`, unless the user has set their variables.

    If nothing can be written there, a folder for temporary files is used.
    """
    if not _can_write(folder):
        folder = _temporary_cache()
    # PyTorch sets this variable itself, to a folder for temporary files; such a value is not the user's
    # choice.
    if Path(_read(_INDUCTOR_CACHE) or _UNWANTED_CACHE).name.startswith(_UNWANTED_CACHE):
        os.environ[_INDUCTOR_CACHE] = str(folder / "inductor")
    if _read(_TRITON_CACHE) is None:
        os.environ[_TRITON_CACHE] = str(folder / "triton")


def was_launched() -> bool:
    """Return whether a launcher with the variables of torchrun started this process."""
    return _read("RANK") is not None and _read("WORLD_SIZE") is not None


def worker_place() -> WorkerPlace | None:
    """Return the rank that a launcher with the variables of torchrun assigned; None without a launcher.

    Raises:
        InputError: a variable is missing or makes no sense.
    """
    if not was_launched():
        return None
    num_ranks = _read_number("WORLD_SIZE", 1, _MANY)
    rank = _read_number("RANK", 0, num_ranks - 1)
    local_rank = rank if _read("LOCAL_RANK") is None else _read_number("LOCAL_RANK", 0, _MANY)
    return WorkerPlace(rank=rank, num_ranks=num_ranks, local_rank=local_rank)


def require_meeting_point() -> None:
    """Check the variables that tell where workers of a launcher meet; PyTorch reads them.

    Raises:
        InputError: a variable is missing or makes no sense.
    """
    _read_number("MASTER_PORT", 1, 65535)
    if _read("MASTER_ADDR") is None:
        raise _nonsense("MASTER_ADDR", "", "the address of the first worker, as torchrun sets it")


def _read(name: str) -> str | None:
    """Return the value of a variable; None if it is unset, empty or blank."""
    return os.environ.get(name, "").strip() or None


def _read_number(name: str, lowest: int, highest: int) -> int:
    value = _read(name) or ""
    if not (re.fullmatch("[0-9]{1,9}", value) and lowest <= int(value) <= highest):
        raise _nonsense(name, value, f"a whole number from {lowest} to {highest}")
    return int(value)


def _nonsense(name: str, value: str, wanted: str) -> InputError:
    return InputError(f"environment variable {name}={value}: must be {wanted}")


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _temporary_cache() -> Path:
    return Path(tempfile.gettempdir()) / f"livetalk-{os.getuid()}"


def keep_multicast_off() -> None:
    """Disable NVLink multicast in NCCL and PyTorch; call it before process groups are created."""
    os.environ.update(_NO_MULTICAST)
