"""Stand-ins for the text and the image encoder in models with random weights."""

import torch
from torch import Tensor, nn

from livetalk.assembly.random_weights import draw_weights
from livetalk.models.clip_vision import CLIPVisionConfig, CLIPVisionEncoder, prepare_clip_pixels
from livetalk.models.umt5 import UMT5Config, UMT5Encoder
from livetalk.placement.apply import EncoderPlacement
from livetalk.types import PromptEmbeds

TEXT_TOKENS = 64
"""Tokens of every prompt, or fewer where the text encoder pads to fewer."""


class RandomPromptEncoder:
    """Returns random embeddings that ignore prompt and portrait, without a network."""

    def __init__(self, text: UMT5Config, image: CLIPVisionConfig, text_len: int, seed: int) -> None:
        """Use the shapes that encoders of these sizes return, with text padded to `text_len` rows."""
        self._text_shape = (1, min(TEXT_TOKENS, text_len), text.dim)
        self._image_shape = (1, image.num_tokens, image.dim)
        self._seed = seed

    def encode(self, prompt: str, image: Tensor) -> PromptEmbeds:
        """Draw embeddings on the device of `image`, equal on every call."""
        rng = torch.Generator(image.device).manual_seed(self._seed)
        text_embeds, image_embeds = (
            torch.randn(shape, generator=rng, device=image.device)
            for shape in (self._text_shape, self._image_shape)
        )
        return PromptEmbeds(text_embeds=text_embeds, image_embeds=image_embeds)


class RandomEncoders:
    """Both encoders with random weights, drawn on demand: they use memory when the real ones do."""

    def __init__(
        self,
        text: UMT5Config,
        image: CLIPVisionConfig,
        *,
        text_len: int,
        dtype: torch.dtype,
        place: EncoderPlacement,
        seed: int,
    ) -> None:
        """Store sizes; weights are drawn by `encode`.

        Only `place` "resident" keeps them between calls. `seed` is that of the weights and of the tokens of
        every prompt; prompts are padded to `text_len` rows.
        """
        self._text = text
        self._image = image
        self._text_len = text_len
        self._dtype = dtype
        self._place = place
        self._seed = seed
        self._kept: dict[str, nn.Module] = {}

    @torch.no_grad()
    def encode(self, prompt: str, image: Tensor) -> PromptEmbeds:
        """Encode random tokens and the portrait; the embeddings are on the device of `image`."""
        device = torch.device("cpu") if self._place == "cpu" else image.device
        text_embeds = self._get("text", device)(*self._tokens(device))
        pixels = prepare_clip_pixels(image, self._image.image_size).to(device)
        image_embeds = self._get("image", device)(pixels)
        return PromptEmbeds(
            text_embeds=text_embeds.to(image.device), image_embeds=image_embeds.to(image.device)
        )

    def _tokens(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return token ids and mask, `[1, text_len]`, the same for every prompt."""
        rng = torch.Generator().manual_seed(self._seed)
        tokens = torch.randint(self._text.vocabulary, (1, self._text_len), generator=rng)
        mask = torch.arange(self._text_len)[None] < TEXT_TOKENS
        return tokens.to(device), mask.to(device)

    def _get(self, name: str, device: torch.device) -> nn.Module:
        if name in self._kept:
            return self._kept[name]
        with torch.device("meta"):
            network = UMT5Encoder(self._text) if name == "text" else CLIPVisionEncoder(self._image)
        # The same seed every time: an encoder that was freed is drawn again with equal weights.
        rng = torch.Generator(device).manual_seed(self._seed)
        draw_weights(network, device=device, dtype=self._dtype, rng=rng)
        if self._place == "resident":
            self._kept[name] = network
        return network
