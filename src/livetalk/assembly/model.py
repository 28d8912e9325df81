"""A model in memory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.accelerate.apply import Acceleration
from livetalk.assembly.prompt import PromptEncoder
from livetalk.assembly.spec import ModelSpec
from livetalk.streaming.conditioning import Prepared, prepare_stream
from livetalk.streaming.executor import Executor
from livetalk.streaming.settings import StreamSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class AvatarModel:
    """A model in memory: its specification, its networks and how they run."""

    spec: ModelSpec
    version: str
    executor: Executor
    dtype: torch.dtype  # precision of the transformer and the VAE
    # Precision in which a portrait's pixels are scaled; the published code uses the transformer's.
    image_dtype: torch.dtype = torch.float32
    prompt_encoder: PromptEncoder | None = None  # None without text and image branch
    random_weights: bool = False  # the frames are noise, and every result must say so
    acceleration: Acceleration | None = None  # installed fast forms

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def settings(self) -> StreamSettings:
        """Default settings of a stream."""
        return self.spec.settings

    @property
    def precision(self) -> str:
        """Name of the precision, such as "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def title(self) -> str:
        """Name, device, precision and fast forms in one line."""
        how = f", {self.acceleration}" if self.acceleration is not None else ""
        return f"{self.name} on {self.executor.device} in {self.precision}{how}"


def prepare_portrait(model: AvatarModel, settings: StreamSettings, image: Tensor, prompt: str) -> Prepared:
    """Encode the conditioning that is constant through a stream.

    `image` is the framed portrait, `[3, H, W]`, -1..1. A model without a text branch ignores `prompt`.
    """
    executor, embeds = model.executor, None
    if model.prompt_encoder is not None:
        embeds = model.prompt_encoder.encode(prompt, image[None].to(executor.device))
    return prepare_stream(executor, settings, image, embeds)
