"""Whether Triton's kernels can run here, and which set of kernels does."""

import importlib
import importlib.util
from typing import Literal, cast, get_args

import torch

from livetalk.errors import InputError
from livetalk.log import get_logger
from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.kernels.reference import TorchKernels

KernelChoice = Literal["auto", "torch", "triton"]
KERNEL_CHOICES: tuple[KernelChoice, ...] = get_args(KernelChoice)

MIN_CAPABILITY = (8, 9)
"""First NVIDIA generation with e4m3 conversions."""

_log = get_logger(__name__)


def triton_problem(device: torch.device) -> str | None:
    """Say in a few words why Triton's kernels cannot run on a device; None where they can."""
    if device.type != "cuda":
        return "they need a CUDA device"
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return f"they need compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
    if importlib.util.find_spec("triton") is None:
        return "no package triton"
    return None


def select_kernels(choice: KernelChoice, device: torch.device) -> FusedKernels:
    """Find the kernels to run on a device.

    Args:
        choice: "torch", "triton", or "auto" for Triton where it can run.
        device: that computes.

    Raises:
        InputError: Triton was asked for and cannot run here.
    """
    problem = triton_problem(device)
    if choice == "triton" and problem is not None:
        raise InputError(f"Triton's kernels cannot run on {device}: {problem}")
    if choice == "torch" or problem is not None:
        kernels: FusedKernels = TorchKernels()
    else:
        # Not imported at the top: the package works without Triton.
        module = importlib.import_module("livetalk.ops.kernels.triton_kernels")
        kernels = cast(FusedKernels, module.KERNELS)
    _log.info("fused kernels: %s", kernels.name)
    return kernels
