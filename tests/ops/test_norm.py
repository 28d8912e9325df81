"""Norms and modulation: formulas and rounding."""

import torch

from livetalk.ops.norm import LayerNorm, RMSNorm, add_gated, channel_rms_norm, modulate
from tolerance import assert_near, rounding


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_rms_norm_spans_the_last_axis() -> None:
    norm = RMSNorm(6, eps=0.5)
    norm.weight.data = draw(6)
    x = draw(2, 3, 6)
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 0.5).sqrt() * norm.weight
    assert_near(norm(x), expected, rounding(6 + 4))


def test_rms_norm_rounds_before_the_weight() -> None:
    norm = RMSNorm(64, eps=1e-6)
    norm.weight.data.fill_(1 + 2**-12)
    x = draw(4, 64).bfloat16()
    rounded = (x.float() / (x.float().pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()).bfloat16()
    expected = rounded.float() * norm.weight
    assert norm(x).dtype == expected.dtype
    # A value between two steps may be rounded to either; rounding after the weight would change most values.
    assert (norm(x) != expected).float().mean() < 0.02
    assert_near(norm(x), expected, rounding(dtype=torch.bfloat16))


def test_layer_norm_keeps_the_dtype_under_autocast() -> None:
    norm = LayerNorm(8, eps=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert norm(draw(2, 8)).dtype == torch.float32
        assert norm(draw(2, 8).bfloat16()).dtype == torch.bfloat16


def test_modulate_and_gate() -> None:
    x, y, shift, scale = draw(2, 5, 4), draw(2, 5, 4) + 1, draw(2, 1, 4), draw(2, 1, 4) + 2
    assert_near(modulate(x, shift, scale), x * (1 + scale) + shift, rounding(3))
    assert_near(add_gated(x, y, scale), x + y * scale, rounding(2))
    gated = add_gated(x.bfloat16(), y.bfloat16(), scale)
    expected = (x.bfloat16().float() + y.bfloat16().float() * scale).bfloat16()
    assert gated.dtype == torch.bfloat16
    assert_near(gated, expected, rounding(dtype=torch.bfloat16))


def test_channel_rms_norm_is_the_same_with_and_without_gradients() -> None:
    x, weight = draw(2, 6, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d), draw(6)
    x[0, :, 0, 0, 0] = 0
    rms = x.pow(2).mean(1, keepdim=True).sqrt()
    expected = torch.where(rms > 0, x / rms, 0) * weight.view(-1, 1, 1, 1)
    before = x.clone()
    assert_near(channel_rms_norm(x, weight), expected, rounding(6 + 4))
    with torch.no_grad():
        assert_near(channel_rms_norm(x, weight), expected, rounding(6 + 4))
    assert torch.equal(x, before)
