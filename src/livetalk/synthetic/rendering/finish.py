"""Development of rendered frames: tones of cameras, brush strokes, flat tones and outlines of drawings."""

import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.noise import smoothstep
from livetalk.synthetic.people.world import Finish
from livetalk.synthetic.rendering.background import gaussian_blur

_LUMA = (0.299, 0.587, 0.114)
_REFERENCE_SIZE = 256


def develop(display: Tensor, finish: Finish) -> Tensor:
    """Apply a finish to frames [F, S, S, 3] of display values 0..1, to values 0..1 of the same shape."""
    picture = display.permute(0, 3, 1, 2)
    scale = picture.shape[-1] / _REFERENCE_SIZE
    lines = _outlines(picture, scale) * finish.lines if finish.lines > 0 else None
    if finish.brush > 0:
        picture = _brushed(picture, max(1, round(finish.brush * scale)))
    luma = _luma(picture)
    if finish.levels > 0:
        flat = _flattened(luma, finish.levels)
        picture = picture * (flat / luma.clamp_min(1e-3))
        luma = flat
    picture = luma + (picture - luma) * finish.saturation
    gain = picture.new_tensor(finish.gain)[:, None, None]
    picture = (picture * gain).clamp(0, 1) ** finish.gamma
    picture = picture + finish.paper * (1 - picture)
    if lines is not None:
        picture = picture * (1 - lines)
    return picture.permute(0, 2, 3, 1)


def _luma(picture: Tensor) -> Tensor:
    """Return the brightness [F, 1, S, S] of frames [F, 3, S, S]."""
    return (picture * picture.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)


def _flattened(luma: Tensor, levels: int) -> Tensor:
    """Return brightness in steps with narrow slopes, which keep their borders from flickering."""
    scaled = luma.clamp(0, 1) * levels
    step = scaled.floor()
    return (step + smoothstep(0.40, 0.60, scaled - step)) / levels


def _brushed(picture: Tensor, radius: int) -> Tensor:
    """Replace each pixel by the mean of the most even of four squares at whose corner it lies."""
    side = radius + 1
    padded = F.pad(picture, (radius, radius, radius, radius), mode="replicate")
    mean = F.avg_pool2d(padded, side, 1)
    square = F.avg_pool2d(_luma(padded) ** 2, side, 1)
    spread = square - _luma(mean) ** 2
    rows, columns = picture.shape[-2:]
    best, least = None, None
    for top in (0, radius):
        for left in (0, radius):
            here = mean[..., top : top + rows, left : left + columns]
            uneven = spread[..., top : top + rows, left : left + columns]
            if best is None or least is None:
                best, least = here, uneven
                continue
            closer = uneven < least
            best, least = torch.where(closer, here, best), torch.where(closer, uneven, least)
    assert best is not None
    return best


def _outlines(picture: Tensor, scale: float) -> Tensor:
    """Return the strength [F, 1, S, S], 0..1, of lines on the dark side of edges."""
    luma = _luma(picture).expand(-1, 3, -1, -1)
    fine = gaussian_blur(luma, 0.8 * scale)[:, :1]
    coarse = gaussian_blur(luma, 1.8 * scale)[:, :1]
    # Relative to the local brightness: outlines are as strong in dark hair as on bright skin.
    return smoothstep(0.02, 0.10, (coarse - fine) / (coarse + 0.12))
