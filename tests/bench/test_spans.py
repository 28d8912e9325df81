import json
from pathlib import Path

import pytest
import torch

from livetalk.bench.spans import (
    CHUNK_SPAN,
    SpanTimer,
    StageTiming,
    TimedSpan,
    Trace,
    percentile,
    summarize_stages,
)
from livetalk.errors import InputError
from livetalk.tracing import observe_spans, span

CPU = torch.device("cpu")


def test_spans_are_nested_as_the_work_is() -> None:
    timer = SpanTimer(CPU)
    with observe_spans(timer), span("outer"):
        with span("first"):
            sum(range(20_000))
        with span("second"):
            sum(range(20_000))
    spans = {timed.name: timed for timed in timer.read()}
    assert list(spans) == ["first", "second", "outer"]
    outer, first, second = spans["outer"], spans["first"], spans["second"]
    assert 0 <= outer.start_ms <= first.start_ms < first.end_ms <= second.start_ms < second.end_ms
    assert second.end_ms <= outer.end_ms
    assert outer.duration_ms >= first.duration_ms + second.duration_ms


def test_a_span_that_fails_is_timed_too() -> None:
    timer = SpanTimer(CPU)
    with pytest.raises(ZeroDivisionError), observe_spans(timer), span("broken"):
        _ = 1 / 0
    assert [timed.name for timed in timer.read()] == ["broken"]


def test_stages_are_summed_up_by_call() -> None:
    spans = [TimedSpan("step.transformer", 0.0, duration) for duration in (4.0, 6.0, 5.0, 9.0)]
    spans += [TimedSpan("step.decode", 10.0, 12.0), TimedSpan("step.decode", 20.0, 24.0)]
    spans += [TimedSpan(CHUNK_SPAN, 0.0, 30.0), TimedSpan("step.denoise", 0.0, 9.0)] * 2
    stages = summarize_stages(spans, num_chunks=2)
    assert set(stages) == {"transformer", "decode"}
    assert (stages["transformer"].median_ms, stages["transformer"].per_chunk) == (5.5, 2)
    assert (stages["decode"].median_ms, stages["decode"].per_chunk) == (3.0, 1)
    assert stages["decode"].p95_ms == pytest.approx(3.9)
    assert (stages["transformer"].chunk_ms, stages["decode"].chunk_ms) == (12.0, 3.0)


def test_unequal_calls_of_a_chunk_add_up_to_its_time() -> None:
    spans = [TimedSpan("step.decode", 0.0, duration) for duration in (5.0, 8.0, 8.0) * 2]
    stage = summarize_stages(spans, num_chunks=2)["decode"]
    assert (stage.median_ms, stage.per_chunk, stage.chunk_ms) == (8.0, 3, 21.0)
    assert StageTiming(median_ms=8.0, p95_ms=8.0, per_chunk=3).chunk_ms == 24.0, "as older records say it"


def test_percentile_is_interpolated() -> None:
    assert percentile([5.0, 1.0, 3.0], 50) == 3.0
    assert percentile(range(21), 95) == 19.0


def test_a_trace_comes_back_and_viewers_can_read_it(tmp_path: Path) -> None:
    spans = (TimedSpan("a", 0.5, 2.0), TimedSpan("b", 1.0, 3.25), TimedSpan("a", 4.0, 4.5))
    trace = Trace(title="what was run", spans=spans)
    trace.save(tmp_path / "trace.json")
    assert Trace.load(tmp_path / "trace.json") == trace
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {event["args"]["name"]: event["tid"] for event in events if event["ph"] == "M"} == {"a": 0, "b": 1}
    complete = [event for event in events if event["ph"] == "X"]
    assert [(event["tid"], event["ts"], event["dur"]) for event in complete][1] == (1, 1000.0, 2250.0)


def test_a_trace_from_before_the_engine_had_its_name_is_read(tmp_path: Path) -> None:
    older = (
        TimedSpan("runtime.chunk", 0.0, 2.0),
        TimedSpan("step.decode", 1.0, 1.5),
        TimedSpan("odd", 1.0, 2.0),
    )
    Trace(title="older", spans=older).save(tmp_path / "trace.json")
    spans = Trace.load(tmp_path / "trace.json").spans
    assert [span.name for span in spans] == [CHUNK_SPAN, "step.decode", "odd"]


@pytest.mark.parametrize("text", ["", "[]", '{"traceEvents": [{"ph": "X"}]}', '{"traceEvents": 3}'])
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(InputError, match="was not written by livetalk bench"):
        Trace.load(tmp_path / "trace.json")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_span_lasts_as_long_as_the_work_and_nobody_waits() -> None:
    device = torch.device("cuda")
    timer = SpanTimer(device)
    with observe_spans(timer), span("sleep"):
        torch.cuda._sleep(200_000_000)
    done = torch.cuda.Event()
    done.record()
    assert not done.query(), "leaving the span waited for the device"
    assert timer.read()[0].duration_ms > 50
