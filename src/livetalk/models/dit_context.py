"""What the tokens of a block attend to besides themselves: as tokens, or prepared for many steps.

Shapes: B batch · T latent frames · L video tokens · P tokens of a latent frame · S context tokens · N heads ·
E head width · D model width.
"""

from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from livetalk.ops.low_precision import dequantize_channels


class KeysValues(NamedTuple):
    """Keys and values of a context.

    Attributes:
        keys: `[B, S, N, E]`, of speech `[B, T, S, N, E]`.
        values: of the shape of `keys`.
        bias: `[1, S]`, added to the logits of every query; None for none.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None

    def of_runs(self, runs: Sequence["FrameRun"] | None) -> "KeysValues":
        """Return what is speech of the first to the last frame of `runs`; all of it for None."""
        if not runs:
            return self
        frames = slice(runs[0].first_frame, runs[-1].first_frame + runs[-1].num_frames)
        return KeysValues(self.keys[:, frames], self.values[:, frames])


class WeightedTokens(NamedTuple):
    """Tokens whose keys count more than once, for a block that makes keys and values itself.

    Attributes:
        tokens: `[B, S, D]`.
        bias: `[1, S]`, added to the logits of every query; None for none.
    """

    tokens: Tensor
    bias: Tensor | None = None


class AudioToAbsorb(NamedTuple):
    """Speech that a block shall multiply into its query and output projections when it comes to it.

    Attributes:
        context: `[B, T, S, audio_dim]`, or keys and values, `[B, T, S, N, E]`.
    """

    context: Tensor | KeysValues


class FrameRun(NamedTuple):
    """Neighbouring latent frames with equally many tokens.

    Attributes:
        first_frame: the first of the frames.
        num_frames: how many they are.
        start: the first token of the first frame.
        stop: the token after the last one of the last frame.
    """

    first_frame: int
    num_frames: int
    start: int
    stop: int

    def split(self, x_BLD: Tensor) -> Tensor:
        """Return the tokens of these frames, `[B, T, P, ...]`, from `[B, L, ...]`."""
        x = x_BLD[:, self.start : self.stop]
        return x.reshape(x.shape[0], self.num_frames, -1, *x.shape[2:])


class AbsorbedAudio(NamedTuple):
    """Speech of each latent frame with a block's query and output projections multiplied in.

    Without a norm or a rotation between projection and product, `(x Wq + bq) Kᵀ` is `x (Wq Kᵀ) + bq Kᵀ`, and
    `(P V) Wo` is `P (V Wo)`: two products of width N * S take the place of two of width D.

    Attributes:
        logit_weight: `[B, T, N * S, D]`.
        logit_bias: `[B, T, 1, N * S]` float32, scaled already.
        output_weight: `[B, T, N * S, D]`.
        output_bias: `[D]`.
        num_heads: N.
        first_frame: of the T; those before it are not attended to here.
    """

    logit_weight: Tensor
    logit_bias: Tensor
    output_weight: Tensor
    output_bias: Tensor
    num_heads: int
    first_frame: int = 0

    def frames_of(self, run: FrameRun) -> slice:
        """Return where the speech of some frames is."""
        first = run.first_frame - self.first_frame
        return slice(first, first + run.num_frames)

    def attend(self, x_BLD: Tensor, runs: Sequence[FrameRun] | None) -> Tensor:
        """Return `[B, L, D]`, what audio attention returns.

        Args:
            x_BLD: normed video tokens, in the dtype of the weights.
            runs: where the tokens of each latent frame are.

        Raises:
            ValueError: `runs` is None.
        """
        if runs is None:
            raise ValueError("absorbed speech must be told the frames of its tokens: cut it as they are cut")
        return join_runs([self._attend_run(x_BLD, run) for run in runs]) + self.output_bias

    def _attend_run(self, x_BLD: Tensor, run: FrameRun) -> Tensor:
        scale = (x_BLD.shape[-1] // self.num_heads) ** -0.5
        frames = self.frames_of(run)
        x = run.split(x_BLD)
        products = x @ self.logit_weight[:, frames].transpose(2, 3)
        logits = torch.add(self.logit_bias[:, frames], products, alpha=scale)
        weights = split_heads(logits, self.num_heads).softmax(dim=-1).flatten(3)
        return (weights.type_as(x) @ self.output_weight[:, frames]).flatten(1, 2)


Context: TypeAlias = Tensor | WeightedTokens | KeysValues
"""Text or image: tokens that a block projects, or what was made of them."""

AudioContext: TypeAlias = Tensor | KeysValues | AudioToAbsorb | AbsorbedAudio
"""Speech: tokens that a block projects, or what was made of them."""


class BlockConditioning(NamedTuple):
    """What the tokens of a block attend to besides themselves.

    Attributes:
        audio: `[B, T, S, audio_dim]`, or what is made of it; tokens of latent frame t read its part t only.
        text: `[B, S, D]`, or what is made of it; None when the network has no text branch.
        image: `[B, S, D]`, or what is made of it; None when the network has no image branch.
        frame_lengths: how many of the tokens belong to each latent frame, frame by frame; None when nobody
            counted.
    """

    audio: AudioContext
    text: Context | None = None
    image: Context | None = None
    frame_lengths: tuple[int, ...] | None = None

    def of_layer(self, index: int) -> "BlockConditioning":
        """Return what block `index` reads: the same for all."""
        return self

    def cut(self, start: int, stop: int) -> "BlockConditioning":
        """Return what tokens `start` to `stop` (exclusive) read, when only they are kept."""
        if self.frame_lengths is None:
            return self
        ends = accumulate(self.frame_lengths)
        lengths = (
            max(0, min(stop, end) - max(start, end - length))
            for length, end in zip(self.frame_lengths, ends, strict=True)
        )
        return self._replace(frame_lengths=tuple(lengths))


class StackConditioning(NamedTuple):
    """What the tokens of each block attend to, where it was prepared block by block.

    Attributes:
        layers: one of each block.
    """

    layers: tuple[BlockConditioning, ...]

    def of_layer(self, index: int) -> BlockConditioning:
        """Return what block `index` reads."""
        return self.layers[index]

    def cut(self, start: int, stop: int) -> "StackConditioning":
        """Return what tokens `start` to `stop` (exclusive) read, when only they are kept."""
        return StackConditioning(tuple(layer.cut(start, stop) for layer in self.layers))


def split_heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    """View `[..., D]` as `[..., N, E]`."""
    return x_BLD.reshape(*x_BLD.shape[:-1], num_heads, -1)


def frame_runs(frame_lengths: tuple[int, ...] | None, num_tokens: int) -> tuple[FrameRun, ...] | None:
    """Group latent frames of equal length, so that each group is one product.

    Args:
        frame_lengths: tokens of each latent frame, 0 for frames that are elsewhere.
        num_tokens: that there are.

    Returns:
        The groups in order, without empty frames; None when the lengths do not tell of these tokens.
    """
    if frame_lengths is None or sum(frame_lengths) != num_tokens:
        return None
    runs, frame, token = [], 0, 0
    for length, group in groupby(frame_lengths):
        count = len(list(group))
        if length:
            runs.append(FrameRun(frame, count, token, token + count * length))
        frame, token = frame + count, token + count * length
    return tuple(runs)


def rebase_runs(runs: tuple[FrameRun, ...] | None) -> tuple[FrameRun, ...] | None:
    """Count frames from the first one that has tokens."""
    if not runs:
        return runs
    return tuple(run._replace(first_frame=run.first_frame - runs[0].first_frame) for run in runs)


def join_runs(parts: Sequence[Tensor]) -> Tensor:
    """Put the tokens `[B, L, ...]` of all groups of frames one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def absorb_audio(query: nn.Module, output: nn.Module, context: KeysValues) -> AbsorbedAudio:
    """Multiply the keys and values of speech into the query and output projections of one block.

    Args:
        query: linear layer, D to D.
        output: linear layer, D to D.
        context: keys and values, `[B, T, S, N, E]`.

    Raises:
        TypeError: a layer is not one that `can_absorb` is true of.
    """
    keys, values, _ = context
    num_heads, width = keys.shape[3:]
    query_weight, output_weight = dense_weight(query, keys.dtype), dense_weight(output, keys.dtype)
    bias = split_heads(_bias(query), num_heads).float()
    logit_bias = torch.einsum("btsne,ne->btns", keys.float(), bias) * width**-0.5
    return AbsorbedAudio(
        logit_weight=_multiply_heads(keys, query_weight.reshape(num_heads, width, -1)),
        logit_bias=logit_bias.flatten(2)[:, :, None],
        output_weight=_multiply_heads(values, split_heads(output_weight, num_heads).permute(1, 2, 0)),
        output_bias=_bias(output).to(keys.dtype),
        num_heads=num_heads,
    )


def _multiply_heads(x_BTSNE: Tensor, weight_NED: Tensor) -> Tensor:
    """Multiply each head by its part of a weight: `[B, T, N * S, D]`.

    The product comes out with heads and tokens outermost, so that they are one axis without a copy. A GPU's
    matrix products take a frame's rows although those of other frames lie between them; a CPU's would copy
    them in every step.
    """
    product = torch.einsum("btsne,ned->nsbtd", x_BTSNE, weight_NED).flatten(0, 1).permute(1, 2, 0, 3)
    return product.contiguous() if product.device.type == "cpu" else product


def dense_weight(layer: nn.Module, dtype: torch.dtype) -> Tensor:
    """Return the weight `[out, in]` of a linear layer as numbers to compute with.

    Args:
        layer: that `can_absorb` is true of.
        dtype: of the result.

    Raises:
        TypeError: the layer is of another kind.
    """
    weight, scale = getattr(layer, "weight", None), getattr(layer, "weight_scale", None)
    if not isinstance(weight, Tensor) or not can_absorb(layer):
        raise TypeError(f"the weight of a {type(layer).__name__} cannot be read")
    return weight.to(dtype) if scale is None else dequantize_channels(weight, scale, dtype)


def can_absorb(layer: nn.Module) -> bool:
    """Tell whether a layer is linear with a bias and a weight that can be read.

    That is `nn.Linear`, or a layer of levels `weight`, `[out, in]`, with one `weight_scale` per output.
    """
    weight, scale = getattr(layer, "weight", None), getattr(layer, "weight_scale", None)
    if not isinstance(weight, Tensor) or not isinstance(getattr(layer, "bias", None), Tensor):
        return False
    if scale is None:
        return type(layer) is nn.Linear
    return isinstance(scale, Tensor) and scale.shape == (weight.shape[0], 1)


def _bias(layer: nn.Module) -> Tensor:
    bias = layer.bias
    assert isinstance(bias, Tensor)
    return bias
