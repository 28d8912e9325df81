import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from livetalk.accelerate.compile import compile_transformer, default_compile_cache
from livetalk.accelerate.fused_blocks import OpaqueFusedBlock
from livetalk.env import cache_folder
from livetalk.models.dit import DiT
from livetalk.ops.kernels.reference import TorchKernels
from tiny import DIT

PROGRAM = """
import json, sys
from pathlib import Path
import torch
from torch._dynamo.utils import counters
from livetalk.models.dit import DiT
from livetalk.accelerate.compile import compile_transformer
from tiny import DIT, dit_inputs, randomize
from tolerance import distance, expect

torch.set_num_threads(1)
dit = DiT(DIT)
randomize(dit)
with torch.no_grad():
    expected, limit = expect(lambda: dit(*dit_inputs(DIT)), dit)
    compile_transformer(dit, Path(sys.argv[1]))
    found = dit(*dit_inputs(DIT))
print(json.dumps({
    "error": distance(found, expected),
    "limit": limit,
    "graphs": counters["stats"]["unique_graphs"],
    "hits": counters["inductor"]["fxgraph_cache_hit"],
    "misses": counters["inductor"]["fxgraph_cache_miss"],
}))
"""


def test_the_default_folder_is_the_users_cache() -> None:
    assert default_compile_cache() == cache_folder() / "compiled"


def test_blocks_are_compiled_and_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: compiled.append(module))
    dit = DiT(DIT)
    compile_transformer(dit, tmp_path)
    assert compiled == list(dit.blocks.layers) and len(compiled) == DIT.num_layers
    compiled.clear()
    for block in dit.blocks.layers:
        block.fast_form = OpaqueFusedBlock(TorchKernels())
    compile_transformer(dit, tmp_path)
    assert compiled == [], "nothing of these is left to compile"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    results = []
    settings = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    for _ in range(2):
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "kept")],
            capture_output=True,
            text=True,
            timeout=600,
            env=settings,
        )
        assert ran.returncode == 0, ran.stderr
        results.append(json.loads(ran.stdout.splitlines()[-1]))
    first, second = results
    assert max(first["error"], second["error"]) < first["limit"]
    assert first["graphs"] == second["graphs"] == 1, "all blocks share the code of one"
    assert (first["hits"], first["misses"]) == (0, 1)
    assert (second["hits"], second["misses"]) == (1, 0)
    assert list((tmp_path / "kept" / "inductor").iterdir())
