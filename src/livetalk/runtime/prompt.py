"""What a model with text and image branches needs once per session: a prompt and a portrait, encoded."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEmbeds:
    """A prompt and a portrait, encoded.

    Attributes:
        text_embeds: `[1, S, text_dim]`, or None for a transformer without a text branch.
        image_embeds: `[1, S, image_dim]`, or None for a transformer without an image branch.
    """

    text_embeds: Tensor | None
    image_embeds: Tensor | None


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
