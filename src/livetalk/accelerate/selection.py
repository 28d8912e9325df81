"""Selection of the attention and fused kernels of a model.

A kernel requested by name runs or raises an error; it is never replaced silently.
"""

import importlib
import importlib.util
from typing import Literal, NamedTuple, cast, get_args

import torch

from livetalk.accelerate.fused_color import match_color_fused
from livetalk.errors import InputError
from livetalk.log import get_logger
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionKernel, AttentionSpec, pytorch_choice
from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.streaming.color import MatchColor, match_color

KernelChoice = Literal["auto", "torch", "triton"]
KERNEL_CHOICES: tuple[KernelChoice, ...] = get_args(KernelChoice)

PLAIN = "plain"
TRITON = "triton"

MIN_CAPABILITY = (8, 9)
"""Compute capability of the first NVIDIA GPUs with e4m3 conversions."""

_log = get_logger(__name__)


class Kernels(NamedTuple):
    """The kernels of a model; `fused` is None for the plain layers."""

    attention: AttentionKernel
    fused: FusedKernels | None
    match_color: MatchColor

    @property
    def name(self) -> str:
        """ "plain", "torch" or "triton"."""
        return PLAIN if self.fused is None else self.fused.name


def select_kernels(work: AttentionSpec, attention: str, fused: KernelChoice | None) -> Kernels:
    """Select and load all kernels, see `select_attention` and `select_fused`; None keeps the plain layers.

    Raises:
        InputError: a kernel requested by name cannot run on the device.
    """
    found = None if fused is None else select_fused(fused, work.device)
    on_triton = found is not None and found.name == TRITON
    _log.info("colour matching: %s", TRITON if on_triton else PLAIN)
    return Kernels(
        attention=select_attention(attention, work),
        fused=found,
        match_color=match_color_fused if on_triton else match_color,
    )


def select_attention(name: str, work: AttentionSpec) -> AttentionKernel:
    """Return an attention kernel by name, loaded; "auto" is PyTorch's first choice.

    Raises:
        InputError: the kernel does not exist or does not support the device, dtype or sizes.
    """
    if name == "auto":
        name = pytorch_choice(work)
    if name not in ATTENTION_KERNELS:
        raise InputError(f"attention {name!r}: choose auto or one of {', '.join(ATTENTION_KERNELS)}")
    kernel = ATTENTION_KERNELS[name]
    problem = kernel.problem(work)
    if problem is not None:
        raise InputError(f"attention {name} cannot run here: {problem}")
    if kernel.load is not None:
        kernel.load()
    _log.info("attention: %s (%s, %d heads of %d)", name, work.dtype, work.num_heads, work.head_dim)
    return kernel


def select_fused(choice: KernelChoice, device: torch.device) -> FusedKernels:
    """Return the fused kernels; "auto" is Triton if it can run, else PyTorch.

    Raises:
        InputError: Triton was requested and cannot run on the device.
    """
    problem = triton_problem(device)
    if choice == TRITON and problem is not None:
        raise InputError(f"Triton's kernels cannot run on {device}: {problem}")
    if choice == "torch" or problem is not None:
        kernels: FusedKernels = TorchKernels()
    else:
        # Imported on use, because the package works without Triton.
        module = importlib.import_module("livetalk.ops.kernels.triton_kernels")
        kernels = cast(FusedKernels, module.KERNELS)
    _log.info("fused kernels: %s", kernels.name)
    return kernels


def triton_problem(device: torch.device) -> str | None:
    """Return in a few words why Triton kernels cannot run on a device, or None."""
    if device.type != "cuda":
        return "they need a CUDA device"
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return f"they need compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
    if importlib.util.find_spec("triton") is None:
        return "no package triton"
    return None
