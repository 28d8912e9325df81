"""Interface of the encoders for a text and an image branch."""

from typing import Protocol

from torch import Tensor

from livetalk.types import PromptEmbeds


class PromptEncoder(Protocol):
    """The text and the image encoder of a model, wherever their weights are between calls."""

    def encode(self, prompt: str, image: Tensor) -> PromptEmbeds:
        """Encode a prompt and a framed portrait `[1, 3, H, W]`, -1..1; embeddings are on its device."""
