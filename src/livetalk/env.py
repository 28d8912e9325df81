"""The only reader of the environment: a debug switch, a mirror, a worker's place. None changes a result."""

import os
from dataclasses import dataclass
from pathlib import Path

_INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_UNWANTED_CACHE = "torchinductor_"
_NO_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1"}
"""NVLink multicast leaves resources of the switch taken when a process is killed; nothing here needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """Which of several processes at one model this is.

    Attributes:
        rank: 0 leads.
        num_ranks: processes in all.
        local_rank: number among the processes of this machine, and of its GPU where it sees several.
        rendezvous: where they meet, as PyTorch names it, such as "tcp://host:port"; "env://" reads it from
            the environment that torchrun prepares.
    """

    rank: int
    num_ranks: int
    local_rank: int
    rendezvous: str = "env://"


def debug_enabled() -> bool:
    """Tell whether LIVETALK_DEBUG asks for tracebacks instead of one-line errors."""
    return os.environ.get("LIVETALK_DEBUG", "") not in ("", "0")


def huggingface_endpoint() -> str | None:
    """Return the mirror that HF_ENDPOINT names, without a slash at its end; None for the hub itself."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def cache_folder() -> Path:
    """Return the folder for what can be made again: `livetalk` in XDG_CACHE_HOME, or in `~/.cache`."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if named else Path.home() / ".cache") / "livetalk"


def keep_compiled_code(folder: Path) -> None:
    """Tell PyTorch and Triton where to keep compiled code, unless the user has told them already."""
    # PyTorch writes its own choice, among the temporary files, here as well: that is nobody's wish.
    if Path(os.environ.get(_INDUCTOR_CACHE, _UNWANTED_CACHE)).name.startswith(_UNWANTED_CACHE):
        os.environ[_INDUCTOR_CACHE] = str(folder / "inductor")
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def worker_place() -> WorkerPlace | None:
    """Return the place that torchrun, or another launcher with its variables, gave this process.

    None for a process that was started alone.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    return WorkerPlace(
        rank=int(os.environ["RANK"]),
        num_ranks=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
    )


def keep_multicast_off() -> None:
    """Tell NCCL and PyTorch, before they open groups of GPUs, to leave NVLink multicast alone."""
    os.environ.update(_NO_MULTICAST)
