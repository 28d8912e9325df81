from dataclasses import replace

import pytest
import torch

from livetalk.accelerate.fused_blocks import FusedBlock
from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.accelerate.fused_vae import FusedResidualBlock
from livetalk.assembly.model import AvatarModel
from livetalk.bench.model import build_model, name_attention
from livetalk.bench.options import BenchOptions
from livetalk.errors import InputError
from livetalk.ops.attention import AttentionCore
from livetalk.ops.backends import KernelCore

CPU = torch.device("cpu")
TINY = BenchOptions(random_weights="tiny", device="cpu", precision="float32")


def kinds(model: AvatarModel) -> set[type]:
    """Return the kinds of modules in a model's transformer and VAE."""
    networks = (model.executor.networks.dit, model.executor.networks.vae)
    return {type(module) for network in networks for module in network.modules()}


def test_nothing_is_fast_unless_asked_for() -> None:
    model = build_model(TINY, CPU)
    assert model.random_weights and model.dtype == torch.float32
    assert not kinds(model) & {FusedBlock, FusedResidualBlock, FusedSelfAttention, KernelCore}
    assert name_attention(model, TINY) in ("flash", "math")


def test_fast_forms_and_attention_are_those_asked_for() -> None:
    options = replace(TINY, fast=True, kernels="torch", attention="math")
    model = build_model(options, CPU)
    assert {FusedBlock, FusedResidualBlock, FusedSelfAttention, KernelCore} <= kinds(model)
    assert name_attention(model, options) == "math"


def test_attention_alone_leaves_the_blocks_plain() -> None:
    options = replace(TINY, attention="math")
    model = build_model(options, CPU)
    assert {KernelCore, AttentionCore} <= kinds(model)
    assert not kinds(model) & {FusedBlock, FusedSelfAttention}
    assert name_attention(model, options) == "math"


def test_a_shipped_model_is_found() -> None:
    model = build_model(BenchOptions(device="cpu", precision="float32"), CPU)
    assert model.name == "embedded" and not model.random_weights


def test_what_cannot_run_here_is_refused() -> None:
    with pytest.raises(InputError, match="attention fa3 cannot run here"):
        build_model(replace(TINY, attention="fa3"), CPU)
    with pytest.raises(InputError, match="8"):
        build_model(replace(TINY, float8=True), CPU)
