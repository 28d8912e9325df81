"""Registry of attention kernels: names, requirements, and PyTorch's own choice."""

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


class AttentionSpec(NamedTuple):
    """What an attention kernel is chosen for; `num_heads` counts the heads on this device."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    num_heads: int


@dataclass(frozen=True, slots=True)
class AttentionKernel:
    """A named implementation of attention.

    Attributes:
        problem: returns in a few words why the kernel cannot run for a spec, or None.
        float8: whether inputs are quantised to e4m3. `attend` then accepts `quantize` and `restore` as
            `float8_attention` does, and `attend_quantized` runs it on quantised inputs.
        load: loads the kernel before the first call; None if there is nothing to load.
    """

    name: str  # key in `ATTENTION_KERNELS`
    attend: Attend  # computes output and log-sum-exp
    problem: Callable[[AttentionSpec], str | None]
    float8: bool = False
    load: Callable[[], object] | None = None


class KernelCore(AttentionCore):
    """An attention core on one named kernel, in place of PyTorch's choice."""

    def __init__(self, kernel: AttentionKernel) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return `[B, L, N, E]` in the dtype of `v_BSNE`; `ValueError` for a mask."""
        if mask is not None:
            raise ValueError(f"attention kernel {self.kernel.name} takes no mask")
        options = {"restore": False} if self.kernel.float8 else {}
        return self._attend(partial(self.kernel.attend, **options), q_BLNE, k_BSNE, v_BSNE)[0]

    def quantizing(self, quantize: Quantize) -> "KernelCore":
        """Return a core of the same FP8 kernel whose inputs are quantised by `quantize`."""
        attend = cast(Callable[..., tuple[Tensor, Tensor]], self.kernel.attend)
        return KernelCore(replace(self.kernel, attend=partial(attend, quantize=quantize)))

    def with_lse(self, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor) -> tuple[Tensor, Tensor]:
        """Return output and log-sum-exp as `attention_with_lse` does."""
        return self._attend(self.kernel.attend, q_BLNE, k_BSNE, v_BSNE)

    def _attend(
        self, attend: Attend, q_BLNE: Tensor, k_BSNE: Tensor, v_BSNE: Tensor
    ) -> tuple[Tensor, Tensor]:
        q, k = q_BLNE.type_as(v_BSNE), k_BSNE.type_as(v_BSNE)
        # Fused kernels reject empty tensors.
        if not q.shape[1] or not k.shape[1]:
            return reference_attention_with_lse(q, k, v_BSNE)
        return attend(q, k, v_BSNE)

    def extra_repr(self) -> str:
        return self.kernel.name


def accepts_float8_heads(core: nn.Module) -> bool:
    """Whether an attention core can read heads that a preceding kernel quantised."""
    return isinstance(core, KernelCore) and core.kernel.float8


def apply_attention(module: nn.Module, kernel: AttentionKernel, parts: Collection[str]) -> int:
    """Run attention inside a network on one loaded kernel; return the number of cores replaced.

    `parts` names the modules whose `core` is replaced, such as "self_attention". Cores of other classes, such
    as parallel ones, stay.
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
    """Availability of a kernel on this machine, for display."""

    name: str  # "cudnn", "flash", "efficient" and "math" are PyTorch's; "fa3" and "fa3-fp8" belong to fa3-fwd
    available: bool  # whether it can run here
    chosen: bool  # whether it is the default
    reason: str  # for `chosen` or not, in a few words


def find_attention_backends(
    device: torch.device, dtype: torch.dtype, head_dim: int, num_heads: int
) -> tuple[AttentionBackend, ...]:
    """List all kernels with their availability and the default; computes and imports nothing."""
    work = AttentionSpec(device, dtype, head_dim, num_heads)
    chosen = pytorch_choice(work)
    return tuple(_describe(kernel, work, chosen) for kernel in ATTENTION_KERNELS.values())


def _describe(kernel: AttentionKernel, work: AttentionSpec, chosen: str) -> AttentionBackend:
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


def pytorch_choice(work: AttentionSpec) -> str:
    return _PYTORCH_NAMES[_chosen_kernel(work)]


def _chosen_kernel(work: AttentionSpec) -> SDPBackend:
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
) -> Callable[[AttentionSpec], str | None]:
    def problem(work: AttentionSpec) -> str | None:
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


def _runs_everywhere(work: AttentionSpec) -> str | None:
    return None


def _fa3_problem(work: AttentionSpec) -> str | None:
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
