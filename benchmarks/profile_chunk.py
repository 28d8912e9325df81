"""Say which kernels a chunk's time goes to, stage by stage, on a GPU.

    python benchmarks/profile_chunk.py --random-weights flashtalk-14b --size 720x416 --float8 --attention fa3

Takes the options of `livetalk bench`. Three chunks warm up, one is recorded by PyTorch's profiler; a kernel
belongs to the innermost of the library's spans that it ran in. With several GPUs the kernels are the first
one's, and an exchange lasts from this GPU being there to all being done. Recording makes the host slower,
not the kernels: stages whose kernels sum to less than `livetalk bench` measures wait for the host.
"""

# ruff: noqa: T201  a program that measures and prints

import argparse
import contextlib
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.session import plan_session
from livetalk.bench.chunks import draw_picture, hum, session_options, wait_for
from livetalk.bench.model import build_measured
from livetalk.bench.options import BenchOptions, bench_options
from livetalk.cli import bench
from livetalk.engine.commands import NextChunk, OpenStream
from livetalk.engine.group import WorkerGroup
from livetalk.engine.stream import Streams
from livetalk.engine.worker import Leader, StreamTable, choose_worker_device, require_gpus, run_worker
from livetalk.env import WorkerPlace, worker_place
from livetalk.errors import InputError, LivetalkError
from livetalk.tracing import observe_spans

WARM_UP = 3
ROWS = 15
NAME_WIDTH = 96
OUTSIDE = "outside"
KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(slots=True)
class KernelTime:
    """How long all runs of one kernel in one stage took.

    Attributes:
        count: runs.
        microseconds: of all of them.
    """

    count: int = 0
    microseconds: float = 0.0


def main() -> int:
    """Run; what the user can mend is one line."""
    try:
        return run(parse_options())
    except LivetalkError as error:
        print(f"profile_chunk: error: {error}", file=sys.stderr)
        return 2


def parse_options() -> BenchOptions:
    """Return the options, those of `livetalk bench`."""
    subparsers = argparse.ArgumentParser().add_subparsers()
    bench.add_parser(subparsers)
    return bench_options(subparsers.choices["bench"].parse_args())


def run(options: BenchOptions) -> int:
    """Record and report, in processes of their own if there are several GPUs; return the exit code.

    Raises:
        LivetalkError: there is no GPU, or the model cannot be built.
    """
    place = worker_place()
    device = choose_worker_device(options.run.device, place)
    if device.type != "cuda":
        raise InputError(f"device {device}: only a GPU's kernels are told apart")
    if options.run.gpus == 1:
        model = build_measured(options, device)
        report(sum_by_stage(record_chunk(model, StreamTable(model), options)))
        return 0
    if place is not None:
        return run_rank(place, options)
    require_gpus(options.run.gpus, options.run.device)
    with WorkerGroup.start(run_rank, [(options,)] * options.run.gpus) as group:
        return group.wait()


def run_rank(place: WorkerPlace, options: BenchOptions) -> int:
    """Be one of several processes; the first reports."""
    device = choose_worker_device(options.run.device, place)

    def lead(leader: Leader) -> int:
        report(sum_by_stage(record_chunk(leader.model, leader, options)))
        return 0

    return run_worker(place, device, lambda: build_measured(options, device), lead)


def record_chunk(model: AvatarModel, streams: Streams, options: BenchOptions) -> list[dict[str, Any]]:
    """Return the events of one warm chunk's trace."""
    session = session_options(options)
    planned = plan_session(model, session)
    geometry = planned.settings.geometry
    picture = draw_picture(planned.portrait)
    streams.run(OpenStream(stream=0, picture=picture, sound=torch.zeros(0), options=session))

    def run_chunk(index: int) -> None:
        samples = hum(index * geometry.chunk_samples, geometry.chunk_samples, geometry.sample_rate)
        streams.run(NextChunk(stream=0, samples=samples))
        wait_for(model.executor.device)

    for index in range(WARM_UP):
        run_chunk(index)
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities) as profiler, observe_spans(_annotate):
        run_chunk(WARM_UP)
    with tempfile.TemporaryDirectory(prefix="livetalk-profile-") as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
        return events


@contextlib.contextmanager
def _annotate(name: str) -> Iterator[None]:
    with record_function(name):
        yield


def sum_by_stage(events: Iterable[dict[str, Any]]) -> dict[str, dict[str, KernelTime]]:
    """Sum the kernels of a trace: stage -> kernel -> time.

    Args:
        events: of a trace in the format of trace viewers, times in microseconds.
    """
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
    """Print each stage's longest kernels, the longest stage first."""
    totals = {stage: sum(k.microseconds for k in kernels.values()) for stage, kernels in sums.items()}
    for stage in sorted(totals, key=lambda name: -totals[name]):
        print(f"{stage}: {totals[stage] / 1000:.2f} ms of kernels")
        ranked = sorted(sums[stage].items(), key=lambda item: -item[1].microseconds)
        for name, kernel in ranked[:ROWS]:
            print(f"  {kernel.microseconds / 1000:9.3f} ms {kernel.count:6d} x  {name[:NAME_WIDTH]}")


if __name__ == "__main__":
    sys.exit(main())
