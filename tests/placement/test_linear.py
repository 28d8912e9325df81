from collections.abc import Iterator

import pytest
import torch
from torch import nn

from livetalk.ops.low_precision import BYTE_FORMATS, FLOAT8, ByteFormat
from livetalk.placement.linear import QuantizedLinear, count_weight_bytes, quantize_linears
from tiny import DIT_WITH_PROMPT, dit_inputs, tiny_dit
from tolerance import expect_narrow, relative, unit_roundoff

# Of normally distributed weights: e4m3 rounds by less than half a step each; int8 by a 127th of the peak over
# the root of 12, where the peak of a row is at most 5 times the typical weight.
OUTPUT_ERROR: dict[ByteFormat, float] = {"float8": unit_roundoff(FLOAT8), "int8": 5 / 127 / 12**0.5}


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("byte_format", BYTE_FORMATS)
def test_a_layer_is_near_its_original_and_a_byte_a_weight(byte_format: ByteFormat) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 512)
    quantized = QuantizedLinear.from_linear(linear, byte_format)
    x = torch.randn(7, 3, 256)
    error = relative(quantized(x), linear(x))
    assert 0 < error < OUTPUT_ERROR[byte_format]
    assert count_weight_bytes(quantized) == 256 * 512 + 2 * 4 * 512


@pytest.mark.parametrize("byte_format", BYTE_FORMATS)
def test_bfloat16_input_gives_bfloat16_near_the_float32_result(byte_format: ByteFormat) -> None:
    torch.manual_seed(0)
    quantized = QuantizedLinear.from_linear(nn.Linear(256, 512, bias=False), byte_format)
    x = torch.randn(5, 256).bfloat16()
    y = quantized(x)
    assert y.dtype is torch.bfloat16
    assert relative(y, quantized(x.float())) < unit_roundoff(torch.bfloat16)


def test_the_transformer_keeps_its_edges_and_nearly_its_result() -> None:
    dit, inputs = tiny_dit(DIT_WITH_PROMPT), dit_inputs(DIT_WITH_PROMPT)
    exact, limit = expect_narrow(lambda: dit(*inputs), FLOAT8, dit.blocks)
    per_block = sum(isinstance(module, nn.Linear) for module in dit.blocks.layers[0].modules())
    assert quantize_linears(dit) == per_block * DIT_WITH_PROMPT.num_layers
    assert not any(isinstance(module, nn.Linear) for module in dit.blocks.modules())
    for part in (dit.patch_embedding, dit.time_embedding, dit.audio_projection, dit.head):
        assert not any(isinstance(module, QuantizedLinear) for module in part.modules())
    assert 1e-4 < relative(dit(*inputs), exact) < limit


def test_kept_names_may_be_nested() -> None:
    dit = tiny_dit()
    assert quantize_linears(dit, "int8", keep=("blocks.layers.0", "blocks.layers.1.ffn.0")) > 0
    first, second = dit.blocks.layers
    assert not any(isinstance(module, QuantizedLinear) for module in first.modules())
    kept, replaced = second.get_submodule("ffn.0"), second.get_submodule("ffn.2")
    assert isinstance(kept, nn.Linear) and isinstance(replaced, QuantizedLinear)
