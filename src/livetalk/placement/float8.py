"""Linear layers that multiply in FP8, with a scale per output channel and per activation row."""

import itertools
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from livetalk.errors import InputError
from livetalk.ops.low_precision import FLOAT8, ByteLinear, quantize_channels
from livetalk.ops.matmul import (
    FLOAT8_MULTIPLE,
    QuantizedRows,
    float8_problem,
    quantize_rows,
    scaled_matmul,
)
from livetalk.placement.linear import DIT_KEEP, QuantizedLinear

PREPARED_KEEP = (
    *DIT_KEEP,
    "blocks.layers.*.audio_attention",
    "blocks.layers.*.context_attention.text",
    "blocks.layers.*.context_attention.image",
)
"""Modules that prepared steps do not run, because speech is absorbed and keys and values are computed once.

Quantising them would cost precision and save only memory.
"""


class Float8Linear(ByteLinear):
    """A linear layer that quantises its input per row, or reads `QuantizedRows`, and multiplies in FP8."""

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        """Wrap levels `[out, in]` e4m3 with scales `[out, 1]` float32.

        `dtype` is the dtype of the result for activations that arrive quantised.

        Raises:
            ValueError: the weight is not e4m3, or its sizes are not multiples of 16.
        """
        super().__init__(weight, weight_scale, bias)
        if (
            weight.dtype != FLOAT8
            or self.out_features % FLOAT8_MULTIPLE
            or self.in_features % FLOAT8_MULTIPLE
        ):
            raise ValueError(
                f"FP8 needs e4m3 and multiples of {FLOAT8_MULTIPLE}: {weight.dtype} {[*weight.shape]}"
            )
        self.dtype = dtype

    @classmethod
    def from_linear(cls, linear: nn.Linear | QuantizedLinear) -> "Float8Linear":
        """Quantise a layer's weight, or share one that is stored in e4m3; the bias is shared."""
        bias = None if linear.bias is None else linear.bias.detach()
        if isinstance(linear, QuantizedLinear):
            dtype = torch.bfloat16 if bias is None else bias.dtype
            return cls(linear.weight, linear.weight_scale, bias, dtype)
        weight, scale = quantize_channels(linear.weight.detach(), "float8")
        return cls(weight, scale, bias, linear.weight.dtype)

    def forward(self, x: Tensor | QuantizedRows) -> Tensor:
        """Return `[..., out]`, in the dtype of `x`, or in that of the layer for quantised `x`."""
        return self._multiply(x, self.bias)

    def without_bias(self, x: Tensor | QuantizedRows) -> Tensor:
        """Return the product alone; a later kernel adds the bias."""
        return self._multiply(x, None)

    def _multiply(self, x: Tensor | QuantizedRows, bias: Tensor | None) -> Tensor:
        if isinstance(x, QuantizedRows):
            return scaled_matmul(x, self.weight, self.weight_scale, bias, self.dtype)
        return scaled_matmul(quantize_rows(x), self.weight, self.weight_scale, bias, x.dtype)


def apply_float8(
    module: nn.Module, keep: Collection[str] = DIT_KEEP, *, allow_reference: bool = False
) -> int:
    """Replace linear layers inside a network by FP8 layers; return their number.

    Args:
        module: modified in place, layer by layer, on the device that computes. Layers whose sizes are not
            multiples of 16 stay.
        keep: qualified names of modules to leave unchanged; * matches any characters.
        allow_reference: also replace on devices without FP8 tensor cores, where the plain twin computes.

    Raises:
        InputError: the device has no FP8 tensor cores.
    """
    problem = None if allow_reference else float8_problem(_device_of(module))
    if problem is not None:
        raise InputError(problem)
    # Names first, because modules are replaced while the loop runs.
    replaced = find_linears(module, keep)
    for name in replaced:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear | QuantizedLinear)
        module.set_submodule(name, Float8Linear.from_linear(layer))
    return len(replaced)


def find_linears(module: nn.Module, keep: Collection[str]) -> list[str]:
    """Return the names of the layers that `apply_float8` would replace."""
    linears = [name for name, child in module.named_modules() if name and can_be_float8(child)]
    return [name for name in linears if not _is_kept(name, keep)]


def join_layers(layers: Sequence[Float8Linear]) -> Float8Linear:
    """Concatenate the outputs of FP8 layers; `ValueError` if only some have a bias."""
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if len(biases) not in (0, len(layers)):
        raise ValueError("layers with and without a bias cannot be joined")
    # torch.cat does not support e4m3 on every device, so the levels are joined as uint8.
    levels = torch.cat([layer.weight.view(torch.uint8) for layer in layers]).view(FLOAT8)
    # Exact, because scales are per output channel.
    scale = torch.cat([layer.weight_scale for layer in layers])
    return Float8Linear(levels, scale, torch.cat(biases) if biases else None, layers[0].dtype)


def _device_of(module: nn.Module) -> torch.device:
    weights = itertools.chain(module.parameters(), module.buffers())
    return next((weight.device for weight in weights), torch.device("cpu"))


def _is_kept(name: str, keep: Collection[str]) -> bool:
    """Return whether a pattern matches a module or one of its parents."""
    parts = name.split(".")
    prefixes = [".".join(parts[: length + 1]) for length in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in keep)


def can_be_float8(module: nn.Module) -> bool:
    """Return whether `Float8Linear` can replace a module."""
    # Not subclasses: their forward pass may do more than a product.
    if type(module) is not nn.Linear and not (
        isinstance(module, QuantizedLinear) and module.weight.dtype == FLOAT8
    ):
        return False
    assert isinstance(module, nn.Linear | QuantizedLinear)
    return module.in_features % FLOAT8_MULTIPLE == 0 and module.out_features % FLOAT8_MULTIPLE == 0
