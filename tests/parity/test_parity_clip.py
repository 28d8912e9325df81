"""The image encoder against the published one: prepared pixels, features, and the block left out."""

from collections.abc import Callable

import torch
from parity_case import Reference
from parity_networks import load_clip
from torch import Tensor

from livetalk.models.clip_vision import prepare_clip_pixels

NAME = "clip_tiny"


def test_parity_clip() -> None:
    reference = Reference.load(NAME)
    encoder, whole_tower = load_clip(reference), load_clip(reference, all_blocks=True)
    assert len(whole_tower.blocks) == reference.meta["config"]["num_layers"]
    makers: dict[str, Callable[[Tensor], Tensor]] = {
        "pixels": lambda pixels: pixels,
        "features": encoder,
        "all_blocks": whole_tower,
    }
    for name in reference.meta["cases"]:
        case = reference.case(name)
        got = {}
        for key in reference.expected(name):
            stage, _, which = key.rpartition("_")
            pixels = prepare_clip_pixels(case[f"in.image_{which}"][:, :, 0], encoder.config.image_size)
            with torch.no_grad():
                got[key] = makers[stage](pixels)
        assert set(got) == reference.expected(name)
        reference.check(name, got)
