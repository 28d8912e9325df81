"""The VAE on several ranks, each of which holds a shard of every frame.

Frames are sharded along their longer side, into rows or columns, called lines. Convolutions exchange halos
with the neighbouring ranks; attention gathers the keys and values of all ranks.

Shapes: B batch · C channels · T frames · H W height and width of a rank's shard.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from livetalk.models.reference_decoder import ReferenceDecoder
from livetalk.models.vae import CausalVideoVAE, Decoder, Encoder
from livetalk.models.vae_blocks import (
    CausalConv,
    FrameAttention,
    ResidualBlock,
    SpatialDown,
    SpatialUp,
    TemporalConv,
    fold_time,
    unfold_time,
)
from livetalk.models.vae_cache import CachePass
from livetalk.ops.attention import attention
from livetalk.parallel.collectives import gather
from livetalk.parallel.halo import HaloLayer, HaloSizes, Rates
from livetalk.parallel.mesh import Axis
from livetalk.parallel.shard import Shard


def parallelize_vae(vae: CausalVideoVAE, axis: Axis) -> CausalVideoVAE:
    """Shard encoding and decoding over the ranks of an axis, and return `vae`.

    All ranks must encode or decode the same frames; all receive the full result, bit-identical. Caches hold
    this rank's lines. Gradients are not supported.

    Args:
        vae: with the same weights on every rank; modified in place, which renames its parameters.
        axis: at most as many ranks as the longer side of the latents has lines; one leaves the VAE unchanged.

    Raises:
        ValueError: the VAE is already parallelized, or its decoder warps a reference image.
    """
    if axis.size == 1:
        return vae
    # Warping reads pixels from anywhere in the frame, which a halo cannot provide.
    if isinstance(vae.decoder, ReferenceDecoder):
        raise ValueError("a VAE whose decoder warps a reference cannot be parallelized")
    if isinstance(vae.decoder.conv_in, HaloLayer):
        raise ValueError("the VAE is already parallelized")
    # Both networks are cut between lines of latents, so that no strided window spans a cut.
    shard = Shard(axis, "lines of latents", dim=4)
    stride = vae.config.spatial_stride
    for network, pixels, rate in (
        (vae.encoder, stride, stride // vae.config.patch_size),
        (vae.decoder, 1, 1),
    ):
        _shard_layers(network, shard, rate)
        network.register_forward_pre_hook(_cut_lines(shard, pixels))
        network.register_forward_hook(_gather_lines(shard))
    return vae


class ShardedFrameAttention(nn.Module):
    """Attention between all pixels of a frame, of which this rank holds some lines."""

    def __init__(self, inner: FrameAttention, shard: Shard) -> None:
        """Take over the layers of `inner`."""
        super().__init__()
        self.norm, self.qkv, self.out = inner.norm, inner.qkv, inner.out
        self._shard = shard

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Return `[B, C, T, H, W]`; the cache is unused, because attention is within a frame."""
        pixels = fold_time(self.norm(x)).permute(0, 2, 3, 1)
        q, keys_values = self.qkv(pixels).split((x.shape[1], 2 * x.shape[1]), dim=-1)
        # The order of the keys does not affect attention, so lines may be gathered along any dimension.
        dim = self._shard.dim - 2
        all_keys_values = gather(keys_values, dim, self._shard.sizes, self._shard.axis)
        k, v = all_keys_values.movedim(dim, 1).flatten(1, 2).unsqueeze(2).chunk(2, dim=-1)
        y = self.out(attention(q.flatten(1, 2).unsqueeze(2), k, v).flatten(2)).view(pixels.shape)
        return x + unfold_time(y.permute(0, 3, 1, 2), x.shape[0])


def _shard_layers(network: Encoder | Decoder, shard: Shard, rate: int) -> None:
    """Replace every layer with a spatial receptive field; `rate` is the first layer's lines per latent."""
    names = [name for name in _names_in_order(network) if not _is_pointwise(network.get_submodule(name))]
    widths = [_halo_width(network.get_submodule(name)) for name in names]
    on_input = 0
    # The last layer keeps only its own lines, which are gathered.
    for name, exchanged, next_exchanged in zip(names, widths, [*widths[1:], 0], strict=True):
        layer = network.get_submodule(name)
        rates = Rates(before=rate, after=_scale(rate, layer))
        # A halo narrower than the next layer needs would not avoid that layer's copy.
        on_output = next_exchanged if next_exchanged <= _scale(exchanged, layer) else 0
        network.set_submodule(
            name,
            shard_layer(
                layer, shard, HaloSizes(on_input=on_input, exchanged=exchanged, on_output=on_output), rates
            ),
        )
        rate, on_input = rates.after, on_output


def _names_in_order(network: Encoder | Decoder) -> list[str]:
    """Name the layers of a network in execution order, without the norm before the last."""
    levels = [f"levels.{index}" for index in range(len(network.levels))]
    groups = ["middle", *levels] if isinstance(network, Decoder) else [*levels, "middle"]
    inside = [
        f"{group}.{name}" for group in groups for name, _ in network.get_submodule(group).named_children()
    ]
    return ["conv_in", *inside, "conv_out"]


def shard_layer(layer: nn.Module, shard: Shard, halo: HaloSizes, rates: Rates) -> nn.Module:
    """Return the sharded form of a layer of `livetalk.models.vae_blocks` with a spatial receptive field."""
    if isinstance(layer, FrameAttention):
        return ShardedFrameAttention(layer, shard)
    return HaloLayer(layer, shard, halo, rates)


def _is_pointwise(layer: nn.Module) -> bool:
    """Whether a layer has no spatial receptive field, and so keeps halo lines."""
    return isinstance(layer, TemporalConv)


def _halo_width(layer: nn.Module) -> int:
    """Return how many lines beyond a cut a layer receives, at least its receptive field.

    A layer whose halo equals the one that the layer before leaves needs no copy of the tensor, so some layers
    receive one line more than they need. A layer before an upsampling does not: one more line there would be
    two more in every later layer.
    """
    if isinstance(layer, FrameAttention):
        return 0
    if isinstance(layer, SpatialUp):
        return 1
    if isinstance(layer, ResidualBlock):
        # One exchange for both convolutions; the line between them at a cut is computed on both ranks.
        return layer.conv1.kernel_size[2] // 2 + layer.conv2.kernel_size[2] // 2
    if isinstance(layer, CausalConv):
        # Equal to the halo of a residual block, which comes before or after it.
        return 2 * (layer.kernel_size[2] // 2)
    if isinstance(layer, SpatialDown):
        # The receptive field needs one line; an odd number would shift the stride.
        return 2
    raise TypeError(f"{type(layer).__name__}: the receptive field is unknown")


def _scale(lines: int, layer: nn.Module) -> int:
    """Return how many lines a layer computes from `lines`."""
    if isinstance(layer, SpatialUp):
        return lines * 2
    return lines // 2 if isinstance(layer, SpatialDown) else lines


def _cut_lines(shard: Shard, pixels: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """Return a hook that narrows the input to this rank's shard: `pixels` lines per line of latents."""

    def cut_lines(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = inputs[0]
        # Cuts across the longer side are the shortest, which minimizes the halo.
        dim = 4 if x.shape[4] >= x.shape[3] else 3
        own = shard.resize(x.shape[dim] // pixels, dim)
        part = x.narrow(dim, own.start * pixels, own.size * pixels)
        # The convolutions run in this layout, and shards in another one would be converted in every layer.
        return part.contiguous(memory_format=torch.channels_last_3d), *inputs[1:]

    return cut_lines


def _gather_lines(shard: Shard) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def gather_lines(network: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        rate = output.shape[shard.dim] // shard.own.size
        whole = gather(output, shard.dim, [size * rate for size in shard.sizes], shard.axis)
        return whole.contiguous(memory_format=torch.channels_last_3d)

    return gather_lines
