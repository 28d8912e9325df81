"""The reference image as the transformer sees it."""

import numpy as np
import pytest
import torch

from livetalk.media.image import image_to_tensor, resize_and_center_crop
from livetalk.streaming.conditioning import encode_conditioning
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.settings import ReferenceLayout
from livetalk.streaming.window import reference_mask
from tiny import LATENT_CHANNELS, tiny_vae
from tolerance import assert_near, expect, rounding

GEOMETRY = ChunkGeometry(window_frames=13)
IMAGE = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_mask_is_one_on_the_first_latent_frame() -> None:
    mask = reference_mask(torch.zeros(2, 7, 3, 4, 5), 4)
    assert mask.shape == (2, 4, 3, 4, 5)
    assert mask[:, :, 0].min() == 1 and mask[:, :, 1:].max() == 0


def test_first_frame_layout_is_the_image_then_grey() -> None:
    vae = tiny_vae()
    conditioning = encode_conditioning(vae, IMAGE, GEOMETRY)
    video = torch.zeros(1, 3, 13, 16, 24)
    video[:, :, 0] = IMAGE
    expected, limit = expect(lambda: vae.encode(video)[0], vae)
    assert conditioning.condition.shape == (1, 4 + LATENT_CHANNELS, 4, 4, 6)
    assert_near(conditioning.condition[:, 4:], expected, limit)
    assert_near(conditioning.reference_latents, expected[:, :, :1], limit)
    assert torch.equal(conditioning.reference_pixels[0, :, 0], IMAGE)


def test_broadcast_layout_repeats_the_reference() -> None:
    vae = tiny_vae()
    first = encode_conditioning(vae, IMAGE, GEOMETRY)
    broadcast = encode_conditioning(vae, IMAGE, GEOMETRY, ReferenceLayout.BROADCAST)
    assert torch.equal(broadcast.condition[:, :4], first.condition[:, :4])
    assert torch.equal(broadcast.reference_latents, first.reference_latents)
    for latents in broadcast.condition[:, 4:].unbind(2):
        assert torch.equal(latents, first.reference_latents[:, :, 0])


@pytest.mark.parametrize(("height", "width"), [(20, 10), (10, 20), (7, 7), (64, 32)])
def test_crop_keeps_the_middle(height: int, width: int) -> None:
    image = np.zeros((40, 30, 3), dtype=np.uint8)
    image[19:21, 14:16] = 255
    cut = resize_and_center_crop(image, height, width)
    assert cut.shape == (height, width, 3)
    rows, columns = cut[..., 0].astype(float).sum(1), cut[..., 0].astype(float).sum(0)
    centre = np.average(np.arange(height), weights=rows), np.average(np.arange(width), weights=columns)
    assert centre == pytest.approx(((height - 1) / 2, (width - 1) / 2), abs=0.6)


def test_pixels_run_from_minus_one_to_one() -> None:
    image = np.array([[[0, 255, 51]]], dtype=np.uint8)
    assert_near(image_to_tensor(image).flatten(), torch.tensor([-1.0, 1.0, -0.6]), rounding(3))
