"""The VAE over several ranks: each holds some columns of every frame, and the result is that of one rank.

Convolutions borrow columns from the neighbours, the attention in the middle sees the keys and values of all.

Shapes: B batch · C channels · T frames · H height · W a rank's columns.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from livetalk.models.vae import CausalVideoVAE, Decoder, Encoder
from livetalk.models.vae_blocks import (
    CausalConv,
    FrameAttention,
    ResidualBlock,
    SpatialDown,
    SpatialUp,
    fold_time,
    unfold_time,
)
from livetalk.models.vae_cache import CachePass
from livetalk.ops.attention import attention
from livetalk.parallel.collectives import gather
from livetalk.parallel.halo import HaloLayer, Reach
from livetalk.parallel.mesh import Axis
from livetalk.parallel.shard import Shard


def parallelize_vae(vae: CausalVideoVAE, axis: Axis) -> CausalVideoVAE:
    """Let all ranks of an axis share the work of encoding and decoding.

    Each must then encode or decode the same frames at the same time; each gets the whole result, bit for bit
    the same. A cache holds this rank's columns. There are no gradients.

    Args:
        vae: with the same weights on every rank; altered in place. Its parameters get other names.
        axis: the ranks, at most as many as latents are wide. An axis of one leaves the VAE as it is.

    Returns:
        `vae`.

    Raises:
        ValueError: the VAE is spread over ranks already.
    """
    if axis.size == 1:
        return vae
    if isinstance(vae.decoder.conv_in, HaloLayer):
        raise ValueError("the VAE is spread over ranks already")
    # Both networks cut at columns of latents, so that no layer's stride meets a cut.
    shard = Shard(axis, "columns of latents")
    for network, pixels in ((vae.encoder, vae.config.spatial_stride), (vae.decoder, 1)):
        _shard_layers(network, shard)
        network.register_forward_pre_hook(_cut_columns(shard, pixels))
        network.register_forward_hook(_gather_columns(shard))
    return vae


class ShardedFrameAttention(nn.Module):
    """Attention between all pixels of a frame, of which this rank holds some columns."""

    def __init__(self, inner: FrameAttention, shard: Shard) -> None:
        """Take over the layers of `inner`; `shard` tells how the columns are cut."""
        super().__init__()
        self.norm, self.qkv, self.out = inner.norm, inner.qkv, inner.out
        self._shard = shard

    def forward(self, x: Tensor, cache: CachePass | None = None) -> Tensor:
        """Return `[B, C, T, H, W]`; the cache is not used, since frames do not see each other."""
        pixels = fold_time(self.norm(x)).permute(0, 2, 3, 1)
        q, keys_values = self.qkv(pixels).split((x.shape[1], 2 * x.shape[1]), dim=-1)
        # Whose pixel a key is does not matter to a query, but all of them must be there, and nothing else.
        everyone = gather(keys_values, 2, self._shard.sizes, self._shard.axis)
        k, v = everyone.transpose(1, 2).flatten(1, 2).unsqueeze(2).chunk(2, dim=-1)
        y = self.out(attention(q.flatten(1, 2).unsqueeze(2), k, v).flatten(2)).view(pixels.shape)
        return x + unfold_time(y.permute(0, 3, 1, 2), x.shape[0])


def _shard_layers(network: Encoder | Decoder, shard: Shard) -> None:
    """Replace every layer that sees a pixel's neighbours, in place."""
    for name in ("conv_in", "conv_out"):
        network.register_module(name, shard_layer(network.get_submodule(name), shard))
    for group in (network.middle, *network.levels):
        assert isinstance(group, nn.ModuleList)
        for index, layer in enumerate(group):
            group[index] = shard_layer(layer, shard)


def shard_layer(layer: nn.Module, shard: Shard) -> nn.Module:
    """Return what takes the place of a layer whose rank holds some columns only.

    Args:
        layer: one of `livetalk.models.vae_blocks`.
        shard: how the columns of the latents are cut.
    """
    if isinstance(layer, FrameAttention):
        return ShardedFrameAttention(layer, shard)
    reach = _reach(layer)
    return HaloLayer(layer, shard, reach) if reach.left or reach.right else layer


def _reach(layer: nn.Module) -> Reach:
    if isinstance(layer, CausalConv):
        beyond = layer.kernel_size[2] // 2
        return Reach(left=beyond, right=beyond)
    if isinstance(layer, ResidualBlock):
        # Both convolutions at once: one exchange, and a column more at a cut is computed twice.
        beyond = layer.conv1.kernel_size[2] // 2 + layer.conv2.kernel_size[2] // 2
        return Reach(left=beyond, right=beyond)
    if isinstance(layer, SpatialUp):
        return Reach(left=1, right=1, up=2)
    if isinstance(layer, SpatialDown):
        return Reach(left=0, right=1, down=2)
    raise TypeError(f"it is not known how far a {type(layer).__name__} sees")


def _cut_columns(shard: Shard, pixels: int) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...]]:
    """Return a hook that cuts what comes in, `pixels` columns of it for each column of latents."""

    def cut_columns(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x: Tensor = inputs[0]
        own = shard.enter(x.shape[4] // pixels)
        piece = x[..., own.start * pixels : own.stop * pixels]
        return piece.contiguous(memory_format=torch.channels_last_3d), *inputs[1:]

    return cut_columns


def _gather_columns(shard: Shard) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def gather_columns(network: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        rate = output.shape[4] // shard.own.size
        whole = gather(output, 4, [size * rate for size in shard.sizes], shard.axis)
        return whole.contiguous(memory_format=torch.channels_last_3d)

    return gather_columns
