import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "compile_for_hopper.py"
REGISTERS_OF_A_PROCESSOR = 65_536


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs the package triton")
def test_every_kernel_compiles_for_hopper_without_spilling(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert run.returncode == 0, run.stderr
    found = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(found) == 23
    for kernel in found:
        assert kernel["spilled_bytes"] == 0, kernel
        assert 32 * kernel["warps"] * kernel["registers"] <= REGISTERS_OF_A_PROCESSOR, kernel
        assert kernel["wide_loads"] or kernel["kernel"] in ("_measure_kernel", "_map_kernel"), kernel
