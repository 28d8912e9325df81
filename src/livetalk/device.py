"""Device, precision and CPU threads of a process."""

import re
from typing import Literal, get_args

import torch

from livetalk.errors import InputError

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def parse_device(name: str) -> torch.device | None:
    """Parse the name of a CPU or CUDA device, whether or not this machine has it; None for "auto"."""
    if name == "auto":
        return None
    if name == "cpu" or re.fullmatch("cuda(:[0-9]{1,3})?", name):
        return torch.device(name)
    raise InputError(f"device {name}: is not a device that livetalk uses; give auto, cpu, cuda or cuda:1")


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" prefers a GPU. `InputError` if this machine has no such device."""
    device = parse_device(name)
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device {name}: there are {torch.cuda.device_count()} CUDA devices here; use --device cpu"
        )
    return device


def choose_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of a precision; "auto" is bfloat16 where the device computes it natively."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported()
        else:
            capabilities = torch.cpu.get_capabilities()
            native = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def name_precision(precision: Precision, device: torch.device) -> Precision:
    """Return the precision that `choose_dtype` selects, never "auto"."""
    return "bfloat16" if choose_dtype(precision, device) is torch.bfloat16 else "float32"


def set_threads(threads: int | None) -> None:
    """Limit the CPU threads of the process; None keeps PyTorch's default."""
    if threads is None:
        return
    if threads < 1:
        raise InputError(f"threads {threads}: at least 1 is needed")
    torch.set_num_threads(threads)


def mixed_precision(device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 where the device computes it natively; weights stay float32."""
    dtype = choose_dtype("auto", device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype is torch.bfloat16)
