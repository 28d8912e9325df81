"""Hardware, versions, clocks and commit of a measurement. Needs neither PyAV nor any other extra."""

import os
import platform
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

import livetalk
from livetalk.bench.record import UNKNOWN_COMMIT

_SMI_FIELDS = (
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)
_TIMEOUT_SECONDS = 20


def describe_system() -> dict[str, str]:
    """Return versions and hardware by name."""
    described = {
        "livetalk": livetalk.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": torch.__version__,
        "cpu": name_cpu(),
        "cores": str(_count_cores()),
    }
    if hasattr(os, "getloadavg"):
        # Average over the last minute, including this process: shows whether other processes were busy.
        described["load average"] = f"{os.getloadavg()[0]:.2f}"
    if torch.cuda.is_available():
        described["cuda"] = str(torch.version.cuda)
        described["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return described


def describe_clocks(device: torch.device) -> dict[str, str]:
    """Return the current clocks, power and temperature of a GPU from the driver; empty for a CPU."""
    if device.type != "cuda":
        return {}
    identity = str(torch.cuda.get_device_properties(device).uuid)
    # By UUID, because nvidia-smi ignores CUDA_VISIBLE_DEVICES and numbers GPUs differently.
    command = [
        "nvidia-smi",
        f"--id=GPU-{identity}",
        f"--query-gpu={','.join(_SMI_FIELDS)}",
        "--format=csv,noheader",
    ]
    answer = _ask(command)
    values = answer.split(", ") if answer else []
    return dict(zip(_SMI_FIELDS, values, strict=True)) if len(values) == len(_SMI_FIELDS) else {}


def name_device(device: torch.device) -> str:
    """Return the name of a GPU, or of the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else name_cpu()


def name_cpu() -> str:
    """Return the name of the CPU as the system reports it."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def find_commit() -> str:
    """Return the commit of the running source, with the suffix "-dirty" if tracked files are modified."""
    source = Path(livetalk.__file__)
    git = ["git", "-C", str(source.parent)]
    # An installed copy may lie within an unrelated repository.
    if not _ask([*git, "ls-files", "--error-unmatch", source.name]):
        return UNKNOWN_COMMIT
    commit = _ask([*git, "rev-parse", "HEAD"])
    changed = _ask([*git, "status", "--porcelain", "--untracked-files=no"])
    return (commit + ("-dirty" if changed else "")) if commit else UNKNOWN_COMMIT


def peak_process_gb() -> float:
    """Return the peak resident memory of this process since its start, in 10^9 bytes."""
    # macOS reports bytes, Linux KiB.
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _count_cores() -> int:
    # Cores that this process may use, which in a container are fewer than the machine's.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def _ask(command: Sequence[str]) -> str:
    """Return the output of a program; empty if it is missing, fails or times out."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
