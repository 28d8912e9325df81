"""`livetalk bench`: measure how fast a model runs on this machine, by stage, as a table and a record."""

import argparse
import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.stream_plan import plan_stream
from livetalk.bench.chunks import ChunkBench, Measurement, stream_spec
from livetalk.bench.machine import describe_clocks, describe_system, find_commit, name_device
from livetalk.bench.model import build_measured, name_attention
from livetalk.bench.options import BenchOptions, add_bench_options, bench_options
from livetalk.bench.published import PUBLISHED
from livetalk.bench.record import BenchRecord, now
from livetalk.bench.report import describe_plan, describe_record, describe_scaling, describe_subject
from livetalk.bench.scaling import measure_scaling
from livetalk.bench.spans import Trace, percentile, summarize_stages, wait_for
from livetalk.cli.guard import run_workers
from livetalk.engine.leader import Leader
from livetalk.engine.table import StreamTable
from livetalk.engine.worker import (
    choose_worker_device,
    require_gpus,
    require_place,
    run_worker,
)
from livetalk.env import WorkerPlace, worker_place
from livetalk.errors import InputError
from livetalk.media.files import require_output_file

_LINE_INTERVAL_SECONDS = 5.0


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "bench",
        help="measure how fast a model runs on this machine",
        description="Measure how fast a model runs on this machine, by stage. Prints the configuration, a "
        "table, and one line of JSON at the end.",
    )
    add_bench_options(parser)
    parser.add_argument("--output", type=Path, metavar="JSON", help="also write the record to a file")
    parser.add_argument(
        "--trace", type=Path, metavar="JSON", help="write start and end of every stage for trace viewers"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="measure with 1, 2, 4 and 8 GPUs, as far as available, and show the published numbers",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print the results and write the files that were asked for.

    Raises:
        LivetalkError: an argument, a file or the machine is unsuitable.
    """
    options = bench_options(args)
    for path in (args.output, args.trace):
        if path is not None:
            require_output_file(path, overwrite=args.overwrite)
    # Refuses bad options before a model is loaded.
    stream_spec(options)
    if args.scaling:
        return _run_scaling(args, options)
    return run_measurement(options, _measure, args, options)


def run_measurement(options: BenchOptions, measure: Callable[..., None], *arguments: object) -> int:
    """Build the model in every worker process, measure in the leader, and return the exit code.

    The leader calls `measure(bench, model, load_seconds, *arguments)`. `measure` must be a module's function
    and `arguments` picklable, since both are sent to worker processes.

    Raises:
        LivetalkError: an argument, a file or the machine is unsuitable.
    """
    place = worker_place()
    if options.run.gpus > 1 and place is None:
        require_gpus(options.run.gpus, options.run.device)
        return run_workers(_run_rank, [options, measure, *arguments], options.run.gpus)
    if place is not None and place.num_ranks > 1:
        require_place(place, options.run.gpus)
        return _run_rank(place, options, measure, *arguments)
    device = choose_worker_device(options.run.device, place)
    began = perf_counter()
    _announce(options)
    model = build_measured(options, device)
    wait_for(device)
    bench = ChunkBench(model, StreamTable(model), options)
    measure(bench, model, perf_counter() - began, *arguments)
    return 0


def _run_rank(
    place: WorkerPlace, options: BenchOptions, measure: Callable[..., None], *arguments: object
) -> int:
    """Run one of several worker processes; only the leader measures and prints."""
    device = choose_worker_device(options.run.device, place)
    began = perf_counter()
    if place.rank == 0:
        _announce(options)

    def lead(leader: Leader) -> int:
        wait_for(device)
        bench = ChunkBench(leader.model, leader, options)
        measure(bench, leader.model, perf_counter() - began, *arguments)
        return 0

    return run_worker(place, device, lambda: build_measured(options, device), lead)


def _run_scaling(args: argparse.Namespace, options: BenchOptions) -> int:
    if args.output is not None or args.trace is not None:
        raise InputError("scaling: gives several records; leave --output and --trace out")
    scaling = measure_scaling(options, announce=lambda what: print(f"== {what}", flush=True))
    print("\n".join(("", *describe_scaling(scaling.records, scaling.skipped, PUBLISHED))))
    for record in scaling.records:
        print(record.to_json())
    # Some GPU counts may be missing on this machine; only no result at all is a failure.
    return 0 if scaling.records else 1


def _measure(
    bench: ChunkBench,
    model: AvatarModel,
    load_seconds: float,
    args: argparse.Namespace,
    options: BenchOptions,
) -> None:
    """Measure, print the table and the record, and write the files."""
    measurement = bench.measure(_ChunkProgress())
    record = _make_record(options, model, measurement, load_seconds)
    print("\n".join(("", *describe_record(record), "")))
    if args.output is not None:
        record.save(args.output, overwrite=args.overwrite)
    if args.trace is not None:
        trace = Trace(title=describe_subject(record), spans=measurement.spans)
        trace.save(args.trace, overwrite=args.overwrite)
    print(record.to_json(), flush=True)


def _announce(options: BenchOptions) -> None:
    print("\n".join((*describe_plan(options, describe_system()), "")), flush=True)


def _make_record(
    options: BenchOptions, model: AvatarModel, measured: Measurement, load_seconds: float
) -> BenchRecord:
    plan = plan_stream(model, stream_spec(options))
    settings, device = plan.settings, model.executor.device
    intervals = measured.intervals_ms
    fps = settings.geometry.chunk_frames * len(intervals) * 1000 / sum(intervals)
    return BenchRecord(
        model=model.name,
        random_weights=model.random_weights,
        gpu=name_device(device),
        num_gpus=options.run.gpus if device.type == "cuda" else 0,
        num_workers=options.run.gpus,
        threads=torch.get_num_threads(),
        size=f"{plan.portrait.height}x{plan.portrait.width}",
        precision=model.precision,
        weights=options.run.placement.weights,
        attention=name_attention(model, options),
        # The record has the commit in a field of its own.
        options=tuple(dataclasses.replace(options, commit=None).to_arguments()),
        steps=settings.sampler.num_steps,
        window_frames=settings.geometry.window_frames,
        chunk_frames=settings.geometry.chunk_frames,
        chunks=len(intervals),
        warm_up=options.warm_up,
        fps=fps,
        real_time_factor=settings.geometry.fps / fps,
        chunk_ms_median=statistics.median(intervals),
        chunk_ms_p95=percentile(intervals, 95),
        first_frame_ms=statistics.median(measured.first_ms),
        first_frame_progressive_ms=statistics.median(measured.first_progressive_ms),
        stages=summarize_stages(measured.spans, measured.num_span_chunks),
        peak_memory_gb=measured.peak_memory_gb,
        peak_reserved_gb=measured.peak_reserved_gb,
        memory_growth_gb=measured.memory_growth_gb,
        load_seconds=load_seconds,
        system=describe_system() | describe_clocks(device),
        commit=options.commit or find_commit(),
        date=now(),
    )


class _ChunkProgress:
    """Prints at intervals how many chunks are done."""

    def __init__(self) -> None:
        self._last = perf_counter()

    def __call__(self, num_done: int, total: int) -> None:
        """Report that `num_done` of `total` chunks are done."""
        if perf_counter() - self._last >= _LINE_INTERVAL_SECONDS:
            self._last = perf_counter()
            print(f"{num_done} of {total} chunks", flush=True)
