"""Options of one stream: as keywords that users pass, and as a checked value that engines take.

This module does not import PyTorch, because clients of the engine need it.
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypedDict, TypeVar

from livetalk.crop import CROPS, Crop
from livetalk.errors import InputError
from livetalk.streaming.settings import AudioMode, LoudnessMode

EnumT = TypeVar("EnumT", bound=Enum)

# Named frame sizes: height and width in pixels.
SIZES = {
    "portrait": (768, 448),
    "landscape": (448, 768),
    "portrait-small": (720, 416),
    "landscape-small": (416, 720),
    "square": (640, 640),
    "square-small": (512, 512),
}

SIDE_MULTIPLE = 16  # pixels: the published VAE reduces a side by 8 and the patches by 2
MAX_STEPS = 1000
MAX_SIDE = 4096  # pixels: no model is trained for more, and a typing error must not exhaust memory

_SIZE = re.compile(r"(\d{1,5})\s*[xX*]\s*(\d{1,5})")


class StreamOptions(TypedDict, total=False):
    """Options of one video or stream; an absent option or None selects the model's default."""

    seed: int | None  # of the noise; the same seed gives the same frames on the same machine
    crop: Crop | None  # part of the portrait that is used, see `frame_portrait`
    num_steps: int | None
    size: str | None  # frame size, "HEIGHTxWIDTH" or a name in `SIZES`
    prompt: str | None  # description of the video, for a model with a text branch
    # "stream" encodes audio as it arrives; "whole" waits for the end and encodes each frame with its future.
    audio_mode: str | None
    loudness: str | None  # "off", "running" or "published", see `LoudnessMode`
    latents_per_decode: int | None  # latent frames (4 frames each) of a piece of a progressive stream


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """What a client asks of a stream. None selects the model's default."""

    seed: int | None = None  # of the noise, 0..2**63 - 1
    crop: Crop | None = None
    num_steps: int | None = None
    size: tuple[int, int] | None = None  # height and width of the frames, pixels, multiples of 16
    prompt: str | None = None  # for a model with a text branch
    audio_mode: AudioMode = AudioMode.STREAM  # WHOLE waits for the end of the audio and cannot be cut
    loudness: LoudnessMode | None = None
    latents_per_decode: int | None = None
    progressive: bool = False  # deliver frames as they are decoded instead of whole chunks
    # No chunk is begun while this many delivered frames have not been taken; None means one chunk.
    max_pending_frames: int | None = None
    cuttable: bool = True  # keep what a cut needs: the frames and states of the last chunks

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed}: must be 0 or more and below 2**63")
        if self.crop is not None and self.crop not in CROPS:
            raise InputError(f"crop {self.crop}: is not one of {', '.join(CROPS)}")
        for name in ("num_steps", "latents_per_decode", "max_pending_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name.replace('_', ' ')} {value}: at least 1 is needed")
        if self.num_steps is not None and self.num_steps > MAX_STEPS:
            raise InputError(
                f"num steps {self.num_steps}: at most {MAX_STEPS}, the levels of noise in training"
            )
        if self.size is not None:
            _check_size(*self.size)

    @classmethod
    def from_options(cls, options: StreamOptions) -> "StreamSpec":
        """Parse and check options; `InputError` names one that is out of its range."""
        size = options.get("size")
        return cls(
            seed=options.get("seed"),
            crop=options.get("crop"),
            num_steps=options.get("num_steps"),
            size=None if size is None else parse_size(size),
            prompt=options.get("prompt"),
            audio_mode=_parse_choice(AudioMode, "audio mode", options.get("audio_mode")) or AudioMode.STREAM,
            loudness=_parse_choice(LoudnessMode, "loudness", options.get("loudness")),
            latents_per_decode=options.get("latents_per_decode"),
        )


def parse_size(size: str) -> tuple[int, int]:
    """Return height and width of a frame size: a name in `SIZES` or "HEIGHTxWIDTH" in pixels.

    Any other size, or one whose sides are not multiples of 16 up to `MAX_SIDE`, raises `InputError`.
    """
    if size in SIZES:
        return SIZES[size]
    match = _SIZE.fullmatch(size.strip())
    if match is None:
        raise InputError(f"size {size}: is neither HEIGHTxWIDTH nor one of {', '.join(SIZES)}")
    height, width = int(match[1]), int(match[2])
    _check_size(height, width)
    return height, width


def _check_size(height: int, width: int) -> None:
    if max(height, width) > MAX_SIDE:
        raise InputError(f"size {height}x{width}: at most {MAX_SIDE}x{MAX_SIDE} pixels")
    nearest = _round(height), _round(width)
    if nearest != (height, width):
        raise InputError(
            f"size {height}x{width}: height and width must be multiples of {SIDE_MULTIPLE}; the nearest is "
            f"{nearest[0]}x{nearest[1]}"
        )


def _round(pixels: int) -> int:
    return max(1, round(pixels / SIDE_MULTIPLE)) * SIDE_MULTIPLE


def _parse_choice(kind: type[EnumT], name: str, value: str | None) -> EnumT | None:
    if value is None:
        return None
    choices = [str(choice.value) for choice in kind]
    if value not in choices:
        raise InputError(f"{name} {value}: is not one of {', '.join(choices)}")
    return kind(value)
