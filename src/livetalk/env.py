"""The only reader of environment variables. None of them changes a result."""

import os
from dataclasses import dataclass
from pathlib import Path

_INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_UNWANTED_CACHE = "torchinductor_"
_NO_MULTICAST = {"NCCL_NVLS_ENABLE": "0", "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1"}
"""A killed process leaves NVLink multicast resources of the switch allocated; no feature here needs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPlace:
    """Rank of this process within a worker group.

    Attributes:
        rank: 0 for the leader.
        num_ranks: size of the group.
        local_rank: index among the workers of this host, and of the GPU if several are visible.
        rendezvous: address of PyTorch's rendezvous, such as "tcp://host:port"; "env://" takes it from the
            environment, as torchrun sets it.
    """

    rank: int
    num_ranks: int
    local_rank: int
    rendezvous: str = "env://"


def debug_enabled() -> bool:
    """Return whether LIVETALK_DEBUG requests tracebacks instead of one-line errors."""
    return os.environ.get("LIVETALK_DEBUG", "") not in ("", "0")


def huggingface_endpoint() -> str | None:
    """Return the mirror that HF_ENDPOINT names, without a trailing slash; None for the hub itself."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


def cache_folder() -> Path:
    """Return the folder for reproducible files: `livetalk` in XDG_CACHE_HOME or `~/.cache`."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if named else Path.home() / ".cache") / "livetalk"


def keep_compiled_code(folder: Path) -> None:
    """Let PyTorch and Triton cache compiled code in `folder`, unless the user has set their variables."""
    # PyTorch sets this variable itself, to a folder for temporary files; such a value is not the user's
    # choice.
    if Path(os.environ.get(_INDUCTOR_CACHE, _UNWANTED_CACHE)).name.startswith(_UNWANTED_CACHE):
        os.environ[_INDUCTOR_CACHE] = str(folder / "inductor")
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def worker_place() -> WorkerPlace | None:
    """Return the rank that a launcher with the variables of torchrun assigned; None without a launcher."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return None
    return WorkerPlace(
        rank=int(os.environ["RANK"]),
        num_ranks=int(os.environ["WORLD_SIZE"]),
        local_rank=int(os.environ.get("LOCAL_RANK", os.environ["RANK"])),
    )


def keep_multicast_off() -> None:
    """Disable NVLink multicast in NCCL and PyTorch; call it before process groups are created."""
    os.environ.update(_NO_MULTICAST)
