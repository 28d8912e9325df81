"""Compare predicted with allocated memory of a model: random weights, two chunks, several placements.

A CUDA device reports allocated memory; elsewhere every tensor is counted. Prints a table, then one line of
JSON. The exit code is 1 if an allocated peak deviates by more than 10 %.
"""

import argparse
import contextlib
import gc
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import nn

from livetalk.assembly.build import read_spec
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import RANDOM_MODELS, build_random_model
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.device import Precision
from livetalk.doctor.allocation import AllocationTracker
from livetalk.doctor.dry_run import run_observed
from livetalk.doctor.memory import (
    GIB,
    WORKSPACE_BYTES,
    MemoryPlan,
    MemoryRequest,
    describe_size,
    plan_memory,
)
from livetalk.placement.apply import PlacementConfig
from livetalk.streaming.spec import parse_size

TOLERANCE = 0.10
DRY_RUN_STEPS = 2


class Meter:
    """Measures the peak of each stage; `peaks` are bytes by stage, including memory from before."""

    def __init__(self) -> None:
        """Create a meter without measurements."""
        self.peaks: dict[str, int] = {}

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Measure a block."""
        raise NotImplementedError


class CudaMeter(Meter):
    """Reads the statistics of PyTorch's allocator."""

    def __init__(self, device: torch.device) -> None:
        """Create a meter without measurements."""
        super().__init__()
        self._device = device

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a block."""
        torch.cuda.reset_peak_memory_stats(self._device)
        yield
        peak = torch.cuda.max_memory_allocated(self._device)
        self.peaks[name] = max(self.peaks.get(name, 0), peak)


class TensorMeter(Meter):
    """Counts tensors, on a device without allocator statistics."""

    def __init__(self, tracker: AllocationTracker, weight_bytes: int) -> None:
        """Count with an active tracker; `weight_bytes` were allocated before it."""
        super().__init__()
        self._tracker = tracker
        self._weight_bytes = weight_bytes

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a block."""
        peaks: dict[str, int] = {}
        with self._tracker.stage(peaks, name):
            yield
        self.peaks[name] = max(self.peaks.get(name, 0), peaks[name] + self._weight_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One placement, in bytes.

    Attributes:
        label: name of the placement.
        plan: the prediction.
        loaded: allocated after the model was built.
        stages: allocated at the peak of each stage.
        reserved: peak of the allocator's reserved memory; 0 without CUDA.
        context: other memory of the process on the GPU; 0 without CUDA.
    """

    label: str
    plan: MemoryPlan
    loaded: int
    stages: dict[str, int]
    reserved: int
    context: int

    @property
    def error(self) -> float:
        """Relative error of the predicted allocated peak."""
        return self.predicted / max(self.stages.values()) - 1

    @property
    def predicted(self) -> int:
        """Predicted allocated peak, without the workspace of libraries on a CPU, where it is not counted."""
        return self.plan.allocated_bytes - (0 if self.reserved else WORKSPACE_BYTES)


def main() -> int:
    """Measure all placements and print the results."""
    args = parse_arguments()
    device = torch.device(args.device)
    spec = read_spec(ModelSource(random_weights=args.model))
    portrait = spec.portrait
    if args.size is not None:
        height, width = parse_size(args.size)
        portrait = PortraitConfig(height=height, width=width)
    if not args.with_encoders:
        spec = replace(spec, text=None, image=None)
    runs = {label: forecast_run(label, args.precision) for label in args.placements}
    results = [measure(spec, portrait, label, config, device) for label, config in runs.items()]
    print(f"{args.model}, {describe_size(portrait)}, {args.precision}, {device_name(device)}")
    for result in results:
        print("\n".join(describe(result)))
    print(json.dumps([to_json(result) for result in results]))
    return int(any(abs(result.error) > TOLERANCE for result in results))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=RANDOM_MODELS, default="flashtalk-14b")
    parser.add_argument("--size", help="HEIGHTxWIDTH (default: the model's own)")
    parser.add_argument("--precision", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--placements",
        nargs="+",
        default=["full", "float8", "full:20"],
        metavar="FORM[:RESIDENT]",
        help="form of the weights and, after a colon, blocks that stay on the device",
    )
    parser.add_argument(
        "--with-encoders",
        action="store_true",
        help="also encode a prompt, with random encoders",
    )
    return parser.parse_args()


def forecast_run(label: str, precision: Precision) -> RunConfig:
    """Return the GPU run of a label such as "full:20"; its forecast is compared on any device."""
    form, _, resident = label.partition(":")
    placement = PlacementConfig(
        weights=form,  # type: ignore[arg-type]  # the networks refuse another
        resident_blocks=int(resident) if resident else None,
    )
    return RunConfig(device="cuda", precision=precision, placement=placement)


def measure(
    spec: ModelSpec, portrait: PortraitConfig, label: str, config: RunConfig, device: torch.device
) -> Measurement:
    """Build a model, run it, and free it."""
    request = MemoryRequest(spec=spec, portrait=portrait, run=config)
    model = build_random_model(
        spec.name,
        device=device,
        dtype=request.dtype,
        placement=request.placement,
        portrait=portrait,
        with_encoders=spec.text is not None,
    )
    loaded = torch.cuda.memory_allocated(device) if device.type == "cuda" else weight_bytes(model)
    with open_meter(model, device, loaded) as meter:
        run(model, device, meter)
        stages = meter.peaks
    reserved = context = 0
    if device.type == "cuda":
        reserved = torch.cuda.max_memory_reserved(device)
        free, total = torch.cuda.mem_get_info(device)
        context = total - free - torch.cuda.memory_reserved(device)
    del model
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return Measurement(
        label=label,
        plan=plan_memory(request),
        loaded=loaded,
        stages=stages,
        reserved=reserved,
        context=context,
    )


@contextlib.contextmanager
def open_meter(model: AvatarModel, device: torch.device, loaded: int) -> Iterator[Meter]:
    """Return the meter for the device."""
    if device.type == "cuda":
        yield CudaMeter(device)
        return
    with AllocationTracker() as tracker:
        yield TensorMeter(tracker, loaded)


def run(model: AvatarModel, device: torch.device, meter: Meter) -> None:
    """Generate two chunks from a grey portrait and silence."""
    settings = model.settings
    few = replace(settings, sampler=replace(settings.sampler, num_steps=DRY_RUN_STEPS))
    picture = torch.zeros(3, model.spec.portrait.height, model.spec.portrait.width, device=device)
    assert model.prompt_encoder is not None
    with meter.stage("prompt"):
        prompt = model.prompt_encoder.encode("", picture[None])
    with torch.no_grad():
        run_observed(model.executor, few, picture, prompt, meter.stage)


def networks(model: AvatarModel) -> list[nn.Module]:
    """Return the networks of a model."""
    found = model.executor.networks
    return [part for part in (found.dit, found.vae, found.audio_encoder) if isinstance(part, nn.Module)]


def weight_bytes(model: AvatarModel) -> int:
    """Return the bytes of distinct storages of weights: offloaded blocks that share a slot count once."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for network in networks(model)
        for tensor in (*network.parameters(), *network.buffers())
    }
    return sum(storages.values())


def describe(result: Measurement) -> list[str]:
    """Return the table of a placement."""
    plan = result.plan
    lines = [f"{result.label}:"]
    rows = [("loaded", plan.weight_bytes, result.loaded)]
    rows += [
        (name, plan.weight_bytes + plan.stages.get(name, 0), peak) for name, peak in result.stages.items()
    ]
    rows.append(("allocated at the peak", result.predicted, max(result.stages.values())))
    if result.reserved:
        rows.append(("used on the GPU", plan.gpu_bytes, result.reserved + result.context))
        rows.append(("of which context", plan.gpu_bytes - plan.allocated_bytes, result.context))
    for name, predicted, measured in rows:
        off = predicted / measured - 1 if measured else 0.0
        lines.append(
            f"  {name:<24} predicted {predicted / GIB:8.3f} GiB  measured {measured / GIB:8.3f} GiB"
            f"  {off:+7.1%}"
        )
    return lines


def to_json(result: Measurement) -> dict[str, object]:
    """Return values that `json.dumps` writes."""
    return {
        "placement": result.label,
        "predicted_allocated": result.predicted,
        "predicted_gpu": result.plan.gpu_bytes,
        "predicted_stages": {k: v + result.plan.weight_bytes for k, v in result.plan.stages.items()},
        "predicted_loaded": result.plan.weight_bytes,
        "loaded": result.loaded,
        "stages": result.stages,
        "reserved": result.reserved,
        "context": result.context,
        "error": round(result.error, 4),
    }


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or "CPU"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    raise SystemExit(main())
