import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "measure_memory.py"
PLACEMENTS = ["full:1", "float8"]


def measure(*options: str) -> list[dict[str, Any]]:
    """Run the script on the CPU and return its last line."""
    known = ["--model", "tiny", "--device", "cpu", "--precision", "float32", "--size", "96x64"]
    command = [sys.executable, str(SCRIPT), *known, "--placements", *PLACEMENTS, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert [result["placement"] for result in results] == PLACEMENTS
    return results


@pytest.mark.slow
def test_every_tensor_of_a_small_model_is_predicted() -> None:
    """The same run on a GPU asks the allocator; here each tensor of a real computation is counted."""
    results = measure("--with-encoders")
    for result in results:
        assert abs(result["error"]) < 0.02
        # Random encoders take more than real ones for a moment, while a weight is drawn.
        assert result["predicted_stages"].pop("prompt") < 1.02 * result["stages"].pop("prompt")
        for stage, peak in result["stages"].items():
            # The script allows 10 % of the largest peak. In smaller stages the roughly 100 kB that the
            # forecast keeps longer than the stream does weigh more: up to 10.2 % in this small model.
            assert abs(result["predicted_stages"][stage] / peak - 1) < 0.12, stage
        assert abs(result["predicted_loaded"] / result["loaded"] - 1) < 0.02
