"""FlashAttention 3 from the package `fa3-fwd`, for Hopper GPUs, in bfloat16 and FP8.

To the compiler the kernels are an opaque operator. They are loaded at the first call.
"""

import importlib
import importlib.util

import torch
from torch import Tensor

from livetalk.errors import InputError
from livetalk.ops.low_precision import FLOAT8

PACKAGE = "fa3_fwd"
CAPABILITY = (9, 0)
"""The kernels use instructions that only Hopper has."""

HEAD_STEP = 8
MAX_HEAD_DIM = 256


def fa3_problem(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """Return in a few words why FlashAttention 3 cannot run, or None; imports nothing."""
    if device.type != "cuda":
        return "needs a CUDA device"
    if torch.cuda.get_device_capability(device) != CAPABILITY:
        return "needs a Hopper GPU (compute capability 9.0)"
    if importlib.util.find_spec(PACKAGE) is None:
        return f"no package {PACKAGE} (pip install fa3-fwd)"
    if dtype != torch.bfloat16:
        return f"computes in bfloat16, not {dtype}"
    if head_dim % HEAD_STEP or head_dim > MAX_HEAD_DIM:
        return f"head width {head_dim} is not a multiple of {HEAD_STEP} up to {MAX_HEAD_DIM}"
    return None


def load_fa3() -> None:
    """Load the kernels; `InputError` if the package is missing or built for another PyTorch or CUDA."""
    try:
        importlib.import_module(f"{PACKAGE}._C")
    except (ImportError, OSError) as error:
        raise InputError(f"attention kernels of {PACKAGE} cannot be loaded: {error}") from error


@torch.library.custom_op("livetalk::fa3", mutates_args=(), device_types="cuda")
def fa3(
    q_BLNE: Tensor,
    k_BSNE: Tensor,
    v_BSNE: Tensor,
    q_scale: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend on FlashAttention 3; return the output in bfloat16 and the log-sum-exp `[B, N, L]` float32.

    Inputs are bfloat16 or e4m3 with contiguous last dimensions; the scales `[B, N]` float32 are for e4m3.
    """
    return _run(q_BLNE, k_BSNE, v_BSNE, (q_scale, k_scale, v_scale), None)


def _run(
    q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, scales: tuple[Tensor | None, ...], out: Tensor | None
) -> tuple[Tensor, Tensor]:
    load_fa3()
    found, lse, *_ = torch.ops.fa3_fwd.fwd(
        q_BLNE,
        k_BSNE,
        v_BSNE,
        out=out,
        q_descale=scales[0],
        k_descale=scales[1],
        v_descale=scales[2],
        softmax_scale=q_BLNE.shape[-1] ** -0.5,
        num_splits=1,
    )
    return found, lse


@fa3.register_fake
def _(
    q_BLNE: Tensor,
    k_BSNE: Tensor,
    v_BSNE: Tensor,
    q_scale: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    batch, queries, heads, width = q_BLNE.shape
    dtype = torch.bfloat16 if q_BLNE.dtype == FLOAT8 else q_BLNE.dtype
    out = q_BLNE.new_empty((batch, queries, heads, width), dtype=dtype)
    return out, q_BLNE.new_empty((batch, heads, queries), dtype=torch.float32)


@torch.library.custom_op("livetalk::fa3_into", mutates_args=("out_BLNE",), device_types="cuda")
def fa3_into(
    q_BLNE: Tensor,
    k_BSNE: Tensor,
    v_BSNE: Tensor,
    q_scale: Tensor | None,
    k_scale: Tensor | None,
    v_scale: Tensor | None,
    out_BLNE: Tensor,
) -> None:
    """Compute `fa3` and write the output to `out_BLNE`, bfloat16 with a contiguous last dimension."""
    _run(q_BLNE, k_BSNE, v_BSNE, (q_scale, k_scale, v_scale), out_BLNE)
