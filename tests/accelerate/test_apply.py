from dataclasses import replace
from typing import Any

import pytest
import torch

from livetalk.accelerate.apply import Acceleration, AccelerationConfig, accelerate, raise_absorb_budget
from livetalk.accelerate.fused_blocks import FusedBlock
from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.errors import InputError
from livetalk.models.dit_blocks import DiTBlock, SelfAttention
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.ops.backends import KernelCore
from livetalk.ops.low_precision import FLOAT8
from livetalk.ops.matmul import float8_problem
from livetalk.placement.float8 import Float8Linear
from livetalk.placement.linear import QuantizedLinear, quantize_linears
from tiny import AUDIO, DIT_WITH_PROMPT, dit_inputs, tiny_dit, tiny_vae
from tolerance import assert_same_network, expect_narrow, relative

CPU = torch.device("cpu")
CONFIG = replace(DIT_WITH_PROMPT, dim=64, ffn_dim=128, num_heads=4, audio=replace(AUDIO, output_dim=16))


def test_on_a_cpu_the_blocks_stay_plain() -> None:
    dit = tiny_dit(CONFIG)
    found = accelerate(dit, tiny_vae(), CPU, AccelerationConfig(fast=True))
    assert found == Acceleration(attention="flash", float8_layers=0, kernels="plain")
    assert all(type(block) is DiTBlock for block in dit.blocks.layers)


def test_an_attention_kernel_adds_no_other_fast_form() -> None:
    dit, vae = tiny_dit(CONFIG), tiny_vae()
    found = accelerate(dit, vae, CPU, AccelerationConfig(attention="math"))
    assert found == Acceleration(attention="math", float8_layers=0, kernels="plain")
    for block in dit.blocks.layers:
        assert type(block) is DiTBlock and block.fast_form is None
        assert type(block.self_attention) is SelfAttention and type(block.self_attention.core) is KernelCore
    assert [*vae.state_dict()] == [*tiny_vae().state_dict()]
    assert {type(part) for part in vae.modules()} == {type(part) for part in tiny_vae().modules()}


@torch.no_grad()
def test_requested_forms_are_applied_and_exact() -> None:
    dit, vae = tiny_dit(CONFIG), tiny_vae()
    found = accelerate(dit, vae, CPU, AccelerationConfig(fast=True, attention="math", kernels="torch"))
    assert found == Acceleration(attention="math", float8_layers=0, kernels="torch")
    assert all(type(block.fast_form) is FusedBlock for block in dit.blocks.layers)
    assert all(
        isinstance(block.get_submodule("self_attention"), FusedSelfAttention) for block in dit.blocks.layers
    )
    inputs = dit_inputs(CONFIG)
    plain, plain_vae = tiny_dit(CONFIG), tiny_vae()
    assert_same_network(dit(*inputs), lambda: plain(*inputs), plain)
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert_same_network(vae.decode(latents)[0], lambda: plain_vae.decode(latents)[0], plain_vae)


@torch.no_grad()
def test_weights_stored_in_fp8_multiply_and_are_joined() -> None:
    inputs, config = dit_inputs(CONFIG), AccelerationConfig(float8=True, kernels="torch")
    exact, whole, stored = (tiny_dit(CONFIG) for _ in range(3))
    quantize_linears(stored)
    for dit in (whole, stored):
        found = accelerate(dit, tiny_vae(), CPU, config, allow_reference=True)
        assert found.reference and str(found).endswith("layers in FP8 by the reference")
        assert found.float8_layers in (6 * CONFIG.num_layers, 8 * CONFIG.num_layers)
        for block in dit.blocks.layers:
            assert isinstance(block.get_submodule("self_attention.qkv"), Float8Linear)
    assert isinstance(stored.blocks.layers[0].get_submodule("audio_attention.q"), QuantizedLinear)
    for name in ("self_attention.qkv", "self_attention.out", "ffn.0"):
        levels = [dit.blocks.layers[0].get_submodule(name).get_buffer("weight") for dit in (whole, stored)]
        # Storage and products round alike, so nothing is rounded twice.
        assert torch.equal(*(level.view(torch.uint8) for level in levels)), name
    expected, limit = expect_narrow(lambda: exact(*inputs), FLOAT8, exact.blocks)
    assert 0 < relative(whole(*inputs), expected) < limit
    assert 0 < relative(stored(*inputs), expected) < limit


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"float8": True}, "FP8"),
        ({"attention": "fa3"}, "CUDA"),
        ({"fast": True, "kernels": "triton"}, "CUDA"),
    ],
)
def test_a_form_that_cannot_run_is_an_error_of_one_line(options: dict[str, Any], reason: str) -> None:
    dit = tiny_dit(CONFIG)
    names = list(dit.state_dict())
    with pytest.raises(InputError, match=reason):
        accelerate(dit, tiny_vae(), CPU, AccelerationConfig(**options))
    assert list(dit.state_dict()) == names


@pytest.mark.parametrize("options", [{"attention": "fa9"}, {"kernels": "cuda"}, {"kernels": "torch"}])
def test_unknown_names_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options.values()))):
        AccelerationConfig(**options)


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or float8_problem(torch.device("cuda")) is not None,
    reason="needs a CUDA device of capability 9.0",
)
@torch.no_grad()
@pytest.mark.parametrize("options", [{"fast": True}, {"float8": True}])
def test_on_a_hopper_gpu_all_of_it_is_near_float32(options: dict[str, Any]) -> None:
    device = torch.device("cuda")
    plain = tiny_dit(CONFIG)
    exact, limit = expect_narrow(lambda: plain(*dit_inputs(CONFIG)), torch.bfloat16, plain)
    if "float8" in options:
        exact, limit = expect_narrow(lambda: plain(*dit_inputs(CONFIG)), FLOAT8, plain.blocks)
    dit, vae = tiny_dit(CONFIG).bfloat16().to(device), tiny_vae().bfloat16().to(device)
    found = accelerate(dit, vae, device, AccelerationConfig(**options))
    assert found.kernels == "triton" and (found.float8_layers > 0) == ("float8" in options)
    result = dit(*(None if x is None else x.to(device) for x in dit_inputs(CONFIG)))
    assert relative(result.cpu(), exact) < limit


def test_speech_is_absorbed_per_chunk_if_gpu_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, gpu = ExecutionPlan(), torch.device("cuda")
    assert raise_absorb_budget(usual, torch.device("cpu"), 40) is usual
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (40 << 30, 80 << 30))
    # A block of the published model needs 236 MB.
    assert raise_absorb_budget(usual, gpu, 40).max_absorbed_bytes == 256 << 20
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 80 << 30))
    assert raise_absorb_budget(usual, gpu, 40) == usual
