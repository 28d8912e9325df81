from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from livetalk.ops.attention import AttentionCore, attention
from livetalk.ops.attention_lse import (
    attention_with_lse,
    merge_attention,
    pytorch_kernel_with_lse,
    reference_attention_with_lse,
)
from tolerance import assert_near, rounding, unit_roundoff

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def limit(width: int = 16, keys: int = 29, dtype: torch.dtype = torch.float32) -> float:
    """Return the limit for products of heads, a softmax over the keys and a sum over them."""
    return rounding(width + 2 * keys, dtype)


def assert_near_in_bfloat16(out: Tensor, lse: Tensor, expected: Tensor, expected_lse: Tensor) -> None:
    """Check the results of a kernel in bfloat16, which may round the weights of the keys, too.

    Where it sums the rounded weights, the logarithm of the sum is off by what a weight is at most.
    """
    assert_near(out, expected, 2 * rounding(dtype=torch.bfloat16))
    assert (lse - expected_lse).abs().max() <= unit_roundoff(torch.bfloat16)


def qkv(
    queries: int = 13,
    keys: int = 29,
    heads: int = 3,
    width: int = 16,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> list[Tensor]:
    rng = torch.Generator().manual_seed(queries * keys)
    shapes = ((2, queries, heads, width), (2, keys, heads, width), (2, keys, heads, width))
    return [torch.randn(shape, generator=rng).to(device, dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_its_definition(dtype: torch.dtype) -> None:
    q, k, v = qkv(dtype=dtype)
    out, lse = attention_with_lse(q, k, v)
    expected, expected_lse = reference_attention_with_lse(q, k, v)
    assert out.dtype == dtype
    assert out.shape == q.shape
    assert lse.dtype == torch.promote_types(dtype, torch.float32)
    if dtype is torch.bfloat16:
        assert_near_in_bfloat16(out, lse, expected, expected_lse)
    else:
        assert_near(out, expected, limit(dtype=dtype))
        assert_near(lse, expected_lse, limit(dtype=dtype))


def test_output_is_attention() -> None:
    q, k, v = qkv()
    assert_near(reference_attention_with_lse(q, k, v)[0], attention(q, k, v), limit())


def test_rounds_queries_and_keys_to_the_values_first() -> None:
    q, k, v = qkv()
    out, _ = attention_with_lse(q, k, v.bfloat16())
    assert torch.equal(out, attention_with_lse(q.bfloat16(), k.bfloat16(), v.bfloat16())[0])


@pytest.mark.parametrize("attend", [attention_with_lse, reference_attention_with_lse])
def test_merged_parts_are_the_whole(attend: Callable[..., tuple[Tensor, Tensor]]) -> None:
    q, k, v = qkv()
    parts = [attend(q, k[:, a:b], v[:, a:b]) for a, b in ((0, 1), (1, 1), (1, 20), (20, 29))]
    assert parts[1][1].isneginf().all()
    assert not parts[1][0].any()
    out, lse = merge_attention(parts)
    expected, expected_lse = attend(q, k, v)
    assert_near(out, expected, limit())
    assert_near(lse, expected_lse, limit())


def test_merging_is_stable_for_distant_logits() -> None:
    q, k, v = qkv()
    near, far = attention_with_lse(30 * q, k[:, :9], v[:, :9]), attention_with_lse(30 * q, k[:, 9:], v[:, 9:])
    assert (near[1] - far[1]).abs().max() > 50
    # Weights are exponentials of logits, whose rounding is a share of the largest of them.
    largest = attention_with_lse(30 * q, k, v)[1].abs().max().item()
    assert_near(merge_attention([near, far])[0], attention(30 * q, k, v), limit() * largest)


def test_the_core_returns_output_and_log_sum_exp() -> None:
    q, k, v = qkv()
    core = AttentionCore()
    out, lse = core.with_lse(q, k, v)
    assert_near(out, core(q, k, v), limit())
    assert_near(lse, reference_attention_with_lse(q, k, v)[1], limit())


@pytest.mark.parametrize("learns", [False, True])
def test_the_choice_of_a_kernel_compiles(learns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    choose, asked = torch._fused_sdp_choice, []

    def record(q: Tensor, *others: Tensor) -> int:
        asked.append((q.shape[1], q.shape[3], q.dtype, q.requires_grad))
        return int(choose(q, *others))

    monkeypatch.setattr(torch, "_fused_sdp_choice", record)
    q, k, v = (x.requires_grad_(learns) for x in qkv())
    torch._dynamo.reset()
    compiled = torch.compile(attention_with_lse, fullgraph=True, backend="aot_eager")
    for found, expected in zip(compiled(q, k, v), reference_attention_with_lse(q, k, v), strict=True):
        assert_near(found, expected, limit())
    assert asked == [(3, 16, torch.float32, learns)]
    compiled(q, k, v)
    assert len(asked) == 1
    torch._dynamo.reset()


def test_without_a_kernel_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv()
    monkeypatch.setattr(torch, "_fused_sdp_choice", lambda *heads: int(SDPBackend.MATH))
    for found, expected in zip(
        attention_with_lse(q, k, v), reference_attention_with_lse(q, k, v), strict=True
    ):
        assert torch.equal(found, expected)


def test_no_queries() -> None:
    q, k, v = qkv()
    out, lse = attention_with_lse(q[:, :0], k, v)
    assert out.shape == (2, 0, 3, 16)
    assert lse.shape == (2, 0, 3)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize(
    "kernel", [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
)
def test_cuda_kernels_equal_the_definition(kernel: SDPBackend) -> None:
    q, k, v = qkv(queries=37, width=64, dtype=torch.bfloat16, device="cuda")
    out, lse = pytorch_kernel_with_lse(kernel, *(x.transpose(1, 2) for x in (q, k, v)))
    expected, expected_lse = reference_attention_with_lse(q, k, v)
    assert_near_in_bfloat16(out.transpose(1, 2), lse.transpose(1, 2), expected, expected_lse)


@pytest.mark.gpu
@NEEDS_CUDA
@pytest.mark.parametrize("keys", [1, 2, 29])
def test_cuda_choice_equals_the_definition(keys: int) -> None:
    q, k, v = qkv(queries=37, keys=keys, width=64, dtype=torch.bfloat16, device="cuda")
    out, lse = attention_with_lse(q, k, v)
    expected, expected_lse = reference_attention_with_lse(q, k, v)
    assert_near_in_bfloat16(out, lse, expected, expected_lse)
