import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "kernels.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(SCRIPT),
        "--device",
        "cpu",
        "--sizes",
        "tiny",
        "--repeats",
        "1",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_everything_is_timed_and_its_error_measured() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    sections = report["sections"]
    assert list(sections) == ["gemm", "elementwise", "attention", "block"]
    rows = [row for section in sections.values() for row in section]
    assert len(rows) > 40
    assert not [row for row in rows if "failed" in row]
    assert all(row["ms"] > 0 for row in rows)
    errors = [row["error"] for row in sections["gemm"] if "error" in row]
    assert errors and all(1e-3 < error < 0.05 for error in errors)
    by_form = {row["form"]: row["error"] for row in sections["block"]}
    assert by_form["plain bf16"] == 0 < by_form["torch bf16"] < by_form["torch fp8"] < 0.1


def test_an_unknown_section_is_refused() -> None:
    done = run("--sections", "gemm,mystery")
    assert done.returncode == 2
    assert "no section mystery" in done.stderr
