"""Transformer blocks on fused kernels.

A block keeps its modules, hooks and state dict, and gains a fast form beside its plain `forward`. Linear
layers that multiply in FP8 read rows that the preceding kernel quantised, and leave their bias to the
following kernel.

Shapes: B batch · L video tokens · N heads · E head width · D model width.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from livetalk.accelerate.fused_attention import accepts_float8_rows, attend_to_tokens, fuse_rounding, multiply
from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.models.dit import DiT
from livetalk.models.dit_blocks import ContextAttention, DiTBlock, SelfAttention
from livetalk.models.dit_context import BlockConditioning
from livetalk.models.dit_speech import AbsorbedSpeech, AudioAttention
from livetalk.models.dit_tokens import FrameRun, TokenFrames, frame_runs
from livetalk.ops.kernels.interface import Affine, Branch, FusedKernels, HeadNorm
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.norm import LayerNorm
from livetalk.ops.rope import RopeTables
from livetalk.placement.float8 import Float8Linear, join_layers


class FusedBlock(nn.Module):
    """The fast form of a block: fused elementwise kernels between its matrix products."""

    def __init__(self, kernels: FusedKernels) -> None:
        super().__init__()
        self._kernels = kernels

    def forward(
        self,
        block: DiTBlock,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning,
    ) -> Tensor:
        """Return `[B, L, D]` in the dtype of `tokens`; the arguments are those of `DiTBlock`."""
        kernels = self._kernels
        shift1, scale1, gate1, shift2, scale2, gate2 = (block.modulation.float() + modulation).chunk(6, dim=1)
        # A kernel quantises its result if the next layer is an FP8 product: no separate pass over the tokens.
        quantize = accepts_float8_rows(_query_of(block.self_attention))
        x = kernels.layer_norm(tokens, Affine(1 + scale1, shift1), block.self_norm.eps, quantize=quantize)
        branch = self._attend_to_tokens(block.self_attention, x, rope)._replace(gate=gate1)
        if block.context_attention is not None and block.context_norm is not None:
            quantize = accepts_float8_rows(block.context_attention.q)
            tokens, x = kernels.add_layer_norm(
                tokens, branch, _affine(block.context_norm), block.context_norm.eps, quantize=quantize
            )
            branch = self._attend_to_context(block.context_attention, x, conditioning)
        # Speech attention stays in the precision of the tokens: absorbed weights are not FP8.
        tokens, x = kernels.add_layer_norm(
            tokens, branch, _affine(block.audio_norm), block.audio_norm.eps, quantize=False
        )
        branch = self._attend_to_speech(block.audio_attention, cast(Tensor, x), frame_ids, conditioning)
        widen, narrow = block.ffn[0], block.ffn[2]
        tokens, x = kernels.add_layer_norm(
            tokens,
            branch,
            Affine(1 + scale2, shift2),
            block.ffn_norm.eps,
            quantize=accepts_float8_rows(widen),
        )
        hidden, bias = multiply(widen, x)
        x = kernels.gelu(hidden, bias, quantize=accepts_float8_rows(narrow))
        return kernels.add(tokens, Branch(*multiply(narrow, x), gate2))

    def _attend_to_tokens(self, attention: nn.Module, x: Tensor | QuantizedRows, rope: RopeTables) -> Branch:
        heads = attend_to_tokens(attention, self._kernels, x, rope)
        return self._project(attention.get_submodule("out"), heads)

    def _attend_to_context(
        self, attention: ContextAttention, x: Tensor | QuantizedRows, conditioning: BlockConditioning
    ) -> Branch:
        projected, bias = multiply(attention.q, x)
        norm = HeadNorm(attention.norm_q.weight, attention.norm_q.eps)
        q = self._kernels.split_heads(projected, bias, norm, None, (attention.num_heads, 1))[0][0]
        found = []
        for part, context in ((attention.text, conditioning.text), (attention.image, conditioning.image)):
            if part is not None:
                assert context is not None
                keys, values, key_bias = context.keys_values(part)
                found.append(attention.core(q, keys, values, key_bias))
        return self._project(attention.out, *found)

    def _attend_to_speech(
        self, attention: AudioAttention, x: Tensor, frame_ids: Tensor, conditioning: BlockConditioning
    ) -> Branch:
        frames = TokenFrames(frame_ids, frame_runs(conditioning.frame_lengths, x.shape[1]))
        return Branch(*conditioning.speech.attend(attention, x, frames, self._attend_absorbed))

    def _attend_absorbed(self, speech: AbsorbedSpeech, x: Tensor, runs: tuple[FrameRun, ...]) -> Tensor:
        """Compute `livetalk.models.dit_speech.attend_absorbed`."""
        # Products of runs write into one tensor, so that no concatenation follows.
        found = torch.empty_like(x, memory_format=torch.contiguous_format)
        scale = (x.shape[-1] // speech.num_heads) ** -0.5
        for run in runs:
            frames = speech.frames_of(run)
            products = run.split(x) @ speech.logit_weight[:, frames].transpose(2, 3)
            bias = speech.logit_bias[:, frames]
            weights = self._kernels.softmax_heads(products, bias, scale, speech.num_heads)
            for sample, weight, target in zip(weights, speech.output_weight[:, frames], found, strict=True):
                torch.bmm(sample, weight, out=run.split(target[None])[0])
        return found

    def _project(
        self, layer: nn.Module, heads: Tensor | Sequence[Tensor], other: Tensor | None = None
    ) -> Branch:
        """Apply an output projection to attention results `[B, L, N, E]`, or to the sum of two."""
        if accepts_float8_rows(layer):
            return Branch(*multiply(layer, self._kernels.quantize_rows(heads, other)))
        assert isinstance(heads, Tensor)
        return Branch(*multiply(layer, (heads if other is None else heads + other).flatten(2)))


class OpaqueFusedBlock(FusedBlock):
    """A fused block excluded from compilation: its kernels leave nothing to fuse."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        block: DiTBlock,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning,
    ) -> Tensor:
        """Compute `FusedBlock.forward`."""
        return super().forward(block, tokens, rope, frame_ids, modulation, conditioning)


def fuse_blocks(dit: DiT, kernels: FusedKernels) -> int:
    """Give the blocks of a transformer a fast form for inference; returns their number.

    Call this after `fuse_qkv` and the choice of attention kernels; quantisation may come before or after.
    """
    form = FusedBlock if kernels.name == TorchKernels.name else OpaqueFusedBlock
    # All blocks share one form, which holds no weights.
    fast_form = form(kernels)
    for block in dit.blocks.layers:
        assert isinstance(block, DiTBlock)
        block.fast_form = fast_form
        fuse_rounding(block.self_attention, kernels)
    return len(dit.blocks.layers)


def join_float8_qkv(dit: DiT) -> int:
    """Join FP8 query, key and value projections; returns the number of blocks changed."""
    joined = 0
    for block in dit.blocks.layers:
        assert isinstance(block, DiTBlock)
        attention: nn.Module = block.self_attention
        if type(attention) is SelfAttention:
            parts = [attention.get_submodule(name) for name in ("q", "k", "v")]
            layers = [part for part in parts if isinstance(part, Float8Linear)]
            if len(layers) == len(parts):
                # One block at a time, so that only its projections are in memory twice.
                block.add_module("self_attention", FusedSelfAttention(attention, join_layers(layers)))
                joined += 1
    return joined


def _query_of(attention: nn.Module) -> nn.Module:
    return attention.get_submodule("qkv" if isinstance(attention, FusedSelfAttention) else "q")


def _affine(norm: LayerNorm) -> Affine:
    return Affine(norm.weight, norm.bias)
