"""Inspection of the machine: interpreter, PyTorch, GPUs, CPU, memory, FFmpeg, optional packages."""

import importlib.metadata
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import av
import torch

from livetalk import __version__
from livetalk.limits import available_cores, available_memory

WANTED_CPU_FEATURES = ("avx2", "avx512_f", "avx512_bf16", "amx_bf16")
VIDEO_ENCODERS = ("libx264", "aac")

_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_REQUIREMENT = re.compile(r"([\w.-]+).*;.*\bextra\s*==\s*['\"](\w+)['\"]")
_DRIVER = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInfo:
    """One CUDA device; `capability` is its compute capability, such as "9.0"."""

    name: str
    capability: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Versions, hardware and packages of this machine; None for what is absent or unknown.

    Attributes:
        missing_packages: optional extra of this package -> its packages that are not installed.
    """

    livetalk: str
    python: str
    system: str  # operating system and architecture
    torch: str
    cuda: str | None  # version of CUDA that PyTorch was built for
    cudnn: int | None
    driver: str | None  # version of the NVIDIA driver
    gpus: tuple[GpuInfo, ...]
    cpu: str
    cpu_cores: int  # physical cores that this process may use
    cpu_features: tuple[str, ...]  # the available ones of `WANTED_CPU_FEATURES`
    host_bytes: int | None  # memory that this process can still take
    ffmpeg: str  # version of the FFmpeg in PyAV
    video_encoders: tuple[str, ...]  # the available ones of `VIDEO_ENCODERS`
    missing_packages: dict[str, tuple[str, ...]]


def inspect_environment() -> Environment:
    """Inspect this machine. With GPUs this creates a CUDA context, which takes about a second."""
    # From PyTorch, which selects its own kernels by the same features.
    capabilities = torch.cpu.get_capabilities()
    return Environment(
        livetalk=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=torch.__version__,
        cuda=torch.version.cuda,
        cudnn=_cudnn_version(),
        driver=_driver_version(),
        gpus=tuple(_inspect_gpu(index) for index in range(torch.cuda.device_count())),
        cpu=str(capabilities.get("cpu_name", platform.processor())),
        cpu_cores=available_cores(int(capabilities.get("num_physical_cores", 0))),
        cpu_features=tuple(name for name in WANTED_CPU_FEATURES if capabilities.get(name, False)),
        host_bytes=available_memory(),
        ffmpeg=str(av.ffmpeg_version_info),
        video_encoders=tuple(name for name in VIDEO_ENCODERS if _can_encode(name)),
        missing_packages=find_missing_packages(_requirements()),
    )


def find_missing_packages(requirements: list[str]) -> dict[str, tuple[str, ...]]:
    """Return extra -> packages that are not installed, from the output of `importlib.metadata.requires`."""
    missing: dict[str, list[str]] = {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is not None:
            package, extra = match.groups()
            missing.setdefault(extra, [])
            if not _is_installed(package):
                missing[extra].append(package)
    return {extra: tuple(packages) for extra, packages in sorted(missing.items())}


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires("livetalk") or []
    except importlib.metadata.PackageNotFoundError:
        # The package runs from its source and is not installed.
        return []


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cudnn_version() -> int | None:
    version: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return version


def _inspect_gpu(index: int) -> GpuInfo:
    properties = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    return GpuInfo(
        name=properties.name,
        capability=f"{properties.major}.{properties.minor}",
        total_bytes=total,
        free_bytes=free,
    )


def _driver_version() -> str | None:
    try:
        match = _DRIVER.search(_DRIVER_FILE.read_text(encoding="utf-8"))
    except OSError:
        return None
    return None if match is None else match[1]


def _can_encode(name: str) -> bool:
    try:
        av.codec.Codec(name, "w")
    except ValueError:
        return False
    return True
