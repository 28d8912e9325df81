"""Will a model run here? The answer from sizes and a look at the machine, before anything is loaded."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from livetalk.assembly.model_sizes import ModelSizes, read_model_sizes
from livetalk.assembly.session import parse_size
from livetalk.device import Precision, choose_dtype
from livetalk.doctor.environment import Environment
from livetalk.doctor.memory import (
    CONTEXT_BYTES,
    GIB,
    MemoryPlan,
    MemoryRequest,
    describe_size,
    first_fit,
    plan_memory,
)
from livetalk.ops.backends import AttentionBackend, find_attention_backends
from livetalk.placement.apply import PlacementConfig

CARD_GIBIBYTES = (16, 24, 32, 48, 80)
"""Memory of usual GPUs, for a machine that has none."""

_UNKNOWN_HOST_BYTES = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a user wants to know.

    Attributes:
        model: see `read_model_sizes`.
        wav2vec_dir: folder of a published model's speech encoder.
        size: picture size, see `parse_size`; None for the model's own.
        precision: of the transformer and the VAE.
        placement: of the weights.
        num_gpus: that share one stream; None takes one if there is one, and the CPU otherwise.
        gpu_bytes: memory of each GPU, as if there were such; None for what is there.
    """

    model: str | Path = "embedded"
    wav2vec_dir: Path | None = None
    size: str | None = None
    precision: Precision = "auto"
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    num_gpus: int | None = None
    gpu_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The answer.

    Attributes:
        plan: memory of the setting that was asked about.
        backends: attention kernels of the device that would compute, or of the CPU where it is not there.
        backends_of: "cuda" or "cpu", the device that was asked.
        gpu_bytes: memory that each GPU has for it; 0 for the CPU.
        host_bytes: memory that the host has for it.
        fits: yes or no.
        problem: why not, in one line; None where it fits.
        suggestion: the first setting that would fit on this machine; None where there is none or none is
            needed.
        by_card: where the CPU cannot do it, for usual sizes of GPU memory in GiB the first setting that would
            fit, or None.
    """

    plan: MemoryPlan
    backends: tuple[AttentionBackend, ...]
    backends_of: str
    gpu_bytes: int
    host_bytes: int
    fits: bool
    problem: str | None
    suggestion: MemoryPlan | None
    by_card: dict[int, MemoryPlan | None]


def diagnose(question: Question, environment: Environment) -> Diagnosis:
    """Answer a question for a machine.

    Raises:
        WeightsError: there is no such model.
        InputError: a size or number that no machine could do.
    """
    sizes = read_model_sizes(question.model, question.wav2vec_dir)
    request = _request(question, sizes, environment)
    gpu_bytes = _gpu_bytes(question, environment) if request.num_gpus else 0
    host_bytes = _UNKNOWN_HOST_BYTES if environment.host_bytes is None else environment.host_bytes
    plan = plan_memory(request).settle(gpu_bytes)
    problem = _find_problem(plan, question, environment, gpu_bytes, host_bytes)
    suggestion = None
    if problem is not None:
        reachable = replace(request, num_gpus=min(1, request.num_gpus))
        suggestion = first_fit(reachable, gpu_bytes, host_bytes)
    device = torch.device("cuda" if request.num_gpus and environment.gpus else "cpu")
    return Diagnosis(
        plan=plan,
        backends=find_attention_backends(device, request.dtype, sizes.dit.head_dim, sizes.dit.num_heads),
        backends_of=device.type,
        gpu_bytes=gpu_bytes,
        host_bytes=host_bytes,
        fits=problem is None,
        problem=problem,
        suggestion=suggestion,
        by_card={} if request.num_gpus or problem is None else _try_cards(request),
    )


def describe_options(plan: MemoryPlan) -> str:
    """Return the options of the command line that choose a plan's setting; those left out are defaults."""
    request, placement = plan.request, plan.request.placement
    usual = PlacementConfig()
    options = [f"--size {describe_size(request.portrait)}"] if request.sizes.any_size else []
    if placement.weights != usual.weights:
        options.append(f"--weights {placement.weights}")
    if request.sizes.text is not None and placement.encoders != usual.encoders:
        options.append(f"--encoders {placement.encoders}")
    if placement.resident_blocks is not None:
        options.append(f"--resident-blocks {placement.resident_blocks}")
    options.append(f"--precision {str(request.dtype).removeprefix('torch.')}")
    return " ".join(options)


def _request(question: Question, sizes: ModelSizes, environment: Environment) -> MemoryRequest:
    num_gpus = question.num_gpus
    if num_gpus is None:
        num_gpus = 1 if environment.gpus or question.gpu_bytes is not None else 0
    return MemoryRequest(
        sizes=sizes,
        portrait=sizes.portrait if question.size is None else parse_size(question.size),
        dtype=_choose_dtype(question.precision, num_gpus, environment),
        placement=question.placement,
        num_gpus=num_gpus,
    )


def _choose_dtype(precision: Precision, num_gpus: int, environment: Environment) -> torch.dtype:
    if num_gpus and not environment.gpus:
        # A GPU that is only imagined is one that computes in bfloat16.
        return torch.float32 if precision == "float32" else torch.bfloat16
    return choose_dtype(precision, torch.device("cuda" if num_gpus else "cpu"))


def _gpu_bytes(question: Question, environment: Environment) -> int:
    """Return the memory of the fullest GPU that would be used, what this process takes of it given back."""
    if question.gpu_bytes is not None:
        return question.gpu_bytes
    used = environment.gpus[: question.num_gpus or 1]
    return min((min(gpu.total_bytes, gpu.free_bytes + CONTEXT_BYTES) for gpu in used), default=0)


def _find_problem(
    plan: MemoryPlan, question: Question, environment: Environment, gpu_bytes: int, host_bytes: int
) -> str | None:
    num_gpus = plan.request.num_gpus
    if question.gpu_bytes is None and num_gpus > len(environment.gpus):
        return f"there are {len(environment.gpus)} CUDA devices, {num_gpus} are asked for"
    if num_gpus and plan.gpu_bytes > gpu_bytes:
        return f"a GPU must have {plan.gpu_bytes / GIB:.1f} GiB, {gpu_bytes / GIB:.1f} are free"
    if plan.host_bytes > host_bytes:
        return f"the host must have {plan.host_bytes / GIB:.1f} GiB, {host_bytes / GIB:.1f} are free"
    return None


def _try_cards(request: MemoryRequest) -> dict[int, MemoryPlan | None]:
    """Find what would fit usual GPUs, on a host with memory to spare."""
    on_gpu = replace(request, num_gpus=1, dtype=torch.bfloat16)
    return {size: first_fit(on_gpu, size * GIB, _UNKNOWN_HOST_BYTES) for size in CARD_GIBIBYTES}
