import pytest
import torch
import torch.nn.functional as F

from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.norm import channel_rms_norm
from tolerance import assert_near, rounding

TORCH = TorchKernels()


def norm_limit(dtype: torch.dtype, channels: int = 24) -> float:
    """Return the limit for a sum of squares over the channels, its root, a weight and an activation."""
    return rounding(channels + 4, dtype)


def pixels(device: torch.device, dtype: torch.dtype, channels: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(channels)
    x = torch.randn(2, channels, 3, 13, 17, generator=rng)
    x[0, :, 1, 4] = 0
    weight = torch.randn(channels, generator=rng)
    return x.to(device, dtype).contiguous(memory_format=torch.channels_last_3d), weight.to(device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("channels", [3, 24, 96])
def test_channel_norm(
    triton: FusedKernels, device: torch.device, dtype: torch.dtype, silu: bool, channels: int
) -> None:
    x, weight = pixels(device, dtype, channels)
    y = triton.channel_norm(x, weight, silu=silu)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    assert not y[0, :, 1, 4].any()
    expected = TORCH.channel_norm(x, weight, silu=silu)
    assert y.dtype == expected.dtype
    assert_near(y, expected, norm_limit(dtype, channels))


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_it_writes_after_the_past_frames_of_a_buffer(
    kernels: str, device: torch.device, request: pytest.FixtureRequest
) -> None:
    fused = TORCH if kernels == "torch" else request.getfixturevalue("triton")
    x, weight = pixels(device, torch.float32)
    buffer = x.new_zeros(2, 24, 5, 13, 17).contiguous(memory_format=torch.channels_last_3d)
    end = buffer[:, :, 2:]
    assert fused.channel_norm(x, weight, silu=True, out=end) is end
    assert not buffer[:, :, :2].any()
    assert_near(end, TORCH.channel_norm(x, weight, silu=True), norm_limit(torch.float32))


def test_a_target_of_another_layout_is_refused(triton: FusedKernels, device: torch.device) -> None:
    x, weight = pixels(device, torch.float32)
    with pytest.raises(ValueError, match="channels last"):
        triton.channel_norm(x, weight, silu=True, out=torch.empty(x.shape, device=device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_comes_before_the_norm(triton: FusedKernels, device: torch.device, dtype: torch.dtype) -> None:
    x, weight = pixels(device, dtype)
    bias = torch.linspace(-1, 1, 24, device=device).to(dtype)
    y = triton.channel_norm(x, weight, silu=True, bias=bias)
    expected = TORCH.channel_norm(x, weight, silu=True, bias=bias)
    assert y.dtype == expected.dtype
    assert_near(y, expected, norm_limit(dtype))
    assert (expected - TORCH.channel_norm(x, weight, silu=True)).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [3, 24, 96])
def test_bias_and_shortcut_are_added(
    triton: FusedKernels, device: torch.device, dtype: torch.dtype, channels: int
) -> None:
    x, bias = pixels(device, dtype, channels)
    skip = x.flip(3).contiguous()  # in the other memory layout
    expected = TORCH.add_channels(x, bias.to(dtype), skip)
    y = triton.add_channels(x.clone(), bias.to(dtype), skip)
    assert y.dtype == expected.dtype
    assert_near(y, expected, rounding(2, dtype))
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


def test_a_view_of_the_first_channels_is_read_in_place(triton: FusedKernels, device: torch.device) -> None:
    wide, bias = pixels(device, torch.float32, 24)
    first, bias = wide[:, :18], bias[:18]
    copy = first.contiguous(memory_format=torch.channels_last_3d)
    rest = wide[:, 18:].clone()
    for of in (
        lambda x: triton.channel_norm(x, bias, silu=True, bias=bias),
        lambda x: triton.add_channels(x, bias, copy.flip(2)),
    ):
        found = of(first)
        expected = of(copy.clone(memory_format=torch.preserve_format))
        assert_near(found, expected, norm_limit(torch.float32, 18))
        assert found.is_contiguous(memory_format=torch.channels_last_3d)
    assert torch.equal(wide[:, 18:], rest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 1, 1), (24, 5, 7), (96, 2, 61)])
def test_phases_are_joined(
    triton: FusedKernels, device: torch.device, dtype: torch.dtype, channels: int, height: int, width: int
) -> None:
    rng = torch.Generator().manual_seed(height)
    phases = torch.randn(2, 4 * channels, height + 1, width + 1, generator=rng).to(device, dtype)
    bias = torch.randn(channels, generator=rng).to(device, dtype)
    y = triton.join_phases(phases.contiguous(memory_format=torch.channels_last), bias)
    assert y.shape == (2, channels, 2 * height, 2 * width)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, TORCH.join_phases(phases, bias))


def test_the_twin_is_the_norm_of_the_vae() -> None:
    x, weight = pixels(torch.device("cpu"), torch.float32)
    for silu, norm in ((False, channel_rms_norm(x, weight)), (True, F.silu(channel_rms_norm(x, weight)))):
        assert_near(TORCH.channel_norm(x, weight, silu=silu), norm, norm_limit(torch.float32))
