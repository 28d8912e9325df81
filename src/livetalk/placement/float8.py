"""Linear layers that multiply in FP8: a scale per output channel of the weight, one per activation row."""

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
"""What the steps do not run where speech is absorbed and keys and values are made once: rounding the weights
would cost precision and save memory only.
"""


class Float8Linear(ByteLinear):
    """A linear layer whose product runs in FP8.

    Activations arrive in 16 or 32 bits and are quantised here, or as `QuantizedRows` from a kernel that wrote
    them in one byte already.
    """

    def __init__(
        self, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.bfloat16
    ) -> None:
        """Wrap a quantised weight.

        Args:
            weight: levels `[out, in]` e4m3, both multiples of 16.
            weight_scale: `[out, 1]` float32.
            bias: `[out]`, or None.
            dtype: of the result for quantised activations, which do not say where they come from.

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
        """Quantise a layer where it is, or take over weights that are stored in e4m3 already.

        The layer is not changed and its bias is shared.
        """
        bias = None if linear.bias is None else linear.bias.detach()
        if isinstance(linear, QuantizedLinear):
            dtype = torch.bfloat16 if bias is None else bias.dtype
            return cls(linear.weight, linear.weight_scale, bias, dtype)
        weight, scale = quantize_channels(linear.weight.detach(), "float8")
        return cls(weight, scale, bias, linear.weight.dtype)

    def forward(self, x: Tensor | QuantizedRows) -> Tensor:
        """Return `[..., out]`, in the dtype of `x` or, for quantised `x`, in the layer's."""
        return self._multiply(x, self.bias)

    def without_bias(self, x: Tensor | QuantizedRows) -> Tensor:
        """Return the product alone, for a kernel after it that adds the bias."""
        return self._multiply(x, None)

    def _multiply(self, x: Tensor | QuantizedRows, bias: Tensor | None) -> Tensor:
        if isinstance(x, QuantizedRows):
            return scaled_matmul(x, self.weight, self.weight_scale, bias, self.dtype)
        return scaled_matmul(quantize_rows(x), self.weight, self.weight_scale, bias, x.dtype)


def apply_float8(
    module: nn.Module, keep: Collection[str] = DIT_KEEP, *, allow_reference: bool = False
) -> int:
    """Let the linear layers inside a network multiply in FP8.

    Layers of other kinds, and those whose sizes are no multiples of 16, stay as they are.

    Args:
        module: changed in place, layer by layer; on the device that will compute.
        keep: qualified names of parts to leave alone, with all that is in them; * stands for any characters.
        allow_reference: replace on a device without FP8 tensor cores too, where the plain twin computes.

    Returns:
        The layers replaced.

    Raises:
        InputError: the device has no FP8 tensor cores.
    """
    problem = None if allow_reference else float8_problem(_device_of(module))
    if problem is not None:
        raise InputError(problem)
    replaced = find_linears(module, keep)
    for name in replaced:
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear | QuantizedLinear)
        module.set_submodule(name, Float8Linear.from_linear(layer))
    return len(replaced)


def find_linears(module: nn.Module, keep: Collection[str]) -> list[str]:
    """Name the linear layers inside a network that can multiply in FP8; for `keep` see `apply_float8`."""
    linears = [name for name, child in module.named_modules() if name and can_be_float8(child)]
    return [name for name in linears if not _is_kept(name, keep)]


def join_layers(layers: Sequence[Float8Linear]) -> Float8Linear:
    """Make one layer whose output is that of several, one after the other; exact, for scales are per channel.

    Args:
        layers: of one input width, all with a bias or all without.

    Raises:
        ValueError: some have a bias and some have not.
    """
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if len(biases) not in (0, len(layers)):
        raise ValueError("layers with and without a bias cannot be joined")
    # Concatenation does not know e4m3 on every device; bytes it does.
    levels = torch.cat([layer.weight.view(torch.uint8) for layer in layers]).view(FLOAT8)
    scale = torch.cat([layer.weight_scale for layer in layers])
    return Float8Linear(levels, scale, torch.cat(biases) if biases else None, layers[0].dtype)


def _device_of(module: nn.Module) -> torch.device:
    weights = itertools.chain(module.parameters(), module.buffers())
    return next((weight.device for weight in weights), torch.device("cpu"))


def _is_kept(name: str, keep: Collection[str]) -> bool:
    """Tell whether a module, or one that it is in, is among the kept."""
    parts = name.split(".")
    prefixes = [".".join(parts[: length + 1]) for length in range(len(parts))]
    return any(fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in keep)


def can_be_float8(module: nn.Module) -> bool:
    """Tell whether a module is a linear layer that `Float8Linear` can stand for."""
    if type(module) is not nn.Linear and not (
        isinstance(module, QuantizedLinear) and module.weight.dtype == FLOAT8
    ):
        return False
    assert isinstance(module, nn.Linear | QuantizedLinear)
    return module.in_features % FLOAT8_MULTIPLE == 0 and module.out_features % FLOAT8_MULTIPLE == 0
