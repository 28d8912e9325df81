from dataclasses import replace
from typing import Any

import pytest
import torch

from livetalk.accelerate.apply import AccelerationConfig
from livetalk.accelerate.fused_blocks import FusedBlock
from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.accelerate.fused_vae import FusedResidualBlock
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.bench.model import build_measured, name_attention
from livetalk.bench.options import BenchOptions
from livetalk.errors import InputError
from livetalk.ops.attention import AttentionCore
from livetalk.ops.backends import KernelCore

CPU = torch.device("cpu")
RUN = RunConfig(device="cpu", precision="float32")
TINY = BenchOptions(source=ModelSource(random_weights="tiny"), run=RUN)


def fast(**forms: Any) -> BenchOptions:
    """Return the options of the tiny model with some fast forms."""
    return replace(TINY, run=replace(RUN, acceleration=AccelerationConfig(**forms)))


def kinds(model: AvatarModel) -> set[type]:
    """Return the kinds of modules in a model's transformer and VAE."""
    networks = (model.executor.networks.dit, model.executor.networks.vae)
    return {type(module) for network in networks for module in network.modules()}


def test_nothing_is_fast_unless_asked_for() -> None:
    model = build_measured(TINY, CPU)
    assert model.random_weights and model.dtype == torch.float32
    assert not kinds(model) & {FusedBlock, FusedResidualBlock, FusedSelfAttention, KernelCore}
    assert name_attention(model, TINY) in ("flash", "math")


def test_fast_forms_and_attention_are_those_asked_for() -> None:
    options = fast(fast=True, kernels="torch", attention="math")
    model = build_measured(options, CPU)
    assert {FusedBlock, FusedResidualBlock, FusedSelfAttention, KernelCore} <= kinds(model)
    assert name_attention(model, options) == "math"


def test_attention_alone_leaves_the_blocks_plain() -> None:
    options = fast(attention="math")
    model = build_measured(options, CPU)
    assert {KernelCore, AttentionCore} <= kinds(model)
    assert not kinds(model) & {FusedBlock, FusedSelfAttention}
    assert name_attention(model, options) == "math"


def test_a_shipped_model_is_found() -> None:
    model = build_measured(BenchOptions(run=RUN), CPU)
    assert model.name == "embedded" and not model.random_weights


def test_what_cannot_run_here_is_refused() -> None:
    with pytest.raises(InputError, match="attention fa3 cannot run here"):
        build_measured(fast(attention="fa3"), CPU)
    with pytest.raises(InputError, match="8"):
        build_measured(fast(float8=True), CPU)
