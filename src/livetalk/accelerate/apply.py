"""The fast forms of a transformer and a VAE, put in place in the order that works; each can be left out."""

from dataclasses import dataclass, replace
from typing import Final

import torch

from livetalk.accelerate.fused_blocks import fuse_blocks, join_float8_qkv
from livetalk.accelerate.fused_qkv import fuse_qkv
from livetalk.accelerate.fused_vae import fuse_vae
from livetalk.errors import InputError
from livetalk.models.dit import DiT
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.vae import CausalVideoVAE
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionWork, apply_attention, select_attention
from livetalk.ops.kernels.selection import KERNEL_CHOICES, KernelChoice, select_kernels, triton_problem
from livetalk.ops.matmul import float8_problem
from livetalk.placement.float8 import PREPARED_KEEP, apply_float8

AUTO: Final = "auto"
PLAIN: Final = "plain"
TRITON: Final = "triton"

SPEECH_SHARE = 4
"""One part in so many of the memory that is free on a GPU may hold what speech was multiplied into."""

LEAST_OUTPUTS = 128
"""Channels that one tile of a GPU's convolution makes; cuDNN is slower at 96 than at 128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelerationConfig:
    """How a model computes. The defaults are exact: they change numbers by rounding only.

    Attributes:
        joined_qkv: queries, keys and values come from one product.
        float8: the blocks' matrix products run in FP8; see `livetalk.placement.float8`.
        attention: kernel of the self-attention, a key of `ATTENTION_KERNELS`; "auto" leaves it to PyTorch.
        kernels: of the elementwise work; "auto" is Triton where it can run and the plain blocks elsewhere.
        graphs: where several GPUs share the work, replay the blocks from CUDA graphs.
    """

    joined_qkv: bool = True
    float8: bool = False
    attention: str = AUTO
    kernels: KernelChoice = AUTO
    graphs: bool = True

    def __post_init__(self) -> None:
        """Refuse names that nothing has."""
        if self.attention not in (AUTO, *ATTENTION_KERNELS):
            raise InputError(
                f"attention {self.attention!r}: choose auto or one of {', '.join(ATTENTION_KERNELS)}"
            )
        if self.kernels not in KERNEL_CHOICES:
            raise InputError(f"kernels {self.kernels!r}: choose one of {', '.join(KERNEL_CHOICES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceleration:
    """What was put in place, to be shown to people.

    Attributes:
        attention: kernel that self-attention runs on, by its name.
        float8_layers: linear layers that were made to multiply in FP8.
        kernels: "plain", "torch" or "triton".
        graphs: blocks can be replayed from CUDA graphs, and shall be where several GPUs share the work.
    """

    attention: str
    float8_layers: int
    kernels: str
    graphs: bool = False

    def __str__(self) -> str:
        """Say it in a few words."""
        products = f", {self.float8_layers} layers in FP8" if self.float8_layers else ""
        return f"attention {self.attention}, {self.kernels} kernels{products}"


def accelerate(
    dit: DiT, vae: CausalVideoVAE, device: torch.device, config: AccelerationConfig
) -> Acceleration:
    """Put the fast forms in place.

    Comes after loading, with all blocks on the device, before the networks are spread over ranks or compiled,
    and before anything is prepared for a session.

    Args:
        dit: on `device`, in its final precision, the weights of its blocks whole or stored in bytes; changed
            in place, for inference.
        vae: likewise.
        device: that computes.
        config: what to put in place.

    Raises:
        InputError: something that was asked for cannot run on this device.
    """
    work = AttentionWork(device, dit.dtype, dit.config.head_dim, dit.config.num_heads)
    attention = select_attention(config.attention, work)
    wanted = config.kernels != AUTO or triton_problem(device) is None
    kernels = select_kernels(config.kernels, device) if wanted else None
    # Whatever may refuse comes before the first change: a refusal leaves the networks as they were.
    problem = float8_problem(device) if config.float8 else None
    if problem is not None:
        raise InputError(problem)
    if config.joined_qkv:
        fuse_qkv(dit)
    float8_layers = apply_float8(dit, PREPARED_KEEP) if config.float8 else 0
    if config.joined_qkv:
        # Of a transformer whose weights were stored in bytes while it was loaded.
        join_float8_qkv(dit)
    if config.attention != AUTO:
        apply_attention(dit, attention, ("self_attention",))
    if kernels is not None:
        fuse_blocks(dit, kernels)
        fuse_vae(vae, kernels, least_outputs=LEAST_OUTPUTS if device.type == "cuda" else 0)
    return Acceleration(
        attention=attention.name,
        float8_layers=float8_layers,
        kernels=PLAIN if kernels is None else kernels.name,
        graphs=config.graphs and device.type == "cuda" and kernels is not None and kernels.name == TRITON,
    )


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
