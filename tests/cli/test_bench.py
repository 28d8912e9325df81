"""`livetalk bench` on a tiny model: what it prints, what it keeps, what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from livetalk.bench.record import BenchRecord
from livetalk.bench.spans import Trace
from livetalk.cli.main import main

TINY = ["bench", "--random-weights", "tiny", "--device", "cpu", "--precision", "float32"]
SHORT = [*TINY, "--size", "32x16", "--steps", "1", "--chunks", "2", "--warm-up", "2"]


def test_it_prints_a_table_and_keeps_record_and_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, trace = tmp_path / "record.json", tmp_path / "trace.json"
    assert main([*SHORT, "--commit", "f" * 40, "--output", str(kept), "--trace", str(trace)]) == 0
    lines = capsys.readouterr().out.splitlines()
    record = BenchRecord.load(kept)
    assert BenchRecord.from_json(lines[-1]) == record
    asked = next(index for index, line in enumerate(lines) if line.startswith("precision"))
    table = next(index for index, line in enumerate(lines) if line.startswith("ms "))
    assert asked < table and lines[asked].split() == ["precision", "float32"]
    for stage in ("speech", "transformer", "decode", "colour", "encode", "copy", "total"):
        assert any(line.startswith(stage) for line in lines[table:]), stage
    assert (record.size, record.steps, record.chunks, record.num_gpus) == ("32x16", 1, 2, 0)
    assert record.stages["transformer"].per_chunk == 1 and record.stages["decode"].per_chunk == 1
    assert record.first_frame_progressive_ms is not None
    assert record.random_weights and record.commit == "f" * 40
    assert record.real_time_factor == pytest.approx(25 / record.fps)
    whole = record.chunks * record.chunk_frames * 1000 / record.fps
    assert 2 * record.chunk_ms_median == pytest.approx(whole), "of two values median and mean are one"
    assert {"step.transformer", "step.decode"} <= {span.name for span in Trace.load(trace).spans}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TINY, "--chunks", "1"], "chunks 1: at least 2 is needed"),
        ([*TINY, "--size", "17x17"], "size 17x17: height and width must be multiples of 16"),
        ([*TINY, "--latents-per-decode", "0"], "latents per decode 0: at least 1 is needed"),
        ([*TINY, "--steps", "0"], "steps 0: at least 1 is needed"),
        ([*TINY, "--attention", "fa3"], "attention fa3 cannot run here"),
        ([*TINY, "--output", __file__], "already exists; choose another name or add --overwrite"),
        ([*TINY, "--commit", "main"], "commit main: is not 40 hexadecimal digits"),
        ([*TINY, "--scaling", "--output", "record.json"], "scaling: gives several records"),
        (["bench", "--model", "nowhere"], "weights nowhere: no such folder"),
        (["bench", "--device", "cuda:99"], "device cuda:99: there are"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and message in errors[0]


def test_a_machine_without_video_and_terminal_packages_can_measure() -> None:
    program = (
        "import sys; sys.modules.update(av=None, rich=None)\n"
        "from livetalk.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    ran = subprocess.run([sys.executable, "-c", program, *SHORT], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert BenchRecord.from_json(ran.stdout.splitlines()[-1]).model == "tiny"


@pytest.mark.slow
def test_processes_share_a_stream(tmp_path: Path) -> None:
    kept = tmp_path / "record.json"
    ran = subprocess.run(
        [sys.executable, "-m", "livetalk", *SHORT, "--gpus", "2", "--threads", "1", "--output", str(kept)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    record = BenchRecord.load(kept)
    assert (record.num_workers, record.num_gpus) == (2, 0)
    # One of the two prints.
    assert ran.stdout.count("real-time factor") == 1
    assert BenchRecord.from_json(ran.stdout.splitlines()[-1]) == record
