"""Conditioning of a block: text, image and speech, as tokens or prepared for many steps.

Shapes: B batch · S context tokens · N heads · E head width · D model width.
"""

from itertools import accumulate
from typing import NamedTuple, TypeAlias

from torch import Tensor

from livetalk.models.dit_speech import SpeechContext


class KeysValues(NamedTuple):
    """Keys and values of text or image."""

    keys: Tensor  # `[B, S, N, E]`
    values: Tensor  # of the shape of `keys`
    bias: Tensor | None = None  # `[1, S]`, added to the logits of every query, or None


class WeightedTokens(NamedTuple):
    """Context tokens with a bias for the logits of their keys."""

    tokens: Tensor  # `[B, S, D]`
    bias: Tensor | None = None  # `[1, S]`, added to the logits of every query, or None


Context: TypeAlias = Tensor | WeightedTokens | KeysValues
"""Text or image: tokens that a block projects, or what was made of them."""


class BlockConditioning(NamedTuple):
    """Conditioning of one block, or of all."""

    speech: SpeechContext  # in any form
    text: Context | None = None  # tokens `[B, S, D]` or a prepared form; None without a text branch
    image: Context | None = None  # tokens `[B, S, D]` or a prepared form; None without an image branch
    frame_lengths: tuple[int, ...] | None = None  # number of tokens of each latent frame, or None if unknown

    def of_layer(self, index: int) -> "BlockConditioning":
        """Return the conditioning of block `index`."""
        return self

    def cut(self, start: int, stop: int) -> "BlockConditioning":
        """Return the conditioning of the tokens `start` to `stop`, exclusive."""
        if self.frame_lengths is None:
            return self
        ends = accumulate(self.frame_lengths)
        lengths = (
            max(0, min(stop, end) - max(start, end - length))
            for length, end in zip(self.frame_lengths, ends, strict=True)
        )
        return self._replace(frame_lengths=tuple(lengths))


class StackConditioning(NamedTuple):
    """Conditioning prepared for each block."""

    layers: tuple[BlockConditioning, ...]

    def of_layer(self, index: int) -> BlockConditioning:
        return self.layers[index]

    def cut(self, start: int, stop: int) -> "StackConditioning":
        """Return the conditioning of the tokens `start` to `stop`, exclusive."""
        return StackConditioning(tuple(layer.cut(start, stop) for layer in self.layers))
