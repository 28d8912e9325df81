"""Attention that also returns its log-sum-exp, so that parts of the keys can be attended to apart and merged.

Shapes: B batch · L queries · S keys · N heads · E head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

FLASH_WIDTH_STEP = 8
"""PyTorch's CUDA flash kernel takes heads of a multiple of this width."""

PROBE_LENGTH = 256
"""Tokens of the tensors that PyTorch is asked about; the choice does not depend on more of them."""


def probe_heads(
    device: torch.device, dtype: torch.dtype, num_heads: int, head_dim: int, learns: bool = False
) -> Tensor:
    """Return heads to ask PyTorch about, `[1, num_heads, PROBE_LENGTH, head_dim]`, nothing written in them.

    Args:
        device: of the heads.
        dtype: likewise.
        num_heads: likewise.
        head_dim: likewise.
        learns: they require gradients.
    """
    shape = (1, num_heads, PROBE_LENGTH, head_dim)
    return torch.empty(shape, dtype=dtype, device=device, requires_grad=learns)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def choose_kernel(
    device: torch.device, dtype: torch.dtype, num_heads: int, head_dim: int, learns: bool = False
) -> SDPBackend:
    """Return PyTorch's first choice of kernel for heads like those of `probe_heads`, with the same arguments.

    The compiler, which cannot follow the question, asks once and writes the answer into its code.
    """
    probe = probe_heads(device, dtype, num_heads, head_dim, learns)
    return SDPBackend(torch._fused_sdp_choice(probe, probe, probe))


def attention_with_lse(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
    """Attend from every query to every key on PyTorch's first choice of kernel.

    The log-sum-exp of a query and a head is log(sum over the keys of exp(q . k / sqrt(E))), in natural
    logarithms. Gradients flow through the output only.

    Args:
        q_BLNE: queries, `[B, L, N, E]`; rounded to the dtype of `v_BSNE` first, as by `attention`.
        k_BSNE: keys, `[B, S, N, E]`; rounded likewise. S may be 0.
        v_BSNE: values, `[B, S, N, E]`.

    Returns:
        The output, `[B, L, N, E]` in the dtype of `v_BSNE`, and the log-sum-exp, `[B, L, N]` float32 (float64
        for float64 values). Without keys: zeros and -inf, which `merge_attention` gives no weight.
    """
    q, k, v = (x.type_as(v_BSNE).transpose(1, 2) for x in (q_BLNE, k_BSNE, v_BSNE))
    kernel = _kernel_for(q, k, v)
    if kernel == SDPBackend.MATH:
        return reference_attention_with_lse(q_BLNE, k_BSNE, v_BSNE)
    out, lse = pytorch_kernel_with_lse(kernel, q, k, v)
    return out.transpose(1, 2), lse.transpose(1, 2)


def _kernel_for(q: Tensor, k: Tensor, v: Tensor) -> SDPBackend:
    """Return the kernel for queries `[B, N, L, E]`, keys and values; MATH for the definition."""
    on_gpu = q.device.type == "cuda"
    if not q.shape[2] or not k.shape[2] or not (on_gpu or q.device.type == "cpu"):
        return SDPBackend.MATH
    # cuDNN takes no single key, which a probe of many keys does not show.
    if on_gpu and (q.shape[3] % FLASH_WIDTH_STEP or k.shape[2] == 1):
        return SDPBackend.MATH
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    chosen: SDPBackend = choose_kernel(q.device, q.dtype, q.shape[1], q.shape[3], learns)
    return chosen


def pytorch_kernel_with_lse(kernel: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Run one of PyTorch's fused kernels.

    Args:
        kernel: CUDNN_ATTENTION, FLASH_ATTENTION or EFFICIENT_ATTENTION; on a CPU, FLASH_ATTENTION.
        q: `[B, N, L, E]`, of a device, precision and width that the kernel takes.
        k: `[B, N, S, E]`.
        v: `[B, N, S, E]`.

    Returns:
        The output, `[B, N, L, E]`, and the log-sum-exp, `[B, N, L]` float32 (float64 for float64 values).
    """
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif kernel == SDPBackend.CUDNN_ATTENTION:
        out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
    elif kernel == SDPBackend.FLASH_ATTENTION:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    else:
        out, lse = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, None, True)[:2]
    # cuDNN adds an axis of one at the end; the efficient kernel pads the queries.
    return out, lse.flatten(2)[..., : q.shape[2]]


def reference_attention_with_lse(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what `attention_with_lse` does by its definition, in float32 (float64 for float64 values)."""
    wide = torch.promote_types(v_BSNE.dtype, torch.float32)
    q, k, v = (x.type_as(v_BSNE).to(wide) for x in (q_BLNE, k_BSNE, v_BSNE))
    logits = torch.einsum("blne,bsne->blns", q, k) * q.shape[-1] ** -0.5
    lse = logits.logsumexp(-1)
    # A row without keys has no distribution: the product below is then an empty sum, which is zero.
    weights = (logits - lse[..., None]).exp()
    return torch.einsum("blns,bsne->blne", weights, v).type_as(v_BSNE), lse


def merge_attention(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join attention to parts of the keys into attention to all of them.

    Args:
        parts: at least one (output `[B, L, N, E]`, log-sum-exp `[B, L, N]`), disjoint in their keys.

    Returns:
        Output and log-sum-exp over all keys, of the same shapes and dtypes; summed in the log-sum-exp's dtype
        and rounded once. A query that no part has a key for gives NaN.
    """
    lse = torch.stack([part[1] for part in parts])
    total = lse.logsumexp(0)
    weights = (lse - total).exp()
    out = parts[0][0].to(lse.dtype) * weights[0][..., None]
    for (value, _), weight in zip(parts[1:], weights[1:], strict=True):
        out = torch.addcmul(out, value.to(lse.dtype), weight[..., None])
    return out.type_as(parts[0][0]), total
