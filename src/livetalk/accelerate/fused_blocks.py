"""Blocks of the transformer on fused kernels, put in place from outside.

A fused block has the parts and the state dict of the block it stands for, and its plain form stays beside it
in `livetalk.models`. Linear layers that multiply in FP8 get their input in one byte from the kernel before
them, and leave their bias to the kernel after them.

Shapes: B batch · L video tokens · N heads · E head width · D model width.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from livetalk.accelerate.fused_attention import attend_to_tokens, fuse_rounding, multiply, takes_rows
from livetalk.accelerate.fused_qkv import FusedSelfAttention
from livetalk.models.dit import DiT
from livetalk.models.dit_blocks import ContextAttention, DiTBlock, SelfAttention
from livetalk.models.dit_context import BlockConditioning
from livetalk.models.dit_speech import AbsorbedSpeech
from livetalk.models.dit_tokens import FrameRun, TokenFrames, frame_runs
from livetalk.ops.kernels.interface import Affine, Branch, FusedKernels, HeadNorm
from livetalk.ops.kernels.reference import TorchKernels
from livetalk.ops.matmul import QuantizedRows
from livetalk.ops.norm import LayerNorm
from livetalk.ops.rope import RopeTables
from livetalk.placement.float8 import Float8Linear, join_layers


class FusedBlock(DiTBlock):
    """A block whose elementwise work runs in fused kernels between its matrix products."""

    def __init__(self, block: DiTBlock, kernels: FusedKernels) -> None:
        """Take over the parts of `block`."""
        # The parts of a block exist already: a block's own constructor would make new ones.
        nn.Module.__init__(self)
        self.train(block.training)
        self._kernels = kernels
        self.modulation = block.modulation
        self.self_norm = block.self_norm
        self.self_attention = block.self_attention
        self.context_norm = block.context_norm
        self.context_attention = block.context_attention
        self.audio_norm = block.audio_norm
        self.audio_attention = block.audio_attention
        self.ffn_norm = block.ffn_norm
        self.ffn = block.ffn

    def forward(
        self,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning,
    ) -> Tensor:
        """Return `[B, L, D]` in the dtype of `tokens`; the arguments are those of `BlockStack`."""
        kernels = self._kernels
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.modulation.float() + modulation).chunk(6, dim=1)
        quantize = takes_rows(_query_of(self.self_attention))
        x = kernels.layer_norm(tokens, Affine(1 + scale1, shift1), self.self_norm.eps, quantize=quantize)
        branch = self._attend_to_tokens(x, rope)._replace(gate=gate1)
        if self.context_attention is not None and self.context_norm is not None:
            quantize = takes_rows(self.context_attention.q)
            tokens, x = kernels.add_layer_norm(
                tokens, branch, _affine(self.context_norm), self.context_norm.eps, quantize=quantize
            )
            branch = self._attend_to_context(self.context_attention, x, conditioning)
        tokens, x = kernels.add_layer_norm(
            tokens, branch, _affine(self.audio_norm), self.audio_norm.eps, quantize=False
        )
        branch = self._attend_to_speech(cast(Tensor, x), frame_ids, conditioning)
        widen, narrow = self.ffn[0], self.ffn[2]
        tokens, x = kernels.add_layer_norm(
            tokens, branch, Affine(1 + scale2, shift2), self.ffn_norm.eps, quantize=takes_rows(widen)
        )
        hidden, bias = multiply(widen, x)
        x = kernels.gelu(hidden, bias, quantize=takes_rows(narrow))
        return kernels.add(tokens, Branch(*multiply(narrow, x), gate2))

    def _attend_to_tokens(self, x: Tensor | QuantizedRows, rope: RopeTables) -> Branch:
        """Return the self-attention of normed tokens."""
        heads = attend_to_tokens(self.self_attention, self._kernels, x, rope)
        return self._project(self.self_attention.out, heads)

    def _attend_to_context(
        self, attention: ContextAttention, x: Tensor | QuantizedRows, conditioning: BlockConditioning
    ) -> Branch:
        """Return the attention of normed tokens to text and image."""
        projected, bias = multiply(attention.q, x)
        norm = HeadNorm(attention.norm_q.weight, attention.norm_q.eps)
        q = self._kernels.split_heads(projected, bias, norm, None, (attention.num_heads, 1))[0][0]
        found = []
        for part, context in ((attention.text, conditioning.text), (attention.image, conditioning.image)):
            if part is not None:
                assert context is not None
                keys, values, key_bias = part(context)
                found.append(attention.core(q, keys, values, key_bias))
        return self._project(attention.out, *found)

    def _attend_to_speech(self, x: Tensor, frame_ids: Tensor, conditioning: BlockConditioning) -> Branch:
        """Return the attention of normed tokens to the speech of their latent frame."""
        frames = TokenFrames(frame_ids, frame_runs(conditioning.frame_lengths, x.shape[1]))
        return Branch(*conditioning.speech.attend(self.audio_attention, x, frames, self._weigh_speech))

    def _weigh_speech(self, speech: AbsorbedSpeech, x: Tensor, runs: tuple[FrameRun, ...]) -> Tensor:
        """Compute `livetalk.models.dit_speech.weigh_speech`."""
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
        """Apply an output projection to what attention found, or to the sum of two such, `[B, L, N, E]`."""
        if takes_rows(layer):
            return Branch(*multiply(layer, self._kernels.quantize_rows(heads, other)))
        assert isinstance(heads, Tensor)
        return Branch(*multiply(layer, (heads if other is None else heads + other).flatten(2)))


class OpaqueFusedBlock(FusedBlock):
    """A fused block that the compiler leaves alone: nothing is left for it to fuse."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        self,
        tokens: Tensor,
        rope: RopeTables,
        frame_ids: Tensor,
        modulation: Tensor,
        conditioning: BlockConditioning,
    ) -> Tensor:
        """Return `[B, L, D]` in the dtype of `tokens`; the arguments are those of `BlockStack`."""
        return super().forward(tokens, rope, frame_ids, modulation, conditioning)


class JoinedSelfAttention(FusedSelfAttention):
    """Self-attention whose three input projections, in FP8 already, are one layer."""

    def __init__(self, attention: SelfAttention, qkv: Float8Linear) -> None:
        """Take over the parts of `attention` but for its three projections, which `qkv` stands for."""
        # The constructor above this one joins layers that are not quantised.
        nn.Module.__init__(self)
        self.train(attention.training)
        self.num_heads = attention.num_heads
        self.add_module("qkv", qkv)
        self.norm_q = attention.norm_q
        self.norm_k = attention.norm_k
        self.core = attention.core
        self.out = attention.out


def fuse_blocks(dit: DiT, kernels: FusedKernels) -> int:
    """Run the blocks of a transformer on fused kernels.

    Comes after `fuse_qkv` and the choice of attention kernels, and before blocks are offloaded, spread over
    ranks or compiled: hooks would be lost. Layers may be quantised before or after.

    Args:
        dit: changed in place, for inference; its parameters and state dict stay.
        kernels: from `select_kernels`.

    Returns:
        The blocks replaced.

    Raises:
        ValueError: a block has hooks already.
    """
    form = FusedBlock if kernels.name == TorchKernels.name else OpaqueFusedBlock
    for index, block in enumerate(dit.blocks.layers):
        assert isinstance(block, DiTBlock)
        if block._forward_hooks or block._forward_pre_hooks:
            raise ValueError(
                f"block {index} has hooks already: fuse blocks before they are offloaded or spread"
            )
        dit.blocks.layers[index] = form(block, kernels)
        fuse_rounding(block.self_attention, kernels)
    return len(dit.blocks.layers)


def join_float8_qkv(dit: DiT) -> int:
    """Put query, key and value projections that multiply in FP8 into one layer: `fuse_qkv` for such layers.

    Args:
        dit: changed in place; only one block's projections are in memory twice at any time.

    Returns:
        The blocks changed.
    """
    joined = 0
    for block in dit.blocks.layers:
        assert isinstance(block, DiTBlock)
        attention: nn.Module = block.self_attention
        if type(attention) is SelfAttention:
            parts = [attention.get_submodule(name) for name in ("q", "k", "v")]
            layers = [part for part in parts if isinstance(part, Float8Linear)]
            if len(layers) == len(parts):
                block.add_module("self_attention", JoinedSelfAttention(attention, join_layers(layers)))
                joined += 1
    return joined


def _query_of(attention: nn.Module) -> nn.Module:
    return attention.get_submodule("qkv" if isinstance(attention, FusedSelfAttention) else "q")


def _affine(norm: LayerNorm) -> Affine:
    return Affine(norm.weight, norm.bias)
