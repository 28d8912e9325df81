import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from no_pyav import BLOCK_PYAV

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "stage_times.py"
WITHOUT_PYAV = f"""{BLOCK_PYAV}
import importlib.util, runpy

found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "av" else found(name, package)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*options: str, without_pyav: bool = False) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", WITHOUT_PYAV] if without_pyav else []), str(SCRIPT)]
    command += ["--random-weights", "tiny", "--device", "cpu", "--size", "16x16", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("without_pyav", [False, True])
def test_every_stage_of_a_chunk_is_reported(without_pyav: bool) -> None:
    done = run("--chunks", "3", without_pyav=without_pyav)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (report["wrote"] == "MP4") is not without_pyav
    calls = {name: stage["per_chunk"] for name, stage in report["stages"].items()}
    once = dict.fromkeys(("speech", "decode", "color", "encode", "copy"), 1)
    assert {name: calls[name] for name in (*once, "transformer")} == once | {"transformer": 2}
    parts = sum(stage["median_ms"] * stage["per_chunk"] for stage in report["stages"].values())
    assert 0 < parts < 2 * report["total_ms"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chunks", "1"], "chunks 1: at least 2 are needed"),
        (["--output", "/nowhere/noise.mp4"], "name an .mp4 file in a folder that exists"),
        (["--device", "cuda:99"], "device cuda:99"),
        (["--size", "17x16"], "must be multiples of 16"),
    ],
)
def test_what_cannot_work_is_one_line_before_anything_is_loaded(options: list[str], message: str) -> None:
    done = run(*options)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == ""
