from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from livetalk.accelerate.fused_vae import FusedChannelNorm, FusedResidualBlock, FusedSpatialUp, fuse_vae
from livetalk.accelerate.selection import KERNEL_CHOICES, select_fused
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.models.vae_blocks import ChannelNorm, ResidualBlock, SpatialUp
from livetalk.ops.kernels.reference import TorchKernels
from tiny import VAE, VAE_PATCHED, tiny_vae
from tolerance import assert_near, assert_same_network, expect, expect_each, relative

KERNELS = TorchKernels()
KINDS = {ChannelNorm: FusedChannelNorm, ResidualBlock: FusedResidualBlock, SpatialUp: FusedSpatialUp}


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def video(frames: int = 9) -> Tensor:
    return torch.rand(1, 3, frames, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def fused_twin(plain: CausalVideoVAE) -> CausalVideoVAE:
    fused = tiny_vae(plain.config)
    fused.load_state_dict(plain.state_dict())
    fuse_vae(fused, KERNELS)
    return fused


def test_layers_are_replaced_and_the_weights_keep_their_names() -> None:
    plain, fused = tiny_vae(VAE), tiny_vae(VAE)
    blocks = [m for m in plain.modules() if isinstance(m, ResidualBlock)]
    wanted = sum(isinstance(m, tuple(KINDS)) for m in plain.modules()) - 2 * len(blocks)
    assert fuse_vae(fused, KERNELS) == wanted > 10
    for module in fused.modules():
        for kind, form in KINDS.items():
            if isinstance(module, kind) and type(module.fast_form) is not form:
                assert kind is ChannelNorm  # inside a residual block, whose fast form includes it
    assert fused.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("config", [VAE, VAE_PATCHED], ids=["three frames everywhere", "one at the finest"])
def test_whole_videos_are_the_same(config: VAEConfig) -> None:
    plain = tiny_vae(config)
    fused = fused_twin(plain)
    latents, limit = expect(lambda: plain.encode(video())[0], plain)
    assert_near(fused.encode(video())[0], latents, limit)
    assert_same_network(fused.decode(latents)[0], lambda: plain.decode(latents)[0], plain)
    assert_same_network(fused.decode_raw(latents), lambda: plain.decode_raw(latents), plain)


def test_padded_output_channels_do_not_change_the_result() -> None:
    plain, fused = tiny_vae(VAE_PATCHED), tiny_vae(VAE_PATCHED)
    fuse_vae(fused, KERNELS, min_channels=10)
    widths = {}
    for block in fused.modules():
        if isinstance(block, ResidualBlock) and isinstance(block.fast_form, FusedResidualBlock):
            wide = block.fast_form.padded1
            widths[block.conv1.out_channels] = None if wide is None else len(wide)
    assert widths == {4: None, 8: 10, 12: None}
    latents = plain.encode(video())[0]
    assert_same_network(fused.decode(latents)[0], lambda: plain.decode(latents)[0], plain)
    assert fused.state_dict().keys() == plain.state_dict().keys()


def test_pieces_and_caches_equal_those_of_the_plain_form() -> None:
    plain = tiny_vae(VAE)
    fused = fused_twin(plain)
    latents = plain.encode(video())[0]
    found = pieces_and_histories(fused, latents)
    expected = expect_each(lambda: pieces_and_histories(plain, latents), plain)
    assert found.keys() == expected.keys() and "history 1" in found
    for name, value in found.items():
        assert_near(value, *expected[name], name)


def pieces_and_histories(vae: CausalVideoVAE, latents: Tensor) -> dict[str, Tensor]:
    """Decode one latent frame at a time, and return the pieces and the final cache."""
    results: dict[str, Tensor] = {}
    cache = None
    for index, piece in enumerate(latents.split(1, dim=2)):  # type: ignore[no-untyped-call]
        results[f"piece {index}"], cache = vae.decode(piece, cache)
    assert cache is not None
    histories = enumerate(cache.histories)
    return results | {f"history {index}": kept for index, kept in histories if kept is not None}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 4)])
def test_phases_equal_upsampling_and_convolution(height: int, width: int) -> None:
    torch.manual_seed(height)
    plain = SpatialUp(8)
    x = torch.randn(2, 8, 3, height, width).contiguous(memory_format=torch.channels_last_3d)
    doubled = FusedSpatialUp(plain, KERNELS)(plain, x)
    assert_same_network(doubled, lambda: plain(x), plain)
    assert doubled.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_is_as_close_to_float32_as_the_plain_form() -> None:
    device = torch.device("cuda")
    exact = tiny_vae(VAE)
    latents = exact.encode(video())[0]
    expected = exact.decode(latents)[0]
    rounded = tiny_vae(VAE).bfloat16().to(device)
    plain_error = relative(rounded.decode(latents.to(device))[0].cpu(), expected)
    for choice in KERNEL_CHOICES[1:]:
        fused = tiny_vae(VAE).bfloat16().to(device)
        fuse_vae(fused, select_fused(choice, device))
        assert relative(fused.decode(latents.to(device))[0].cpu(), expected) < 1.2 * plain_error
