"""What a user asks of one video, and what it comes to with a given model: checked before anything runs."""

import re
from dataclasses import dataclass, replace
from typing import TypedDict

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.spec import PortraitConfig
from livetalk.crop import CROPS, Crop
from livetalk.errors import InputError
from livetalk.streaming.settings import AudioMode, LoudnessMode, StreamSettings

SIZES = {
    "portrait": PortraitConfig(height=768, width=448),
    "landscape": PortraitConfig(height=448, width=768),
    "portrait-small": PortraitConfig(height=720, width=416),
    "landscape-small": PortraitConfig(height=416, width=720),
    "square": PortraitConfig(height=640, width=640),
    "square-small": PortraitConfig(height=512, width=512),
}
"""Names of usual picture sizes."""

SIDE_MULTIPLE = 16
"""Pixels behind one token of a published model: both sides of a picture are multiples of it."""

MAX_SIDE = 4096
"""Pixels of the longest side: nothing here was made for more, and a slip of the keyboard fills the memory."""

_SIZE = re.compile(r"(\d{1,5})\s*[xX*]\s*(\d{1,5})")


class SessionOptions(TypedDict, total=False):
    """Options of one video or stream; what is left out, or None, is the model's own choice.

    Attributes:
        seed: of the noise; the same seed gives the same pictures on the same machine.
        crop: what of the portrait is used, see `frame_portrait`.
        num_steps: denoising steps.
        size: picture size, "HEIGHTxWIDTH" or a name in `SIZES`.
        prompt: what the video shall show, for a model with a text branch.
        audio_mode: "stream" hears the sound as it comes; "whole" waits for all of it, and every frame
            hears its future too.
        loudness: "off", "running" or "published", see `LoudnessMode`.
        latents_per_decode: latent frames that are decoded together, of 4 frames each; a progressive stream
            hands over frames after each of these pieces.
    """

    seed: int | None
    crop: Crop | None
    num_steps: int | None
    size: str | None
    prompt: str | None
    audio_mode: str | None
    loudness: str | None
    latents_per_decode: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The options of one video, complete and checked.

    Attributes:
        settings: of its stream.
        portrait: picture size.
        seed: of the noise.
        crop: what of the portrait is used.
        prompt: for the text branch; empty for a model without one.
        audio_mode: how the sound is heard.
    """

    settings: StreamSettings
    portrait: PortraitConfig
    seed: int
    crop: Crop
    prompt: str
    audio_mode: AudioMode

    def describe(self) -> dict[str, object]:
        """Return the options as words and numbers, for a video's metadata."""
        return {
            "seed": self.seed,
            "num_steps": self.settings.sampler.num_steps,
            "crop": self.crop,
            "size": f"{self.portrait.height}x{self.portrait.width}",
            "audio_mode": self.audio_mode.value,
            "loudness": self.settings.loudness.value,
            **({"prompt": self.prompt} if self.prompt else {}),
        }


def check_options(options: SessionOptions) -> None:
    """Refuse what no model can do; a moment's work, before a model is loaded.

    Raises:
        InputError: an option is out of its range.
    """
    if (crop := options.get("crop")) is not None and crop not in CROPS:
        raise InputError(f"crop {crop}: is not one of {', '.join(CROPS)}")
    if (num_steps := options.get("num_steps")) is not None and num_steps < 1:
        raise InputError(f"steps {num_steps}: at least 1 is needed")
    if (num_latents := options.get("latents_per_decode")) is not None and num_latents < 1:
        raise InputError(f"latents per decode {num_latents}: at least 1 is needed")
    if (seed := options.get("seed")) is not None and not 0 <= seed < 2**63:
        raise InputError(f"seed {seed}: must be 0 or more and below 2**63")
    if (size := options.get("size")) is not None:
        parse_size(size)
    for kind, name in ((AudioMode, "audio_mode"), (LoudnessMode, "loudness")):
        choices = [str(choice.value) for choice in kind]
        if (value := options.get(name)) is not None and value not in choices:
            raise InputError(f"{name.replace('_', ' ')} {value}: is not one of {', '.join(choices)}")


def plan_session(model: AvatarModel, options: SessionOptions) -> Session:
    """Complete a user's options with the model's own choices.

    Raises:
        InputError: an option cannot be used, or not with this model.
    """
    check_options(options)
    seed, crop = options.get("seed"), options.get("crop")
    return Session(
        settings=_settings(model.settings, options),
        portrait=_portrait(model, options.get("size")),
        seed=model.spec.defaults.seed if seed is None else seed,
        crop=model.spec.defaults.crop if crop is None else crop,
        prompt=_prompt(model, options.get("prompt")),
        audio_mode=AudioMode(options.get("audio_mode") or AudioMode.STREAM),
    )


def parse_size(size: str) -> PortraitConfig:
    """Read a picture size: a name in `SIZES`, or "HEIGHTxWIDTH" in pixels, both multiples of 16.

    Raises:
        InputError: it is neither.
    """
    if size in SIZES:
        return SIZES[size]
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise InputError(f"size {size}: is neither HEIGHTxWIDTH nor one of {', '.join(SIZES)}")
    height, width = int(match[1]), int(match[2])
    if max(height, width) > MAX_SIDE:
        raise InputError(f"size {size}: at most {MAX_SIDE}x{MAX_SIDE} pixels")
    nearest = PortraitConfig(height=_round(height), width=_round(width))
    if nearest != PortraitConfig(height=height, width=width):
        raise InputError(
            f"size {size}: height and width must be multiples of {SIDE_MULTIPLE}; the nearest is "
            f"{nearest.height}x{nearest.width}"
        )
    return nearest


def _portrait(model: AvatarModel, size: str | None) -> PortraitConfig:
    if size is None:
        return model.spec.portrait
    portrait, own = parse_size(size), model.spec.portrait
    if not model.spec.any_size and portrait != own:
        raise InputError(f"size {size}: the model {model.name} makes {own.height}x{own.width} pictures only")
    return portrait


def _round(pixels: int) -> int:
    return max(1, round(pixels / SIDE_MULTIPLE)) * SIDE_MULTIPLE


def _settings(settings: StreamSettings, options: SessionOptions) -> StreamSettings:
    if (num_steps := options.get("num_steps")) is not None:
        settings = replace(settings, sampler=replace(settings.sampler, num_steps=num_steps))
    if (num_latents := options.get("latents_per_decode")) is not None:
        settings = replace(settings, latents_per_decode=num_latents)
    if (loudness := options.get("loudness")) is not None:
        settings = replace(settings, loudness=LoudnessMode(loudness))
    return settings


def _prompt(model: AvatarModel, prompt: str | None) -> str:
    if model.spec.dit.text_dim is None:
        if prompt is not None:
            raise InputError(f"prompt: the model {model.name} takes none; leave --prompt out")
        return ""
    return model.spec.defaults.prompt if prompt is None else prompt
