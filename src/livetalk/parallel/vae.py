"""The VAE over several ranks: each holds a piece of every frame, and the result is that of one rank.

Frames are cut across their longer side, into rows or columns: lines. Convolutions borrow lines from the
neighbours, the attention in the middle sees the keys and values of all.

Shapes: B batch · C channels · T frames · H W height, width of a rank's piece.
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
from livetalk.parallel.halo import HaloLayer, Margins, Rates
from livetalk.parallel.mesh import Axis
from livetalk.parallel.shard import Shard


def parallelize_vae(vae: CausalVideoVAE, axis: Axis) -> CausalVideoVAE:
    """Let all ranks of an axis share the work of encoding and decoding.

    Each must then encode or decode the same frames at the same time; each gets the whole result, bit for bit
    the same. A cache holds this rank's lines. There are no gradients.

    Args:
        vae: with the same weights on every rank; altered in place. Its parameters get other names.
        axis: the ranks, at most as many as the longer side of the latents. One rank leaves the VAE as it is.

    Returns:
        `vae`.

    Raises:
        ValueError: the VAE is spread over ranks already, or its decoder warps a reference: lines of a frame
            come from anywhere in the picture.
    """
    if axis.size == 1:
        return vae
    if isinstance(vae.decoder, ReferenceDecoder):
        raise ValueError("a VAE whose decoder warps a reference cannot be spread over ranks")
    if isinstance(vae.decoder.conv_in, HaloLayer):
        raise ValueError("the VAE is spread over ranks already")
    # Both networks cut at lines of latents, so that no layer's stride meets a cut.
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
        """Take over the layers of `inner`; `shard` tells how the lines are cut."""
        super().__init__()
        self.norm, self.qkv, self.out = inner.norm, inner.qkv, inner.out
        self._shard = shard

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Return `[B, C, T, H, W]`; the cache is not used, since frames do not see each other."""
        pixels = fold_time(self.norm(x)).permute(0, 2, 3, 1)
        q, keys_values = self.qkv(pixels).split((x.shape[1], 2 * x.shape[1]), dim=-1)
        # Whose pixel a key is does not matter to a query, but all of them must be there, and nothing else.
        dim = self._shard.dim - 2
        everyone = gather(keys_values, dim, self._shard.sizes, self._shard.axis)
        k, v = everyone.movedim(dim, 1).flatten(1, 2).unsqueeze(2).chunk(2, dim=-1)
        y = self.out(attention(q.flatten(1, 2).unsqueeze(2), k, v).flatten(2)).view(pixels.shape)
        return x + unfold_time(y.permute(0, 3, 1, 2), x.shape[0])


def _shard_layers(network: Encoder | Decoder, shard: Shard, rate: int) -> None:
    """Replace every layer that sees a pixel's neighbours, in place.

    Args:
        network: whose layers follow one another as in its `forward`.
        shard: how the lines of the latents are cut.
        rate: lines at its first layer for each line of the latents.
    """
    names = [name for name in _names_in_order(network) if not _sees_pixels_alone(network.get_submodule(name))]
    margins = [_margin(network.get_submodule(name)) for name in names]
    given = 0
    # The last leaves nothing but the own lines, which are gathered.
    for name, shown, next_shown in zip(names, margins, [*margins[1:], 0], strict=True):
        layer = network.get_submodule(name)
        rates = Rates(before=rate, after=_scale(rate, layer))
        # Less room than all that the next layer needs would save it nothing.
        left = next_shown if next_shown <= _scale(shown, layer) else 0
        network.set_submodule(
            name, shard_layer(layer, shard, Margins(given=given, shown=shown, left=left), rates)
        )
        rate, given = rates.after, left


def _names_in_order(network: Encoder | Decoder) -> list[str]:
    """Name the layers of a network as they follow one another, without the norm before the last."""
    levels = [f"levels.{index}" for index in range(len(network.levels))]
    groups = ["middle", *levels] if isinstance(network, Decoder) else [*levels, "middle"]
    inside = [
        f"{group}.{name}" for group in groups for name, _ in network.get_submodule(group).named_children()
    ]
    return ["conv_in", *inside, "conv_out"]


def shard_layer(layer: nn.Module, shard: Shard, margins: Margins, rates: Rates) -> nn.Module:
    """Return what takes the place of a layer whose rank holds some lines only.

    Args:
        layer: one of `livetalk.models.vae_blocks`, which sees a pixel's neighbours.
        shard: how the lines of the latents are cut.
        margins: of the layer.
        rates: of the layer.
    """
    if isinstance(layer, FrameAttention):
        return ShardedFrameAttention(layer, shard)
    return HaloLayer(layer, shard, margins, rates)


def _sees_pixels_alone(layer: nn.Module) -> bool:
    """Say whether a layer makes each pixel of that pixel only: it does not mind margins, and keeps them."""
    return isinstance(layer, TemporalConv)


def _margin(layer: nn.Module) -> int:
    """Return how many lines a layer is shown beyond a cut, for its own to come out right.

    Where a layer is shown as many as the one before it leaves, the picture is not copied. So some are shown a
    line more than they see, which costs less than the copy. Not so before a picture is doubled: a line more
    there is two more in every layer behind.
    """
    if isinstance(layer, FrameAttention):
        return 0
    if isinstance(layer, SpatialUp):
        return 1
    if isinstance(layer, ResidualBlock):
        # Both convolutions at once: one exchange, and a line more at a cut is computed twice.
        return layer.conv1.kernel_size[2] // 2 + layer.conv2.kernel_size[2] // 2
    if isinstance(layer, CausalConv):
        # As many as a residual block of such convolutions, which stands before or behind it.
        return 2 * (layer.kernel_size[2] // 2)
    if isinstance(layer, SpatialDown):
        # It sees one, but with an odd number the stride would begin at the wrong line.
        return 2
    raise TypeError(f"it is not known how far a {type(layer).__name__} sees")


def _scale(lines: int, layer: nn.Module) -> int:
    """Return how many lines a layer makes of some."""
    if isinstance(layer, SpatialUp):
        return lines * 2
    return lines // 2 if isinstance(layer, SpatialDown) else lines


def _cut_lines(shard: Shard, pixels: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """Return a hook that cuts what comes in, `pixels` lines of it for each line of latents."""

    def cut_lines(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = inputs[0]
        dim = 4 if x.shape[4] >= x.shape[3] else 3
        own = shard.enter(x.shape[dim] // pixels, dim)
        piece = x.narrow(dim, own.start * pixels, own.size * pixels)
        return piece.contiguous(memory_format=torch.channels_last_3d), *inputs[1:]

    return cut_lines


def _gather_lines(shard: Shard) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def gather_lines(network: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        rate = output.shape[shard.dim] // shard.own.size
        whole = gather(output, shard.dim, [size * rate for size in shard.sizes], shard.axis)
        return whole.contiguous(memory_format=torch.channels_last_3d)

    return gather_lines
