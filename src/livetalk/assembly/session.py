"""Options of one video or stream, checked and completed with a model's defaults."""

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
"""Named frame sizes."""

SIDE_MULTIPLE = 16
"""Both sides of a frame are multiples of this, in pixels: one token of a published model covers 16 x 16."""

MAX_SIDE = 4096
"""Longest side, pixels: no model is trained for more, and a typing error must not exhaust memory."""

_SIZE = re.compile(r"(\d{1,5})\s*[xX*]\s*(\d{1,5})")


class SessionOptions(TypedDict, total=False):
    """Options of one video or stream; an absent option or None selects the model's default.

    Attributes:
        seed: of the noise; the same seed gives the same frames on the same machine.
        crop: part of the portrait that is used, see `frame_portrait`.
        num_steps: denoising steps.
        size: frame size, "HEIGHTxWIDTH" or a name in `SIZES`.
        prompt: description of the video, for a model with a text branch.
        audio_mode: "stream" encodes audio as it arrives; "whole" needs the complete recording and encodes
            each frame with its future.
        loudness: "off", "running" or "published", see `LoudnessMode`.
        latents_per_decode: latent frames (4 frames each) of a piece, the unit that a progressive stream
            delivers.
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
    """Options of one video, checked and completed; `prompt` is empty for a model without a text branch."""

    settings: StreamSettings
    portrait: PortraitConfig
    seed: int
    crop: Crop
    prompt: str
    audio_mode: AudioMode

    def describe(self) -> dict[str, object]:
        """Return the options as strings and numbers for a video's metadata."""
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
    """Check the options that do not depend on the model, before one is loaded.

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
    """Check options against a model and complete them with its defaults.

    Raises:
        InputError: an option is out of range or does not exist for this model.
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
    """Parse a frame size: a name in `SIZES` or "HEIGHTxWIDTH" in pixels, both multiples of 16.

    Raises:
        InputError: `size` is neither, or a side exceeds `MAX_SIDE`.
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
        raise InputError(f"size {size}: the model {model.name} generates {own.height}x{own.width} only")
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
