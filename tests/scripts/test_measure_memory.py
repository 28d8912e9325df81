import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "measure_memory.py"


def test_every_tensor_of_a_small_model_is_predicted() -> None:
    """The same run on a GPU asks the allocator; here each tensor of a real computation is counted."""
    options = ["--model", "tiny", "--device", "cpu", "--precision", "float32"]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options, "--placements", "full", "float8", "full:1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert [result["placement"] for result in results] == ["full", "float8", "full:1"]
    for result in results:
        assert abs(result["error"]) < 0.02
        for stage, peak in result["stages"].items():
            assert abs(result["predicted_stages"][stage] / peak - 1) < 0.05, stage
    full, small, waiting = (result["loaded"] for result in results)
    assert small < waiting < full
