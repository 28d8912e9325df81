"""The VAE at a tiny size: streamed equals whole, causality, memory layout, gradients, compilation."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.models.vae_blocks import channels_to_pixels, pixels_to_channels
from livetalk.models.vae_cache import VAECache
from tiny import LATENT_CHANNELS, VAE, VAE_PATCHED, tiny_vae
from tolerance import assert_near, assert_same_network, distance, expect, expect_narrow, relative

CONFIGS = [VAE, VAE_PATCHED, replace(VAE, temporal_downsample=(False, True))]
NAMES = ["plain", "patched", "half rate"]


def draw(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 - 1


def encode_pieces(vae: CausalVideoVAE, video: Tensor, sizes: list[int]) -> Tensor:
    cache: VAECache | None = None
    pieces = []
    for piece in video.split(sizes, dim=2):  # type: ignore[no-untyped-call]
        latents, cache = vae.encode(piece, cache)
        pieces.append(latents)
    return torch.cat(pieces, dim=2)


def decode_pieces(vae: CausalVideoVAE, latents: Tensor, sizes: list[int]) -> Tensor:
    cache: VAECache | None = None
    pieces = []
    for piece in latents.split(sizes, dim=2):  # type: ignore[no-untyped-call]
        frames, cache = vae.decode(piece, cache)
        pieces.append(frames)
    return torch.cat(pieces, dim=2)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("batch", [1, 2])
def test_streamed_equals_whole(config: VAEConfig, batch: int) -> None:
    vae, stride = tiny_vae(config), config.temporal_stride
    video = draw(batch, 3, 1 + 4 * stride, 32, 48)
    with torch.no_grad():
        latents, encode_limit = expect(lambda: vae.encode(video)[0], vae)
        frames, decode_limit = expect(lambda: vae.decode(latents)[0], vae)
        assert latents.shape == (
            batch,
            LATENT_CHANNELS,
            5,
            32 // config.spatial_stride,
            48 // config.spatial_stride,
        )
        assert frames.shape == video.shape
        for counts in ([1, 1, 1, 1, 1], [1, 3, 1], [2, 1, 2], [4, 1]):
            sizes = [1 + (counts[0] - 1) * stride, *(count * stride for count in counts[1:])]
            assert_near(encode_pieces(vae, video, sizes), latents, encode_limit)
            assert_near(decode_pieces(vae, latents, counts), frames, decode_limit)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_training_passes_equal_the_streaming_ones(config: VAEConfig) -> None:
    vae, video = tiny_vae(config), draw(2, 3, 1 + 2 * config.temporal_stride, 16, 16)
    mean, log_variance = vae.encode_moments(video)
    latents, limit = expect(lambda: vae.encode(video)[0], vae)
    assert log_variance.shape == mean.shape
    assert_near(vae.normalize(mean), latents, limit)
    assert_near(vae.denormalize(latents), mean, limit)
    raw = vae.decode_raw(latents)
    assert raw.abs().max() > 1
    assert_same_network(raw.clamp(-1, 1), lambda: vae.decode(latents)[0], vae)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_later_frames_never_change_earlier_ones(config: VAEConfig) -> None:
    vae, stride = tiny_vae(config), config.temporal_stride
    video = draw(1, 3, 1 + 3 * stride, 16, 16)
    later = video.clone()
    later[:, :, 1 + stride :] *= -1
    with torch.no_grad():
        first, limit = expect(lambda: vae.encode(video)[0], vae)
        second = vae.encode(later)[0]
        assert_near(second[:, :, :2], first[:, :, :2], limit)
        assert distance(second[:, :, 2:], first[:, :, 2:]) > 100 * limit
        # The first two latent frames of both may differ by a rounding; they are the same here.
        second[:, :, :2] = first[:, :, :2]
        changed = vae.decode(second)[0][:, :, : 1 + stride]
    assert_same_network(changed, lambda: vae.decode(first)[0][:, :, : 1 + stride], vae)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("skip", [1, 3, 9])
def test_skipped_frames_are_remembered(config: VAEConfig, skip: int) -> None:
    vae, latents = tiny_vae(config), draw(2, LATENT_CHANNELS, 5, 2, 2)
    seen: list[int] = []
    vae.decoder.norm_out.register_forward_hook(lambda _m, args, _y: seen.append(args[0].shape[2]))
    with torch.no_grad():
        whole, cache = vae.decode(latents)
        rest, after = vae.decode(latents, skip_frames=skip)
    calls = list(seen)
    expected, limit = expect(lambda: vae.decode(latents)[0], vae)
    assert_near(rest, expected[:, :, skip:], limit)
    for a, b in zip(cache.histories, after.histories, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)
    assert calls == [whole.shape[2], calls[0] - skip if config is VAE_PATCHED else calls[0]]


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_chosen_frames_are_those_of_the_whole_video(config: VAEConfig) -> None:
    vae, latents = tiny_vae(config), draw(2, LATENT_CHANNELS, 3, 2, 2)
    whole, limit = expect(lambda: vae.decode_raw(latents), vae)
    with torch.no_grad():
        frames = torch.tensor([0, 1, whole.shape[2] - 1])
        chosen = vae.decode_raw(latents, frames)
    assert_near(chosen, whole[:, :, frames], limit)


def test_cache_is_a_value() -> None:
    vae, video = tiny_vae(), draw(1, 3, 9, 16, 16)
    with torch.no_grad():
        _, cache = vae.encode(video[:, :, :5])
        again = [vae.encode(video[:, :, 5:], cache)[0] for _ in range(2)]
        fresh, _ = vae.encode(video[:, :, :5], cache.reset())
        assert torch.equal(again[0], again[1])
        assert torch.equal(fresh, vae.encode(video[:, :, :5])[0])
    held = [history for history in cache.histories if history is not None]
    assert cache.started and len(held) == len(cache.histories)
    assert cache.num_bytes == sum(history.numel() * 4 for history in held)
    assert all(history.untyped_storage().nbytes() == history.nbytes for history in held)
    assert cache.reset().num_bytes == 0 and not cache.reset().started


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("batch", [1, 2])
def test_every_activation_keeps_channels_last(config: VAEConfig, batch: int) -> None:
    vae = tiny_vae(config)
    wrong: list[str] = []

    def look(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if output.ndim == 5 and not output.is_contiguous(memory_format=torch.channels_last_3d):
                wrong.append(name)

        vae.get_submodule(name).register_forward_hook(hook)

    for name, module in vae.named_modules():
        if name.count(".") > 0 and not isinstance(module, nn.ModuleList):
            look(name)
    with torch.no_grad():
        latents, _ = vae.encode(draw(batch, 3, 1 + config.temporal_stride, 16, 16))
        _, cache = vae.decode(latents[:, :, :1])
        vae.decode(latents[:, :, 1:], cache)
    assert wrong == []
    frames, limit = expect(lambda: vae.decode(latents[:, :, :1])[0], vae)
    vae.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    with torch.no_grad():
        assert_near(vae.decode(latents[:, :, :1])[0], frames, limit)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_gradients_reach_every_parameter(config: VAEConfig) -> None:
    vae = tiny_vae(config)
    mean, log_variance = vae.encode_moments(draw(1, 3, 1 + 2 * config.temporal_stride, 16, 16))
    loss = vae.decode_raw(vae.normalize(mean)).square().mean() + log_variance.square().mean()
    torch.autograd.backward(loss)
    missing = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert missing == []


def test_compiles_without_graph_breaks() -> None:
    config = replace(
        VAE_PATCHED, dim_multipliers=(1, 2), temporal_downsample=(True,), temporal_kernels=(1, 3)
    )
    vae, video = tiny_vae(config), draw(1, 3, 5, 16, 16)
    encode = torch.compile(vae.encode_moments, backend="eager", fullgraph=True)
    decode = torch.compile(vae.decode, backend="eager", fullgraph=True)
    with torch.no_grad():
        mean, _ = encode(video)
        assert_same_network(mean, lambda: vae.encode_moments(video)[0], vae)
        assert_same_network(decode(mean)[0], lambda: vae.decode(mean)[0], vae)


def test_bfloat16_stays_close_to_float32() -> None:
    exact, rounded = tiny_vae(VAE_PATCHED), tiny_vae(VAE_PATCHED).to(torch.bfloat16)
    video = draw(1, 3, 9, 32, 32)
    latents, encode_limit = expect_narrow(lambda: exact.encode(video)[0], torch.bfloat16, exact)
    frames, decode_limit = expect_narrow(lambda: exact.decode(latents)[0], torch.bfloat16, exact)
    with torch.no_grad():
        assert 0 < relative(rounded.encode(video)[0], latents) < encode_limit
        assert 0 < relative(rounded.decode(latents)[0], frames) < decode_limit


def test_patches_are_undone() -> None:
    video = draw(2, 3, 5, 8, 12)
    assert torch.equal(channels_to_pixels(pixels_to_channels(video, 2), 2), video)
    assert pixels_to_channels(video, 2).shape == (2, 12, 5, 4, 6)


def test_strides() -> None:
    assert (VAE.temporal_stride, VAE.spatial_stride) == (4, 4)
    assert (VAE_PATCHED.temporal_stride, VAE_PATCHED.spatial_stride) == (4, 8)


def test_refuses_what_does_not_fit() -> None:
    vae = tiny_vae()
    for shape in ((1, 3, 2, 16, 16), (1, 3, 0, 16, 16)):
        with pytest.raises(ValueError, match="frames"):
            vae.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="multiple of 4"):
        vae.encode(torch.zeros(1, 3, 1, 16, 18))
    _, cache = vae.encode(torch.zeros(1, 3, 1, 16, 16))
    with pytest.raises(ValueError, match="frames"):
        vae.encode(torch.zeros(1, 3, 5, 16, 16), cache)
    for change in (
        {"temporal_downsample": (True,)},
        {"temporal_kernels": (3, 3)},
        {"latents_mean": (0.0,)},
        {"latents_std": (1.0,)},
    ):
        with pytest.raises(ValueError, match=next(iter(change))):
            replace(VAE, **change)
