from dataclasses import replace

import pytest
import torch

from livetalk.bench.model import build_model, choose_worker_device, name_attention, require_gpus
from livetalk.bench.options import BenchOptions
from livetalk.env import WorkerPlace
from livetalk.errors import InputError
from livetalk.models.fused_qkv import FusedSelfAttention
from livetalk.ops.attention import AttentionCore
from livetalk.ops.backends import KernelCore
from livetalk.runtime.fused_blocks import FusedBlock, FusedChannelNorm
from livetalk.runtime.model import AvatarModel

CPU = torch.device("cpu")
TINY = BenchOptions(random_weights="tiny", device="cpu", precision="float32")


def kinds(model: AvatarModel) -> set[type]:
    """Return the kinds of modules in a model's transformer and VAE."""
    networks = (model.models.dit, model.models.vae)
    return {type(module) for network in networks for module in network.modules()}


def test_nothing_is_fast_unless_asked_for() -> None:
    model = build_model(TINY, CPU)
    assert model.random_weights and model.dtype == torch.float32
    assert not kinds(model) & {FusedBlock, FusedChannelNorm, FusedSelfAttention, KernelCore}
    assert name_attention(model, TINY) in ("flash", "math")


def test_fast_forms_and_attention_are_those_asked_for() -> None:
    options = replace(TINY, fast=True, kernels="torch", attention="math")
    model = build_model(options, CPU)
    assert {FusedBlock, FusedChannelNorm, FusedSelfAttention, KernelCore} <= kinds(model)
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


def test_each_worker_has_the_gpu_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    place = WorkerPlace(rank=3, num_ranks=4, local_rank=3, rendezvous="env://")
    assert choose_worker_device(TINY, place) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = replace(TINY, device="auto", gpus=4)
    assert choose_worker_device(options, place) == torch.device("cuda:3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    require_gpus(options)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="gpus 4: this machine has 2"):
        require_gpus(options)


def test_processes_stand_for_gpus_only_where_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    require_gpus(replace(TINY, gpus=2))
    with pytest.raises(InputError, match="gpus 2: this machine has 0; with --device cpu"):
        require_gpus(replace(TINY, gpus=2, device="auto"))
