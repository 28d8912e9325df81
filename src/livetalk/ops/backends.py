"""Which attention kernels this machine has, and which of them attention runs on.

Attention goes through PyTorch's own function, which chooses among PyTorch's kernels by device, precision and
width. Kernels from other packages are found but not used by this version.
"""

import importlib.util
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams
from torch.nn.attention import SDPBackend

PROBE_LENGTH = 256
"""Tokens of the tensors that PyTorch is asked about; the choice does not depend on more of them."""

_PYTORCH_KERNELS = {
    "cudnn": (SDPBackend.CUDNN_ATTENTION, torch.backends.cuda.can_use_cudnn_attention),
    "flash": (SDPBackend.FLASH_ATTENTION, torch.backends.cuda.can_use_flash_attention),
    "efficient": (SDPBackend.EFFICIENT_ATTENTION, torch.backends.cuda.can_use_efficient_attention),
}
_OTHER_PACKAGES = {"fa3": ("fa3_fwd_interface", "flash_attn_interface"), "sage": ("sageattention",)}


@dataclass(frozen=True, slots=True)
class AttentionBackend:
    """One kernel.

    Attributes:
        name: "cudnn", "flash", "efficient" and "math" are PyTorch's; "fa3" and "sage" other packages'.
        available: this device can run it.
        chosen: attention runs on it.
        reason: in a few words, why it is chosen or not.
    """

    name: str
    available: bool
    chosen: bool
    reason: str


def find_attention_backends(
    device: torch.device, dtype: torch.dtype, head_dim: int, num_heads: int
) -> tuple[AttentionBackend, ...]:
    """Ask what attention runs on here; nothing is computed.

    Args:
        device: CPU or CUDA.
        dtype: of queries, keys and values.
        head_dim: width of a head.
        num_heads: heads.
    """
    query = torch.empty(1, num_heads, PROBE_LENGTH, head_dim, dtype=dtype, device=device)
    chosen = _chosen_kernel(query)
    found = [_pytorch_backend(name, query, chosen) for name in _PYTORCH_KERNELS]
    math_chosen = chosen == SDPBackend.MATH
    reason = "no other takes this device and precision" if math_chosen else "the plain form, always there"
    found.append(AttentionBackend("math", True, math_chosen, reason))
    return (*found, *(_package_backend(name) for name in _OTHER_PACKAGES))


def _chosen_kernel(query: Tensor) -> SDPBackend:
    return SDPBackend(torch._fused_sdp_choice(query, query, query))


def _pytorch_backend(name: str, query: Tensor, chosen: SDPBackend) -> AttentionBackend:
    kernel, can_use = _PYTORCH_KERNELS[name]
    if kernel == chosen:
        return AttentionBackend(name, True, True, "PyTorch's first choice for this device and precision")
    if query.device.type != "cuda":
        return AttentionBackend(name, False, False, "needs a CUDA device")
    if can_use(SDPAParams(query, query, query, None, 0.0, False, False)):
        return AttentionBackend(name, True, False, "PyTorch prefers another")
    return AttentionBackend(name, False, False, "does not take this device and precision")


def _package_backend(name: str) -> AttentionBackend:
    modules = [module for module in _OTHER_PACKAGES[name] if importlib.util.find_spec(module) is not None]
    if not modules:
        return AttentionBackend(name, False, False, f"no package {_OTHER_PACKAGES[name][0]}")
    return AttentionBackend(name, True, False, f"{modules[0]} is installed; this version does not use it")
