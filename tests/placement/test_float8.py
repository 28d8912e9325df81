from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from livetalk.errors import InputError
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.matmul import quantize_rows
from livetalk.placement.float8 import PREPARED_KEEP, Float8Linear, apply_float8, join_layers
from livetalk.placement.linear import QuantizedLinear, quantize_linears
from tiny import AUDIO, DIT_WITH_PROMPT, dit_inputs, tiny_dit
from tolerance import assert_near, expect_narrow, relative, rounding

CONFIG = replace(DIT_WITH_PROMPT, dim=64, ffn_dim=128, num_heads=4, audio=replace(AUDIO, output_dim=16))


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("shape", [(5,), (2, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_near_its_original(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 512, bias=bias)
    x = torch.randn(*shape, 256)
    y = Float8Linear.from_linear(linear)(x)
    assert y.shape == (*shape, 512) and y.dtype == torch.float32
    expected, limit = expect_narrow(lambda: linear(x), FLOAT8, linear)
    assert 1e-3 < relative(y, expected) < limit


def test_quantised_rows_are_used_unchanged() -> None:
    torch.manual_seed(0)
    layer = Float8Linear.from_linear(nn.Linear(64, 32).bfloat16())
    x = torch.randn(3, 9, 64).bfloat16()
    y = layer(quantize_rows(x))
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x))


@pytest.mark.parametrize("quantized", [False, True])
def test_the_bias_can_be_left_to_the_next_kernel(quantized: bool) -> None:
    torch.manual_seed(0)
    layer = Float8Linear.from_linear(nn.Linear(64, 32))
    x = torch.randn(3, 64)
    folded = layer.without_bias(quantize_rows(x) if quantized else x) + layer.bias
    assert_near(folded, layer(x), rounding(64))
    assert relative(layer.without_bias(x), layer(x)) > 0.01


def test_stored_levels_are_shared() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 32).bfloat16()
    stored = QuantizedLinear.from_linear(linear, "float8")
    layer = Float8Linear.from_linear(stored)
    assert layer.weight.data_ptr() == stored.weight.data_ptr()
    x = torch.randn(3, 64).bfloat16()
    assert torch.equal(layer(x), Float8Linear.from_linear(linear)(x))


@pytest.mark.parametrize("stored_first", [False, True])
def test_the_blocks_multiply_in_fp8_and_the_edges_do_not(stored_first: bool) -> None:
    dit, inputs = tiny_dit(CONFIG), dit_inputs(CONFIG)
    exact, limit = expect_narrow(lambda: dit(*inputs), FLOAT8, dit.blocks)
    if stored_first:
        quantize_linears(dit)
    linears = (nn.Linear, QuantizedLinear)
    per_block = sum(isinstance(module, linears) for module in dit.blocks.layers[0].modules())
    assert apply_float8(dit, allow_reference=True) == per_block * CONFIG.num_layers
    assert not any(isinstance(module, linears) for module in dit.blocks.modules())
    for part in (dit.patch_embedding, dit.time_embedding, dit.audio_projection, dit.head):
        assert not any(isinstance(module, Float8Linear) for module in part.modules())
    assert all(block.modulation.dtype == torch.float32 for block in dit.blocks.layers)
    assert 1e-3 < relative(dit(*inputs), exact) < limit


def test_kept_parts_and_odd_sizes_stay() -> None:
    dit = tiny_dit(CONFIG)
    apply_float8(dit, keep=("blocks.layers.0", "blocks.layers.1.ffn.0"), allow_reference=True)
    first, second = dit.blocks.layers
    assert not any(isinstance(module, Float8Linear) for module in first.modules())
    assert type(second.get_submodule("ffn.0")) is nn.Linear
    assert type(second.get_submodule("ffn.2")) is Float8Linear
    dit = tiny_dit(CONFIG)
    # Four layers of self-attention, query and output of the context, two of the feed-forward.
    assert apply_float8(dit, keep=PREPARED_KEEP, allow_reference=True) == 8 * CONFIG.num_layers
    block = dit.blocks.layers[1]
    assert type(block.get_submodule("audio_attention.q")) is nn.Linear
    assert type(block.get_submodule("context_attention.text.k")) is nn.Linear
    assert type(block.get_submodule("context_attention.q")) is Float8Linear
    odd = nn.Sequential(nn.Linear(24, 32), nn.Linear(32, 40), nn.Linear(32, 32))
    assert apply_float8(odd, allow_reference=True) == 1


def test_int8_layers_are_unchanged() -> None:
    network = nn.Sequential(nn.Linear(32, 32))
    quantize_linears(network, "int8", keep=())
    assert apply_float8(network, allow_reference=True) == 0


def test_a_device_without_fp8_is_refused_unless_the_twin_is_allowed() -> None:
    network = nn.Sequential(nn.Linear(32, 32))
    with pytest.raises(InputError, match="FP8"):
        apply_float8(network)
    assert type(network[0]) is nn.Linear


def test_weights_that_fp8_cannot_take_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        Float8Linear(torch.zeros(24, 16).to(FLOAT8), torch.ones(24, 1), None)
    with pytest.raises(ValueError, match="int8"):
        Float8Linear(torch.zeros(32, 16, dtype=torch.int8), torch.ones(32, 1), None)


@pytest.mark.parametrize("bias", [False, True])
def test_joined_layers_equal_separate_ones(bias: bool) -> None:
    torch.manual_seed(0)
    layers = [Float8Linear.from_linear(nn.Linear(64, out, bias=bias).bfloat16()) for out in (32, 48)]
    x = torch.randn(2, 5, 64).bfloat16()
    joined = join_layers(layers)
    assert joined.out_features == 80
    assert torch.equal(joined(x), torch.cat([layer(x) for layer in layers], -1))


def test_layers_with_and_without_a_bias_are_not_joined() -> None:
    layers = [Float8Linear.from_linear(nn.Linear(32, 32, bias=bias)) for bias in (False, True)]
    with pytest.raises(ValueError, match="bias"):
        join_layers(layers)
