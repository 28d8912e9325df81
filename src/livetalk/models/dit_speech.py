"""Attention of video tokens to speech, and the forms in which a block receives the speech.

All forms implement `SpeechContext.attend`.

Shapes: B batch · T latent frames · L video tokens · S speech tokens of a latent frame · N heads · E head
width · D model width.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from livetalk.models.dit_tokens import FrameRun, TokenFrames, frame_runs, join_runs, split_heads
from livetalk.ops.attention import AttentionCore
from livetalk.ops.low_precision import ByteLinear


class AudioAttention(nn.Module):
    """Attention of each latent frame's tokens to the speech tokens of that frame."""

    def __init__(self, dim: int, num_heads: int, audio_dim: int) -> None:
        # Unlike self-attention, it has no q/k norm and no rotation, either of which would prevent absorption.
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(audio_dim, 2 * dim)
        self.core = AttentionCore()
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x_BLD: Tensor,
        frame_ids: Tensor,
        speech: "SpeechContext",
        frame_lengths: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Attend frame by frame; return `[B, L, D]`.

        `frame_ids`, `[L]` integers, is the latent frame of each token. `frame_lengths` counts the tokens of
        each latent frame; if they are None or do not add up to L, attention uses a mask from `frame_ids`, and
        absorbed speech raises `ValueError`.
        """
        frames = TokenFrames(frame_ids, frame_runs(frame_lengths, x_BLD.shape[1]))
        y, bias = speech.attend(self, x_BLD, frames, attend_absorbed)
        return y if bias is None else y + bias

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Project speech tokens `[B, T, S, audio_dim]` to keys and values, each `[B, T, S, N, E]`."""
        keys, values = (split_heads(x, self.num_heads) for x in self.kv(tokens).chunk(2, dim=-1))
        return keys, values

    def attend(self, x_BLD: Tensor, frames: TokenFrames, keys: Tensor, values: Tensor) -> Tensor:
        q = split_heads(self.q(x_BLD), self.num_heads)
        if frames.runs is None:
            y = self._attend_masked(q, frames.ids, keys, values)
        else:
            y = join_runs([self._attend_run(q, keys, values, run) for run in frames.runs])
        projected: Tensor = self.out(y.flatten(2))
        return projected

    def _attend_run(self, q_BLNE: Tensor, keys: Tensor, values: Tensor, run: FrameRun) -> Tensor:
        frames = slice(run.first_frame, run.first_frame + run.num_frames)
        k, v = keys[:, frames].flatten(0, 1), values[:, frames].flatten(0, 1)
        y: Tensor = self.core(run.split(q_BLNE).flatten(0, 1), k, v)
        return y.reshape(q_BLNE.shape[0], -1, *y.shape[2:])

    def _attend_masked(self, q_BLNE: Tensor, frame_ids: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        num_frames, num_context = keys.shape[1:3]
        context_ids = torch.arange(num_frames, device=frame_ids.device).repeat_interleave(num_context)
        mask = frame_ids[:, None] == context_ids
        y: Tensor = self.core(q_BLNE, keys.flatten(1, 2), values.flatten(1, 2), mask)
        return y


class Attended(NamedTuple):
    """Result of audio attention."""

    output: Tensor  # `[B, L, D]`
    bias: Tensor | None = None  # `[D]` that is still to be added; None if the output includes it


AttendAbsorbed: TypeAlias = Callable[["AbsorbedSpeech", Tensor, tuple[FrameRun, ...]], Tensor]
"""(absorbed speech, tokens `[B, L, D]`, their frames) -> `[B, L, D]` without the output's bias."""


class SpeechContext(Protocol):
    """The speech of a window; tokens of a latent frame attend only to the speech of that frame."""

    def attend(
        self, attention: AudioAttention, x_BLD: Tensor, frames: TokenFrames, attend: AttendAbsorbed
    ) -> Attended:
        """Attend from normalised video tokens; `attend` is `attend_absorbed` or a fast form of it."""


class SpeechTokens(NamedTuple):
    """Speech that a block projects itself."""

    tokens: Tensor  # `[B, T, S, audio_dim]`
    absorb: bool = False  # absorb it into the projections in each step

    def attend(
        self, attention: AudioAttention, x_BLD: Tensor, frames: TokenFrames, attend: AttendAbsorbed
    ) -> Attended:
        keys, values = attention.keys_values(self.tokens)
        return SpeechKeysValues(keys, values, self.absorb).attend(attention, x_BLD, frames, attend)


class SpeechKeysValues(NamedTuple):
    """Speech projected to keys and values of a block."""

    keys: Tensor  # `[B, T, S, N, E]`
    values: Tensor  # of the shape of `keys`
    absorb: bool = False  # absorb them into the projections in each step

    def attend(
        self, attention: AudioAttention, x_BLD: Tensor, frames: TokenFrames, attend: AttendAbsorbed
    ) -> Attended:
        if self.absorb:
            own = slice(0, self.keys.shape[1])
            if frames.runs:
                first, last = frames.runs[0], frames.runs[-1]
                own = slice(first.first_frame, last.first_frame + last.num_frames)
            return absorb_speech(attention, self, own).attend(attention, x_BLD, frames, attend)
        return Attended(attention.attend(x_BLD, frames, self.keys, self.values))


class AbsorbedSpeech(NamedTuple):
    """Speech of each latent frame multiplied into a block's query and output projections.

    Without a norm or rotation after the projection, `(x Wq + bq) Kᵀ` is `x (Wq Kᵀ) + bq Kᵀ`, and `(P V) Wo`
    is `P (V Wo)`: two products of width N * S replace two of width D.
    """

    logit_weight: Tensor  # `[B, T, N * S, D]`
    logit_bias: Tensor  # `[B, T, 1, N * S]` float32, scaled
    output_weight: Tensor  # `[B, T, N * S, D]`
    output_bias: Tensor  # `[D]`
    num_heads: int
    first_frame: int = 0  # index of the first of the T frames in the window

    def frames_of(self, run: FrameRun) -> slice:
        first = run.first_frame - self.first_frame
        return slice(first, first + run.num_frames)

    def attend(
        self, attention: AudioAttention, x_BLD: Tensor, frames: TokenFrames, attend: AttendAbsorbed
    ) -> Attended:
        if frames.runs is None:
            raise ValueError("absorbed speech must be told the frames of its tokens: cut it as they are cut")
        return Attended(attend(self, x_BLD, frames.runs), self.output_bias)


def attend_absorbed(speech: AbsorbedSpeech, x_BLD: Tensor, runs: tuple[FrameRun, ...]) -> Tensor:
    """Return the weighted sum of the absorbed values of each token's frame, `[B, L, D]`.

    `x_BLD` is normalised and in the dtype of the weights.
    """
    return join_runs([_attend_absorbed_run(speech, x_BLD, run) for run in runs])


def _attend_absorbed_run(speech: AbsorbedSpeech, x_BLD: Tensor, run: FrameRun) -> Tensor:
    # Attention divides by the root of the head width; `logit_bias` is scaled already.
    scale = (x_BLD.shape[-1] // speech.num_heads) ** -0.5
    frames = speech.frames_of(run)
    x = run.split(x_BLD)
    products = x @ speech.logit_weight[:, frames].transpose(2, 3)
    logits = torch.add(speech.logit_bias[:, frames], products, alpha=scale)
    weights = split_heads(logits, speech.num_heads).softmax(dim=-1).flatten(3)
    return (weights.type_as(x) @ speech.output_weight[:, frames]).flatten(1, 2)


def can_absorb(attention: AudioAttention) -> bool:
    """Return whether both projections are an `nn.Linear` or a `ByteLinear`, with a bias."""
    return _is_readable(attention.q) and _is_readable(attention.out)


def _is_readable(layer: nn.Module) -> bool:
    return (type(layer) is nn.Linear or isinstance(layer, ByteLinear)) and layer.bias is not None


def absorb_speech(attention: AudioAttention, speech: SpeechKeysValues, frames: slice) -> AbsorbedSpeech:
    """Multiply the keys and values of some latent frames into the projections of a block.

    `TypeError` if `can_absorb` is false.
    """
    keys, values = speech.keys[:, frames], speech.values[:, frames]
    num_heads, width = keys.shape[3:]
    query_weight, query_bias = _dense(attention.q, keys.dtype)
    output_weight, output_bias = _dense(attention.out, keys.dtype)
    bias = split_heads(query_bias, num_heads).float()
    logit_bias = torch.einsum("btsne,ne->btns", keys.float(), bias) * width**-0.5
    return AbsorbedSpeech(
        logit_weight=_multiply_heads(keys, query_weight.reshape(num_heads, width, -1)),
        logit_bias=logit_bias.flatten(2)[:, :, None],
        output_weight=_multiply_heads(values, split_heads(output_weight, num_heads).permute(1, 2, 0)),
        output_bias=output_bias.to(keys.dtype),
        num_heads=num_heads,
        first_frame=frames.start,
    )


def _dense(layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    if isinstance(layer, ByteLinear) and layer.bias is not None:
        return layer.dense_weight(dtype), layer.bias
    if type(layer) is nn.Linear and layer.bias is not None:
        return layer.weight.to(dtype), layer.bias
    raise TypeError(f"speech cannot be absorbed into a {type(layer).__name__}")


def _multiply_heads(x_BTSNE: Tensor, weight_NED: Tensor) -> Tensor:
    # `[B, T, N * S, D]` with heads and tokens outermost in memory, so that they merge without a copy. GPU
    # matrix products read a frame's strided rows directly; those on a CPU would copy them in every step.
    product = torch.einsum("btsne,ned->nsbtd", x_BTSNE, weight_NED).flatten(0, 1).permute(1, 2, 0, 3)
    return product.contiguous() if product.device.type == "cpu" else product
