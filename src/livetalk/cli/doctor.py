"""`livetalk doctor`: describe this machine and forecast whether a model runs on it."""

import argparse
import dataclasses
import json
import math

from livetalk.assembly.run_options import add_model_options, add_run_options, model_source, run_config
from livetalk.doctor.diagnosis import Diagnosis, Question, describe_options, diagnose
from livetalk.doctor.environment import Environment, inspect_environment
from livetalk.doctor.memory import GIB, MemoryPlan, describe_size
from livetalk.errors import InputError

EXIT_DOES_NOT_FIT = 1

_LABEL = 32


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "doctor",
        help="describe this machine and forecast whether a model runs on it",
        description="Describe this machine, forecast the memory that a model needs, and suggest options if "
        "it does not fit. No weights are loaded. The exit code is 0 if the model fits and 1 if not. The "
        "model flashtalk-14b needs no files here.",
    )
    parser.add_argument("--size", help="frame size, as for generate (default: the model's own)")
    parser.add_argument(
        "--gpu-memory", type=float, metavar="GIB", help="forecast for GPUs with this memory, present or not"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    add_model_options(parser)
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the diagnosis; return 0 if the model fits and 1 if it does not.

    Raises:
        LivetalkError: the model or the size does not exist, or an option is out of range.
    """
    environment = inspect_environment()
    diagnosis = diagnose(_question(args), environment)
    if args.json:
        print(json.dumps(to_json(environment, diagnosis), indent=2))
    else:
        lines = describe_environment(environment) + describe_attention(diagnosis)
        print("\n".join((*lines, "", *describe_diagnosis(diagnosis))))
    # An exit code of its own, so that scripts can tell "does not fit" from a wrong option.
    return 0 if diagnosis.fits else EXIT_DOES_NOT_FIT


def describe_environment(environment: Environment) -> list[str]:
    """Return lines about the machine."""
    cuda = "without CUDA" if environment.cuda is None else f"for CUDA {environment.cuda}"
    lines = [
        _line("livetalk", f"{environment.livetalk} on Python {environment.python}, {environment.system}"),
        _line("PyTorch", f"{environment.torch}, {cuda}, driver {environment.driver or 'not found'}"),
    ]
    for index, gpu in enumerate(environment.gpus):
        memory = f"{_gib(gpu.free_bytes)} of {_gib(gpu.total_bytes)} free"
        lines.append(_line(f"GPU {index}", f"{gpu.name}, {memory}, capability {gpu.capability}"))
    if not environment.gpus:
        lines.append(_line("GPU", "none that PyTorch can use"))
    features = ", ".join(environment.cpu_features) or "no useful vector extensions"
    lines.append(_line("CPU", f"{environment.cpu}, {environment.cpu_cores} cores, {features}"))
    if environment.host_bytes is not None:
        lines.append(_line("memory", f"{_gib(environment.host_bytes)} free"))
    encoders = ", ".join(environment.video_encoders) or "no video encoder: videos cannot be written"
    lines.append(_line("FFmpeg", f"{environment.ffmpeg}, {encoders}"))
    for extra, missing in environment.missing_packages.items():
        lines.append(_line(f"extra {extra}", f"lacks {', '.join(missing)}" if missing else "complete"))
    return lines


def describe_attention(diagnosis: Diagnosis) -> list[str]:
    """Return lines about the attention kernels."""
    lines = []
    for backend in diagnosis.backends:
        mark = "chosen" if backend.chosen else "there" if backend.available else "not there"
        label = f"attention on {diagnosis.backends_of}: {backend.name}"
        lines.append(_line(label, f"{mark}: {backend.reason}"))
    return lines


def describe_diagnosis(diagnosis: Diagnosis) -> list[str]:
    """Return lines about the model and the verdict."""
    plan = diagnosis.plan
    lines = [*_describe_plan(plan), ""]
    if diagnosis.fits:
        lines.append(f"yes: {plan.request.spec.name} fits, with {_spare(diagnosis)} to spare")
    else:
        lines.append(f"no: {diagnosis.problem}")
    if diagnosis.suggestion is not None:
        lines.append(f"would fit here: {describe_options(diagnosis.suggestion)}")
    elif not diagnosis.fits:
        lines.append("no setting fits this machine")
    for size, fitting in diagnosis.by_card.items():
        answer = "no setting fits"
        if fitting is not None:
            answer = (
                f"{describe_options(fitting)} ({_gib(fitting.gpu_bytes)}, host {_gib(fitting.host_bytes)})"
            )
        lines.append(_line(f"on a GPU of {size} GiB", answer))
    return lines


def to_json(environment: Environment, diagnosis: Diagnosis) -> dict[str, object]:
    """Return environment and diagnosis as values for `json.dumps`."""
    return {
        "environment": dataclasses.asdict(environment),
        "attention_device": diagnosis.backends_of,
        "attention": [dataclasses.asdict(backend) for backend in diagnosis.backends],
        "plan": _plan_to_json(diagnosis.plan),
        "gpu_bytes": diagnosis.gpu_bytes,
        "host_bytes": diagnosis.host_bytes,
        "fits": diagnosis.fits,
        "problem": diagnosis.problem,
        "suggestion": _plan_to_json(diagnosis.suggestion),
        "by_card": {str(size): _plan_to_json(plan) for size, plan in diagnosis.by_card.items()},
    }


def _question(args: argparse.Namespace) -> Question:
    if args.gpu_memory is not None and not 0 < args.gpu_memory < math.inf:
        raise InputError(f"gpu memory {args.gpu_memory}: a number of GiB above 0 is needed")
    return Question(
        source=model_source(args),
        run=run_config(args),
        size=args.size,
        gpu_bytes=None if args.gpu_memory is None else round(args.gpu_memory * GIB),
    )


def _describe_plan(plan: MemoryPlan) -> list[str]:
    request = plan.request
    where = {0: "on the CPU", 1: "on one GPU"}.get(
        request.num_gpus, f"on {request.num_gpus} GPUs (a forecast that no GPU has confirmed yet)"
    )
    dtype = str(request.dtype).removeprefix("torch.")
    lines = [f"{request.spec.name}, {describe_size(request.portrait)}, {dtype}, {where}"]
    lines += [_line(f"  weights: {name}", _gib(size)) for name, size in plan.weights.items()]
    lines += [
        _line(f"  stage: {name}", _gib(size) + (", the peak" if name == plan.peak_stage else ""))
        for name, size in plan.stages.items()
    ]
    if request.num_gpus:
        lines.append(_line("  allocated at the peak", _gib(plan.allocated_bytes)))
        lines.append(_line("  each GPU must have", f"{_gib(plan.gpu_bytes)}, cache and driver included"))
    # Absorbed speech takes a share of whatever is free, so no forecast can include it.
    if request.num_gpus and request.run.acceleration.fused:
        lines.append(_line("  fast forms", "up to a quarter of what is then free, for a chunk's speech"))
    lines.append(_line("  the host must have", _gib(plan.host_bytes)))
    return lines


def _plan_to_json(plan: MemoryPlan | None) -> dict[str, object] | None:
    if plan is None:
        return None
    request = plan.request
    return {
        "model": request.spec.name,
        "size": describe_size(request.portrait),
        "precision": str(request.dtype).removeprefix("torch."),
        "placement": dataclasses.asdict(request.placement),
        "acceleration": dataclasses.asdict(request.run.acceleration),
        "num_gpus": request.num_gpus,
        "weights": plan.weights,
        "stages": plan.stages,
        "peak_stage": plan.peak_stage,
        "allocated_bytes": plan.allocated_bytes,
        "gpu_bytes": plan.gpu_bytes,
        "host_bytes": plan.host_bytes,
        "options": describe_options(plan),
    }


def _spare(diagnosis: Diagnosis) -> str:
    plan = diagnosis.plan
    if plan.request.num_gpus:
        return _gib(diagnosis.gpu_bytes - plan.gpu_bytes)
    return _gib(diagnosis.host_bytes - plan.host_bytes)


def _line(label: str, text: str) -> str:
    return f"{label:<{_LABEL}} {text}"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes < 10 * GIB else f"{num_bytes / GIB:.1f} GiB"
