"""Make a short video end to end, time its stages, and lay the predicted memory beside the measured.

    python benchmarks/stage_times.py --random-weights flashtalk-14b --chunks 3 --output noise.mp4

Portrait and voice are drawn. Every span that the library marks is timed, on a GPU by marks among its work and
elsewhere by the clock; the first chunk is left out of the medians. "total" is the time from chunk to chunk.
Without PyAV no file can be written: frames then go to host memory, and the report says so. Prints a table and
one line of JSON. The exit code is 1 when the allocated peak on a GPU is more than 10 % off the prediction.
"""

# ruff: noqa: T201, TID251  a program that measures and prints

import argparse
import dataclasses
import importlib.util
import itertools
import json
import statistics
import sys
import tempfile
import wave
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from livetalk.assembly.build import BuildConfig, build_avatar
from livetalk.assembly.model import AvatarModel, prepare_session
from livetalk.assembly.model_sizes import read_model_sizes
from livetalk.assembly.random_model import RANDOM_MODELS, build_random_model
from livetalk.assembly.session import parse_size, plan_session
from livetalk.bench.chunks import hum, wait_for
from livetalk.bench.spans import CHUNK_SPAN, SpanTimer, StageTiming, TimedSpan, summarize_stages
from livetalk.device import PRECISIONS, choose_device, choose_dtype
from livetalk.doctor.memory import GIB, MemoryPlan, MemoryRequest, plan_memory
from livetalk.errors import InputError, LivetalkError
from livetalk.media.framing import frame_portrait
from livetalk.media.image import image_to_tensor
from livetalk.placement.apply import WEIGHT_FORMS, PlacementConfig
from livetalk.streaming.step import create_state, generate_chunk
from livetalk.tracing import observe_spans, span

TOLERANCE = 0.10
COLUMN = 28
PICTURE = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
Arrived = Callable[[], None]


def main() -> int:
    """Run; what the user can mend is one line."""
    try:
        return measure(parse_arguments())
    except LivetalkError as error:
        print(f"stage_times: error: {error}", file=sys.stderr)
        return 2


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="Time the stages of a chunk, and check the memory forecast.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--random-weights", choices=RANDOM_MODELS)
    which.add_argument("--model", help="as for livetalk generate")
    parser.add_argument("--size", help="as for livetalk generate")
    parser.add_argument("--chunks", type=int, default=3, help="at least 2 (default: 3)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--weights", choices=WEIGHT_FORMS, default="full")
    parser.add_argument("--resident-blocks", type=int)
    parser.add_argument("--output", type=Path, help="keep the video; needs PyAV")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> int:
    """Forecast, check, load, make the video, print.

    Raises:
        LivetalkError: an option cannot be used, or the model does not fit.
    """
    device = choose_device(args.device)
    writes = importlib.util.find_spec("av") is not None
    check(args, writes=writes)
    plan = forecast(args, device)
    require_room(plan, device)
    began = perf_counter()
    model = load(args, device, plan)
    wait_for(device)
    load_seconds = perf_counter() - began
    load_peak = read_peak(device)
    arrivals: list[float] = []
    timer = SpanTimer(device)
    with observe_spans(timer):
        make = make_video if writes else make_frames
        make(model, args, lambda: arrivals.append(perf_counter()))
    spans = timer.read()
    gaps = [1000 * (after - before) for before, after in itertools.pairwise(arrivals)]
    report = {
        "command": {name: str(value) for name, value in vars(args).items() if value is not None},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": model.precision,
        "torch": torch.__version__,
        "wrote": "MP4" if writes else "nothing: PyAV is not installed, frames went to host memory",
        "load_seconds": round(load_seconds, 2),
        "load_peak_gib": load_peak,
        "total_ms": round(statistics.median(gaps), 2),
        "memory_gib": compare_memory(plan, device),
    }
    stages = summarize_stages(without_first_chunk(spans), args.chunks - 1)
    print_table(report, stages)
    print(json.dumps(report | {"stages": {name: dataclasses.asdict(t) for name, t in stages.items()}}))
    error = report["memory_gib"].get("error")  # type: ignore[attr-defined]  # a dictionary
    return int(error is not None and abs(error) > TOLERANCE)


def check(args: argparse.Namespace, *, writes: bool) -> None:
    """Refuse what would fail after the model is loaded.

    Raises:
        InputError: an option cannot be used.
    """
    if args.chunks < 2:
        raise InputError(f"chunks {args.chunks}: at least 2 are needed, for the first is not counted")
    if args.output is not None and not writes:
        raise InputError(f"output {args.output}: PyAV is not installed; leave it out")
    if args.output is not None and (args.output.suffix != ".mp4" or not args.output.parent.is_dir()):
        raise InputError(f"output {args.output}: name an .mp4 file in a folder that exists")


def forecast(args: argparse.Namespace, device: torch.device) -> MemoryPlan:
    """Return what `livetalk doctor` predicts."""
    sizes = read_model_sizes(args.random_weights or args.model)
    if args.random_weights is not None:
        # Random weights draw embeddings in place of the prompt's encoders.
        sizes = dataclasses.replace(sizes, text=None, image=None)
    request = MemoryRequest(
        sizes=sizes,
        portrait=sizes.portrait if args.size is None else parse_size(args.size),
        dtype=choose_dtype(args.precision, device),
        placement=PlacementConfig(weights=args.weights, resident_blocks=args.resident_blocks),
        num_gpus=int(device.type == "cuda"),
    )
    return plan_memory(request)


def require_room(plan: MemoryPlan, device: torch.device) -> None:
    """Refuse a model that the GPU cannot hold, before any of it is made.

    Raises:
        InputError: the GPU has too little free memory.
    """
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    print(f"predicted: {plan.gpu_bytes / GIB:.2f} GiB of the GPU, {free / GIB:.2f} GiB are free", flush=True)
    if free < plan.gpu_bytes:
        raise InputError("the model does not fit; livetalk doctor names settings that do")


def load(args: argparse.Namespace, device: torch.device, plan: MemoryPlan) -> AvatarModel:
    """Build the model that the options name."""
    request = plan.request
    if args.random_weights is not None:
        return build_random_model(
            args.random_weights, device=device, dtype=request.dtype, placement=request.placement
        )
    return build_avatar(
        BuildConfig(
            model=args.model, device=args.device, precision=args.precision, placement=request.placement
        )
    )


def make_video(model: AvatarModel, args: argparse.Namespace, arrived: Arrived) -> None:
    """Run what `livetalk generate` runs."""
    from livetalk import Avatar  # noqa: PLC0415  needs PyAV

    geometry = model.models.config.geometry
    voice = hum(0, args.chunks * geometry.chunk_samples, geometry.sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "voice.wav"
        with wave.open(str(sound), "wb") as file:
            file.setparams((1, 2, geometry.sample_rate, 0, "NONE", ""))
            file.writeframes((voice * 32767).to(torch.int16).numpy().tobytes())
        Avatar(model).generate(
            PICTURE,
            sound,
            args.output or Path(folder) / "out.mp4",
            size=args.size,
            crop="center",
            overwrite=True,
            progress=lambda done, total: arrived(),
        )


def make_frames(model: AvatarModel, args: argparse.Namespace, arrived: Arrived) -> None:
    """Run the same chunks without a file at the end."""
    session = plan_session(model, {"size": args.size})
    models, portrait = session.models, session.portrait
    geometry = models.config.geometry
    framed = frame_portrait(PICTURE, portrait.height, portrait.width, crop="center")
    conditioning = prepare_session(model, models, image_to_tensor(framed, model.image_dtype), session.prompt)
    state = create_state(models, conditioning, session.seed)
    for index in range(args.chunks):
        sound = hum(index * geometry.chunk_samples, geometry.chunk_samples, geometry.sample_rate)
        with span(CHUNK_SPAN):
            chunk, state = generate_chunk(models, conditioning, sound, state)
        with span("runtime.copy"):
            chunk.to_uint8().cpu()
        arrived()


def without_first_chunk(spans: list[TimedSpan]) -> list[TimedSpan]:
    """Leave out what began before the second chunk did."""
    second = sorted(span.start_ms for span in spans if span.name == CHUNK_SPAN)[1]
    return [span for span in spans if span.start_ms >= second]


def read_peak(device: torch.device) -> float | None:
    """Return the allocated peak in GiB so far, and count anew."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return round(peak / GIB, 3)


def compare_memory(plan: MemoryPlan, device: torch.device) -> dict[str, float]:
    """Lay the forecast beside the allocator's word, in GiB; a CPU has no allocator to be asked."""
    if device.type != "cuda":
        return {"predicted_host": round(plan.host_bytes / GIB, 3)}
    allocated = torch.cuda.max_memory_allocated(device)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "predicted_allocated": round(plan.allocated_bytes / GIB, 3),
        "allocated": round(allocated / GIB, 3),
        "error": round(plan.allocated_bytes / allocated - 1, 4),
        "predicted_of_gpu": round(plan.gpu_bytes / GIB, 3),
        "reserved": round(torch.cuda.max_memory_reserved(device) / GIB, 3),
        "taken_of_gpu": round((total - free) / GIB, 3),
    }


def print_table(report: dict[str, object], stages: dict[str, StageTiming]) -> None:
    """Print what people read."""
    for name in ("device", "precision", "torch", "wrote", "load_seconds", "load_peak_gib", "memory_gib"):
        print(f"{name:{COLUMN}}{report[name]}")
    for name, timing in stages.items():
        print(f"{name:{COLUMN}}{timing.median_ms:10.2f} ms, {timing.per_chunk} a chunk")
    print(f"{'total':{COLUMN}}{report['total_ms']:10} ms a chunk")


if __name__ == "__main__":
    sys.exit(main())
