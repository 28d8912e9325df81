from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from livetalk.ops.attention_float8 import quantize_heads
from livetalk.ops.kernels.interface import FusedKernels, HeadNorm, HeadRange
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.norm import RMSNorm
from livetalk.ops.rope import apply_rope, grid_positions, rope_tables
from tolerance import assert_near, rounding

pytestmark = pytest.mark.usefixtures("least_part")

TORCH = TorchKernels()
HEADS, WIDTH, TOKENS = 6, 96, 21
DTYPES = [torch.float32, torch.bfloat16]
STEP = torch.finfo(FLOAT8).eps
"""A value halfway between two e4m3 levels may be rounded to either."""


def tokens(device: torch.device, dtype: torch.dtype = torch.float32, parts: int = 3) -> torch.Tensor:
    """Draw a slice `[2, L, D]` of a wider product, like queries, keys and values."""
    rng = torch.Generator().manual_seed(parts)
    wide = torch.randn(2, TOKENS, parts * WIDTH, generator=rng) + 0.5
    return wide.to(device, dtype).chunk(parts, -1)[parts // 2]


def parts_of(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(5)
    bias, weight = (torch.randn(WIDTH, generator=rng).to(device, dtype) for _ in range(2))
    rope = rope_tables(grid_positions(3, 1, 7, device), WIDTH // HEADS)
    return {"bias": bias, "norm": HeadNorm(weight, 1e-6), "rope": rope}


def measured(x: torch.Tensor) -> tuple[Sequence[torch.Tensor], HeadRange]:
    heads, head_range = TORCH.split_heads(x, None, None, None, (HEADS, 1), measure=True)
    assert head_range is not None
    return heads, head_range


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("used", ["", "bias", "norm", "rope", "bias norm rope"])
def test_split_heads(
    triton: FusedKernels, device: torch.device, dtype: torch.dtype, groups: int, used: str
) -> None:
    x = tokens(device, dtype)
    assert not x.is_contiguous()
    arguments = {name: value if name in used else None for name, value in parts_of(device, dtype).items()}
    out, head_range = triton.split_heads(x, **arguments, heads=(HEADS, groups), measure=True)
    expected, expected_range = TORCH.split_heads(x, **arguments, heads=(HEADS, groups), measure=True)
    unmeasured, nothing = triton.split_heads(x, **arguments, heads=(HEADS, groups))
    assert all(map(torch.equal, unmeasured, out)) and nothing is None
    assert head_range is not None and expected_range is not None
    assert [x.shape for x in out] == groups * [(2, TOKENS, HEADS // groups, WIDTH // HEADS)]
    for group, expected_group in zip(out, expected, strict=True):
        assert group.dtype == expected_group.dtype == dtype
        assert_near(group, expected_group, rounding(WIDTH + 8, dtype))
    assert_near(head_range.bounds, expected_range.bounds, rounding(WIDTH + 8 + TOKENS, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("centre", [False, True])
def test_quantize_heads(triton: FusedKernels, device: torch.device, dtype: torch.dtype, centre: bool) -> None:
    x, head_range = measured(tokens(device, dtype))
    levels, scale = triton.quantize_heads(x[0], head_range, centre=centre)
    expected = TORCH.quantize_heads(x[0], head_range, centre=centre)
    # On a GPU, PyTorch divides by a constant by multiplying by its reciprocal.
    torch.testing.assert_close(scale, expected.scale, rtol=rounding(2), atol=0)
    steps = (levels.float() - expected.levels.float()).abs()
    assert (steps <= expected.levels.float().abs() / 8 + 2.0**-9).all()
    assert (steps > 0).float().mean() < 0.01


@pytest.mark.parametrize("centre", [False, True])
def test_a_known_range_gives_the_levels_of_a_measured_one(centre: bool) -> None:
    x, head_range = measured(tokens(torch.device("cpu")))
    heads = x[0]
    looked = quantize_heads(heads - heads.mean(1, keepdim=True) if centre else heads)
    known = TORCH.quantize_heads(heads, head_range, centre=centre)
    torch.testing.assert_close(known.scale, looked.scale, rtol=rounding(TOKENS), atol=0)
    assert_near(known.dequantize(), looked.dequantize(), STEP)


def test_the_twin_is_what_self_attention_computes() -> None:
    device = torch.device("cpu")
    x, parts = tokens(device), parts_of(device, torch.float32)
    norm = RMSNorm(WIDTH, 1e-6)
    norm.weight.data = parts["norm"].weight
    expected = apply_rope(norm(x + parts["bias"]).unflatten(-1, (HEADS, -1)), parts["rope"])
    out, head_range = TORCH.split_heads(x, **parts, heads=(HEADS, 2), measure=True)
    assert head_range is not None
    assert_near(torch.cat([*out], 2), expected, rounding(WIDTH + 8))
    assert_near(head_range.highest, expected.amax(1), rounding(WIDTH + 8))


def test_heads_are_split_into_groups_in_order(triton: FusedKernels, device: torch.device) -> None:
    x = tokens(device)
    whole = triton.split_heads(x, None, None, None, (HEADS, 1))[0][0]
    groups = triton.split_heads(x, None, None, None, (HEADS, 3))[0]
    for rank, group in enumerate(groups):
        assert torch.equal(group, whole[:, :, 2 * rank : 2 * rank + 2])


def test_strided_heads_are_measured_and_quantised(triton: FusedKernels, device: torch.device) -> None:
    # The strides of exchanged queries, keys and values: neither contiguous nor in order.
    wide = tokens(device).view(2, TOKENS, HEADS, -1).transpose(0, 1).repeat(1, 1, 2, 1)
    for x in (wide[:, :, :HEADS].transpose(0, 1), wide.transpose(0, 1)[:, :, ::2]):
        assert not x.is_contiguous()
        head_range, expected = triton.measure_heads(x), TORCH.measure_heads(x)
        assert_near(head_range.bounds, expected.bounds, rounding(TOKENS))
        heads, wanted_heads = (k.quantize_heads(x, expected, centre=True) for k in (triton, TORCH))
        torch.testing.assert_close(heads.scale, wanted_heads.scale, rtol=rounding(2), atol=0)
        assert_near(heads.dequantize(), wanted_heads.dequantize(), STEP)
        assert heads.levels.is_contiguous()


def buffers(device: torch.device, groups: int) -> list[torch.Tensor]:
    """Build the peer buffers of the ranks: tokens of all ranks, samples, queries / keys / values, heads."""
    shape = (TOKENS + 4, 2, 3, HEADS // groups, WIDTH // HEADS)
    return [torch.full(shape, 7.0, device=device) for _ in range(groups)]


def targets(buffers: Sequence[torch.Tensor], part: int) -> list[torch.Tensor]:
    """Return the views of the tested tokens in peer buffers: all but the first three and the last."""
    return [room[3 : 3 + TOKENS, :, part].transpose(0, 1) for room in buffers]


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_heads_are_written_to_peer_buffers(
    kernels: str, groups: int, device: torch.device, request: pytest.FixtureRequest
) -> None:
    fused = TORCH if kernels == "torch" else request.getfixturevalue("triton")
    parts = [tokens(device) * scale for scale in (1.0, 2.0, 3.0)]
    found, expected = buffers(device, groups), buffers(device, groups)
    for index, part in enumerate(parts):
        places = targets(found, index)
        written, _ = fused.split_heads(part, None, None, None, (HEADS, groups), out=places)
        assert [x.data_ptr() for x in written] == [x.data_ptr() for x in places]
        heads = part.unflatten(-1, (HEADS, -1)).chunk(groups, dim=2)
        for target, group in zip(targets(expected, index), heads, strict=True):
            target.copy_(group)
    assert all(map(torch.equal, found, expected))


def test_ranges_of_ranks_join_to_that_of_all_tokens(triton: FusedKernels, device: torch.device) -> None:
    x = tokens(device).unflatten(-1, (HEADS, -1))
    pieces = x.split((8, 7, 6), dim=1)
    bounds = torch.stack([TORCH.measure_heads(piece).bounds for piece in pieces])
    bounds[:, :, 2] *= torch.tensor([8, 7, 6], device=device).view(3, 1, 1, 1) / TOKENS
    for kernels in (triton, TORCH):
        assert_near(kernels.join_ranges(bounds).bounds, TORCH.measure_heads(x).bounds, rounding(TOKENS))


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 3])
def test_fp8_heads_are_written_to_peer_buffers(
    triton: FusedKernels, device: torch.device, centre: bool, groups: int
) -> None:
    heads, head_range = measured(tokens(device))
    for kernels in (triton, TORCH):
        expected = kernels.quantize_heads(heads[0], head_range, centre=centre)
        found = [room.to(FLOAT8) for room in buffers(device, groups)]
        scale = kernels.quantize_heads_into(heads[0], head_range, targets(found, 1), centre=centre)
        assert torch.equal(scale, expected.scale)
        untouched = buffers(device, groups)
        for target, group in zip(targets(untouched, 1), expected.levels.chunk(groups, dim=2), strict=True):
            target.copy_(group)
        assert all(torch.equal(one.float(), other) for one, other in zip(found, untouched, strict=True))


def torn_apart(device: torch.device) -> list[torch.Tensor]:
    return [torch.empty(2, TOKENS, WIDTH // HEADS, HEADS, device=device).transpose(2, 3)]


def one_too_few(device: torch.device) -> list[torch.Tensor]:
    return [torch.empty(2, TOKENS, HEADS // 2, WIDTH // HEADS, device=device)]


def of_other_strides(device: torch.device) -> list[torch.Tensor]:
    shape = (2, TOKENS, HEADS // 2, WIDTH // HEADS)
    return [torch.empty(shape, device=device), torch.empty(3, *shape[1:], device=device)[::2]]


@pytest.mark.parametrize(("make", "groups"), [(torn_apart, 1), (one_too_few, 2), (of_other_strides, 2)])
def test_targets_that_the_kernel_cannot_write_to_are_refused(
    triton: FusedKernels,
    device: torch.device,
    make: Callable[[torch.device], list[torch.Tensor]],
    groups: int,
) -> None:
    with pytest.raises(ValueError, match="contiguous heads"):
        triton.split_heads(tokens(device), None, None, None, (HEADS, groups), out=make(device))


def test_targets_for_fp8_are_checked(triton: FusedKernels, device: torch.device) -> None:
    heads, head_range = measured(tokens(device))
    with pytest.raises(ValueError, match="contiguous heads"):
        triton.quantize_heads_into(heads[0], head_range, torn_apart(device), centre=False)
