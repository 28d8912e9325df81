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
    """A model in memory.

    Attributes:
        spec: what the model is.
        version: of its weights.
        executor: the networks, and how they are run.
        dtype: precision of the transformer and the VAE.
        image_dtype: precision in which a portrait's pixels are scaled; the published code does it in the
            transformer's.
        prompt_encoder: for a transformer with a text or an image branch.
        random_weights: the weights are noise, and so are the pictures; results must say so.
        acceleration: the fast forms that were put in place; None for none.
    """

    spec: ModelSpec
    version: str
    executor: Executor
    dtype: torch.dtype
    image_dtype: torch.dtype = torch.float32
    prompt_encoder: PromptEncoder | None = None
    random_weights: bool = False
    acceleration: Acceleration | None = None

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.spec.name

    @property
    def settings(self) -> StreamSettings:
        """Settings of its streams, where the user asks for nothing else."""
        return self.spec.settings

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
