"""The decoder that warps a reference: streamed equals whole, what it blends, sizes, gradients, refusals."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from livetalk.accelerate.apply import AccelerationConfig, accelerate
from livetalk.errors import InputError
from livetalk.models.reference_decoder import (
    DecoderReference,
    ReferenceDecoder,
    ReferenceDecoderConfig,
    resize,
    warp,
)
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.models.vae_cache import VAECache
from livetalk.parallel.mesh import Axis
from livetalk.parallel.vae import parallelize_vae
from livetalk.recipes.embedded import embedded_reference_vae
from tiny import LATENT_CHANNELS, VAE, VAE_PATCHED, tiny_dit, tiny_vae
from tolerance import (
    assert_near,
    assert_same_network,
    expect,
    expect_narrow,
    relative,
    rounding,
    unit_roundoff,
)

WIDTHS = ReferenceDecoderConfig(feature_channels=3, width=6, fine_width=4, reference_width=5)
CONFIGS = [
    replace(VAE_PATCHED, reference=WIDTHS),
    replace(VAE, temporal_downsample=(False, True), reference=WIDTHS),
    replace(VAE_PATCHED, temporal_downsample=(False, True), reference=WIDTHS),
]
NAMES = ["both levels", "one level", "wide cells"]
HEIGHT, WIDTH = 32, 48


def draw(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 - 1


def draw_latents(config: VAEConfig, batch: int, count: int) -> Tensor:
    return draw(
        batch, LATENT_CHANNELS, count, HEIGHT // config.spatial_stride, WIDTH // config.spatial_stride
    )


def make_vae(config: VAEConfig) -> CausalVideoVAE:
    """Build a VAE with random weights; flows of a few pixels, since large ones tell nothing apart."""
    vae = tiny_vae(config)
    assert isinstance(vae.decoder, ReferenceDecoder)
    vae.decoder.flow.weight.data.mul_(0.05)
    vae.decoder.flow.bias.data.mul_(0.05)
    return vae


def sampling(width: int) -> float:
    """Return the limit for bilinear samples of a picture whose longer side has `width` pixels.

    A sample sums four products. Its coordinate is rounded three times, by at most `width` * u pixels each;
    neighbouring pixels differ by at most 2.
    """
    return rounding(4) + 6 * width * unit_roundoff(torch.float32)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize("batch", [1, 2])
def test_streamed_equals_whole(config: VAEConfig, batch: int) -> None:
    vae, latents, picture = make_vae(config), draw_latents(config, batch, 5), draw(batch, 3, HEIGHT, WIDTH)
    frames, limit = expect(lambda: vae.decode(latents, reference=vae.encode_reference(picture))[0], vae)
    with torch.no_grad():
        reference = vae.encode_reference(picture)
        assert frames.shape == (batch, 3, 1 + 4 * config.temporal_stride, HEIGHT, WIDTH)
        for counts in ([1, 1, 1, 1, 1], [1, 3, 1], [2, 1, 2], [4, 1]):
            cache: VAECache | None = None
            pieces = []
            for piece in latents.split(counts, dim=2):  # type: ignore[no-untyped-call]
                decoded, cache = vae.decode(piece, cache, reference=reference)
                pieces.append(decoded)
            assert_near(torch.cat(pieces, dim=2), frames, limit)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_every_sample_has_its_own_reference(config: VAEConfig) -> None:
    vae, latents, pictures = make_vae(config), draw_latents(config, 2, 3), draw(2, 3, HEIGHT, WIDTH)

    def decode(samples: slice) -> Tensor:
        return vae.decode(latents[samples], reference=vae.encode_reference(pictures[samples]))[0]

    with torch.no_grad():
        both = decode(slice(2))
    for one in (slice(1), slice(1, 2)):
        assert_same_network(both[one], partial(decode, one), vae)
    assert not torch.allclose(both[0], both[1])


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_later_latents_never_change_earlier_frames(config: VAEConfig) -> None:
    vae, latents = make_vae(config), draw_latents(config, 1, 4)
    later = latents.clone()
    later[:, :, 2:] *= -1
    picture = draw(1, 3, HEIGHT, WIDTH)

    def decode(latents: Tensor) -> Tensor:
        return vae.decode(latents, reference=vae.encode_reference(picture))[0]

    frames, limit = expect(lambda: decode(latents), vae)
    with torch.no_grad():
        changed = decode(later)
    same = 1 + config.temporal_stride
    assert_near(changed[:, :, :same], frames[:, :, :same], limit)
    assert not torch.allclose(frames[:, :, same:], changed[:, :, same:])


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_chosen_and_skipped_frames_are_those_of_the_whole_video(config: VAEConfig) -> None:
    vae, latents, pictures = make_vae(config), draw_latents(config, 2, 3), draw(2, 3, HEIGHT, WIDTH)
    _, limit = expect(lambda: vae.decode(latents, reference=vae.encode_reference(pictures))[0], vae)
    with torch.no_grad():
        reference = vae.encode_reference(pictures)
        whole, cache = vae.decode(latents, reference=reference)
        rest, after = vae.decode(latents, skip_frames=3, reference=reference)
        frames = torch.tensor([0, 2, whole.shape[2] - 1])
        chosen = vae.decode_parts(latents, reference, frames)
    assert_near(rest, whole[:, :, 3:], limit)
    for a, b in zip(cache.histories, after.histories, strict=True):
        assert a is not None and b is not None and torch.equal(a, b)
    assert_near(chosen.video.clamp(-1, 1), whole[:, :, frames], limit)


def test_the_video_is_blended_of_the_parts() -> None:
    vae, picture = make_vae(CONFIGS[2]), draw(1, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        reference = vae.encode_reference(picture)
        parts = vae.decode_parts(draw_latents(vae.config, 1, 3), reference)
    assert parts.flow.shape == (1, 2, 5, HEIGHT // 4, WIDTH // 4)
    assert parts.mask.shape == (1, 1, 5, HEIGHT, WIDTH)
    assert 0 < float(parts.mask.min()) < float(parts.mask.max()) < 1
    blended = parts.mask * parts.warped + (1 - parts.mask) * parts.painted
    # Two products, their sum and the complement of the mask are rounded.
    assert_near(parts.video, blended, rounding(4))
    assert_near(parts.warped, warp(picture, parts.flow), sampling(WIDTH))


def test_an_untrained_decoder_keeps_the_picture_still() -> None:
    torch.manual_seed(0)
    vae, picture = CausalVideoVAE(CONFIGS[0]), draw(1, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        parts = vae.decode_parts(draw_latents(vae.config, 1, 2), vae.encode_reference(picture))
    assert not parts.flow.any()
    assert_near(parts.warped, picture[:, :, None].expand_as(parts.warped), sampling(WIDTH))


def test_a_flow_moves_the_picture_by_its_distance() -> None:
    picture = draw(1, 3, 8, 12)
    flow = torch.zeros(1, 2, 2, 4, 6)
    flow[:, 0, 1] = 2 * 3 / 12
    flow[:, 1, 1] = -2 * 2 / 8
    still, moved = warp(picture, flow).unbind(2)
    assert_near(still, picture, sampling(12))
    assert_near(moved[..., 2:, :-3], picture[..., :-2, 3:], sampling(12))
    assert_near(moved[..., :2, :-3], picture[..., :1, 3:].expand(-1, -1, 2, -1), sampling(12))


def test_a_larger_picture_gives_larger_frames_of_the_same_motion() -> None:
    vae, latents = make_vae(CONFIGS[2]), draw_latents(CONFIGS[2], 1, 2)
    picture = draw(1, 3, 2 * HEIGHT, 2 * WIDTH)
    small = torch.nn.functional.avg_pool2d(picture, 2)
    flow, limit = expect(lambda: vae.decode_parts(latents, vae.encode_reference(small)).flow, vae)
    with torch.no_grad():
        large = vae.decode_parts(latents, vae.encode_reference(picture, scale=2))
        video, _ = vae.decode(latents, reference=vae.encode_reference(picture, scale=2))
    assert_near(large.flow, flow, limit)
    assert_near(large.warped, warp(picture, large.flow), sampling(2 * WIDTH))
    painted, limit = expect(lambda: vae.decode_parts(latents, vae.encode_reference(small)).painted, vae)
    assert_near(large.painted, resize(painted, 2 * HEIGHT, 2 * WIDTH), limit)
    assert torch.equal(video, large.video.clamp(-1, 1))
    assert video.shape[3:] == (2 * HEIGHT, 2 * WIDTH)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_gradients_reach_every_parameter(config: VAEConfig) -> None:
    vae, latents = make_vae(config), draw_latents(config, 1, 3)
    parts = vae.decode_parts(latents, vae.encode_reference(draw(1, 3, HEIGHT, WIDTH)))
    torch.autograd.backward(parts.video.square().mean())
    missing = [
        name for name, p in vae.decoder.named_parameters() if p.grad is None or not p.grad.abs().max() > 0
    ]
    assert missing == []


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_every_activation_keeps_channels_last(config: VAEConfig) -> None:
    vae, wrong = make_vae(config), list[str]()

    def look(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            video = isinstance(output, Tensor) and output.ndim == 5
            if video and not output.is_contiguous(memory_format=torch.channels_last_3d):
                wrong.append(name)

        vae.get_submodule(name).register_forward_hook(hook)

    for name, module in vae.named_modules():
        if name.count(".") > 0 and not isinstance(module, nn.ModuleList):
            look(name)
    with torch.no_grad():
        reference = vae.encode_reference(draw(1, 3, HEIGHT, WIDTH))
        vae.decode(draw_latents(config, 1, 2), reference=reference)
    assert wrong == []


def test_compiles_without_graph_breaks() -> None:
    vae, picture = make_vae(CONFIGS[0]), draw(1, 3, HEIGHT, WIDTH)
    latents, frames = draw_latents(vae.config, 1, 2), torch.tensor([1, 3])

    def decode(picture: Tensor, latents: Tensor) -> Tensor:
        return vae.decode_parts(latents, vae.encode_reference(picture), frames).video

    compiled = torch.compile(decode, backend="eager", fullgraph=True)
    with torch.no_grad():
        found = compiled(picture, latents)
    assert_same_network(found, lambda: decode(picture, latents), vae)


def test_bfloat16_stays_close_to_float32() -> None:
    exact, rounded = make_vae(CONFIGS[0]), make_vae(CONFIGS[0]).to(torch.bfloat16)
    picture, latents = draw(1, 3, HEIGHT, WIDTH), draw_latents(CONFIGS[0], 1, 3)
    expected, limit = expect_narrow(
        lambda: exact.decode(latents, reference=exact.encode_reference(picture))[0], torch.bfloat16, exact
    )
    with torch.no_grad():
        frames, _ = rounded.decode(latents, reference=rounded.encode_reference(picture))
    assert frames.dtype is torch.float32
    assert 0 < relative(frames, expected) < limit


def test_the_recipe_takes_at_most_two_billion_operations_a_frame() -> None:
    vae, latents = CausalVideoVAE(embedded_reference_vae()).eval(), torch.zeros(1, 32, 9, 16, 16)
    with torch.no_grad():
        reference = vae.encode_reference(torch.zeros(1, 3, 256, 256))
        with FlopCounterMode(display=False) as counter:
            frames, _ = vae.decode(latents, reference=reference)
    assert counter.get_total_flops() / frames.shape[2] < 2e9


def test_the_layers_shared_with_the_published_decoder_have_its_names() -> None:
    config = CONFIGS[2]
    published = tiny_vae(replace(config, reference=None)).decoder.state_dict()
    own = make_vae(config).decoder.state_dict()
    shared = {name for name in own if name.startswith(("conv_in.", "middle.", "levels."))}
    assert shared <= published.keys()
    assert all(own[name].shape == published[name].shape for name in shared)


def test_a_reference_is_asked_for_and_refused() -> None:
    warping, painting = make_vae(CONFIGS[0]), tiny_vae(VAE_PATCHED)
    latents, picture = draw_latents(CONFIGS[0], 1, 2), draw(1, 3, HEIGHT, WIDTH)
    reference: DecoderReference = warping.encode_reference(picture)
    with pytest.raises(ValueError, match="a reference is needed"):
        warping.decode(latents)
    with pytest.raises(ValueError, match="a reference is needed"):
        painting.decode(latents, reference=reference)
    with pytest.raises(ValueError, match="no decoder that warps"):
        painting.encode_reference(picture)
    with pytest.raises(ValueError, match="no decoder that warps"):
        painting.decode_parts(latents, reference)
    with pytest.raises(ValueError, match="multiple of 16"):
        warping.encode_reference(draw(1, 3, 32, 40), scale=2)


def test_forms_without_support_refuse_it() -> None:
    vae = make_vae(CONFIGS[0])
    with pytest.raises(ValueError, match="cannot be parallelized"):
        parallelize_vae(vae, Axis(group_name="", rank=0, size=2))
    with pytest.raises(InputError, match="no fused form"):
        accelerate(tiny_dit(), vae, torch.device("cpu"), AccelerationConfig(fast=True, kernels="torch"))


@pytest.mark.parametrize(
    ("config", "message"),
    [(VAE, "even number of pixels"), (replace(VAE, temporal_downsample=(False, False)), "lower frame rate")],
)
def test_sizes_that_cannot_warp_are_refused(config: VAEConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(config, reference=WIDTHS)
