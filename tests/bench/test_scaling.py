import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from bench.example_record import RECORD
from livetalk.assembly.run import RunConfig
from livetalk.bench import scaling
from livetalk.bench.options import BenchOptions
from livetalk.bench.scaling import bench_command, measure_scaling


class Runner:
    """Stands for the processes: those for 4 fail, the others leave a record."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, command: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
        gpus = command[command.index("--gpus") + 1] if "--gpus" in command else "1"
        self.asked.append(gpus)
        if gpus == "4":
            return subprocess.CompletedProcess(command, 2)
        RECORD.save(Path(command[command.index("--output") + 1]))
        return subprocess.CompletedProcess(command, 0)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Runner:
    runner = Runner()
    monkeypatch.setattr(scaling.subprocess, "run", runner)
    return runner


def test_processes_stand_for_gpus_on_a_cpu(runner: Runner) -> None:
    announced: list[str] = []
    found = measure_scaling(BenchOptions(run=RunConfig(device="cpu")), announce=announced.append)
    assert runner.asked == ["1", "2", "4", "8"]
    assert announced == ["1 process", "2 processes", "4 processes", "8 processes"]
    assert found.records == (RECORD,) * 3
    assert found.skipped == {4: "exit code 2, see the output above"}


def test_numbers_that_are_not_there_are_skipped_and_named(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = measure_scaling(BenchOptions())
    assert runner.asked == ["1", "2"]
    assert found.skipped == {4: "this machine has 2", 8: "this machine has 2"}


def test_another_process_runs_this_interpreter() -> None:
    command = bench_command(BenchOptions(run=RunConfig(gpus=2)), "--trace", "t.json")
    assert command == [sys.executable, "-m", "livetalk", "bench", "--gpus", "2", "--trace", "t.json"]
