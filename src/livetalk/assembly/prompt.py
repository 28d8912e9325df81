"""The encoders of a model with a text or an image branch."""

from typing import Protocol

from torch import Tensor

from livetalk.types import PromptEmbeds


class PromptEncoder(Protocol):
    """The text and the image encoder of a model, wherever they are kept between sessions."""

    def encode(self, prompt: str, image: Tensor) -> PromptEmbeds:
        """Encode what a session starts with.

        Args:
            prompt: what the video shall show.
            image: `[1, 3, H, W]`, -1..1, the framed portrait, on the transformer's device.

        Returns:
            The embeddings on the device of `image`.
        """
