"""List the GPU kernels of a chunk with their times, by stage.

    python benchmarks/profile_chunk.py --random-weights flashtalk-14b --size 720x416 --float8 --attention fa3

Takes the options of `livetalk bench`. After three warm-up chunks, PyTorch's profiler records one chunk. A
kernel belongs to the innermost span that contains it. With several GPUs the kernels are those of rank 0, and
the time of an exchange includes waiting for the other ranks. The profiler slows down the host, not the
kernels: a stage whose kernels sum to less time than `livetalk bench` measures waits for the host.
"""

# ruff: noqa: T201  a program that measures and prints

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from livetalk.assembly.model import AvatarModel
from livetalk.bench.chunks import ChunkBench
from livetalk.bench.options import BenchOptions, bench_options
from livetalk.cli.bench import add_parser, run_measurement
from livetalk.engine.worker import choose_worker_device
from livetalk.env import worker_place
from livetalk.errors import InputError, LivetalkError

WARM_UP = 3
ROWS = 15
NAME_WIDTH = 96
OUTSIDE = "outside"
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(slots=True)
class KernelTime:
    """Number of runs of one kernel in one stage, and their total time."""

    count: int = 0
    microseconds: float = 0.0


def main() -> int:
    """Run; report errors that the user can fix in one line."""
    try:
        return run(parse_options())
    except LivetalkError as error:
        print(f"profile_chunk: error: {error}", file=sys.stderr)
        return 2


def parse_options() -> BenchOptions:
    """Parse the options of `livetalk bench`."""
    subparsers = argparse.ArgumentParser().add_subparsers()
    add_parser(subparsers)
    return bench_options(subparsers.choices["bench"].parse_args())


def run(options: BenchOptions) -> int:
    """Record and report, with several GPUs in one process each; return the exit code.

    Raises:
        LivetalkError: there is no GPU, or the model cannot be built.
    """
    device = choose_worker_device(options.run.device, worker_place())
    if device.type != "cuda":
        raise InputError(f"device {device}: kernels can be profiled on a GPU only")
    return run_measurement(options, report_kernels)


def report_kernels(chunks: ChunkBench, model: AvatarModel, load_seconds: float) -> None:
    """Record one warm chunk and print its kernels."""
    report(sum_by_stage(record_chunk(chunks)))


def record_chunk(chunks: ChunkBench) -> list[dict[str, Any]]:
    """Return the trace events of one warm chunk."""
    profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    chunks.run_warm_chunk(WARM_UP, profiler)
    with tempfile.TemporaryDirectory(prefix="livetalk-profile-") as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        return events


def sum_by_stage(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, KernelTime]]:
    """Return stage -> kernel -> time, from events in the format of trace viewers, in microseconds."""
    events = list(events)
    spans = [
        (event["ts"], event["ts"] + event["dur"], event["name"])
        for event in events
        if event.get("cat") == "gpu_user_annotation"
    ]
    sums: dict[str, dict[str, KernelTime]] = defaultdict(lambda: defaultdict(KernelTime))
    for event in events:
        if event.get("cat") in KERNELS:
            around = [span for span in spans if span[0] <= event["ts"] < span[1]]
            stage = min(around, key=lambda span: span[1] - span[0])[2] if around else OUTSIDE
            kernel = sums[stage][event["name"]]
            kernel.count += 1
            kernel.microseconds += event["dur"]
    return sums


def report(sums: dict[str, dict[str, KernelTime]]) -> None:
    """Print the longest kernels of each stage, the longest stage first."""
    totals = {stage: sum(k.microseconds for k in kernels.values()) for stage, kernels in sums.items()}
    for stage in sorted(totals, key=lambda name: -totals[name]):
        print(f"{stage}: {totals[stage] / 1000:.2f} ms of kernels")
        ranked = sorted(sums[stage].items(), key=lambda item: -item[1].microseconds)
        for name, kernel in ranked[:ROWS]:
            print(f"  {kernel.microseconds / 1000:9.3f} ms {kernel.count:6d} x  {name[:NAME_WIDTH]}")


if __name__ == "__main__":
    sys.exit(main())
