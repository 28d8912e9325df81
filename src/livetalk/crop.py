"""Names of the ways to frame a portrait, see `livetalk.media.framing.frame_portrait`."""

from typing import Literal, get_args

Crop = Literal["face", "center", "none", "published"]
CROPS: tuple[Crop, ...] = get_args(Crop)
