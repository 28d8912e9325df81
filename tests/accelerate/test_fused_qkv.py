"""One product for queries, keys and values gives the results of three."""

import copy

import pytest
import torch

from livetalk.accelerate.fused_qkv import FusedSelfAttention, fuse_qkv
from livetalk.models.dit import DiTConfig
from livetalk.placement.linear import QuantizedLinear, quantize_linears
from tiny import DIT, DIT_WITH_PROMPT, dit_inputs, tiny_dit
from tolerance import assert_same_network


@pytest.mark.parametrize("config", [DIT, DIT_WITH_PROMPT], ids=["audio", "text and image"])
def test_fused_projections_are_the_three_projections(config: DiTConfig) -> None:
    dit, inputs = tiny_dit(config), dit_inputs(config, batch=2)
    fused = fuse_qkv(copy.deepcopy(dit))
    for layer in fused.blocks.layers:
        assert isinstance(layer.self_attention, FusedSelfAttention)
    with torch.no_grad():
        assert_same_network(fused(*inputs), lambda: dit(*inputs), dit)


def test_fusing_keeps_the_number_of_weights_and_frees_the_old_ones() -> None:
    dit = tiny_dit()
    before = sum(parameter.numel() for parameter in dit.parameters())
    fuse_qkv(dit)
    assert sum(parameter.numel() for parameter in dit.parameters()) == before
    keys = [key for key in dit.state_dict() if "self_attention" in key and key.startswith("blocks.layers.0")]
    names = sorted(key.removeprefix("blocks.layers.0.self_attention.") for key in keys)
    assert names == ["norm_k.weight", "norm_q.weight", "out.bias", "out.weight", "qkv.bias", "qkv.weight"]


def test_fused_projections_are_quantised_as_the_three_are() -> None:
    """Scales are per output channel, so concatenation changes none."""
    inputs = dit_inputs(DIT)
    apart, fused = tiny_dit(), fuse_qkv(tiny_dit())
    for dit in (apart, fused):
        quantize_linears(dit, "int8")
    assert isinstance(fused.get_submodule("blocks.layers.0.self_attention.qkv"), QuantizedLinear)
    with torch.no_grad():
        assert_same_network(fused(*inputs), lambda: apart(*inputs), apart)


def test_blocks_of_other_layers_are_unchanged() -> None:
    dit = tiny_dit()
    quantize_linears(dit, "int8")
    before = dit.state_dict().keys()
    assert fuse_qkv(dit) is dit
    assert dit.state_dict().keys() == before


def test_frozen_weights_stay_frozen() -> None:
    dit = fuse_qkv(tiny_dit().requires_grad_(False))
    assert not any(parameter.requires_grad for parameter in dit.parameters())
