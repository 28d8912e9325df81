"""Conditioning of a block: text, image and speech, as tokens or prepared for many steps.

Shapes: B batch · S context tokens · N heads · E head width · D model width.
"""

from collections.abc import Callable
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from torch import Tensor

from livetalk.models.dit_speech import SpeechContext


class KeysValues(NamedTuple):
    """Keys and values of text or image."""

    keys: Tensor  # `[B, S, N, E]`
    values: Tensor  # of the shape of `keys`
    bias: Tensor | None = None  # `[1, S]`, added to the logits of every query, or None

    def keys_values(self, project: "ProjectTokens") -> "KeysValues":
        return self


class ContextTokens(NamedTuple):
    """Text or image tokens that a block projects itself."""

    tokens: Tensor  # `[B, S, D]`
    bias: Tensor | None = None  # `[1, S]`, added to the logits of every query, or None

    def keys_values(self, project: "ProjectTokens") -> KeysValues:
        return project(self)


ProjectTokens: TypeAlias = Callable[[ContextTokens], KeysValues]
"""Computes the keys and values of one block: a `ContextBranch`."""

Context: TypeAlias = ContextTokens | KeysValues
"""Text or image in either form; `keys_values` returns the keys and values of a block."""


class BlockConditioning(NamedTuple):
    """Conditioning of one block, or of all."""

    speech: SpeechContext
    text: Context | None = None  # None without a text branch
    image: Context | None = None  # None without an image branch
    frame_lengths: tuple[int, ...] | None = None  # tokens of each latent frame; None if unknown

    def of_layer(self, index: int) -> "BlockConditioning":
        """Return the conditioning of block `index`; one value serves all blocks."""
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
    """Conditioning that was precomputed for each block."""

    layers: tuple[BlockConditioning, ...]

    def of_layer(self, index: int) -> BlockConditioning:
        return self.layers[index]

    def cut(self, start: int, stop: int) -> "StackConditioning":
        return StackConditioning(tuple(layer.cut(start, stop) for layer in self.layers))
