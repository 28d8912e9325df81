import pytest
import torch

from livetalk.ops.low_precision import (
    FLOAT8,
    FLOAT8_MAX,
    FLOAT8_MIN_ERROR,
    FLOAT8_RELATIVE_ERROR,
    quantize_channels,
)
from livetalk.ops.matmul import (
    float8_problem,
    quantize_rows,
    scaled_matmul,
    scaled_matmul_reference,
)
from tolerance import relative, rounding, unit_roundoff

NEEDS_FP8 = pytest.mark.skipif(
    not torch.cuda.is_available() or float8_problem(torch.device("cuda")) is not None,
    reason="needs a CUDA device of capability 9.0",
)
PRODUCT_ERROR = unit_roundoff(FLOAT8)
"""Both factors are rounded, independently of each other, by less than this over the root of 2."""


def rows_and_weight(m: int = 33, k: int = 96, n: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(m)
    x = torch.randn(m, k, generator=rng) * torch.logspace(-3, 3, m)[:, None]
    return x, torch.randn(n, k, generator=rng), torch.randn(n, generator=rng)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_row_uses_the_range_and_is_restored_within_the_bound(dtype: torch.dtype) -> None:
    x = rows_and_weight()[0].to(dtype).view(3, 11, 96)
    rows = quantize_rows(x)
    assert rows.levels.dtype == FLOAT8 and rows.scale.dtype == torch.float32
    assert rows.scale.shape == (3, 11, 1)
    assert (rows.levels.float().abs().amax(-1) == FLOAT8_MAX).all()
    bound = torch.maximum(FLOAT8_RELATIVE_ERROR * x.float().abs(), FLOAT8_MIN_ERROR * rows.scale)
    assert ((rows.dequantize() - x.float()).abs() <= bound + rounding() * x.float().abs()).all()


def test_a_row_of_zeros_stays_zero() -> None:
    rows = quantize_rows(torch.zeros(2, 16))
    assert not rows.dequantize().any()
    assert rows.scale.isfinite().all()


@pytest.mark.parametrize("leading", [(33,), (3, 11)])
def test_the_product_is_near_the_exact_one(leading: tuple[int, ...]) -> None:
    x, weight, bias = rows_and_weight()
    x = x / x.abs().amax(-1, keepdim=True)
    levels, scale = quantize_channels(weight, "float8")
    rows = quantize_rows(x.view(*leading, -1))
    y = scaled_matmul(rows, levels, scale, bias, torch.float32)
    exact = x.double() @ weight.double().T
    assert y.shape == (*leading, 64)
    assert 1e-3 < relative(y.flatten(0, -2) - bias, exact) < PRODUCT_ERROR


def test_the_reference_dequantises_and_rounds_once() -> None:
    x, weight, bias = rows_and_weight()
    levels, scale = quantize_channels(weight, "float8")
    rows = quantize_rows(x)
    exact = (rows.levels.double() * rows.scale) @ (levels.double() * scale).T + bias
    product = scaled_matmul_reference(rows, levels, scale, bias, torch.float32)
    assert relative(product, exact) < rounding(weight.shape[1])
    narrow = scaled_matmul_reference(rows, levels, scale, bias, torch.bfloat16)
    assert narrow.dtype == torch.bfloat16
    assert relative(narrow, exact) < unit_roundoff(torch.bfloat16)


def test_a_cpu_has_no_fp8_tensor_cores() -> None:
    assert "CUDA" in str(float8_problem(torch.device("cpu")))


@pytest.mark.gpu
@NEEDS_FP8
@pytest.mark.parametrize(("m", "k", "n"), [(1, 16, 16), (33, 96, 64), (1053, 5120, 1280)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_tensor_cores_give_the_reference(m: int, k: int, n: int, with_bias: bool) -> None:
    x, weight, bias = (tensor.cuda() for tensor in rows_and_weight(m, k, n))
    levels, scale = quantize_channels(weight, "float8")
    rows = quantize_rows(x.bfloat16())
    arguments = (rows, levels, scale, bias if with_bias else None, torch.bfloat16)
    # The result is rounded; "fast accumulation" keeps 14 bits of a sum, which moves fewer results by a step.
    limit = 2 * unit_roundoff(torch.bfloat16)
    assert relative(scaled_matmul(*arguments), scaled_matmul_reference(*arguments)) < limit
