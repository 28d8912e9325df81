"""Diagnosis whether a model fits a machine, from its configuration, before anything is loaded."""

from dataclasses import dataclass, field, replace

import torch

from livetalk.accelerate.apply import acceleration_problem
from livetalk.assembly.build import read_spec
from livetalk.assembly.run import RunConfig
from livetalk.assembly.run_options import to_options
from livetalk.assembly.source import ModelSource
from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.device import Precision, name_precision, parse_device
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
from livetalk.errors import InputError
from livetalk.ops.backends import AttentionBackend, AttentionSpec, find_attention_backends
from livetalk.streaming.spec import parse_size

CARD_GIBIBYTES = (16, 24, 32, 48, 80)
"""Memory sizes of common GPUs, for the answer on a machine without one."""

_UNKNOWN_HOST_BYTES = 1 << 62
"""Host memory where the system does not report it: every plan fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A model, how it would run, and optionally on which GPU.

    Attributes:
        run: device "auto" is a GPU if one exists or several are requested, and the CPU otherwise.
    """

    source: ModelSource = field(default_factory=ModelSource)
    run: RunConfig = field(default_factory=RunConfig)
    size: str | None = None  # frame size, see `parse_size`; None for the model's own
    gpu_bytes: int | None = None  # memory of each of hypothetical GPUs; None for the GPUs of this machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """The answer to a question.

    Attributes:
        backends: attention kernels of the computing device, or of the CPU if that device is absent.
        suggestion: the first setting that would fit on this machine; None if there is none or none is needed.
        by_card: if the CPU does not fit, GPU memory in GiB -> first setting that would fit, or None.
    """

    plan: MemoryPlan  # forecast for the setting in the question
    backends: tuple[AttentionBackend, ...]
    backends_of: str  # the device of `backends`, "cuda" or "cpu"
    gpu_bytes: int  # memory available on each GPU; 0 for the CPU
    host_bytes: int  # memory available on the host
    fits: bool
    problem: str | None  # why it does not fit, in one line; None if it fits
    suggestion: MemoryPlan | None
    by_card: dict[int, MemoryPlan | None]


def diagnose(question: Question, environment: Environment) -> Diagnosis:
    """Answer a question for a machine.

    Raises:
        WeightsError: the model does not exist.
        InputError: the model cannot generate the size, or a fast form cannot run on this machine.
    """
    spec = read_spec(question.source)
    request = _request(question, spec, environment)
    gpu_bytes = _gpu_bytes(question, environment) if request.num_gpus else 0
    host_bytes = _UNKNOWN_HOST_BYTES if environment.host_bytes is None else environment.host_bytes
    plan = plan_memory(request).resolve(gpu_bytes)
    problem = _find_problem(plan, question, environment, gpu_bytes, host_bytes)
    suggestion = None
    if problem is not None:
        # The suggestion is for one GPU, because the machine may have fewer than were requested.
        reachable = replace(request, run=replace(request.run, gpus=1))
        suggestion = first_fit(reachable, gpu_bytes, host_bytes)
    device = torch.device("cuda" if request.num_gpus and environment.gpus else "cpu")
    _require_fast_forms(request, device)
    return Diagnosis(
        plan=plan,
        backends=find_attention_backends(device, request.dtype, spec.dit.head_dim, spec.dit.num_heads),
        backends_of=device.type,
        gpu_bytes=gpu_bytes,
        host_bytes=host_bytes,
        fits=problem is None,
        problem=problem,
        suggestion=suggestion,
        by_card={} if request.num_gpus or problem is None else _try_cards(request),
    )


def describe_options(plan: MemoryPlan) -> str:
    """Return the command-line options of a plan's setting, without those that are defaults."""
    request = plan.request
    size = ["--size", describe_size(request.portrait)] if request.spec.any_size else []
    run = request.run if request.num_gpus == 0 else replace(request.run, device="auto")
    return " ".join((*size, *to_options(run)))


def _request(question: Question, spec: ModelSpec, environment: Environment) -> MemoryRequest:
    portrait = spec.portrait
    if question.size is not None:
        height, width = parse_size(question.size)
        portrait = PortraitConfig(height=height, width=width)
    return MemoryRequest(
        spec=spec,
        portrait=portrait,
        run=_resolve_run(question, environment),
    )


def _resolve_run(question: Question, environment: Environment) -> RunConfig:
    """Replace "auto" by the kind of device and the precision that it resolves to on this machine."""
    run, device = question.run, parse_device(question.run.device)
    if device is None:
        on_gpu = bool(environment.gpus) or question.gpu_bytes is not None or run.gpus > 1
    else:
        on_gpu = device.type != "cpu"
    kind = "cuda" if on_gpu else "cpu"
    if on_gpu and not environment.gpus:
        # A hypothetical GPU is assumed to compute in bfloat16.
        precision: Precision = "float32" if run.precision == "float32" else "bfloat16"
    else:
        precision = name_precision(run.precision, torch.device(kind))
    return replace(run, device=kind, precision=precision)


def _require_fast_forms(request: MemoryRequest, device: torch.device) -> None:
    """Raise `InputError` for fast forms that cannot run on the device; absent devices are not checked."""
    if device.type == request.run.device:
        size = request.spec.dit
        work = AttentionSpec(device, request.dtype, size.head_dim, size.num_heads)
        problem = acceleration_problem(request.run.acceleration, work)
        if problem is not None:
            raise InputError(problem)


def _gpu_bytes(question: Question, environment: Environment) -> int:
    if question.gpu_bytes is not None:
        return question.gpu_bytes
    device = parse_device(question.run.device)
    first = 0 if device is None or device.index is None else device.index
    used = environment.gpus[first : first + question.run.gpus]
    # The context of this process counts as free, because the forecast includes one context.
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
    # The host of the hypothetical GPU is assumed to have enough memory.
    on_gpu = replace(request, run=replace(request.run, device="cuda", precision="bfloat16"))
    return {size: first_fit(on_gpu, size * GIB, _UNKNOWN_HOST_BYTES) for size in CARD_GIBIBYTES}
