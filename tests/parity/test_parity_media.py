"""Loudness, colour matching and picture framing against the published functions."""

from typing import Any

import torch
from parity_case import Reference
from torch import Tensor

from livetalk.media.image import image_to_tensor, resize_and_center_crop
from livetalk.streaming.color import lab_to_rgb, match_color, measure_color, rgb_to_lab
from livetalk.streaming.loudness import TARGET_LUFS, integrated_loudness, normalize_published
from tolerance import rounding

NAME = "media"

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def loudness(case: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Measure and normalise every recorded sound."""
    assert config["lufs"] == TARGET_LUFS
    got = {}
    for key in [key for key in case if key.startswith("loud.in_")]:
        which = key.removeprefix("loud.in_")
        got[f"loud.out_{which}"] = normalize_published(case[key].double(), config["sr"])
        got[f"loud.lufs_{which}"] = integrated_loudness(case[key], config["sr"])[None]
    return got


def color_match(case: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    """Match the recorded frames at every strength, and in bfloat16 as far as a caller can."""
    got = {}
    for key in expected:
        if key.startswith("color.out_"):
            dtype = torch.bfloat16 if key.endswith("_bf16") else torch.float32
            strength = float(key.removeprefix("color.out_").removesuffix("_bf16"))
            colors = measure_color(case["color.reference"].to(dtype))
            got[key] = match_color(case["color.source"].to(dtype), colors, strength)
    return got


def color_spaces(case: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the recorded colours, channels last as recorded."""
    return {
        "color.lab_source": rgb_to_lab((case["color.source"] + 1) / 2).movedim(1, -1),
        "color.lab_to_rgb": lab_to_rgb(case["color.lab_random"].movedim(-1, 1)).movedim(1, -1),
    }


def framing(case: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Resize, crop and scale the recorded pictures."""
    got = {}
    for entry in config["resize_cases"]:
        number, (height, width) = entry["case"], entry["target"]
        image = resize_and_center_crop(case[f"resize.in_{number}"].numpy(), height, width)
        got[f"resize.out_{number}"] = torch.from_numpy(image.copy()).permute(2, 0, 1)[None, :, None]
        for name, dtype in DTYPES.items():
            if (key := f"resize.norm_{number}_{name}") in case:
                scaled = image_to_tensor(image, dtype)
                assert scaled.dtype == dtype
                got[key] = scaled[None, :, None]
    return got


def test_parity_media() -> None:
    reference = Reference.load(NAME)
    config = reference.meta["config"]
    for name in reference.meta["cases"]:
        case, expected = reference.case(name), reference.expected(name)
        got = {
            **loudness(case, config),
            **color_match(case, expected),
            **color_spaces(case),
            **framing(case, config),
        }
        assert set(got) == expected
        reference.check(name, got)


def test_parity_media_constant_frames_stay_constant() -> None:
    reference = Reference.load(NAME)
    for name in reference.meta["cases"]:
        case = reference.case(name)
        matched = match_color(case["color.const_source"], measure_color(case["color.reference"]))
        # Statistics over a frame, enlarged by the steepest slope of the curve of a screen.
        height, width = matched.shape[3:]
        assert matched.std(dim=(3, 4)).max() < 12.92 * rounding(height * width)
