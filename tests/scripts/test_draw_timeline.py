import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from livetalk.assembly.random_model import build_random_model
from livetalk.bench.chunks import ChunkBench
from livetalk.bench.options import BenchOptions
from livetalk.bench.spans import CHUNK_SPAN, TimedSpan, Trace
from livetalk.engine.table import StreamTable
from livetalk.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "draw_timeline.py"


@pytest.fixture(scope="module")
def timeline() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_timeline", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def overlapping_trace() -> Trace:
    """Return two chunks of 10 ms, 12 ms apart; the copy of each runs under what comes after it."""
    spans = []
    for start in (100.0, 112.0):
        spans += [
            TimedSpan("step.transformer", start + 1, start + 3),
            TimedSpan("step.transformer", start + 3, start + 5),
            TimedSpan("step.decode", start + 5, start + 10),
            TimedSpan(CHUNK_SPAN, start, start + 10),
            TimedSpan("engine.copy", start + 11, start + 14),
        ]
    return Trace(title="two chunks", spans=tuple(spans))


def test_a_chunk_is_cut_out_with_what_runs_beside_it(timeline: ModuleType) -> None:
    first, second = (timeline.cut_chunk(overlapping_trace(), index) for index in (0, 1))
    assert (first.start_ms, first.length_ms) == (100.0, 12.0)
    assert [(span.start_ms, span.end_ms) for span in first.rows["transformer"]] == [(1, 3), (3, 5)]
    assert first.rows["copy"] == [TimedSpan("engine.copy", 11.0, 12.0)]
    assert first.totals_ms == {"transformer": 4.0, "decode": 5.0, "copy": 3.0}
    assert first.own == {span for spans in first.rows.values() for span in spans}
    assert (second.start_ms, second.length_ms) == (112.0, 10.0)
    beside = TimedSpan("engine.copy", 0.0, 2.0)
    assert second.rows["copy"] == [beside]
    assert beside not in second.own and len(second.own) == 3
    assert second.totals_ms["copy"] == 3.0


def test_there_is_no_other_chunk(timeline: ModuleType) -> None:
    for index in (-1, 2):
        with pytest.raises(InputError, match="the trace has chunks 0 to 1"):
            timeline.cut_chunk(overlapping_trace(), index)


def test_ticks_are_round_and_few(timeline: ModuleType) -> None:
    assert timeline.ticks(12.0) == [0, 2, 4, 6, 8, 10, 12]
    assert timeline.ticks(876.0) == [100 * number for number in range(9)]
    assert len(timeline.ticks(0.37)) <= 11


def test_bars_stand_where_the_work_was(timeline: ModuleType) -> None:
    trace = overlapping_trace()
    picture = np.asarray(timeline.draw(trace, timeline.cut_chunk(trace, 1)))
    left, scale = timeline.MARGIN + timeline.LABELS, (timeline.WIDTH - timeline.LABELS - 2 * 24) / 10.0
    colours = [tuple(picture[timeline.HEADER + 44 * row + 22, round(left + ms * scale)]) for row, ms in
               ((0, 0.5), (1, 2.5), (1, 0.5), (2, 7.0), (2, 2.5))]  # fmt: skip
    copy, transformer, before, decode, not_yet = colours
    assert before == not_yet == timeline.PAPER
    assert transformer == timeline.COLOURS[1] and decode == timeline.COLOURS[2]
    assert copy not in (timeline.COLOURS[0], timeline.PAPER) and min(copy) > min(timeline.COLOURS[0])


def test_a_recorded_chunk_becomes_a_picture(
    timeline: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BenchOptions(size="32x16", num_steps=2, chunks=2, warm_up=2)
    model = build_random_model("tiny", device=torch.device("cpu"), dtype=torch.float32)
    measured = ChunkBench(model, StreamTable(model), options).measure(lambda done, total: None)
    trace = Trace(title="tiny", spans=measured.spans)
    trace.save(tmp_path / "trace.json")
    rows = timeline.cut_chunk(trace, 1).rows
    assert {"speech", "transformer", "decode", "color", "encode", "copy"} <= rows.keys()
    assert len(rows["transformer"]) == 2

    arguments = [str(tmp_path / "trace.json"), str(tmp_path / "timeline.png")]
    assert timeline.main(arguments) == 0
    assert "chunk 2 of 4" in capsys.readouterr().out
    with Image.open(tmp_path / "timeline.png") as picture:
        assert picture.width == timeline.WIDTH and picture.height > 6 * timeline.ROW
    assert timeline.main([*arguments, "--chunk", "4"]) == 2
    assert "chunk 4: the trace has chunks 0 to 3" in capsys.readouterr().err
