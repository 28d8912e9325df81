"""Boxes around face and mouth, and loss weights that emphasise them."""

import torch
from torch import Tensor


def box_weights(
    face_box: Tensor, mouth_box: Tensor, size: int, face: float, eyes: float, mouth: float
) -> Tensor:
    """Return loss weights [B, 1, size, size], float32, mean 1, that emphasise face, eyes and mouth.

    Boxes are [B, 4]: left, top, right, bottom as shares of the frame, 0..1. `face`, `eyes` and `mouth` are
    extra weights inside a box; the eye band is 20 to 50 % of the face box's height.
    """
    left, top, right, bottom = face_box.unbind(1)
    height = bottom - top
    eye_box = torch.stack([left, top + 0.2 * height, right, top + 0.5 * height], 1)
    weights = 1.0 + face * _soft_box(face_box, size) + eyes * _soft_box(eye_box, size)
    weights = weights + mouth * _soft_box(mouth_box, size)
    # Mean 1, so that the loss of a clip does not depend on how much of the frame its face fills.
    return weights / weights.mean((2, 3), keepdim=True)


def _soft_box(box: Tensor, size: int, softness: float = 0.02) -> Tensor:
    grid = (torch.arange(size, device=box.device, dtype=torch.float32) + 0.5) / size
    left, top, right, bottom = (edge[:, None] for edge in box.float().unbind(1))
    across = torch.sigmoid((grid - left) / softness) * torch.sigmoid((right - grid) / softness)
    down = torch.sigmoid((grid - top) / softness) * torch.sigmoid((bottom - grid) / softness)
    return (down[:, :, None] * across[:, None, :])[:, None]


def mirror_boxes(boxes: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror boxes [B, 4] horizontally where `mirrored` [B] is true."""
    left, top, right, bottom = boxes.unbind(1)
    flipped = torch.stack([1 - right, top, 1 - left, bottom], 1)
    return torch.where(mirrored[:, None], flipped, boxes)
