import pytest
import torch

from livetalk.ops.attention_float8 import (
    FLOAT8_ATTENTION_ERROR,
    attend_quantized,
    float8_attention,
    float8_attention_reference,
    quantize_attention,
    quantize_heads,
)
from livetalk.ops.attention_lse import reference_attention_with_lse
from livetalk.ops.fa3 import fa3, fa3_problem
from livetalk.ops.low_precision import FLOAT8, FLOAT8_MAX
from tolerance import assert_near, relative, unit_roundoff

NEEDS_FA3 = pytest.mark.skipif(
    not torch.cuda.is_available() or fa3_problem(torch.device("cuda"), torch.bfloat16, 128) is not None,
    reason="needs a Hopper GPU and fa3-fwd",
)


def qkv(
    length: int = 256,
    heads: int = 3,
    width: int = 64,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(length)
    sizes = torch.tensor([0.1, 1.0, 30.0])[:, None]
    q, k, v = (torch.randn(2, length, heads, width, generator=rng) for _ in range(3))
    return [x.to(device, dtype) for x in (q, k, v * sizes)]


def test_each_head_uses_the_whole_range() -> None:
    heads = quantize_heads(qkv()[2])
    assert heads.levels.dtype == FLOAT8 and heads.scale.shape == (2, 3)
    assert (heads.levels.float().abs().amax((1, 3)) == FLOAT8_MAX).all()
    # Both norms are of the same values, each rounded by half a step at most.
    assert relative(heads.dequantize(), qkv()[2]) < unit_roundoff(FLOAT8)


def test_the_twin_is_within_the_stated_error() -> None:
    q, k, v = qkv()
    out, lse = float8_attention_reference(q, k, v)
    exact, exact_lse = reference_attention_with_lse(q, k, v)
    for head in range(3):
        assert 1e-3 < relative(out[:, :, head], exact[:, :, head]) < FLOAT8_ATTENTION_ERROR
    assert (lse - exact_lse).abs().max() < 0.1


def test_the_mean_of_keys_does_not_affect_precision() -> None:
    q, k, v = qkv()
    shifted = k + 20 * torch.randn(1, 1, 3, 64, generator=torch.Generator().manual_seed(1))
    exact, exact_lse = reference_attention_with_lse(q, shifted, v)
    out, lse = float8_attention_reference(q, shifted, v)
    assert relative(out, exact) < FLOAT8_ATTENTION_ERROR
    torch.testing.assert_close(lse, exact_lse, rtol=0, atol=0.1)
    plain = [quantize_heads(x).dequantize() for x in (q, shifted, v)]
    assert relative(reference_attention_with_lse(*plain)[0], exact) > 3 * FLOAT8_ATTENTION_ERROR


def test_quantised_input_is_used_unchanged() -> None:
    q, k, v = (x.bfloat16() for x in qkv())
    out = attend_quantized(quantize_attention(q, k, v)[0])
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, float8_attention_reference(q, k, v)[0])


def test_the_opaque_operator_has_correct_fake_shapes() -> None:
    levels = torch.empty(2, 9, 3, 64, dtype=FLOAT8, device="meta")
    out, lse = fa3(levels, levels, levels)
    assert out.shape == levels.shape and out.dtype == torch.bfloat16
    assert lse.shape == (2, 3, 9) and lse.dtype == torch.float32


def test_a_cpu_has_no_flash_attention_3() -> None:
    assert "CUDA" in str(fa3_problem(torch.device("cpu"), torch.bfloat16, 128))


@pytest.mark.gpu
@NEEDS_FA3
@pytest.mark.parametrize("length", [37, 1053])
def test_fa3_is_attention(length: int) -> None:
    q, k, v = qkv(length, width=128, device="cuda", dtype=torch.bfloat16)
    out, lse = fa3(q, k, v)
    exact, exact_lse = reference_attention_with_lse(q, k, v)
    # The weights of the keys and the result are rounded.
    assert relative(out, exact) < 2 * unit_roundoff(torch.bfloat16)
    assert (lse.transpose(1, 2) - exact_lse).abs().max() <= unit_roundoff(torch.bfloat16)


@pytest.mark.gpu
@NEEDS_FA3
@pytest.mark.parametrize("length", [37, 1053])
def test_fa3_in_fp8_is_its_twin_but_for_the_rounding_of_its_weights(length: int) -> None:
    q, k, v = qkv(length, width=128, device="cuda", dtype=torch.bfloat16)
    k = k + 5
    out, lse = float8_attention(q, k, v)
    twin, twin_lse = float8_attention_reference(q, k, v)
    assert relative(out, twin) < unit_roundoff(FLOAT8)
    # Tensor cores keep 14 bits of the sum of a logit.
    assert_near(lse, twin_lse, 2.0**-14 * 128**0.5)
    assert relative(out, reference_attention_with_lse(q, k, v)[0]) < FLOAT8_ATTENTION_ERROR
