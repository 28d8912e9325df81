"""Timing of one transformer block for `kernels.py`, in every combination of fast forms."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from kernel_timing import Bench, quantize_with_torchao, relative
from torch import Tensor

from livetalk.accelerate.fused_blocks import fuse_blocks
from livetalk.accelerate.fused_qkv import fuse_qkv
from livetalk.accelerate.selection import select_attention
from livetalk.assembly.random_weights import draw_weights
from livetalk.models.dit import DiT
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.dit_precompute import precompute_chunk, precompute_stream
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionSpec, apply_attention
from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.matmul import float8_problem
from livetalk.placement.float8 import PREPARED_KEEP, apply_float8, find_linears

TEXT_TOKENS = 100
"""Length of a typical prompt; the rest of the published 512 tokens is padding."""

TIMESTEP = 750.0
AUTO = "auto"


def time_block(bench: Bench) -> None:
    """Time one block with absorbed speech, prepared context and a fused QKV projection."""
    config = bench.sizes.config
    work = AttentionSpec(bench.device, bench.dtype, config.head_dim, config.num_heads)
    cpu = bench.device.type == "cpu"
    precisions = ("bf16", "fp8") if cpu or float8_problem(bench.device) is None else ("bf16",)
    attentions = [name for name in ("fa3", "fa3-fp8") if ATTENTION_KERNELS[name].problem(work) is None]
    exact: Tensor | None = None
    for kernels in (None, *bench.kernel_sets()):
        for precision in precisions:
            for name in (AUTO, *attentions):
                dit, call, tokens = build_block(bench, kernels, precision, name)
                change = call() - tokens
                exact = change if exact is None else exact
                label = f"block, attention {name}"
                form = f"{'plain' if kernels is None else kernels.name} {precision}"
                bench.add("block", label, form, call, error=relative(change, exact))
                # Only PyTorch operations gain from the compiler: Triton kernels are compiled already.
                if bench.compiled and (kernels is None or kernels.name == "torch"):
                    dit.blocks.layers[0].compile()
                    bench.add("block", label, f"{form} compiled", call)
    if bench.compiled and bench.has_torchao:
        for name in (AUTO, *attentions):
            dit, call, tokens = build_block(bench, None, "torchao", name)
            dit.blocks.layers[0].compile()
            label = f"block, attention {name}"
            bench.add("block", label, "torchao compiled", call, error=relative(call() - tokens, exact))


def build_block(
    bench: Bench, kernels: FusedKernels | None, precision: str, attention: str
) -> tuple[DiT, Callable[[], Tensor], Tensor]:
    """Build a transformer with one block; return it, a call of its block, and the input tokens of the call.

    Args:
        bench: sizes and device.
        kernels: of elementwise operations; None for the plain block.
        precision: "bf16", "fp8" or "torchao", of the products.
        attention: self-attention kernel, or `AUTO`.
    """
    config = replace(bench.sizes.config, num_layers=1)
    with torch.device("meta"):
        dit = DiT(config)
    rng = torch.Generator(bench.device).manual_seed(0)
    draw_weights(dit, device=bench.device, dtype=bench.dtype, rng=rng)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, device=bench.device).to(bench.dtype)

    audio, frames = config.audio, bench.sizes.latents[0]
    condition = draw(1, config.in_channels - config.out_channels, *bench.sizes.latents)
    speech = draw(1, 1 + audio.latent_stride * (frames - 1), audio.window, audio.num_blocks, audio.channels)
    text = None if config.text_dim is None else draw(1, min(TEXT_TOKENS, config.text_len), config.text_dim)
    image = None if config.image_dim is None else draw(1, bench.sizes.image_tokens, config.image_dim)
    plan = ExecutionPlan(max_absorbed_bytes=1 << 40)
    stream = precompute_stream(dit, plan, condition, (TIMESTEP,), text, image)
    chunk = precompute_chunk(dit, plan, stream, dit.project_audio(speech))
    step, tokens = stream.step(TIMESTEP, chunk), draw(1, bench.sizes.tokens, config.dim)
    fuse_qkv(dit)
    if precision == "fp8":
        apply_float8(dit, PREPARED_KEEP, allow_reference=bench.device.type == "cpu")
    if precision == "torchao":
        quantize_with_torchao(dit, find_linears(dit, PREPARED_KEEP))
    if attention != AUTO:
        work = AttentionSpec(bench.device, bench.dtype, config.head_dim, config.num_heads)
        apply_attention(dit, select_attention(attention, work), ("self_attention",))
    if kernels is not None:
        fuse_blocks(dit, kernels)
    run = partial(dit.blocks, tokens, step.rope, step.frame_ids, step.modulation, step.conditioning)
    return dit, run, tokens
