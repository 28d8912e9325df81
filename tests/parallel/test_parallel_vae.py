from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from livetalk.accelerate.fused_vae import fuse_vae
from livetalk.errors import InputError
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.parallel.halo import HaloLayer
from livetalk.parallel.mesh import Axis, ParallelConfig, build_mesh
from livetalk.parallel.vae import parallelize_vae
from parallel.gloo_ranks import run_ranks
from tiny import VAE, VAE_PATCHED, tiny_vae
from tolerance import assert_near, expect, expect_each

SIDES = {"wide": (5, 7), "high": (7, 5)}
"""Rows and columns of the latents; the longer side is cut, and 7 lines divide by no number of ranks but 7."""
WHOLE_FRAME = replace(VAE, dim_multipliers=(1, 2, 2, 3), temporal_downsample=(False, True, True))


def latents(side: str) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(1, VAE.latent_channels, 3, *SIDES[side], generator=rng)


def video(config: VAEConfig, side: str) -> Tensor:
    height, width = (config.spatial_stride * lines for lines in SIDES[side])
    rng = torch.Generator().manual_seed(2)
    return torch.rand(1, 3, 9, height, width, generator=rng) * 2 - 1


def run_vae(vae: CausalVideoVAE, side: str) -> dict[str, Tensor]:
    """Encode and decode, in one call and in several."""
    pixels = video(vae.config, side)
    first, cache = vae.encode(pixels[:, :, :5])
    second, _ = vae.encode(pixels[:, :, 5:], cache)
    results = {
        "encode": vae.encode(pixels)[0],
        "encode in pieces": torch.cat((first, second), dim=2),
        "decode": vae.decode(latents(side))[0],
        "decode raw": vae.decode_raw(latents(side)),
        "decode without the first frames": vae.decode(latents(side), None, 4)[0],
    }
    pieces, cache = [], None
    for index in range(3):
        frames, cache = vae.decode(latents(side)[:, :, index : index + 1], cache)
        pieces.append(frames)
    return results | {"decode in pieces": torch.cat(pieces, dim=2)}


def sharded_vae(config: VAEConfig, side: str, num_ranks: int) -> dict[str, Tensor]:
    mesh = build_mesh(ParallelConfig(ulysses_degree=num_ranks), torch.device("cpu"))
    return run_vae(parallelize_vae(tiny_vae(config), mesh.world), side)


@pytest.mark.parametrize(
    ("config", "side", "num_ranks"),
    [
        (WHOLE_FRAME, "wide", 2),
        (WHOLE_FRAME, "high", 3),
        (WHOLE_FRAME, "wide", 4),
        (WHOLE_FRAME, "high", 7),
        (VAE_PATCHED, "high", 2),
        (VAE_PATCHED, "wide", 3),
    ],
)
def test_uneven_lines_give_the_result_of_one_rank(config: VAEConfig, side: str, num_ranks: int) -> None:
    vae = tiny_vae(config)
    expected = expect_each(partial(run_vae, vae, side), vae)
    found = run_ranks(sharded_vae, num_ranks, config, side, num_ranks)
    for name, (value, limit) in expected.items():
        for rank in found:
            assert torch.equal(rank[name], found[0][name]), name
        assert_near(found[0][name], value, limit, name)


def fused_tiny_vae(config: VAEConfig) -> CausalVideoVAE:
    vae = tiny_vae(config)
    fuse_vae(vae, TorchKernels(), min_channels=10)
    return vae


def fused_sharded_vae(config: VAEConfig, side: str, num_ranks: int) -> dict[str, Tensor]:
    mesh = build_mesh(ParallelConfig(ulysses_degree=num_ranks), torch.device("cpu"))
    return run_vae(parallelize_vae(fused_tiny_vae(config), mesh.world), side)


@pytest.mark.parametrize(
    ("config", "side", "num_ranks"), [(WHOLE_FRAME, "wide", 2), (VAE_PATCHED, "high", 3)]
)
def test_a_vae_on_fused_kernels_is_sharded_like_a_plain_one(
    config: VAEConfig, side: str, num_ranks: int
) -> None:
    vae = tiny_vae(config)
    expected = expect_each(partial(run_vae, vae, side), vae)
    for found in run_ranks(fused_sharded_vae, num_ranks, config, side, num_ranks):
        for name, (value, limit) in expected.items():
            assert_near(found[name], value, limit, name)


def halo_layers(network: nn.Module) -> dict[str, HaloLayer]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, HaloLayer)}


def invalidate_halo(layer: HaloLayer, axis: Axis) -> None:
    """Give a layer a copy of its input whose stale halo lines are NaN."""

    def fill_halo(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, dim, width = inputs[0].clone(), 4, layer.halo.on_input
        if axis.rank > 0:
            x.narrow(dim, 0, width).fill_(float("nan"))
        if axis.rank < axis.size - 1:
            x.narrow(dim, x.shape[dim] - width, width).fill_(float("nan"))
        return x, *inputs[1:]

    layer.register_forward_pre_hook(fill_halo)


def with_invalid_halos(config: VAEConfig, num_ranks: int) -> list[dict[str, Tensor]]:
    axis = build_mesh(ParallelConfig(ulysses_degree=num_ranks), torch.device("cpu")).world
    vae, invalid = (parallelize_vae(fused_tiny_vae(config), axis) for _ in range(2))
    for layer in halo_layers(invalid).values():
        invalidate_halo(layer, axis)
    return [run_vae(vae, "wide"), run_vae(invalid, "wide")]


@pytest.mark.parametrize(("config", "num_ranks"), [(WHOLE_FRAME, 2), (VAE_PATCHED, 3)])
def test_stale_halo_lines_do_not_affect_the_result(config: VAEConfig, num_ranks: int) -> None:
    for unchanged, invalid in run_ranks(with_invalid_halos, num_ranks, config, num_ranks):
        for name, value in invalid.items():
            assert torch.equal(unchanged[name], value), name


class LargeCopies(TorchDispatchMode):
    """Records the layers that copy most of a tensor before or after their inner layer runs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.layers: list[str] = []
        self._name = ""
        self._limit = 0.0
        for name, layer in halo_layers(network).items():
            layer.register_forward_pre_hook(partial(self._enter, name))
            layer.inner.register_forward_pre_hook(partial(self._enter, ""))
            layer.inner.register_forward_hook(partial(self._enter, name))
            layer.register_forward_hook(partial(self._enter, ""))

    def _enter(self, name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any = None) -> None:
        self._name, self._limit = name, inputs[0].numel() / 2

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        copies = func.overloadpacket in (torch.ops.aten.cat, torch.ops.aten.clone, torch.ops.aten.copy_)
        if self._name and copies and result.numel() > self._limit:
            self.layers.append(self._name)
        return result


def crop_all_halos(vae: CausalVideoVAE) -> None:
    """Make every layer allocate its extended input and crop its output: the plain form."""
    for layer in halo_layers(vae).values():
        layer.halo = replace(layer.halo, on_input=0, on_output=0)


def large_copies(network: str, plain: bool) -> tuple[list[str], list[str]]:
    mesh = build_mesh(ParallelConfig(ulysses_degree=2), torch.device("cpu"))
    vae = parallelize_vae(fused_tiny_vae(WHOLE_FRAME), mesh.world)
    if plain:
        crop_all_halos(vae)
    rng = torch.Generator().manual_seed(3)
    with LargeCopies(vae.get_submodule(network)) as copies:
        # Wide frames, so that the halo is a small share even of the latents.
        if network == "decoder":
            vae.decode(torch.randn(1, VAE.latent_channels, 3, 3, 18, generator=rng))
        else:
            vae.encode(torch.randn(1, 3, 9, 24, 144, generator=rng))
    return copies.layers, list(halo_layers(vae.get_submodule(network)))


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        # After the attention, and before an upsampling whose input no temporal layer has copied.
        ("decoder", ["conv_in", "middle.2", "levels.2.2"]),
        # The pixels, after each downsampling, and after the attention.
        ("encoder", ["conv_in", "levels.1.0", "levels.2.0", "levels.3.0", "middle.2"]),
    ],
)
def test_few_layers_copy_a_tensor(network: str, expected: list[str]) -> None:
    for found, _ in run_ranks(large_copies, 2, network, False):
        assert found == expected


@pytest.mark.parametrize("network", ["decoder", "encoder"])
def test_the_plain_form_copies_the_tensor_at_every_layer(network: str) -> None:
    for found, layers in run_ranks(large_copies, 2, network, True):
        assert sorted(found) == sorted(layers)


def reshaped(num_ranks: int) -> list[Tensor]:
    """Use one VAE for a wide frame, a high one, and a wide one again."""
    mesh = build_mesh(ParallelConfig(ulysses_degree=num_ranks), torch.device("cpu"))
    vae = parallelize_vae(tiny_vae(), mesh.world)
    return [vae.decode_raw(latents(side)) for side in ("wide", "high", "wide")]


def test_the_longer_side_of_each_frame_is_sharded() -> None:
    vae = tiny_vae()
    expected = [
        expect(lambda side=side: vae.decode_raw(latents(side)), vae) for side in ("wide", "high", "wide")
    ]
    for found, alone in zip(run_ranks(reshaped, 2, 2)[0], expected, strict=True):
        assert_near(found, *alone)


def test_the_result_keeps_its_layout() -> None:
    assert all(run_ranks(layouts, 2))


def layouts() -> bool:
    mesh = build_mesh(ParallelConfig(ulysses_degree=2), torch.device("cpu"))
    vae = parallelize_vae(tiny_vae(), mesh.world)
    seen = []
    for layer in vae.decoder.modules():
        if isinstance(layer, HaloLayer):
            layer.inner.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for side in SIDES:
        seen.append(vae.decode_raw(latents(side)))
    return all(x.is_contiguous(memory_format=torch.channels_last_3d) for x in seen)


def test_a_second_call_is_refused() -> None:
    axis = Axis("unused", 0, 2)
    vae = parallelize_vae(tiny_vae(), axis)
    with pytest.raises(ValueError, match="already parallelized"):
        parallelize_vae(vae, axis)


def test_more_ranks_than_lines_are_refused() -> None:
    vae = parallelize_vae(tiny_vae(), Axis("unused", 0, 8))
    with pytest.raises(InputError, match="8 GPUs cannot share 7 lines of latents; use fewer GPUs"):
        vae.decode(latents("wide"))


def test_one_rank_leaves_the_vae_unchanged() -> None:
    vae = tiny_vae()
    names = list(vae.state_dict())
    assert list(parallelize_vae(vae, Axis("", 0, 1)).state_dict()) == names
