from dataclasses import replace

import pytest
import torch

from livetalk.accelerate.fused_blocks import fuse_blocks
from livetalk.accelerate.fused_vae import fuse_vae
from livetalk.ops.backends import ATTENTION_KERNELS, apply_attention
from livetalk.ops.fa3 import HEAD_STEP, fa3_problem
from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.low_precision import FLOAT8
from livetalk.placement.float8 import apply_float8
from tiny import AUDIO, DIT_WITH_PROMPT, dit_inputs, tiny_dit, tiny_vae
from tolerance import assert_same_network, expect_narrow, relative, unit_roundoff

PROMPT = replace(
    DIT_WITH_PROMPT, dim=64, ffn_dim=112, num_heads=4, num_layers=1, audio=replace(AUDIO, output_dim=16)
)


@torch.no_grad()
def test_the_transformer_runs_on_triton(triton: FusedKernels, device: torch.device) -> None:
    inputs = [None if x is None else x.to(device) for x in dit_inputs(PROMPT)]
    plain, fused = tiny_dit(PROMPT).to(device), tiny_dit(PROMPT).to(device)
    fuse_blocks(fused, triton)
    assert_same_network(fused(*inputs), lambda: plain(*inputs), plain)


@torch.no_grad()
def test_the_transformer_runs_in_fp8_on_triton(triton: FusedKernels, device: torch.device) -> None:
    # Fused blocks on a GPU take FP8 heads to FlashAttention 3.
    if device.type == "cuda" and (problem := fa3_problem(device, torch.bfloat16, HEAD_STEP)):
        pytest.skip(problem)
    inputs = [None if x is None else x.to(device) for x in dit_inputs(PROMPT)]
    # FP8 products on a GPU are bfloat16 only.
    plain, fused = tiny_dit(PROMPT).to(device), tiny_dit(PROMPT).to(device, torch.bfloat16)
    apply_float8(fused, allow_reference=True)
    apply_attention(fused, ATTENTION_KERNELS["fp8-reference"], ("self_attention",))
    fuse_blocks(fused, triton)
    expected, limit = expect_narrow(lambda: plain(*inputs), FLOAT8, plain.blocks)
    error = relative(fused(*inputs), expected)
    assert unit_roundoff(FLOAT8) / 10 < error < limit


@torch.no_grad()
def test_the_vae_runs_on_triton(triton: FusedKernels, device: torch.device) -> None:
    plain, fused = tiny_vae().to(device), tiny_vae().to(device)
    fuse_vae(fused, triton)
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(device)
    assert_same_network(fused.decode(latents)[0], lambda: plain.decode(latents)[0], plain)
