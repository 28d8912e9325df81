import pytest
import torch

from livetalk.ops.low_precision import (
    BYTE_FORMATS,
    FLOAT8_MIN_ERROR,
    FLOAT8_RELATIVE_ERROR,
    INT8_ERROR,
    ByteFormat,
    dequantize_channels,
    quantize_channels,
)
from tolerance import assert_near, rounding


def weights() -> torch.Tensor:
    """Channels of very different magnitude, one of zeros and one of subnormal values."""
    torch.manual_seed(0)
    weight = torch.randn(64, 300) * torch.logspace(-6, 3, 64)[:, None]
    weight[5] = 0
    weight[6] = 1e-45
    return weight


def test_float8_stays_within_the_stated_bound() -> None:
    weight = weights()
    levels, scale = quantize_channels(weight, "float8")
    error = (dequantize_channels(levels, scale, torch.float32) - weight).abs()
    bound = torch.maximum(FLOAT8_RELATIVE_ERROR * weight.abs(), FLOAT8_MIN_ERROR * scale)
    # The product with the scale rounds once more, in float32.
    assert (error <= bound + rounding() * weight.abs()).all()
    assert (error > 0.9 * bound).any(), "the bound is tight"


def test_int8_stays_within_the_stated_bound() -> None:
    weight = weights()
    levels, scale = quantize_channels(weight, "int8")
    error = (dequantize_channels(levels, scale, torch.float32) - weight).abs()
    assert (error <= INT8_ERROR * scale + rounding() * weight.abs()).all()
    assert (error > 0.45 * scale).any(), "the bound is tight"


@pytest.mark.parametrize("byte_format", BYTE_FORMATS)
def test_the_peak_of_a_channel_is_exact_and_zeros_stay_zero(byte_format: ByteFormat) -> None:
    weight = weights()
    levels, scale = quantize_channels(weight, byte_format)
    restored = dequantize_channels(levels, scale, torch.float32)
    peak = weight.abs().amax(1)
    torch.testing.assert_close(restored.abs().amax(1)[7:], peak[7:], rtol=rounding(2), atol=0)
    assert (restored[5] == 0).all() and torch.isfinite(restored).all()
    assert levels.element_size() == 1 and levels.shape == weight.shape and scale.shape == (64, 1)


@pytest.mark.parametrize("byte_format", BYTE_FORMATS)
def test_other_shapes_and_dtypes(byte_format: ByteFormat) -> None:
    weight = torch.randn(4, 3, 1, 5).bfloat16()
    levels, scale = quantize_channels(weight, byte_format)
    assert scale.shape == (4, 1, 1, 1) and scale.dtype is torch.float32
    restored = dequantize_channels(levels, scale, torch.bfloat16)
    assert restored.dtype is torch.bfloat16
    # Rounded to a byte, and to bfloat16 once more.
    step = {"float8": FLOAT8_RELATIVE_ERROR, "int8": INT8_ERROR / 127}[byte_format]
    assert_near(restored, weight, step + rounding(dtype=torch.bfloat16))
