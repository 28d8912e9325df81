"""Draw one chunk of a trace that `livetalk bench --trace` recorded.

    livetalk bench --trace trace.json
    python scripts/draw_timeline.py trace.json timeline.png --chunk 5

There is one row per stage, from the start of the chunk to the start of the next. Concurrent work of
neighbouring chunks, such as the copy of the previous frames, is drawn paler.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from livetalk.bench.spans import CHUNK_SPAN, SURROUNDING_SPANS, TimedSpan, Trace
from livetalk.errors import InputError, LivetalkError

WIDTH = 1600
LABELS = 240
MARGIN = 24
ROW = 44
BAR = 28
HEADER = 84
FOOTER = 56
MAX_TICKS = 10
PALE = 0.35

PAPER = (255, 255, 255)
INK = (34, 34, 34)
GRID = (222, 222, 222)
COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
"""Distinguishable with red-green colour blindness."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """One chunk of a trace.

    Attributes:
        start_ms: of the chunk.
        length_ms: to the start of the next chunk, or to the end of the last chunk.
        rows: stage -> spans within this interval, clipped to it, relative to its start.
        own: the spans in `rows` that belong to this chunk.
        totals_ms: stage -> time of this chunk, including the part outside the interval.
    """

    start_ms: float
    length_ms: float
    rows: dict[str, list[TimedSpan]]
    own: frozenset[TimedSpan]
    totals_ms: dict[str, float]


def cut_chunk(trace: Trace, index: int) -> Excerpt:
    """Return chunk `index` of a trace.

    Raises:
        InputError: there is no such chunk.
    """
    chunks = sorted((span for span in trace.spans if span.name == CHUNK_SPAN), key=lambda span: span.start_ms)
    if not 0 <= index < len(chunks):
        raise InputError(f"chunk {index}: the trace has chunks 0 to {len(chunks) - 1}")
    start = chunks[index].start_ms
    end = chunks[index + 1].start_ms if index + 1 < len(chunks) else chunks[index].end_ms
    rows: dict[str, list[TimedSpan]] = {}
    own = set()
    totals: dict[str, float] = defaultdict(float)
    for span, chunk in sorted(find_owners(trace, len(chunks)), key=lambda pair: pair[0].start_ms):
        stage = span.name.rpartition(".")[2]
        if chunk == index:
            totals[stage] += span.duration_ms
        if span.end_ms <= start or span.start_ms >= end:
            continue
        cut = TimedSpan(span.name, max(span.start_ms, start) - start, min(span.end_ms, end) - start)
        rows.setdefault(stage, []).append(cut)
        if chunk == index:
            own.add(cut)
    return Excerpt(start, end - start, rows, frozenset(own), totals)


def find_owners(trace: Trace, num_chunks: int) -> Iterator[tuple[TimedSpan, int]]:
    """Yield each span of a stage with its chunk's index; every chunk has the same number of each span."""
    stages: dict[str, list[TimedSpan]] = {}
    for span in trace.spans:
        if span.name not in SURROUNDING_SPANS:
            stages.setdefault(span.name, []).append(span)
    for spans in stages.values():
        for number, span in enumerate(sorted(spans, key=lambda span: span.start_ms)):
            yield span, number * num_chunks // len(spans)


def draw(trace: Trace, excerpt: Excerpt) -> Image.Image:
    """Return the drawing of a chunk."""
    height = HEADER + ROW * len(excerpt.rows) + FOOTER
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(picture)
    large, small = (ImageFont.load_default(size) for size in (22, 16))
    pen.text((MARGIN, MARGIN), trace.title, INK, large)
    scale = (WIDTH - LABELS - 2 * MARGIN) / excerpt.length_ms
    left, bottom = MARGIN + LABELS, height - FOOTER
    for tick in ticks(excerpt.length_ms):
        x = left + tick * scale
        pen.line((x, HEADER - 8, x, bottom), GRID)
        pen.text((x, bottom + 10), f"{tick:g} ms", INK, small, anchor="ma")
    for row, (name, spans) in enumerate(excerpt.rows.items()):
        middle = HEADER + ROW * row + ROW // 2
        pen.text((MARGIN, middle), name, INK, small, anchor="lm")
        pen.text((left - 12, middle), f"{excerpt.totals_ms[name]:.1f} ms", INK, small, anchor="rm")
        for span in spans:
            colour = COLOURS[row % len(COLOURS)]
            if span not in excerpt.own:
                colour = blend(colour)
            box = (
                left + span.start_ms * scale,
                middle - BAR // 2,
                left + span.end_ms * scale,
                middle + BAR // 2,
            )
            # A span shorter than a pixel stays visible.
            pen.rectangle((box[0], box[1], max(box[2], box[0] + 1), box[3]), colour, PAPER)
    return picture


def blend(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return a paler colour."""
    red, green, blue = (round(255 - PALE * (255 - part)) for part in colour)
    return red, green, blue


def ticks(length_ms: float) -> list[float]:
    """Return round times from 0 to a length, at most `MAX_TICKS` + 1."""
    step = 1e-3
    while True:
        for factor in (1, 2, 5):
            if length_ms / (step * factor) <= MAX_TICKS:
                return [number * step * factor for number in range(int(length_ms / (step * factor)) + 1)]
        step *= 10


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line, draw, save."""
    parser = argparse.ArgumentParser(description="Draw one chunk of a recorded trace.")
    parser.add_argument("trace", type=Path, help="output of livetalk bench --trace")
    parser.add_argument("picture", type=Path, help="the .png to write")
    parser.add_argument("--chunk", type=int, help="index of the chunk, from 0 (default: the middle one)")
    args = parser.parse_args(arguments)
    try:
        trace = Trace.load(args.trace)
        num_chunks = sum(span.name == CHUNK_SPAN for span in trace.spans)
        index = num_chunks // 2 if args.chunk is None else args.chunk
        excerpt = cut_chunk(trace, index)
    except LivetalkError as error:
        print(f"draw_timeline: error: {error}", file=sys.stderr)
        return 2
    draw(trace, excerpt).save(args.picture, format="PNG")
    print(f"{args.picture}: chunk {index} of {num_chunks}, {excerpt.length_ms:.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
