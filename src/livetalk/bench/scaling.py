"""One measurement repeated with several numbers of GPUs, each in new processes."""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from livetalk.bench.options import BenchOptions
from livetalk.bench.record import BenchRecord
from livetalk.device import choose_device

COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Records by number of GPUs; `skipped` maps the other numbers to the reason."""

    records: tuple[BenchRecord, ...]
    skipped: dict[int, str]


def bench_command(options: BenchOptions, *more: str) -> list[str]:
    """Return the command line that runs a measurement in another process."""
    return [sys.executable, "-m", "livetalk", "bench", *options.to_arguments(), *more]


def measure_scaling(
    options: BenchOptions, counts: Sequence[int] = COUNTS, announce: Callable[[str], None] = lambda line: None
) -> Scaling:
    """Measure with each number of GPUs that this machine has, or with as many processes on a CPU.

    `options.run.gpus` is replaced; `announce` gets one line before each measurement.

    Raises:
        InputError: the device does not exist.
    """
    device = choose_device(options.run.device)
    records, skipped = [], {}
    for count in counts:
        if device.type == "cuda" and count > torch.cuda.device_count():
            skipped[count] = f"this machine has {torch.cuda.device_count()}"
            continue
        unit = ("GPU", "GPUs") if device.type == "cuda" else ("process", "processes")
        announce(f"{count} {unit[count > 1]}")
        # A new process per number: CUDA contexts and process groups of the previous one are gone.
        with tempfile.TemporaryDirectory(prefix="livetalk-bench-") as folder:
            path = Path(folder) / "record.json"
            run = dataclasses.replace(options.run, gpus=count)
            command = bench_command(dataclasses.replace(options, run=run), "--output", str(path))
            code = subprocess.run(command).returncode
            if code == 0:
                records.append(BenchRecord.load(path))
            else:
                skipped[count] = f"exit code {code}, see the output above"
    return Scaling(tuple(records), skipped)
