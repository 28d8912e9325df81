"""A model in memory, and what its sessions start from."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from livetalk.accelerate.apply import Acceleration
from livetalk.assembly.prompt import PromptEncoder
from livetalk.streaming.loudness import LoudnessMode
from livetalk.streaming.models import Models
from livetalk.streaming.step import prepare_conditioning
from livetalk.types import Conditioning, Crop


@dataclass(frozen=True, slots=True, kw_only=True)
class PortraitConfig:
    """Size of the pictures that a model makes.

    Attributes:
        height: rows, pixels.
        width: columns, pixels.
    """

    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionDefaults:
    """What a session gets where the user asks for nothing else.

    Attributes:
        seed: of the noise.
        crop: what of the portrait is used, see `frame_portrait`.
        prompt: for the text branch; not used by a model without one.
        loudness: what is done to the level of the sound.
    """

    seed: int = 0
    crop: Crop = "face"
    prompt: str = ""
    loudness: LoudnessMode = LoudnessMode.OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class AvatarModel:
    """A model in memory.

    Attributes:
        name: of the model.
        version: of its weights.
        models: networks and settings.
        portrait: picture size, or the usual one of a model that makes any size.
        dtype: precision of the transformer and the VAE.
        image_dtype: precision in which a portrait's pixels are scaled; the published code does it in the
            transformer's.
        any_size: the model makes pictures of any size that its strides divide.
        prompt_encoder: for a transformer with a text or an image branch.
        defaults: of its sessions.
        random_weights: the weights are noise, and so are the pictures; results must say so.
        acceleration: the fast forms that were put in place; None for none.
    """

    name: str
    version: str
    models: Models
    portrait: PortraitConfig
    dtype: torch.dtype
    image_dtype: torch.dtype = torch.float32
    any_size: bool = False
    prompt_encoder: PromptEncoder | None = None
    defaults: SessionDefaults = field(default_factory=SessionDefaults)
    random_weights: bool = False
    acceleration: Acceleration | None = None

    @property
    def precision(self) -> str:
        """Name of the precision, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def title(self) -> str:
        """What runs where and how, in a line."""
        how = f", {self.acceleration}" if self.acceleration is not None else ""
        return f"{self.name} on {self.models.device} in {self.precision}{how}"


def prepare_session(model: AvatarModel, models: Models, image: Tensor, prompt: str) -> Conditioning:
    """Encode what stays the same through a session.

    Args:
        model: whose encoders are used.
        models: its networks with the settings of the session.
        image: `[3, H, W]`, -1..1, the framed portrait.
        prompt: for the text branch; not used by a model without one.
    """
    if model.prompt_encoder is None:
        return prepare_conditioning(models, image)
    embeds = model.prompt_encoder.encode(prompt, image[None].to(models.device))
    return prepare_conditioning(models, image, embeds.text_embeds, embeds.image_embeds)
