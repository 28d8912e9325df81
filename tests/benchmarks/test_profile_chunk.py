"""A kernel belongs to the innermost span that contains it."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from livetalk.assembly.random_model import build_random_model
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.bench.chunks import ChunkBench
from livetalk.bench.options import BenchOptions
from livetalk.engine.table import StreamTable

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "profile_chunk.py"


@pytest.fixture(scope="module")
def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("profile_chunk", PROGRAM)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["profile_chunk"] = module
    spec.loader.exec_module(module)
    return module


def event(cat: str, name: str, start: float, duration: float) -> dict[str, Any]:
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": duration}


def test_a_kernel_belongs_to_the_innermost_span(program: ModuleType) -> None:
    events = [
        {"ph": "M", "name": "process_name"},
        event("gpu_user_annotation", "engine.chunk", 0, 100),
        event("gpu_user_annotation", "step.decode", 40, 30),
        event("user_annotation", "step.decode", 0, 90),
        event("kernel", "gemm", 10, 5),
        event("kernel", "conv", 41, 7),
        event("kernel", "conv", 50, 8),
        event("gpu_memcpy", "copy", 200, 3),
        event("cpu_op", "aten::mm", 10, 50),
    ]
    sums = program.sum_by_stage(events)
    found = {
        (stage, name): (kernel.count, kernel.microseconds)
        for stage, kernels in sums.items()
        for name, kernel in kernels.items()
    }
    assert found == {
        ("engine.chunk", "gemm"): (1, 5),
        ("step.decode", "conv"): (2, 15),
        ("outside", "copy"): (1, 3),
    }


def test_the_longest_stage_and_kernel_come_first(
    program: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    time = program.KernelTime
    program.report({"short": {"a": time(1, 1.0)}, "long": {"b": time(1, 5e3), "c": time(9, 7e3)}})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["long:", "7.000", "5.000", "short:", "0.001"]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_chunk_that_is_recorded_is_benchs_own(program: ModuleType) -> None:
    """On a CPU the events hold the spans and no kernels."""
    options = BenchOptions(
        source=ModelSource(random_weights="tiny"), run=RunConfig(device="cpu"), size="32x16", num_steps=2
    )
    model = build_random_model("tiny", device=torch.device("cpu"), dtype=torch.float32)
    events = program.record_chunk(ChunkBench(model, StreamTable(model), options))
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert {name: names.count(name) for name in ("engine.chunk", "step.transformer", "step.decode")} == {
        "engine.chunk": 1,
        "step.transformer": 2,
        "step.decode": 1,
    }
    assert program.sum_by_stage(events) == {}


def test_without_a_gpu_it_says_so_in_a_line() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--random-weights", "tiny", "--device", "cpu"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.strip() == "profile_chunk: error: device cpu: kernels can be profiled on a GPU only"
