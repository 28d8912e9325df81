"""Attention that also returns its log-sum-exp, so that results for disjoint sets of keys can be merged.

Shapes: B batch · L queries · S keys · N heads · E head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

FLASH_WIDTH_STEP = 8
"""PyTorch's CUDA flash kernel requires head widths that are multiples of this."""

PROBE_LENGTH = 256
"""Tokens in a probe; more tokens do not change PyTorch's choice."""


def probe_heads(
    device: torch.device, dtype: torch.dtype, num_heads: int, head_dim: int, requires_grad: bool = False
) -> Tensor:
    """Return an uninitialised tensor `[1, num_heads, PROBE_LENGTH, head_dim]`, to query PyTorch's choice."""
    shape = (1, num_heads, PROBE_LENGTH, head_dim)
    return torch.empty(shape, dtype=dtype, device=device, requires_grad=requires_grad)


# The compiler cannot trace the query; it runs it once and stores the result as a constant.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def choose_kernel(
    device: torch.device, dtype: torch.dtype, num_heads: int, head_dim: int, requires_grad: bool = False
) -> SDPBackend:
    """Return PyTorch's first choice of kernel for inputs like `probe_heads(...)`."""
    probe = probe_heads(device, dtype, num_heads, head_dim, requires_grad)
    return SDPBackend(torch._fused_sdp_choice(probe, probe, probe))


def attention_with_lse(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from every query to every key on PyTorch's first choice of kernel.

    The log-sum-exp of a query and head is `log(sum over keys of exp(q . k / sqrt(E)))`. Gradients flow
    through the output only. Queries and keys are first rounded to the dtype of the values; S may be 0.

    Returns:
        The output, `[B, L, N, E]` in the dtype of `v_BSNE`, and the log-sum-exp, `[B, L, N]` float32 (float64
        for float64 values). Without keys they are 0 and -inf, which `merge_attention` gives zero weight.
    """
    q, k, v = (x.type_as(v_BSNE).transpose(1, 2) for x in (q_BLNE, k_BSNE, v_BSNE))
    kernel = _kernel_for(q, k, v)
    if kernel == SDPBackend.MATH:
        return reference_attention_with_lse(q_BLNE, k_BSNE, v_BSNE)
    out, lse = pytorch_kernel_with_lse(kernel, q, k, v)
    return out.transpose(1, 2), lse.transpose(1, 2)


def _kernel_for(q: Tensor, k: Tensor, v: Tensor) -> SDPBackend:
    """Return the kernel for queries `[B, N, L, E]`, keys and values; MATH for the reference."""
    on_gpu = q.device.type == "cuda"
    if not q.shape[2] or not k.shape[2] or not (on_gpu or q.device.type == "cpu"):
        return SDPBackend.MATH
    # cuDNN rejects a single key, which the probe with many keys does not reveal.
    if on_gpu and (q.shape[3] % FLASH_WIDTH_STEP or k.shape[2] == 1):
        return SDPBackend.MATH
    requires_grad = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    chosen: SDPBackend = choose_kernel(q.device, q.dtype, q.shape[1], q.shape[3], requires_grad)
    return chosen


def pytorch_kernel_with_lse(kernel: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Run one of PyTorch's fused kernels on `[B, N, L, E]` tensors that it supports.

    On a CPU `kernel` is FLASH_ATTENTION. Returns the output and the log-sum-exp, `[B, N, L]` float32 (float64
    for float64 values).
    """
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif kernel == SDPBackend.CUDNN_ATTENTION:
        out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
    elif kernel == SDPBackend.FLASH_ATTENTION:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    else:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
    # cuDNN appends a dimension of size 1; the efficient kernel pads the queries.
    return out, lse.flatten(2)[..., : q.shape[2]]


def reference_attention_with_lse(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `attention_with_lse` by its definition, in float32 (float64 for float64 values)."""
    wide = torch.promote_types(v_BSNE.dtype, torch.float32)
    q, k, v = (x.type_as(v_BSNE).to(wide) for x in (q_BLNE, k_BSNE, v_BSNE))
    logits = torch.einsum("blne,bsne->blns", q, k) * q.shape[-1] ** -0.5
    lse = logits.logsumexp(-1)
    # Without keys lse is -inf, but the product below is an empty sum, which is zero.
    weights = (logits - lse[..., None]).exp()
    return torch.einsum("blns,bsne->blne", weights, v).type_as(v_BSNE), lse


def merge_attention(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Merge attention over disjoint sets of keys into attention over all of them.

    `parts` are pairs of output `[B, L, N, E]` and log-sum-exp `[B, L, N]`. The result has the same shapes and
    dtypes; it is summed in the dtype of the log-sum-exp and rounded once. A query without keys gives NaN.
    """
    lse = torch.stack([part[1] for part in parts])
    total = lse.logsumexp(0)
    # At most 1, so that no part overflows.
    weights = (lse - total).exp()
    out = parts[0][0].to(lse.dtype) * weights[0][..., None]
    for (value, _), weight in zip(parts[1:], weights[1:], strict=True):
        out = torch.addcmul(out, value.to(lse.dtype), weight[..., None])
    return out.type_as(parts[0][0]), total
