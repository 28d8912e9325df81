"""Colour matching and picture framing against the published functions."""

import pytest
import torch
from parity_case import Reference

from livetalk.streaming.color import lab_to_rgb, match_color, measure_color, rgb_to_lab
from livetalk.streaming.conditioning import image_to_tensor, resize_and_center_crop

NAME = "media"


def test_parity_media_color_match() -> None:
    reference = Reference.load(NAME)
    for name in reference.meta["cases"]:
        case = reference.case(name)
        colors = measure_color(case["color.reference"])
        strengths = {
            key: float(key.removeprefix("color.out_"))
            for key in reference.expected(name)
            if key.startswith("color.out_") and not key.endswith("_bf16")
        }
        assert strengths
        reference.check(name, {k: match_color(case["color.source"], colors, s) for k, s in strengths.items()})


def test_parity_media_color_spaces() -> None:
    reference = Reference.load(NAME)
    for name in reference.meta["cases"]:
        case = reference.case(name)
        lab = rgb_to_lab((case["color.source"] + 1) / 2).movedim(1, -1)
        rgb = lab_to_rgb(case["color.lab_random"].movedim(-1, 1)).movedim(1, -1)
        reference.check(name, {"color.lab_source": lab, "color.lab_to_rgb": rgb})


def test_parity_media_constant_frames_stay_constant() -> None:
    reference = Reference.load(NAME)
    for name in reference.meta["cases"]:
        case = reference.case(name)
        matched = match_color(case["color.const_source"], measure_color(case["color.reference"]))
        assert matched.std(dim=(3, 4)).max() < 1e-4


@pytest.mark.parametrize("normalised", [False, True])
def test_parity_media_resize(normalised: bool) -> None:
    reference = Reference.load(NAME)
    targets = {entry["case"]: entry["target"] for entry in reference.meta["config"]["resize_cases"]}
    for name in reference.meta["cases"]:
        case = reference.case(name)
        got = {}
        for number, (height, width) in targets.items():
            image = resize_and_center_crop(case[f"resize.in_{number}"].numpy(), height, width)
            if not normalised:
                got[f"resize.out_{number}"] = torch.from_numpy(image.copy()).permute(2, 0, 1)[None, :, None]
            elif f"resize.norm_{number}_f32" in case:
                got[f"resize.norm_{number}_f32"] = image_to_tensor(image)[None, :, None]
        assert got
        reference.check(name, got)
