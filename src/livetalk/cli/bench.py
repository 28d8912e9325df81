"""`livetalk bench`: how fast a model runs here, by stage, as a table and as a record to keep."""

import argparse
import dataclasses
import statistics
from pathlib import Path
from time import perf_counter

import torch

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import RANDOM_MODELS
from livetalk.assembly.session import check_options, plan_session
from livetalk.bench.chunks import ChunkBench, Measurement, session_options, wait_for
from livetalk.bench.machine import describe_clocks, describe_system, find_commit, name_device
from livetalk.bench.model import build_model, name_attention
from livetalk.bench.options import DEFAULT_CHUNKS, DEFAULT_WARM_UP, BenchOptions
from livetalk.bench.published import PUBLISHED
from livetalk.bench.record import BenchRecord, now
from livetalk.bench.report import describe_plan, describe_record, describe_scaling, describe_subject
from livetalk.bench.scaling import measure_scaling
from livetalk.bench.spans import Trace, percentile, summarize_stages
from livetalk.cli.guard import run_workers
from livetalk.device import PRECISIONS, set_threads
from livetalk.engine.worker import (
    Leader,
    StreamTable,
    choose_worker_device,
    require_gpus,
    require_place,
    run_worker,
)
from livetalk.env import WorkerPlace, worker_place
from livetalk.errors import InputError, OutputError
from livetalk.ops.backends import ATTENTION_KERNELS
from livetalk.ops.kernels.selection import KERNEL_CHOICES
from livetalk.placement.apply import WEIGHT_FORMS

_LINE_INTERVAL_SECONDS = 5.0


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the sub-command and its options."""
    parser = subparsers.add_parser(
        "bench",
        help="measure how fast a model runs here",
        description="Measure how fast a model runs here, by stage. Prints what runs on what, a table, and "
        "one line of JSON at the end.",
    )
    _add_model_options(parser)
    _add_run_options(parser)
    parser.add_argument("--output", type=Path, metavar="JSON", help="keep the record in a file of its own")
    parser.add_argument(
        "--trace", type=Path, metavar="JSON", help="keep when every stage began and ended, for trace viewers"
    )
    parser.add_argument("--commit", help="of the source, where its repository cannot be asked")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="measure with 1, 2, 4 and 8 GPUs, as far as there are so many, beside what was published",
    )


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", default="embedded", help="as for generate (default: embedded)")
    which.add_argument("--random-weights", choices=RANDOM_MODELS, help="as for generate")
    parser.add_argument("--wav2vec-dir", type=Path, help="speech encoder of a published model")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1 (default: auto)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the networks")
    parser.add_argument("--weights", choices=WEIGHT_FORMS, default="full", help="as for generate")
    parser.add_argument("--resident-blocks", type=int, metavar="N", help="as for generate")
    parser.add_argument(
        "--attention",
        choices=["auto", *ATTENTION_KERNELS],
        default="auto",
        help="kernel of the self-attention; auto is PyTorch's choice (default: auto)",
    )
    parser.add_argument(
        "--fast", action="store_true", help="put the fast forms in place that change numbers by rounding only"
    )
    parser.add_argument(
        "--kernels", choices=KERNEL_CHOICES, default="auto", help="of the fast forms (default: auto)"
    )
    parser.add_argument(
        "--float8", action="store_true", help="the fast forms, and the blocks' products in FP8"
    )
    parser.add_argument(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="replay the fast forms from CUDA graphs where several GPUs share the work (default: yes)",
    )
    parser.add_argument("--compile", action="store_true", help="compile the transformer")
    parser.add_argument(
        "--compile-cache",
        type=Path,
        metavar="DIR",
        help="keep compiled code here (default: ~/.cache/livetalk)",
    )


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", help="of the picture, as for generate (default: the model's own)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the model's own)")
    parser.add_argument(
        "--latents-per-decode",
        type=int,
        metavar="N",
        help="latent frames that are decoded together (default: the model's own)",
    )
    parser.add_argument(
        "--gpus", type=int, default=1, help="GPUs that share a stream; with --device cpu processes"
    )
    parser.add_argument("--chunks", type=int, default=DEFAULT_CHUNKS, help="that are measured (default: 20)")
    parser.add_argument(
        "--warm-up", type=int, default=DEFAULT_WARM_UP, help="chunks before them (default: 3)"
    )
    parser.add_argument("--threads", type=int, help="CPU threads of a process (default: PyTorch's choice)")


def run(args: argparse.Namespace) -> int:
    """Measure, print and keep.

    Raises:
        LivetalkError: something the user can mend.
    """
    options = BenchOptions(**{name: getattr(args, name) for name in BenchOptions.__dataclass_fields__})
    place = worker_place()
    for path in (args.output, args.trace):
        if path is not None and not path.absolute().parent.is_dir():
            raise OutputError(f"output {path}: there is no such folder")
    check_options(session_options(options))
    if args.scaling:
        return _run_scaling(args, options)
    if options.gpus > 1 and place is None:
        require_gpus(options.gpus, options.device)
        return run_workers(_run_rank, [args, options], options.gpus)
    if place is not None and place.num_ranks > 1:
        require_place(place, options.gpus)
        return _run_rank(place, args, options)
    set_threads(options.threads)
    device = choose_worker_device(options.device, place)
    began = perf_counter()
    _announce(options)
    model = build_model(options, device)
    wait_for(device)
    bench = ChunkBench(model, StreamTable(model).run, options)
    _finish(args, options, model, bench, perf_counter() - began)
    return 0


def _run_rank(place: WorkerPlace, args: argparse.Namespace, options: BenchOptions) -> int:
    """Be one of several processes; only the first of them measures and prints."""
    set_threads(options.threads)
    device = choose_worker_device(options.device, place)
    began = perf_counter()
    if place.rank == 0:
        _announce(options)

    def lead(leader: Leader) -> int:
        wait_for(device)
        bench = ChunkBench(leader.model, leader.run, options)
        _finish(args, options, leader.model, bench, perf_counter() - began)
        return 0

    return run_worker(place, device, lambda: build_model(options, device), lead)


def _run_scaling(args: argparse.Namespace, options: BenchOptions) -> int:
    if args.output is not None or args.trace is not None:
        raise InputError("scaling: makes several records; measure a single number of GPUs to keep one")
    scaling = measure_scaling(options, announce=lambda what: print(f"== {what}", flush=True))
    print("\n".join(("", *describe_scaling(scaling.records, scaling.skipped, PUBLISHED))))
    for record in scaling.records:
        print(record.to_json())
    return 0 if scaling.records else 1


def _finish(
    args: argparse.Namespace,
    options: BenchOptions,
    model: AvatarModel,
    bench: ChunkBench,
    load_seconds: float,
) -> None:
    """Measure, print the table and the record, write the files."""
    measurement = bench.measure(_ChunkProgress())
    record = _make_record(options, model, measurement, load_seconds)
    print("\n".join(("", *describe_record(record), "")))
    if args.output is not None:
        record.save(args.output)
    if args.trace is not None:
        Trace(title=describe_subject(record), spans=measurement.spans).save(args.trace)
    print(record.to_json(), flush=True)


def _announce(options: BenchOptions) -> None:
    print("\n".join((*describe_plan(options, describe_system()), "")), flush=True)


def _make_record(
    options: BenchOptions, model: AvatarModel, measured: Measurement, load_seconds: float
) -> BenchRecord:
    session = plan_session(model, session_options(options))
    settings, device = session.settings, model.executor.device
    intervals = measured.intervals_ms
    fps = settings.geometry.chunk_frames * len(intervals) * 1000 / sum(intervals)
    return BenchRecord(
        model=model.name,
        random_weights=model.random_weights,
        gpu=name_device(device),
        num_gpus=options.gpus if device.type == "cuda" else 0,
        num_workers=options.gpus,
        threads=torch.get_num_threads(),
        size=f"{session.portrait.height}x{session.portrait.width}",
        precision=model.precision,
        weights=options.weights,
        attention=name_attention(model, options),
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
    """Says every few seconds how many chunks are done."""

    def __init__(self) -> None:
        self._last = perf_counter()

    def __call__(self, num_done: int, total: int) -> None:
        """Tell that `num_done` of `total` chunks are finished."""
        if perf_counter() - self._last >= _LINE_INTERVAL_SECONDS:
            self._last = perf_counter()
            print(f"{num_done} of {total} chunks", flush=True)
