"""The kernels that attention can run on: what they are called, where they run, what PyTorch would choose."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams
from torch.nn.attention import SDPBackend

from livetalk.log import get_logger
from livetalk.ops.attention import AttentionCore
from livetalk.ops.attention_float8 import Quantize, float8_attention, float8_attention_reference
from livetalk.ops.attention_lse import (
    FLASH_WIDTH_STEP,
    choose_kernel,
    probe_heads,
    pytorch_kernel_with_lse,
    reference_attention_with_lse,
)
from livetalk.ops.fa3 import fa3, fa3_problem, load_fa3

_log = get_logger(__name__)

Attend = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(queries `[B, L, N, E]`, keys, values `[B, S, N, E]`) -> (output, log-sum-exp `[B, L, N]`)."""


class AttentionWork(NamedTuple):
    """What attention is asked to do.

    Attributes:
        device: CPU or CUDA.
        dtype: of queries, keys and values.
        head_dim: width of a head.
        num_heads: heads on this device.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    num_heads: int


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """One way of computing attention.

    Attributes:
        name: what it is asked for by.
        attend: computes output and log-sum-exp.
        problem: says in a few words why it cannot do some work; None if it can.
        float8: it rounds its input to e4m3. `attend` then takes `quantize` and `restore` as does
            `float8_attention`, and `attend_quantized` does its work on input that is rounded already. The
            others round to the precision of their input and no further.
        load: makes it ready before the first call; None where there is nothing to do.
    """

    name: str
    attend: Attend
    problem: Callable[[AttentionWork], str | None]
    float8: bool = False
    load: Callable[[], object] | None = None


class KernelCore(AttentionCore):
    """Attention on one named kernel, in the place of the core that lets PyTorch choose."""

    def __init__(self, kernel: AttentionKernel) -> None:
        """Attend on `kernel`."""
        super().__init__()
        self.kernel = kernel

    def forward(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `[B, L, N, E]` in the dtype of `v_BSNE`.

        Raises:
            ValueError: there is a mask, which a named kernel does not take.
        """
        if mask is not None:
            raise ValueError(f"attention kernel {self.kernel.name} takes no mask")
        spared = {"restore": False} if self.kernel.float8 else {}
        return self._attend(partial(self.kernel.attend, **spared), q_BLNE, k_BSNE, v_BSNE)[0]

    def quantizing(self, quantize: Quantize) -> "KernelCore":
        """Return this core of a kernel that `takes_bytes`, with its input rounded by `quantize`."""
        attend = cast(Callable[..., tuple[Tensor, Tensor]], self.kernel.attend)
        return KernelCore(replace(self.kernel, attend=partial(attend, quantize=quantize)))

    def with_lse(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp as `attention_with_lse` does."""
        return self._attend(self.kernel.attend, q_BLNE, k_BSNE, v_BSNE)

    def _attend(
        self, attend: Attend, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor
    ) -> tuple[Tensor, Tensor]:
        q, k = q_BLNE.type_as(v_BSNE), k_BSNE.type_as(v_BSNE)
        if not q.shape[1] or not k.shape[1]:
            return reference_attention_with_lse(q, k, v_BSNE)
        return attend(q, k, v_BSNE)

    def extra_repr(self) -> str:
        """Name the kernel."""
        return self.kernel.name


def takes_bytes(core: nn.Module) -> bool:
    """Tell whether attention runs on a kernel whose input the kernel before it can write in one byte."""
    return isinstance(core, KernelCore) and core.kernel.float8


def apply_attention(module: nn.Module, kernel: AttentionKernel, parts: Collection[str]) -> int:
    """Let attention inside a network run on one kernel.

    Cores that another scheme has put in place are left alone: it wraps the core that it found there.

    Args:
        module: changed in place.
        kernel: ready to be called.
        parts: names of the modules whose `core` is replaced, such as "self_attention".

    Returns:
        The cores replaced.
    """
    owners = [owner for name, owner in module.named_modules() if name.rpartition(".")[2] in parts]
    replaced = 0
    for owner in owners:
        if type(getattr(owner, "core", None)) in (AttentionCore, KernelCore):
            owner.core = KernelCore(kernel)
            replaced += 1
    return replaced


@dataclass(frozen=True, slots=True)
class AttentionBackend:
    """One kernel as this machine sees it.

    Attributes:
        name: "cudnn", "flash", "efficient" and "math" are PyTorch's; "fa3" and "fa3-fp8" another package's.
        available: this device can run it.
        chosen: attention runs on it unless another is asked for.
        reason: in a few words, why it is chosen or not.
    """

    name: str
    available: bool
    chosen: bool
    reason: str


def find_attention_backends(
    device: torch.device, dtype: torch.dtype, head_dim: int, num_heads: int
) -> tuple[AttentionBackend, ...]:
    """Ask what attention can run on here, and what it runs on by itself; nothing is computed or imported.

    Args:
        device: CPU or CUDA.
        dtype: of queries, keys and values.
        head_dim: width of a head.
        num_heads: heads.
    """
    work = AttentionWork(device, dtype, head_dim, num_heads)
    chosen = pytorch_choice(work)
    return tuple(_describe(kernel, work, chosen) for kernel in ATTENTION_KERNELS.values())


def _describe(kernel: AttentionKernel, work: AttentionWork, chosen: str) -> AttentionBackend:
    if kernel.name == chosen:
        return AttentionBackend(
            kernel.name, True, True, "PyTorch's first choice for this device and precision"
        )
    problem = kernel.problem(work)
    if problem is not None:
        return AttentionBackend(kernel.name, False, False, problem)
    by_pytorch = kernel.name in _PYTORCH_NAMES.values()
    reason = "PyTorch prefers another" if by_pytorch else "used when it is asked for"
    return AttentionBackend(kernel.name, True, False, reason)


def pytorch_choice(work: AttentionWork) -> str:
    """Return the name of PyTorch's first choice for some work."""
    return _PYTORCH_NAMES[_chosen_kernel(work)]


def _chosen_kernel(work: AttentionWork) -> SDPBackend:
    chosen: SDPBackend = choose_kernel(work.device, work.dtype, work.num_heads, work.head_dim)
    return chosen


def _on_pytorch(kernel: SDPBackend) -> Attend:
    def attend(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = pytorch_kernel_with_lse(kernel, *(x.transpose(1, 2) for x in (q_BLNE, k_BSNE, v_BSNE)))
        return out.transpose(1, 2), lse.transpose(1, 2)

    return attend


def _on_fa3(q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = cast(tuple[Tensor, Tensor], fa3(q_BLNE, k_BSNE, v_BSNE))
    return out, lse.transpose(1, 2)


def _pytorch_problem(
    kernel: SDPBackend, can_use: Callable[[SDPAParams], bool]
) -> Callable[[AttentionWork], str | None]:
    def problem(work: AttentionWork) -> str | None:
        if work.device.type != "cuda":
            if kernel == SDPBackend.FLASH_ATTENTION and _chosen_kernel(work) == kernel:
                return None
            return "needs a CUDA device"
        if kernel == SDPBackend.FLASH_ATTENTION and work.head_dim % FLASH_WIDTH_STEP:
            return f"head width {work.head_dim} is not a multiple of {FLASH_WIDTH_STEP}"
        query = probe_heads(work.device, work.dtype, work.num_heads, work.head_dim)
        if can_use(SDPAParams(query, query, query, None, 0.0, False, False)):
            return None
        return "does not take this device and precision"

    return problem


def _runs_everywhere(work: AttentionWork) -> str | None:
    return None


def _fa3_problem(work: AttentionWork) -> str | None:
    return fa3_problem(work.device, work.dtype, work.head_dim)


_PYTORCH_NAMES = {
    SDPBackend.CUDNN_ATTENTION: "cudnn",
    SDPBackend.FLASH_ATTENTION: "flash",
    SDPBackend.EFFICIENT_ATTENTION: "efficient",
    SDPBackend.MATH: "math",
}
_CAN_USE = {
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.can_use_cudnn_attention,
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.can_use_flash_attention,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.can_use_efficient_attention,
}
ATTENTION_KERNELS: Mapping[str, AttentionKernel] = {
    **{
        _PYTORCH_NAMES[kernel]: AttentionKernel(
            _PYTORCH_NAMES[kernel], _on_pytorch(kernel), _pytorch_problem(kernel, can_use)
        )
        for kernel, can_use in _CAN_USE.items()
    },
    "math": AttentionKernel("math", reference_attention_with_lse, _runs_everywhere),
    "fa3": AttentionKernel("fa3", _on_fa3, _fa3_problem, load=load_fa3),
    "fa3-fp8": AttentionKernel("fa3-fp8", float8_attention, _fa3_problem, float8=True, load=load_fa3),
    "fp8-reference": AttentionKernel(
        "fp8-reference", float8_attention_reference, _runs_everywhere, float8=True
    ),
}
"""All kernels, by name. "fp8-reference" is the plain twin of "fa3-fp8"."""
