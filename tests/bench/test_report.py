import dataclasses

from bench.example_record import RECORD
from livetalk.accelerate.apply import AccelerationConfig
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.bench.options import BenchOptions
from livetalk.bench.published import FIGURE_6, PUBLISHED
from livetalk.bench.report import describe_plan, describe_record, describe_scaling
from livetalk.bench.spans import StageTiming
from livetalk.placement.apply import PlacementConfig


def test_every_option_is_printed() -> None:
    run = RunConfig(threads=1, acceleration=AccelerationConfig(fast=True))
    text = "\n".join(describe_plan(BenchOptions(run=run), {"torch": "2.11"}))
    for kind in (RunConfig, ModelSource, PlacementConfig, AccelerationConfig, BenchOptions):
        for name in kind.__dataclass_fields__.keys() - {"source", "run", "placement", "acceleration"}:
            assert f"\n{name.replace('_', '-')} " in f"\n{text}", name
    assert "torch                   2.11" in text and "fast                    yes" in text


def rows_of(lines: list[str]) -> dict[str, list[str]]:
    """Return the numbers of each row of a table by its label."""
    return {line[:24].strip(): line[24:].split() for line in lines if line[24:].strip()}


def test_the_table_adds_up() -> None:
    stages = {
        "copy": StageTiming(median_ms=9.0, p95_ms=9.5, per_chunk=1),
        "decode": StageTiming(median_ms=100.0, p95_ms=110.0, per_chunk=1),
        "transformer": StageTiming(median_ms=80.0, p95_ms=90.0, per_chunk=4),
        "later": StageTiming(median_ms=40.0, p95_ms=41.0, per_chunk=1),
    }
    lines = describe_record(dataclasses.replace(RECORD, stages=stages))
    rows = rows_of(lines)
    assert rows["transformer, a step"] == ["80.00", "90.00", "320.00"]
    assert rows["rest"] == ["91.00"]  # 560 - 9 - 100 - 320 - 40
    assert rows["total"] == ["560.00", "570.00", "560.00"]
    order = [line[:24].strip() for line in lines]
    assert order.index("transformer, a step") < order.index("decode") < order.index("copy")
    assert "50.00 frames/s, real-time factor 0.500 (live)" in order + lines


def test_what_runs_beside_other_chunks_is_no_part_of_a_gpus_sum() -> None:
    names = ("speech", "decode", "copy")
    stages = {name: StageTiming(median_ms=60.0, p95_ms=61.0, per_chunk=1) for name in names}
    cpu, gpu = (dataclasses.replace(RECORD, stages=stages, num_gpus=number) for number in (0, 1))
    assert rows_of(describe_record(cpu))["rest"] == ["380.00"]
    assert rows_of(describe_record(gpu))["rest"] == ["440.00"]


def test_the_first_frame_is_told_both_ways_as_far_as_they_were_measured() -> None:
    lines = describe_record(RECORD)
    assert "565.0 ms from the audio of a new stream to its first frame" in lines
    assert "401.5 ms with progressive decoding" in lines
    older = describe_record(dataclasses.replace(RECORD, first_frame_progressive_ms=None))
    assert len(older) == len(lines) - 1 and not any("decoded" in line for line in older)


def test_live_is_said_only_of_what_is() -> None:
    slow = dataclasses.replace(RECORD, fps=24.0, real_time_factor=25 / 24)
    assert any("(not live)" in line for line in describe_record(slow))


def test_the_scaling_table_has_ours_theirs_and_what_is_missing() -> None:
    record = dataclasses.replace(RECORD, gpu="H100", num_gpus=2, num_workers=2)
    lines = describe_scaling([record], {4: "this machine has 2"}, PUBLISHED)
    assert lines[1].split()[:2] == ["2", "H100,"] and lines[1].endswith("measured")
    assert [line.split()[0] for line in lines[2:5]] == ["1", "8", "8"]
    assert "not measured" in lines[5] and lines[5].startswith("4 ") and "this machine has 2" in lines[5]


def test_published_rows_are_those_of_the_paper() -> None:
    rows = [(row.num_gpus, row.step_ms, row.decode_ms, row.encode_ms) for row in PUBLISHED]
    assert rows == [(1, 1070, 988, 97), (8, 193, 192, 21), (8, 154, 187, 14)]
    assert FIGURE_6.fps is not None and round(FIGURE_6.fps, 1) == 32.0
