"""Time the stages of a chunk in `Avatar.generate`, from portrait and voice to a finished MP4.

    python benchmarks/stage_times.py --random-weights flashtalk-14b --size 720x416 --output noise.mp4

Every span that the library marks is timed, by CUDA events on a GPU and by the clock elsewhere. Prints a table
of medians over all chunks but the first, then one line of JSON. "total" is wall time from chunk to chunk.
"""

# ruff: noqa: T201, TID251  a program that measures and prints

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame

from livetalk import Avatar
from livetalk.runtime import avatar as avatar_module
from livetalk.runtime.placement import WEIGHT_FORMS, PlacementConfig
from livetalk.streaming import step as step_module

SAMPLE_RATE = 16_000
COLUMN = 28


class SpanTimer:
    """Stands for `livetalk.tracing.span` and remembers how long each span took."""

    def __init__(self, device: torch.device) -> None:
        """Time on `device`."""
        self._cuda = device.type == "cuda"
        self._marks: dict[str, list[tuple[float, float] | tuple[torch.cuda.Event, torch.cuda.Event]]] = {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        if self._cuda:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._marks.setdefault(name, []).append((start, end))
            return
        began = perf_counter()
        yield
        self._marks.setdefault(name, []).append((began, perf_counter()))

    def milliseconds(self, num_chunks: int) -> dict[str, float]:
        """Return the median of each span over all chunks but the first."""
        medians = {}
        for name, marks in self._marks.items():
            times = [_elapsed(start, end) for start, end in marks]
            per_chunk = max(1, len(times) // num_chunks)
            medians[name] = statistics.median(times[per_chunk:] or times)
        return medians


def _elapsed(start: "float | torch.cuda.Event", end: "float | torch.cuda.Event") -> float:
    if isinstance(start, float):
        assert isinstance(end, float)
        return 1000 * (end - start)
    assert isinstance(end, torch.cuda.Event)
    end.synchronize()
    return float(start.elapsed_time(end))


def main() -> None:
    """Parse the command line, generate, print."""
    args = parse_arguments()
    began = perf_counter()
    avatar = load(args)
    device = avatar.model.models.device
    synchronize(device)
    load_seconds = perf_counter() - began
    timer = SpanTimer(device)
    step_module.span = avatar_module.span = timer  # type: ignore[assignment]
    arrivals: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        geometry = avatar.model.models.config.geometry
        voice = write_voice(Path(folder) / "voice.wav", args.chunks * geometry.chunk_samples)
        result = avatar.generate(
            np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8),
            voice,
            args.output or Path(folder) / "out.mp4",
            size=args.size,
            crop="center",
            overwrite=True,
            progress=lambda done, total: arrivals.append(perf_counter()),
        )
    synchronize(device)
    medians = timer.milliseconds(args.chunks)
    gaps = [1000 * (after - before) for before, after in itertools.pairwise(arrivals)]
    report = {
        "command": vars(args) | {"output": str(args.output)},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "precision": avatar.model.precision,
        "torch": torch.__version__,
        "num_frames": result.num_frames,
        "load_seconds": round(load_seconds, 2),
        "total_ms": round(statistics.median(gaps), 2) if gaps else None,
        "stages_ms": {name: round(value, 3) for name, value in medians.items()},
        "peak_gib": peak_gib(device),
    }
    print_table(report, medians)
    print(json.dumps(report))


def parse_arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description="Time the stages of a chunk.")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--random-weights")
    which.add_argument("--model")
    parser.add_argument("--size")
    parser.add_argument("--chunks", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--weights", choices=WEIGHT_FORMS, default="full")
    parser.add_argument("--resident-blocks", type=int)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def load(args: argparse.Namespace) -> Avatar:
    """Build the model that the options name."""
    placement = PlacementConfig(weights=args.weights, resident_blocks=args.resident_blocks)
    if args.random_weights is not None:
        return Avatar.with_random_weights(
            args.random_weights, device=args.device, precision=args.precision, placement=placement
        )
    return Avatar.load(args.model, device=args.device, precision=args.precision, placement=placement)


def write_voice(path: Path, num_samples: int) -> Path:
    """Write a tone with a syllable-like envelope."""
    time = np.arange(num_samples) / SAMPLE_RATE
    wave = 9000 * np.sin(2 * np.pi * 180 * time) * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * time))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=SAMPLE_RATE, layout="mono")
        frame = AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        container.mux(stream.encode(frame))  # type: ignore[attr-defined]
        container.mux(stream.encode(None))  # type: ignore[attr-defined]
    return path


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_gib(device: torch.device) -> dict[str, float] | None:
    """Return the allocator's peaks in GiB."""
    if device.type != "cuda":
        return None
    return {
        "allocated": round(torch.cuda.max_memory_allocated(device) / 2**30, 2),
        "reserved": round(torch.cuda.max_memory_reserved(device) / 2**30, 2),
    }


def print_table(report: dict[str, object], medians: dict[str, float]) -> None:
    """Print what people read."""
    for name in ("device", "precision", "torch", "num_frames", "load_seconds", "peak_gib"):
        print(f"{name:{COLUMN}}{report[name]}")
    for name, value in medians.items():
        print(f"{name:{COLUMN}}{value:.2f} ms")
    print(f"{'total':{COLUMN}}{report['total_ms']} ms")


if __name__ == "__main__":
    main()
