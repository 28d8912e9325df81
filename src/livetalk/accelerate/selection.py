"""The kernels that a model runs on: every choice among them is made here.

What is asked for by name runs, or an error says why it cannot; no kernel stands in for another.
"""

import importlib
import importlib.util
from typing import Literal, NamedTuple, cast, get_args

import torch

from livetalk.accelerate.fused_color import match_color_fused
from livetalk.errors import InputError
from livetalk.log import get_logger
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionKernel, AttentionWork, pytorch_choice
from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.streaming.color import MatchColor, match_color

KernelChoice = Literal["auto", "torch", "triton"]
KERNEL_CHOICES: tuple[KernelChoice, ...] = get_args(KernelChoice)

PLAIN = "plain"
TRITON = "triton"

MIN_CAPABILITY = (8, 9)
"""First NVIDIA generation with e4m3 conversions."""

_log = get_logger(__name__)


class Kernels(NamedTuple):
    """All that a model runs on.

    Attributes:
        attention: of the self-attention.
        fused: of the elementwise work; None leaves the layers plain.
        match_color: gives frames the colours of the reference.
    """

    attention: AttentionKernel
    fused: FusedKernels | None
    match_color: MatchColor

    @property
    def name(self) -> str:
        """Name of the elementwise kernels: "plain", "torch" or "triton"."""
        return PLAIN if self.fused is None else self.fused.name


def select_kernels(work: AttentionWork, attention: str, fused: KernelChoice | None) -> Kernels:
    """Find the kernels to run on and make them ready.

    Args:
        work: of the self-attention, on the device that computes.
        attention: as for `select_attention`.
        fused: as for `select_fused`; None leaves the layers plain.

    Raises:
        InputError: something that was asked for by name cannot run here.
    """
    found = None if fused is None else select_fused(fused, work.device)
    on_triton = found is not None and found.name == TRITON
    _log.info("colour matching: %s", TRITON if on_triton else PLAIN)
    return Kernels(
        attention=select_attention(attention, work),
        fused=found,
        match_color=match_color_fused if on_triton else match_color,
    )


def select_attention(name: str, work: AttentionWork) -> AttentionKernel:
    """Find the attention kernel of a name and make it ready.

    Args:
        name: a key of `ATTENTION_KERNELS`, or "auto" for PyTorch's first choice.
        work: that it will do.

    Raises:
        InputError: there is no such kernel, or it cannot do this work here.
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
    """Find the kernels of the elementwise work.

    Args:
        choice: "torch", "triton", or "auto" for Triton where it can run.
        device: that computes.

    Raises:
        InputError: Triton was asked for and cannot run here.
    """
    problem = triton_problem(device)
    if choice == TRITON and problem is not None:
        raise InputError(f"Triton's kernels cannot run on {device}: {problem}")
    if choice == "torch" or problem is not None:
        kernels: FusedKernels = TorchKernels()
    else:
        # Not imported at the top: the package works without Triton.
        module = importlib.import_module("livetalk.ops.kernels.triton_kernels")
        kernels = cast(FusedKernels, module.KERNELS)
    _log.info("fused kernels: %s", kernels.name)
    return kernels


def triton_problem(device: torch.device) -> str | None:
    """Say in a few words why Triton's kernels cannot run on a device; None where they can."""
    if device.type != "cuda":
        return "they need a CUDA device"
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        return f"they need compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]}"
    if importlib.util.find_spec("triton") is None:
        return "no package triton"
    return None
