"""Triton kernels run on a GPU if there is one, else under Triton's interpreter."""

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from livetalk.ops.kernels import parts

HAS_TRITON = importlib.util.find_spec("triton") is not None
ON_GPU = torch.cuda.is_available()


@pytest.fixture
def device() -> torch.device:
    """Device of the Triton kernels."""
    return torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture(params=[parts.MIN_PART, 16])
def least_part(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Split narrow rows into one part and into several, as wide rows are split."""
    monkeypatch.setattr(parts, "MIN_PART", request.param)


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Triton's set of kernels; skips where Triton is not installed."""
    if not HAS_TRITON:
        pytest.skip("the kernels are NOT tested: no package triton (pip install triton)")
    kernels = importlib.import_module("livetalk.ops.kernels.triton_kernels")
    if not ON_GPU:
        interpreter = importlib.import_module("triton.runtime.interpreter")
        cuts = interpreter._convert_float
        monkeypatch.setattr(interpreter, "_convert_float", lambda *a: round_to_nearest(cuts, *a))
    yield kernels.KERNELS


def round_to_nearest(cuts: Any, x: Any, source: Any, target: Any, mode: Any) -> Any:
    """Convert to narrow dtypes as a GPU does; the interpreter truncates or loses a carry."""
    if str(source) != "fp32" or str(target) not in ("bf16", "fp8e4nv"):
        return cuts(x, source, target, mode)
    wide = torch.from_numpy(np.ascontiguousarray(x))
    if str(target) == "bf16":
        return wide.bfloat16().view(torch.uint16).numpy()
    return wide.to(torch.float8_e4m3fn).view(torch.uint8).numpy()
