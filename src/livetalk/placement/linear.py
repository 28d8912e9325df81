"""Linear layers whose weights are stored in one byte per entry and dequantised on use."""

from collections.abc import Collection

import torch.nn.functional as F
from torch import Tensor, nn

from livetalk.ops.low_precision import ByteFormat, ByteLinear, quantize_channels

DIT_KEEP = (
    "patch_embedding",
    "time_embedding",
    "text_projection",
    "image_projection",
    "audio_projection",
    "head",
)
"""Modules outside the transformer's blocks: 2 % of the weights, on the path of every token."""


class QuantizedLinear(ByteLinear):
    """A linear layer that dequantises its weight in each call, which saves memory and no time."""

    @classmethod
    def from_linear(cls, linear: nn.Linear, byte_format: ByteFormat) -> "QuantizedLinear":
        """Quantise a copy of a layer's weight; the bias is shared."""
        weight, scale = quantize_channels(linear.weight.detach(), byte_format)
        return cls(weight, scale, None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.dense_weight(x.dtype), bias)


def quantize_linears(
    module: nn.Module, byte_format: ByteFormat = "float8", keep: Collection[str] = DIT_KEEP
) -> int:
    """Replace linear layers inside a network, except those named in `keep`; return their number."""
    replaced = 0
    for name, child in list(module.named_children()):
        if name in keep:
            continue
        # One layer at a time, so that only one exists in both precisions.
        if type(child) is nn.Linear:
            setattr(module, name, QuantizedLinear.from_linear(child, byte_format))
            replaced += 1
        else:
            inner = {kept.removeprefix(f"{name}.") for kept in keep if kept.startswith(f"{name}.")}
            replaced += quantize_linears(child, byte_format, inner)
    return replaced


def count_weight_bytes(module: nn.Module) -> int:
    """Return the bytes of a network's parameters and buffers, counting shared storage once."""
    storages = {
        # Storage on the meta device has the address 0.
        (tensor.untyped_storage().data_ptr() or id(tensor)): tensor.nbytes
        for tensor in (*module.parameters(), *module.buffers())
    }
    return sum(storages.values())
