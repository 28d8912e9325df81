from typing import Any

import pytest
import torch
import torch.nn.functional as F

from livetalk.ops.kernels.interface import Affine, Branch, FusedKernels
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.norm import add_gated, modulate
from tolerance import assert_near, rounding

pytestmark = pytest.mark.usefixtures("least_part")

TORCH = TorchKernels()
EPS = 1e-6
WIDTH = 88
DTYPES = [torch.float32, torch.bfloat16]


def close(a: Any, b: Any, dtype: torch.dtype = torch.float32) -> None:
    """Compare values up to rounding, and FP8 rows up to one level for a few entries."""
    if isinstance(b, QuantizedRows):
        # The peak of a row is the result of a norm and an activation in float32.
        torch.testing.assert_close(a.scale, b.scale, rtol=rounding(WIDTH + 8), atol=0)
        steps = (a.levels.float() - b.levels.float()).abs()
        assert (steps <= b.levels.float().abs() / 8 + 2.0**-9).all()
        assert (steps > 0).float().mean() < 0.02
        assert a.levels.dtype == b.levels.dtype
        return
    assert a.dtype == b.dtype == dtype
    assert_near(a, b, rounding(WIDTH + 8, dtype))


class Case:
    """Tokens with the branch and the affine map for them."""

    def __init__(self, device: torch.device, dtype: torch.dtype, shared: bool, width: int = WIDTH) -> None:
        rng = torch.Generator().manual_seed(width)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=rng).to(device)

        self.x = (3 * draw(2, 5, width) + 1).to(dtype)
        self.branch = Branch(draw(2, 5, width).to(dtype), draw(width).to(dtype), draw(2, 1, width))
        self.affine = Affine(*(draw(*((width,) if shared else (2, 1, width))) for _ in range(2)))


@pytest.fixture(params=[(dtype, shared) for dtype in DTYPES for shared in (False, True)])
def case(request: pytest.FixtureRequest, device: torch.device) -> Case:
    return Case(device, *request.param)


@pytest.mark.parametrize("quantize", [False, True])
def test_layer_norm(triton: FusedKernels, case: Case, quantize: bool) -> None:
    result = triton.layer_norm(case.x, case.affine, EPS, quantize=quantize)
    close(result, TORCH.layer_norm(case.x, case.affine, EPS, quantize=quantize), case.x.dtype)


@pytest.mark.parametrize("parts", ["output", "bias", "gate", "all"])
def test_add(triton: FusedKernels, case: Case, parts: str) -> None:
    branch = case.branch
    if parts != "all":
        kept = {name: None for name in ("bias", "gate") if name != parts}
        branch = branch._replace(**kept)
    close(triton.add(case.x, branch), TORCH.add(case.x, branch), case.x.dtype)


@pytest.mark.parametrize("quantize", [False, True])
def test_add_layer_norm(triton: FusedKernels, case: Case, quantize: bool) -> None:
    arguments = (case.x, case.branch, case.affine, EPS)
    total, norm = triton.add_layer_norm(*arguments, quantize=quantize)
    expected_total, expected = TORCH.add_layer_norm(*arguments, quantize=quantize)
    close(total, expected_total, case.x.dtype)
    close(norm, expected, case.x.dtype)


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_gelu(triton: FusedKernels, case: Case, quantize: bool, bias: bool) -> None:
    vector = case.branch.bias if bias else None
    close(
        triton.gelu(case.x, vector, quantize=quantize),
        TORCH.gelu(case.x, vector, quantize=quantize),
        case.x.dtype,
    )


@pytest.mark.parametrize("both", [False, True])
def test_quantize_rows(triton: FusedKernels, case: Case, both: bool) -> None:
    width = case.x.shape[-1]
    heads, other = (x.view(*x.shape[:2], -1, width // 4) for x in (case.x, case.branch.output))
    # One in token order, one with the tokens of each head contiguous, as some attention kernels store it.
    other = other.transpose(1, 2).contiguous().transpose(1, 2) if both else None
    rows = triton.quantize_rows(heads, other)
    close(rows, TORCH.quantize_rows(heads, other))
    assert rows.levels.shape == case.x.shape
    if other is not None:
        close(triton.quantize_rows(other, heads), rows)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("both", [False, True])
def test_rows_from_separate_groups_of_heads(
    triton: FusedKernels, case: Case, groups: int, both: bool
) -> None:
    heads, added = (x.unflatten(-1, (4, -1)) for x in (case.x, case.branch.output))
    other = added if both else None
    # The layout of peer buffers: tokens first, and more of them than are read.
    buffers = [torch.cat([part, part]).transpose(0, 1).contiguous() for part in heads.chunk(groups, dim=2)]
    parts = [room[:, : heads.shape[0]].transpose(0, 1) for room in buffers]
    for kernels in (triton, TORCH):
        close(kernels.quantize_rows(parts, other), kernels.quantize_rows(heads, other))


def test_groups_of_heads_of_other_strides_are_refused(triton: FusedKernels, case: Case) -> None:
    heads = case.x.unflatten(-1, (4, -1))
    with pytest.raises(ValueError, match="differ in shape or strides"):
        triton.quantize_rows([heads, heads.transpose(1, 2).contiguous().transpose(1, 2)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "keys"), [(4, 8), (3, 5)])
def test_softmax_heads(
    triton: FusedKernels, device: torch.device, dtype: torch.dtype, heads: int, keys: int
) -> None:
    rng = torch.Generator().manual_seed(keys)
    products = (20 * torch.randn(2, 3, 4, heads * keys, generator=rng)).to(device, dtype)
    bias = torch.randn(2, 3, 1, heads * keys, generator=rng).to(device)
    weights = triton.softmax_heads(products, bias, 0.25, heads)
    close(weights, TORCH.softmax_heads(products, bias, 0.25, heads), dtype)
    total = weights.float().unflatten(-1, (heads, keys)).sum(-1)
    assert_near(total, torch.ones_like(total), rounding(keys, dtype))


def test_a_row_of_zeros_is_quantised_to_zeros(triton: FusedKernels, device: torch.device) -> None:
    rows = triton.gelu(torch.zeros(1, 2, 48, device=device), None, quantize=True)
    assert isinstance(rows, QuantizedRows)
    assert not rows.levels.float().any() and rows.scale.isfinite().all()


def test_the_twin_is_what_the_blocks_compute() -> None:
    case = Case(torch.device("cpu"), torch.float32, shared=False)
    shift, scale = case.affine.bias, case.affine.weight - 1
    norm = modulate(F.layer_norm(case.x, (WIDTH,), eps=EPS), shift, scale)
    close(TORCH.layer_norm(case.x, case.affine, EPS, quantize=False), norm)
    assert case.branch.bias is not None and case.branch.gate is not None
    total = add_gated(case.x, case.branch.output + case.branch.bias, case.branch.gate)
    close(TORCH.add(case.x, case.branch), total)
    gelu = TORCH.gelu(case.x, case.branch.bias, quantize=False)
    close(gelu, F.gelu(case.x + case.branch.bias, approximate="tanh"))
