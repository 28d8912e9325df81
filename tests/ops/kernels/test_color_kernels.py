import pytest
import torch

from livetalk.accelerate.fused_color import match_color_fused
from livetalk.streaming.color import match_color, measure_color
from tolerance import assert_near, rounding


def frames(device: torch.device) -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 3, 29, 37, generator=rng) * torch.tensor([1.0, 0.6, 0.3])[:, None, None, None]
    x = x * torch.linspace(0.5, 2.2, 3)[:, None, None] - 1
    x[0, :, 1] = 0.25
    x[1, :, 0] = 1.5
    return x.to(device)


@pytest.mark.parametrize(
    ("layout", "dtype", "strength"),
    [
        ("planes", torch.float32, 1.0),
        ("pixels", torch.bfloat16, 1.0),
        ("pixels", torch.float32, 0.3),
        ("cut", torch.float32, 1.0),
    ],
)
@pytest.mark.usefixtures("triton")
def test_colours_are_matched(device: torch.device, layout: str, dtype: torch.dtype, strength: float) -> None:
    x = frames(device).to(dtype)
    if layout == "pixels":
        x = x.contiguous(memory_format=torch.channels_last_3d)
    if layout == "cut":
        x = x[..., 3:]
    reference = measure_color(frames(device)[:, :, 2:3].flip(0))
    out = match_color_fused(x, reference, strength)
    expected = match_color(x, reference, strength)
    assert out.dtype == torch.float32 and out.is_contiguous()
    assert (expected - x.float()).abs().max() > 0.1
    # Statistics over all pixels of a frame; cubes and roots there and back, which enlarge rounding by the
    # slope of the curve of a screen where it is dark, 12.92.
    assert_near(out, expected, 12.92 * rounding(x.shape[-2] * x.shape[-1] + 16))


def test_zero_strength_leaves_frames_unchanged(device: torch.device) -> None:
    x = frames(device).bfloat16()
    assert torch.equal(match_color_fused(x, measure_color(x[:, :, :1]), 0), x.float())
