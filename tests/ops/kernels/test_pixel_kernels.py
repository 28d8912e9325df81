import pytest
import torch
import torch.nn.functional as F

from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.norm import channel_rms_norm

TORCH = TorchKernels()


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
    tolerance = 1e-5 if dtype == torch.float32 else 2.0**-7
    torch.testing.assert_close(y, TORCH.channel_norm(x, weight, silu=silu), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernels", ["torch", "triton"])
def test_it_writes_behind_the_past_of_a_buffer(
    kernels: str, device: torch.device, request: pytest.FixtureRequest
) -> None:
    fused = TORCH if kernels == "torch" else request.getfixturevalue("triton")
    x, weight = pixels(device, torch.float32)
    buffer = x.new_zeros(2, 24, 5, 13, 17).contiguous(memory_format=torch.channels_last_3d)
    end = buffer[:, :, 2:]
    assert fused.channel_norm(x, weight, silu=True, out=end) is end
    assert not buffer[:, :, :2].any()
    torch.testing.assert_close(end, TORCH.channel_norm(x, weight, silu=True), rtol=1e-5, atol=1e-5)


def test_a_target_of_another_layout_is_refused(triton: FusedKernels, device: torch.device) -> None:
    x, weight = pixels(device, torch.float32)
    with pytest.raises(ValueError, match="channels last"):
        triton.channel_norm(x, weight, silu=True, out=torch.empty(x.shape, device=device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bias_comes_before_the_norm(triton: FusedKernels, device: torch.device, dtype: torch.dtype) -> None:
    x, weight = pixels(device, dtype)
    bias = torch.linspace(-1, 1, 24, device=device).to(dtype)
    y = triton.channel_norm(x, weight, silu=True, bias=bias)
    tolerance = 1e-5 if dtype == torch.float32 else 2.0**-7
    expected = TORCH.channel_norm(x, weight, silu=True, bias=bias)
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
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
    tolerance = 1e-6 if dtype == torch.float32 else 2.0**-7
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


def test_the_first_channels_of_wider_pixels_are_read_where_they_lie(
    triton: FusedKernels, device: torch.device
) -> None:
    wide, bias = pixels(device, torch.float32, 24)
    first, bias = wide[:, :18], bias[:18]
    copy = first.contiguous(memory_format=torch.channels_last_3d)
    rest = wide[:, 18:].clone()
    for of in (
        lambda x: triton.channel_norm(x, bias, silu=True, bias=bias),
        lambda x: triton.add_channels(x, bias, copy.flip(2)),
    ):
        found = of(first)
        torch.testing.assert_close(found, of(copy.clone(memory_format=torch.preserve_format)))
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
    torch.testing.assert_close(y, TORCH.join_phases(phases, bias), rtol=0, atol=0)


def test_the_twin_is_the_norm_of_the_vae() -> None:
    x, weight = pixels(torch.device("cpu"), torch.float32)
    torch.testing.assert_close(TORCH.channel_norm(x, weight, silu=False), channel_rms_norm(x, weight))
    torch.testing.assert_close(TORCH.channel_norm(x, weight, silu=True), F.silu(channel_rms_norm(x, weight)))
