"""A stream's specification, completed with the defaults of a model."""

from dataclasses import dataclass, replace

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.spec import PortraitConfig
from livetalk.crop import Crop
from livetalk.errors import InputError
from livetalk.streaming.settings import AudioMode, StreamSettings
from livetalk.streaming.spec import StreamSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """How a model generates one stream; `prompt` is empty for a model without a text branch."""

    settings: StreamSettings
    portrait: PortraitConfig
    seed: int
    crop: Crop
    prompt: str
    audio_mode: AudioMode

    def describe(self) -> dict[str, object]:
        """Return the plan as strings and numbers for a video's metadata."""
        return {
            "seed": self.seed,
            "num_steps": self.settings.sampler.num_steps,
            "crop": self.crop,
            "size": f"{self.portrait.height}x{self.portrait.width}",
            "audio_mode": self.audio_mode.value,
            "loudness": self.settings.loudness.value,
            **({"prompt": self.prompt} if self.prompt else {}),
        }


def plan_stream(model: AvatarModel, spec: StreamSpec) -> StreamPlan:
    """Check a specification against a model and complete it with the model's defaults.

    Raises:
        InputError: the model does not generate this size or takes no prompt.
    """
    defaults = model.spec.defaults
    return StreamPlan(
        settings=_settings(model.settings, spec),
        portrait=_portrait(model, spec.size),
        seed=defaults.seed if spec.seed is None else spec.seed,
        crop=defaults.crop if spec.crop is None else spec.crop,
        prompt=_prompt(model, spec.prompt),
        audio_mode=spec.audio_mode,
    )


def _settings(settings: StreamSettings, spec: StreamSpec) -> StreamSettings:
    if spec.num_steps is not None:
        settings = replace(settings, sampler=replace(settings.sampler, num_steps=spec.num_steps))
    if spec.latents_per_decode is not None:
        settings = replace(settings, latents_per_decode=spec.latents_per_decode)
    if spec.loudness is not None:
        settings = replace(settings, loudness=spec.loudness)
    return settings


def _portrait(model: AvatarModel, size: tuple[int, int] | None) -> PortraitConfig:
    own = model.spec.portrait
    if size is None:
        return own
    height, width = size
    if not model.spec.any_size and size != (own.height, own.width):
        raise InputError(
            f"size {height}x{width}: the model {model.name} generates {own.height}x{own.width} only"
        )
    return PortraitConfig(height=height, width=width)


def _prompt(model: AvatarModel, prompt: str | None) -> str:
    if model.spec.dit.text_dim is None:
        if prompt is not None:
            raise InputError(f"prompt: the model {model.name} takes none; leave --prompt out")
        return ""
    return model.spec.defaults.prompt if prompt is None else prompt
