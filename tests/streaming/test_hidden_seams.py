"""Chunk borders: no step where two decodings of one frame differ, nothing changed where they agree."""

import dataclasses

import torch

from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.conditioning import prepare_stream
from livetalk.streaming.seams import measure_seam
from livetalk.streaming.settings import SeamConfig
from tiny import IMAGE_SIDE, tiny_model
from tolerance import assert_near, rounding

ON = SeamConfig(color_frames=8, detail_frames=3)


def window(seed: int = 0) -> torch.Tensor:
    frame = torch.rand(1, 3, 1, 32, 32, generator=torch.Generator().manual_seed(seed)) - 0.5
    return frame.expand(-1, -1, 9, -1, -1).clone()


def hide(pixels: torch.Tensor, shown: torch.Tensor) -> torch.Tensor:
    """Fade in the eight frames after the first of `pixels`, whose moment was shown as `shown`."""
    return measure_seam(pixels[:, :, 0], shown, 8, ON).hide(pixels[:, :, 1:], 0)


def test_a_constant_step_becomes_a_ramp_that_ends() -> None:
    pixels = window()
    shown = pixels[:, :, 0] + 0.1
    joined = hide(pixels, shown)
    steps = (joined - pixels[:, :, 1:]).mean((0, 1, 3, 4))
    # Means over the pixels of a frame, of which the largest is 0.6.
    assert (steps - 0.1 * (1 - torch.arange(1, 9) / 9)).abs().max() < 0.6 * rounding(32 * 32)


def test_detail_fades_before_colour() -> None:
    pixels = window()
    checks = torch.where(torch.arange(32) % 2 == 0, 0.1, -0.1).expand(1, 3, 32, 32)
    joined = hide(pixels, pixels[:, :, 0] + checks)
    left = (joined - pixels[:, :, 1:]).abs().mean((0, 1, 3, 4))
    assert left[0] > 0.06
    assert left[3:].max() < 0.6 * rounding()


def test_agreeing_decodings_stay_as_they_are() -> None:
    pixels = window()
    assert_near(hide(pixels, pixels[:, :, 0]), pixels[:, :, 1:], rounding(2))


def test_a_stream_steps_less_at_its_borders() -> None:
    image = torch.rand(3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = tiny_model()
    steps = {}
    for name, seam in (("plain", SeamConfig()), ("joined", SeamConfig(color_frames=8, detail_frames=8))):
        settings = dataclasses.replace(plain.settings, seam=seam, decode_dropped=name == "plain")
        model = plain._replace(settings=settings)
        prepared = prepare_stream(*model, image)
        state = create_state(*model, prepared, 0)
        frames = []
        for _ in range(3):
            chunk, state = generate_chunk(*model, prepared, torch.zeros(8 * 640), state)
            frames.append(chunk.pixels)
        video = torch.cat(frames, 1)
        change = video.diff(dim=1).abs().mean((0, 2, 3))
        steps[name] = change[[7, 15]].mean()
        assert (state.last_frame is None) == (name == "plain")
    assert steps["joined"] < steps["plain"]
