"""Text output of a measurement."""

from collections.abc import Mapping, Sequence

from livetalk.assembly.run_options import describe_options
from livetalk.bench.options import BenchOptions
from livetalk.bench.published import PublishedTiming
from livetalk.bench.record import BenchRecord

_LABEL = 24
_NAMES = {"transformer": "transformer, a step", "encode": "encode motion frames", "color": "colour"}
_ORDER = ("speech", "transformer", "decode", "color", "encode", "copy")
_COLUMNS = ("GPUs", "", "step", "decode", "encode", "chunk", "FPS", "")
_WIDTHS = (6, 26, 9, 9, 9, 9, 8, 0)


def describe_plan(options: BenchOptions, system: Mapping[str, str]) -> list[str]:
    """Return the versions and options that are printed before a measurement."""
    lines = [f"{name:{_LABEL}}{value}" for name, value in system.items()]
    return [
        *lines,
        "",
        *(f"{name:{_LABEL}}{_word(value)}" for name, value in describe_options(options).items()),
    ]


def describe_subject(record: BenchRecord) -> str:
    """Return one line with the model, its settings and the hardware."""
    where = f"{record.num_gpus} x {record.gpu}" if record.num_gpus else record.gpu
    return (
        f"{record.model}{', random weights' if record.random_weights else ''}: {record.size}, "
        f"{record.steps} steps, {record.precision}, attention {record.attention}, {where}"
    )


def describe_record(record: BenchRecord) -> list[str]:
    """Return the table of stages, the speed, the time to the first frame and the memory."""
    lines = [
        describe_subject(record),
        "",
        f"{'ms':{_LABEL}}{'median':>10}{'p95':>10}{'a chunk':>10}",
    ]
    names = [name for name in _ORDER if name in record.stages]
    names += [name for name in record.stages if name not in names]
    # On a GPU the copy runs on a side stream, concurrently with the next chunk.
    concurrent = ("copy",) if record.num_gpus else ()
    accounted = 0.0
    for name in names:
        stage = record.stages[name]
        accounted += 0.0 if name in concurrent else stage.chunk_ms
        times = (stage.median_ms, stage.p95_ms, stage.chunk_ms)
        lines.append(f"{_NAMES.get(name, name):{_LABEL}}" + "".join(f"{time:10.2f}" for time in times))
    rest = record.chunk_ms_median - accounted
    lines += [
        f"{'rest':{_LABEL}}{'':20}{rest:10.2f}",
        f"{'total':{_LABEL}}{record.chunk_ms_median:10.2f}{record.chunk_ms_p95:10.2f}"
        f"{record.chunk_ms_median:10.2f}",
        "",
        f"{record.fps:.2f} frames/s, real-time factor {record.real_time_factor:.3f} "
        f"({'live' if record.real_time_factor < 1 else 'not live'})",
        f"{record.first_frame_ms:.1f} ms from the audio of a new stream to its first frame",
        *_progressive(record),
        f"{record.peak_memory_gb:.2f} GB at the peak, {record.load_seconds:.1f} s to load",
    ]
    if record.memory_growth_gb is not None:
        lines.append(f"{1000 * record.memory_growth_gb:.1f} MB more after {record.chunks} chunks than before")
    return lines


def describe_scaling(
    records: Sequence[BenchRecord], skipped: Mapping[int, str], published: Sequence[PublishedTiming]
) -> list[str]:
    """Return a table of records by number of GPUs, then of published rows, then what was not measured.

    `skipped` maps a number of GPUs to the reason why it was not measured.
    """
    lines = [_row(_COLUMNS)]
    for record in records:
        step = _time(record, "transformer", per_call=True)
        decode, encode = (_time(record, name, per_call=False) for name in ("decode", "encode"))
        where = f"{record.gpu if record.num_gpus else 'CPU'}, {record.size}"
        measured = (step, decode, encode, f"{record.chunk_ms_median:.1f}", f"{record.fps:.1f}", "measured")
        lines.append(_row((str(record.num_workers), where, *measured)))
    for row in published:
        chunk, fps = (_number(value) for value in (row.chunk_ms, row.fps))
        times = (f"{row.step_ms:.0f}", f"{row.decode_ms:.0f}", f"{row.encode_ms:.0f}", chunk, fps)
        lines.append(_row((str(row.num_gpus), f"{row.gpu}, 720x416", *times, row.source)))
    return [*lines, *(f"{number:<6}not measured: {reason}" for number, reason in skipped.items())]


def _progressive(record: BenchRecord) -> list[str]:
    if record.first_frame_progressive_ms is None:
        return []
    return [f"{record.first_frame_progressive_ms:.1f} ms with progressive decoding"]


def _time(record: BenchRecord, name: str, *, per_call: bool) -> str:
    stage = record.stages.get(name)
    if stage is None:
        return "-"
    return f"{stage.median_ms if per_call else stage.chunk_ms:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _row(cells: Sequence[str]) -> str:
    aligned = []
    for index, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=True)):
        is_word = index in (0, 1, len(cells) - 1)
        aligned.append(f"{cell:<{width}}" if is_word else f"{cell:>{width}}")
    return "  ".join(aligned).rstrip()


def _word(value: object) -> str:
    if value is None:
        return "-"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
