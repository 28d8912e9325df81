"""The fast forms of a transformer and a VAE, put in place in the order that works; each can be left out."""

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
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionWork, apply_attention
from livetalk.ops.matmul import float8_problem
from livetalk.placement.float8 import PREPARED_KEEP, apply_float8
from livetalk.streaming.color import MatchColor, match_color

AUTO: Final = "auto"

SPEECH_SHARE = 4
"""One part in so many of the memory that is free on a GPU may hold what speech was multiplied into."""

LEAST_OUTPUTS = 128
"""Channels that one tile of a GPU's convolution makes; cuDNN is slower at 96 than at 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelerationConfig:
    """The fast forms that a model computes with; the default is none.

    Attributes:
        fast: put the fast forms in place that change numbers by rounding only: one product for queries, keys
            and values, fused kernels for the elementwise work of the blocks and the VAE, and speech that is
            absorbed into a chunk's projections where memory allows it.
        float8: run the matrix products of the blocks in FP8, see `livetalk.placement.float8`; brings the
            forms of `fast` with it.
        attention: kernel of the self-attention, a key of `ATTENTION_KERNELS`; "auto" leaves it to PyTorch.
            It brings no other fast form with it.
        kernels: of the elementwise work of `fast`; "auto" is Triton where it can run and the plain blocks
            elsewhere.
        graphs: where several GPUs share the work, replay the blocks of `fast` from CUDA graphs.
    """

    fast: bool = False
    float8: bool = False
    attention: str = AUTO
    kernels: KernelChoice = AUTO
    graphs: bool = True

    def __post_init__(self) -> None:
        """Refuse unknown names, and kernels of forms that are not asked for.

        Raises:
            InputError: see above.
        """
        if self.attention not in (AUTO, *ATTENTION_KERNELS):
            raise InputError(
                f"attention {self.attention!r}: choose auto or one of {', '.join(ATTENTION_KERNELS)}"
            )
        if self.kernels not in KERNEL_CHOICES:
            raise InputError(f"kernels {self.kernels!r}: choose one of {', '.join(KERNEL_CHOICES)}")
        if self.kernels != AUTO and not self.fused:
            raise InputError(
                f"kernels {self.kernels}: are part of the fast forms; ask for fast or float8, too"
            )

    @property
    def fused(self) -> bool:
        """The forms of `fast` are put in place."""
        return self.fast or self.float8

    @property
    def plain(self) -> bool:
        """Nothing is put in place."""
        return not self.fused and self.attention == AUTO


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceleration:
    """What was put in place.

    Attributes:
        attention: kernel that self-attention runs on, by its name.
        float8_layers: linear layers that were made to multiply in FP8.
        kernels: "plain", "torch" or "triton".
        graphs: blocks can be replayed from CUDA graphs, and shall be where several GPUs share the work.
        reference: the FP8 products are computed by their plain twin.
        match_color: gives frames the colours of the reference, on the kernels of the others.
    """

    attention: str
    float8_layers: int
    kernels: str
    graphs: bool = False
    reference: bool = False
    match_color: MatchColor = field(default=match_color, compare=False, repr=False)

    def __str__(self) -> str:
        """Say it in a few words."""
        products = f", {self.float8_layers} layers in FP8" if self.float8_layers else ""
        return (
            f"attention {self.attention}, {self.kernels} kernels{products}"
            f"{' by the reference' if self.reference else ''}"
        )


def acceleration_problem(
    config: AccelerationConfig, work: AttentionWork, *, allow_reference: bool = False
) -> str | None:
    """Say in one line what of a configuration cannot run on a device; None where all of it can.

    Nothing is imported or computed.

    Args:
        config: what would be put in place.
        work: of the self-attention on the device that computes.
        allow_reference: as for `accelerate`.
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
    """Put the fast forms in place.

    Comes after loading, before the networks are spread over ranks or compiled, and before anything is
    prepared for a session.

    Args:
        dit: on `device`, in its final precision, the weights of its blocks whole or stored in bytes; changed
            in place, for inference. Blocks may be offloaded where neither `fast` nor `float8` is asked for.
        vae: likewise.
        device: that computes.
        config: what to put in place.
        allow_reference: where the fused kernels or the FP8 products cannot run, let their plain twins
            compute, so that the same numbers are rounded: for comparing numerics.

    Raises:
        InputError: something that was asked for cannot run on this device, or there are fused kernels and the
            VAE's decoder warps a reference; the networks are unchanged.
    """
    work = AttentionWork(device, dit.dtype, dit.config.head_dim, dit.config.num_heads)
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
    float8_layers = 0
    if config.float8:
        float8_layers = apply_float8(dit, PREPARED_KEEP, allow_reference=allow_reference)
        # Layers whose weights were stored in bytes could not be joined before.
        join_float8_qkv(dit)
    if config.attention != AUTO:
        apply_attention(dit, kernels.attention, ("self_attention",))
    if kernels.fused is not None:
        fuse_blocks(dit, kernels.fused)
        fuse_vae(vae, kernels.fused, least_outputs=LEAST_OUTPUTS if device.type == "cuda" else 0)
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
    """Return which kernels the fused forms run on; None where the layers stay plain."""
    if not config.fused:
        return None
    if config.kernels == AUTO and triton_problem(device) is not None:
        return "torch" if allow_reference else None
    return config.kernels


def keep_more_speech(plan: ExecutionPlan, device: torch.device, num_layers: int) -> ExecutionPlan:
    """Let speech be multiplied into a chunk's projections once, not in each step, where there is room for it.

    For the published model that is 9.4 GB, alive while a chunk is denoised and gone when it is decoded.

    Args:
        plan: as it is.
        device: that holds the model already; one that is no GPU leaves `plan` as it is.
        num_layers: blocks of the transformer.
    """
    if device.type != "cuda":
        return plan
    room = torch.cuda.mem_get_info(device)[0] // SPEECH_SHARE // num_layers
    return replace(plan, max_absorbed_bytes=max(plan.max_absorbed_bytes, room))
