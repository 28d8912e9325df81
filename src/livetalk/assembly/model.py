"""A model in memory, and what its sessions start from."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from livetalk.accelerate.apply import Acceleration
from livetalk.assembly.prompt import PromptEncoder
from livetalk.crop import Crop
from livetalk.streaming.conditioning import Prepared, prepare_stream
from livetalk.streaming.executor import Executor
from livetalk.streaming.settings import StreamSettings


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
    """

    seed: int = 0
    crop: Crop = "face"
    prompt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AvatarModel:
    """A model in memory.

    Attributes:
        name: of the model.
        version: of its weights.
        executor: the networks, and how they are run.
        settings: of its streams, where the user asks for nothing else.
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
    executor: Executor
    settings: StreamSettings
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
        return f"{self.name} on {self.executor.device} in {self.precision}{how}"


def prepare_portrait(model: AvatarModel, settings: StreamSettings, image: Tensor, prompt: str) -> Prepared:
    """Encode what stays the same through a stream.

    Args:
        model: whose encoders are used.
        settings: of the stream.
        image: `[3, H, W]`, -1..1, the framed portrait.
        prompt: for the text branch; not used by a model without one.
    """
    executor, embeds = model.executor, None
    if model.prompt_encoder is not None:
        embeds = model.prompt_encoder.encode(prompt, image[None].to(executor.device))
    return prepare_stream(executor, settings, image, embeds)
