"""The kernels that attention can run on: what they are called, where they run, how one is chosen.

The kernel that is asked for is the one that runs, or an error says why it cannot: none stands in for another.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.backends.cuda import SDPAParams
from torch.nn.attention import SDPBackend

from livetalk.errors import InputError
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
        exact: it rounds to the precision of its input and no further.
        float8: it rounds its input to e4m3. `attend` then takes `quantize` and `restore` as does
            `float8_attention`, and `attend_quantized` does its work on input that is rounded already.
    """

    name: str
    attend: Attend
    problem: Callable[[AttentionWork], str | None]
    exact: bool = True
    float8: bool = False


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


def select_attention(name: str, work: AttentionWork) -> AttentionKernel:
    """Find the kernel of a name and make it ready.

    Args:
        name: a key of `ATTENTION_KERNELS`, or "auto" for PyTorch's first choice.
        work: that it will do.

    Raises:
        InputError: there is no such kernel, or it cannot do this work here.
    """
    if name == "auto":
        name = _PYTORCH_NAMES[_chosen_kernel(work)]
    if name not in ATTENTION_KERNELS:
        raise InputError(f"attention {name!r}: choose auto or one of {', '.join(ATTENTION_KERNELS)}")
    kernel = ATTENTION_KERNELS[name]
    problem = kernel.problem(work)
    if problem is not None:
        raise InputError(f"attention {name} cannot run here: {problem}")
    if name in _FA3_NAMES:
        load_fa3()
    _log.info("attention: %s (%s, %d heads of %d)", name, work.dtype, work.num_heads, work.head_dim)
    return kernel


def fastest_attention(
    work: AttentionWork,
    lengths: tuple[int, int],
    measure: Callable[[Callable[[], object]], float],
    names: Collection[str] | None = None,
) -> tuple[AttentionKernel, dict[str, float]]:
    """Run the kernels that can do some work and take the fastest.

    Args:
        work: that they would do.
        lengths: queries and keys of one call.
        measure: runs a call as often as it likes and returns its time, in a unit of its own.
        names: to choose among; None for all that are exact.

    Returns:
        The kernel, and the time of each that ran.

    Raises:
        InputError: none of them can run here.
    """
    if names is None:
        names = [name for name, kernel in ATTENTION_KERNELS.items() if kernel.exact]
    runnable = [name for name in names if ATTENTION_KERNELS[name].problem(work) is None]
    if not runnable:
        raise InputError(f"attention: none of {', '.join(names)} can run here")
    rng = torch.Generator(work.device).manual_seed(0)
    q, k, v = (
        torch.randn((1, length, work.num_heads, work.head_dim), generator=rng, device=work.device).to(
            work.dtype
        )
        for length in (lengths[0], lengths[1], lengths[1])
    )
    times = {}
    for name in runnable:
        attend = select_attention(name, work).attend
        times[name] = measure(lambda attend=attend: attend(q, k, v))  # type: ignore[misc]
    best = min(times, key=times.__getitem__)
    _log.info("attention: %s is the fastest of %s", best, ", ".join(times))
    return ATTENTION_KERNELS[best], times


def apply_attention(module: nn.Module, kernel: AttentionKernel, parts: Collection[str]) -> int:
    """Let attention inside a network run on one kernel.

    Cores that another scheme has put in place are left alone: it wraps the core that it found there.

    Args:
        module: changed in place.
        kernel: from `select_attention`.
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
    chosen = _PYTORCH_NAMES[_chosen_kernel(work)]
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
_FA3_NAMES = frozenset({"fa3", "fa3-fp8"})

ATTENTION_KERNELS: Mapping[str, AttentionKernel] = {
    **{
        _PYTORCH_NAMES[kernel]: AttentionKernel(
            _PYTORCH_NAMES[kernel], _on_pytorch(kernel), _pytorch_problem(kernel, can_use)
        )
        for kernel, can_use in _CAN_USE.items()
    },
    "math": AttentionKernel("math", reference_attention_with_lse, _runs_everywhere),
    "fa3": AttentionKernel("fa3", _on_fa3, _fa3_problem),
    "fa3-fp8": AttentionKernel("fa3-fp8", float8_attention, _fa3_problem, exact=False, float8=True),
    "fp8-reference": AttentionKernel(
        "fp8-reference", float8_attention_reference, _runs_everywhere, exact=False, float8=True
    ),
}
"""All kernels, by name. "fp8-reference" is the plain twin of "fa3-fp8"."""
