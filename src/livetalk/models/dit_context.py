"""What the tokens of a block attend to besides themselves: as tokens, or prepared for many steps.

Shapes: B batch · S context tokens · N heads · E head width · D model width.
"""

from itertools import accumulate
from typing import NamedTuple, TypeAlias

from torch import Tensor

from livetalk.models.dit_speech import SpeechContext


class KeysValues(NamedTuple):
    """Keys and values of text or image.

    Attributes:
        keys: `[B, S, N, E]`.
        values: of the shape of `keys`.
        bias: `[1, S]`, added to the logits of every query; None for none.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor | None = None


class WeightedTokens(NamedTuple):
    """Tokens whose keys count more than once, for a block that makes keys and values itself.

    Attributes:
        tokens: `[B, S, D]`.
        bias: `[1, S]`, added to the logits of every query; None for none.
    """

    tokens: Tensor
    bias: Tensor | None = None


Context: TypeAlias = Tensor | WeightedTokens | KeysValues
"""Text or image: tokens that a block projects, or what was made of them."""


class BlockConditioning(NamedTuple):
    """What the tokens of a block attend to besides themselves.

    Attributes:
        speech: in any form.
        text: `[B, S, D]`, or what is made of it; None when the network has no text branch.
        image: `[B, S, D]`, or what is made of it; None when the network has no image branch.
        frame_lengths: how many of the tokens belong to each latent frame, frame by frame; None when nobody
            counted.
    """

    speech: SpeechContext
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
