"""Update the generated tables of the documentation.

    python scripts/generate_tables.py           # updates stale tables
    python scripts/generate_tables.py --check   # names the pages, exit code 1

A table is generated where a page has a line `<!-- table: NAME -->`: all lines from there to the next
`<!-- end of table -->` are replaced. All content comes from the records under benchmarks/results/, from
published rows (`livetalk.bench.published`) and from the registered evaluation measures.
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from livetalk.bench.published import PUBLISHED, PublishedTiming
from livetalk.bench.record import BenchRecord
from livetalk.evaluation.registry import MEASURES

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

_REGION = re.compile(
    r"^<!-- table: (?P<name>[a-z-]+) -->\n.*?^<!-- end of table -->$", re.MULTILINE | re.DOTALL
)
_OPENING = re.compile(r"^<!-- table: .*$", re.MULTILINE)

Table = list[Sequence[str]]
"""Rows of cells; the first row is the heading."""


@dataclass(frozen=True, slots=True)
class Row:
    """A record that a table quotes.

    Attributes:
        file: file name without month and extension.
        options: command-line options, in Markdown.
        speech_beside: speech encoding ran on a side stream, so that its span includes the kernels that it was
            interleaved with; tables do not quote it.
    """

    file: str
    options: str = ""
    speech_beside: bool = False

    @property
    def record(self) -> BenchRecord:
        """The record, read from its file."""
        (path,) = RESULTS.glob(f"{self.file}_20[0-9][0-9][0-9][0-9].json")
        return BenchRecord.load(path)


FAST = "`--fast --attention fa3`"
FLOAT8 = "`--float8 --attention fa3`"
FLOAT8_BOTH = "`--float8 --attention fa3-fp8`"

BF16_H100 = Row("flashtalk14b_fast_fa3_h100", FAST)
FLOAT8_H100 = Row("flashtalk14b_float8_fa3_h100", FLOAT8)
FP8_H100 = Row("flashtalk14b_float8_fa3fp8_h100", FLOAT8_BOTH)
FP8_2_H100 = Row("flashtalk14b_float8_fa3fp8_2xh100", FLOAT8_BOTH)
FP8_H200 = Row("flashtalk14b_float8_fa3fp8_h200", FLOAT8_BOTH, speech_beside=True)
FP8_2_H200 = Row("flashtalk14b_float8_fa3fp8_2xh200", FLOAT8_BOTH, speech_beside=True)
FP8_4_H200 = Row("flashtalk14b_float8_fa3fp8_4xh200", FLOAT8_BOTH, speech_beside=True)
BF16_2_H200 = Row("flashtalk14b_fast_fa3_2xh200", FAST)
PIECES_2_H200 = Row(
    "flashtalk14b_float8_fa3fp8_pieces_2xh200", "`--latents-per-decode 3`", speech_beside=True
)


def chunk_times() -> Table:
    """Return the stages of a chunk at 720x416: published rows, then ours."""
    rows = (BF16_H100, FLOAT8_H100, FP8_H100, FP8_2_H100, FP8_H200, FP8_2_H200, FP8_4_H200, BF16_2_H200)
    return [
        ("", "GPUs", "step", "decode", "encode", "speech", "chunk", "frames/s"),
        *(_published(timing) for timing in PUBLISHED),
        *(_measured(row) for row in rows),
    ]


def first_frames() -> Table:
    """Return the times to the first frame of a new stream."""
    rows = (FP8_H100, FP8_2_H100, FP8_2_H200, PIECES_2_H200, FP8_4_H200)
    return [
        ("", "whole chunk", "first frames decoded", "a chunk"),
        *(
            (
                _gpus(row.record) + (f", {row.options}" if row is PIECES_2_H200 else ""),
                _seconds(row.record.first_frame_ms),
                _seconds(row.record.first_frame_progressive_ms),
                _seconds(row.record.chunk_ms_median),
            )
            for row in rows
        ),
    ]


def peak_memory() -> Table:
    """Return the peak memory of each GPU during the measured chunks."""
    rows = (BF16_H100, FP8_H100, BF16_2_H200, FP8_2_H200, FP8_4_H200)
    return [
        ("", "GPUs", "peak of each"),
        *((row.options, _gpus(row.record), f"{row.record.peak_memory_gb:.1f} GB") for row in rows),
    ]


def shipped_on_cpu() -> Table:
    """Return the speed of the shipped model on a CPU."""
    rows = (Row("embedded_cpu_1thread"), Row("embedded_cpu_2threads"))
    return [
        ("cores", "real-time factor", "frames/s", "first frame"),
        *(
            (
                str(row.record.threads),
                f"{row.record.real_time_factor:.2f}",
                f"{row.record.fps:.2f}",
                _seconds(row.record.first_frame_ms),
            )
            for row in rows
        ),
    ]


def gpus_together() -> Table:
    """Return the stages of a chunk on one, two and four GPUs."""
    rows = (FP8_H200, FP8_2_H100, FP8_2_H200, FP8_4_H200)
    table: Table = [("GPUs", "transformer", "decode, encode", "all", "frames/s")]
    for row in rows:
        record = row.record
        table.append(
            (
                _gpus(record),
                f"{record.stages['transformer'].chunk_ms:.0f}",
                f"{record.stages['decode'].chunk_ms + record.stages['encode'].chunk_ms:.0f}",
                f"{record.chunk_ms_median:.0f}",
                f"{record.fps:.0f}",
            )
        )
    return table


def published_model() -> Table:
    """Return speed and memory of the published model, by options."""
    return [("options", "size", "a step", "a chunk of 28 frames", "frames/s", "peak memory"), *_model_rows()]


def published_model_zh() -> Table:
    """Return `published_model` with a Chinese heading."""
    heading = ("选项", "尺寸", "每步", "每个片段（28 帧）", "帧/秒", "显存峰值")  # noqa: RUF001  Chinese brackets
    return [heading, *_model_rows()]


def records() -> Table:
    """Return all records."""
    table: Table = [
        ("record", "GPUs", "size", "chunks", "chunk, ms", "95 %", "frames/s", "peak", "commit", "date")
    ]
    for path in sorted(RESULTS.glob("*.json")):
        record = BenchRecord.load(path)
        commit, _, dirty = record.commit.partition("-")
        table.append(
            (
                f"[{path.stem}](results/{path.name})",
                _gpus(record),
                record.size,
                str(record.chunks),
                f"{record.chunk_ms_median:.1f}",
                f"{record.chunk_ms_p95:.1f}",
                f"{record.fps:.2f}",
                f"{record.peak_memory_gb:.1f} GB",
                commit[:7] + ("-dirty" if dirty else ""),
                record.date.partition("T")[0],
            )
        )
    return table


def measures() -> Table:
    """Return the values of the registered evaluation measures."""
    return [
        ("measure", "value", "unit", "meaning", "good", "needs"),
        *(
            (
                measure.name,
                f"`{value.name}`",
                value.unit,
                value.meaning,
                value.good,
                ", ".join(sorted(need.value for need in measure.needs)),
            )
            for measure in MEASURES
            for value in measure.values
        ),
    ]


TABLES: dict[str, Callable[[], Table]] = {
    "chunk-times": chunk_times,
    "first-frames": first_frames,
    "peak-memory": peak_memory,
    "shipped-on-cpu": shipped_on_cpu,
    "gpus-together": gpus_together,
    "published-model": published_model,
    "published-model-zh": published_model_zh,
    "records": records,
    "measures": measures,
}


def fill(text: str, tables: dict[str, Callable[[], Table]]) -> str:
    """Return a page with updated tables.

    Raises:
        ValueError: a table is unknown, or its region has no end.
    """
    if len(_OPENING.findall(text)) != len(_REGION.findall(text)):
        raise ValueError("a table's region does not end with <!-- end of table --> on a line of its own")

    def write(region: re.Match[str]) -> str:
        name = region["name"]
        if name not in tables:
            raise ValueError(f"no table {name}: there are {', '.join(tables)}")
        heading, *rows = tables[name]()
        lines = [_line(heading), _line(["---"] * len(heading)), *map(_line, rows)]
        return "\n".join((f"<!-- table: {name} -->", *lines, "<!-- end of table -->"))

    return _REGION.sub(write, text)


def find_stale(pages: Iterable[Path]) -> dict[Path, str]:
    """Return stale page -> updated text.

    Raises:
        ValueError: see `fill`.
    """
    stale = {}
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text, TABLES)) != text:
            stale[page] = filled
    return stale


def _model_rows() -> list[Sequence[str]]:
    rows = (BF16_H100, FLOAT8_H100, FP8_H100, FP8_2_H100)
    return [
        (
            row.options[:-1] + (f" --gpus {row.record.num_gpus}`" if row.record.num_gpus > 1 else "`"),
            row.record.size,
            f"{row.record.stages['transformer'].median_ms:.0f} ms",
            _seconds(row.record.chunk_ms_median),
            f"{row.record.fps:.1f}",
            f"{row.record.peak_memory_gb:.1f} GB",
        )
        for row in rows
    ]


def _published(timing: PublishedTiming) -> Sequence[str]:
    times = (timing.step_ms, timing.decode_ms, timing.encode_ms, timing.speech_ms, timing.chunk_ms)
    cells = ["-" if time is None else f"{time:g}" for time in times]
    fps = "-" if timing.fps is None else f"{timing.fps:.1f}"
    return (timing.source, f"{timing.num_gpus} x {timing.gpu}", *cells, fps)


def _measured(row: Row) -> Sequence[str]:
    record = row.record
    step = record.stages["transformer"].median_ms
    decode, encode, speech = (record.stages[name].chunk_ms for name in ("decode", "encode", "speech"))
    return (
        f"livetalk, {row.options}",
        _gpus(record),
        f"{step:.0f}",
        f"{decode:.0f}",
        f"{encode:.1f}",
        "beside" if row.speech_beside else f"{speech:.1f}",
        f"{record.chunk_ms_median:.0f}",
        f"{record.fps:.1f}",
    )


def _gpus(record: BenchRecord) -> str:
    if not record.num_gpus:
        return f"CPU, {record.threads} {'thread' if record.threads == 1 else 'threads'}"
    # In "NVIDIA H100 80GB HBM3" the model is the second word.
    return f"{record.num_gpus} x {record.gpu.split()[1]}"


def _seconds(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds / 1000:.2f} s"


def _line(cells: Iterable[str]) -> str:
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def main() -> int:
    """Write or check; return the exit code."""
    parser = argparse.ArgumentParser(description="Update the generated tables of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a table is stale")
    args = parser.parse_args()
    try:
        stale = find_stale(PAGES)
    except ValueError as error:
        print(f"generate_tables: error: {error}", file=sys.stderr)
        return 2
    for page, text in stale.items():
        print(f"{page.relative_to(ROOT)}: {'stale' if args.check else 'written'}")
        if not args.check:
            page.write_text(text, encoding="utf-8")
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
