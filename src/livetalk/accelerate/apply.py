"""Apply the fast forms of a transformer and a VAE in an order in which they combine."""

from dataclasses import dataclass, field, replace
from typing import Final

import torch

from livetalk.accelerate.fused_blocks import fuse_blocks, join_float8_qkv
from livetalk.accelerate.fused_qkv import fuse_qkv
from livetalk.accelerate.fused_vae import fuse_vae
from livetalk.accelerate.selection import (
    KERNEL_CHOICES,
    TRITON,
    KernelChoice,
    select_kernels,
    triton_problem,
)
from livetalk.errors import InputError
from livetalk.models.dit import DiT
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.vae import CausalVideoVAE
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionSpec, apply_attention
from livetalk.ops.matmul import float8_problem
from livetalk.placement.float8 import PREPARED_KEEP, apply_float8
from livetalk.streaming.color import MatchColor, match_color

AUTO: Final = "auto"

ABSORB_MEMORY_DIVISOR = 4
"""Absorbed speech may take 1 / this of a GPU's free memory; the rest is for activations."""

MIN_CONV_CHANNELS = 128
"""Output channels of one tile of cuDNN's convolutions, which are slower at 96 channels than at 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelerationConfig:
    """The fast forms that a model uses; the default is none.

    Attributes:
        fast: forms that change results by rounding only: one product for queries, keys and values, fused
            elementwise kernels in the blocks and the VAE, and absorbed speech within the memory budget.
        attention: kernel of the self-attention, a key of `ATTENTION_KERNELS`; "auto" is PyTorch's choice.
        kernels: fused elementwise kernels; "auto" is Triton if it can run, else the plain layers.
    """

    fast: bool = False
    float8: bool = False  # compute the matrix products of the blocks in FP8; implies `fast`
    attention: str = AUTO
    kernels: KernelChoice = AUTO
    graphs: bool = True  # with several GPUs, replay the blocks of `fast` from CUDA graphs

    def __post_init__(self) -> None:
        if self.attention not in (AUTO, *ATTENTION_KERNELS):
            raise InputError(
                f"attention {self.attention!r}: choose auto or one of {', '.join(ATTENTION_KERNELS)}"
            )
        if self.kernels not in KERNEL_CHOICES:
            raise InputError(f"kernels {self.kernels!r}: choose one of {', '.join(KERNEL_CHOICES)}")
        if self.kernels != AUTO and not self.fused:
            raise InputError(f"kernels {self.kernels}: belong to the fast forms; set fast or float8 as well")

    @property
    def fused(self) -> bool:
        """Whether the forms of `fast` are applied."""
        return self.fast or self.float8

    @property
    def plain(self) -> bool:
        """Whether no fast form is applied."""
        return not self.fused and self.attention == AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceleration:
    """The fast forms that were applied, and the function that matches colours on the same kernels."""

    attention: str
    float8_layers: int  # number of linear layers that multiply in FP8
    kernels: str  # "plain", "torch" or "triton"
    graphs: bool = False  # whether blocks are to be replayed from CUDA graphs if several GPUs share the work
    reference: bool = False  # whether FP8 products run on their plain twin
    match_color: MatchColor = field(default=match_color, compare=False, repr=False)

    def __str__(self) -> str:
        """Summarise the forms in one line."""
        products = f", {self.float8_layers} layers in FP8" if self.float8_layers else ""
        return (
            f"attention {self.attention}, {self.kernels} kernels{products}"
            f"{' by the reference' if self.reference else ''}"
        )


def acceleration_problem(
    config: AccelerationConfig, work: AttentionSpec, *, allow_reference: bool = False
) -> str | None:
    """Return in one line why a configuration cannot run, or None; loads no package and computes nothing.

    `work` describes the self-attention and its device; `allow_reference` is as for `accelerate`.
    """
    if config.attention != AUTO:
        problem = ATTENTION_KERNELS[config.attention].problem(work)
        if problem is not None:
            return f"attention {config.attention} cannot run here: {problem}"
    if config.kernels == TRITON and (problem := triton_problem(work.device)) is not None:
        return f"Triton's kernels cannot run on {work.device}: {problem}"
    if not config.float8 or (allow_reference and work.device.type != "cuda"):
        return None
    problem = float8_problem(work.device)
    if problem is None and work.dtype is not torch.bfloat16:
        problem = "FP8 products of a GPU are bfloat16"
    return None if problem is None else f"float8 cannot run here: {problem}"


def accelerate(
    dit: DiT,
    vae: CausalVideoVAE,
    device: torch.device,
    config: AccelerationConfig,
    *,
    allow_reference: bool = False,
) -> Acceleration:
    """Apply the fast forms to loaded networks.

    Call this before the networks are parallelized or compiled, and before constants are prepared.

    Args:
        dit: on `device`, in its final precision, with block weights in full precision or FP8; modified in
            place, for inference. Blocks may be offloaded only if neither `fast` nor `float8` is set.
        vae: on `device`, in its final precision; modified in place.
        device: the device that computes.
        config: the forms to apply.
        allow_reference: compute on plain twins with the same rounding where fused kernels or FP8 products
            cannot run; for comparing numerics.

    Raises:
        InputError: a form cannot run on this device, or for a decoder that warps a reference; the networks
            are unchanged.
    """
    work = AttentionSpec(device, dit.dtype, dit.config.head_dim, dit.config.num_heads)
    problem = acceleration_problem(config, work, allow_reference=allow_reference)
    if problem is not None:
        raise InputError(problem)
    choice = _choose_fused(config, device, allow_reference=allow_reference)
    kernels = select_kernels(work, config.attention, choice)
    if kernels.fused is not None and vae.config.reference is not None:
        raise InputError(
            f"kernels {kernels.name}: a VAE whose decoder warps a reference has no fused form; choose plain"
        )
    if config.fused:
        fuse_qkv(dit)
    # Order: joined projections are quantised as one layer, and fused blocks need the final layers.
    float8_layers = 0
    if config.float8:
        float8_layers = apply_float8(dit, PREPARED_KEEP, allow_reference=allow_reference)
        # fuse_qkv joins plain linear layers only; layers stored in FP8 are joined here.
        join_float8_qkv(dit)
    if config.attention != AUTO:
        apply_attention(dit, kernels.attention, ("self_attention",))
    if kernels.fused is not None:
        fuse_blocks(dit, kernels.fused)
        fuse_vae(vae, kernels.fused, min_channels=MIN_CONV_CHANNELS if device.type == "cuda" else 0)
    return Acceleration(
        attention=kernels.attention.name,
        float8_layers=float8_layers,
        kernels=kernels.name,
        graphs=config.graphs and device.type == "cuda" and kernels.name == TRITON,
        reference=float8_layers > 0 and device.type != "cuda",
        match_color=kernels.match_color,
    )


def _choose_fused(
    config: AccelerationConfig, device: torch.device, *, allow_reference: bool
) -> KernelChoice | None:
    """Return the kernels of the fused forms; None keeps the plain layers."""
    if not config.fused:
        return None
    if config.kernels == AUTO and triton_problem(device) is not None:
        return "torch" if allow_reference else None
    return config.kernels


def raise_absorb_budget(plan: ExecutionPlan, device: torch.device, num_layers: int) -> ExecutionPlan:
    """Raise the memory budget of absorbed speech to a share of the GPU memory left by the model.

    The products are then computed once per chunk instead of once per step. The published model needs 9.4 GB
    for them, from the first step of a chunk until its last. Without a GPU the plan is unchanged.
    """
    if device.type != "cuda":
        return plan
    available = torch.cuda.mem_get_info(device)[0] // ABSORB_MEMORY_DIVISOR // num_layers
    return replace(plan, max_absorbed_bytes=max(plan.max_absorbed_bytes, available))
