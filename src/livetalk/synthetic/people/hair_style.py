"""Hair styles: length and direction of strands and their distance from the head."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from livetalk.synthetic.noise import Noise, smoothstep
from livetalk.synthetic.people.identity import Hair

_LONG = ("bob", "long", "wavy", "fringe")
_FREE = ("afro", "curly", "short", "buzz")


@dataclass(frozen=True)
class Style:
    """Growth rules of S strands.

    Attributes:
        wave, coil: amplitude of waves (decimetres) and their roundness.
    """

    hair: Hair  # the description
    base: Tensor  # [S, 3], roots on the unmorphed head
    length: Tensor  # [S], decimetres
    lift: Tensor  # [S], share of the surface normal in a strand's first direction
    clearance: Tensor  # [S], distance from the skull, decimetres
    jitter: Tensor  # [S, 3], smooth disturbance of the direction
    tone: Tensor  # [S], brightness
    parting: Tensor  # [S, 1], -1..1, side of the parting, smooth across it
    leader: Tensor  # [S], index of the strand that a lock gathers around
    bend: float  # 0..1, rate at which a strand takes its target direction
    clump: float  # 0..1, tightness of locks
    wave: float
    coil: float
    wave_turns: Tensor  # [S], waves per strand
    bangs: Tensor  # [S], bool, strands that hang over the forehead
    reaches_torso: bool  # whether strands may touch the shoulders

    def direction(self, point: Tensor, centre: Tensor, t: float) -> Tensor:
        """Return target directions [S, 3] at the strands' ends [S, 3]; `t` is 0 at the root, 1 at the tip."""
        local = point - centre
        flow = F.normalize(_FIELDS[self.hair.style](self, local, t), dim=1)
        if self.hair.style not in _FREE:
            # Remove the outward component, so that strands lie on the head.
            rise = 0.7 * local[:, 1:2].clamp_min(0)
            outward = F.normalize(torch.cat([local[:, :1], rise, local[:, 2:]], 1), dim=1)
            flow = flow - outward * (flow * outward).sum(1, keepdim=True).clamp_min(0)
        return F.normalize(flow + self.jitter * (0.4 + 0.6 * t), dim=1)

    def keep_off_face(self, point: Tensor, centre: Tensor, t: float) -> Tensor:
        """Move long hair aside, so that it frames the face instead of covering it."""
        if self.hair.style not in (*_LONG, "curly"):
            return point
        local = point - centre
        low, ahead = _ramps(local[:, 1:], (0.75, 0.35), (0.05, 0.75)).unbind(1)
        edge = (0.52 + 0.9 * self.clearance) * low * ahead
        edge = torch.where(self.bangs & (local[:, 1] > 0.18), torch.zeros_like(edge), edge)
        side = torch.where(self.parting[:, 0] >= 0, 1.0, -1.0)
        x = torch.where(edge > 0, side * torch.maximum(local[:, 0] * side, edge), local[:, 0])
        return torch.cat([(x + centre[0])[:, None], point[:, 1:]], 1)


def _vector(like: Tensor, x: float, y: float, z: float) -> Tensor:
    return _constant(like.device, x, y, z)


@lru_cache(maxsize=256)
def _constant(device: torch.device, *values: float) -> Tensor:
    """Cache constants on the device, because copying one there would wait for all work in progress."""
    return torch.tensor(values, device=device)


@lru_cache(maxsize=64)
def _spans(device: torch.device, lows: tuple[float, ...], highs: tuple[float, ...]) -> Tensor:
    return torch.tensor([high - low for low, high in zip(lows, highs, strict=True)], device=device)


def _ramps(values: Tensor, lows: tuple[float, ...], highs: tuple[float, ...]) -> Tensor:
    """Apply `smoothstep` to the columns of [S, K], each with its own bounds."""
    t = ((values - _constant(values.device, *lows)) / _spans(values.device, lows, highs)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _long(style: Style, local: Tensor, t: float) -> Tensor:
    """Return the flow of parted hair: sideways and back over the skull, then down."""
    side = style.parting
    _, height, depth = torch.split(local, 1, dim=1)
    ramps = _ramps(
        torch.cat([height, height, height, depth], 1), (0.35, 0.15, 0.0, 0.45), (0.85, 0.5, -0.5, 0.85)
    )
    top, high, hang, front = torch.split(ramps, 1, dim=1)
    flow = side * _vector(local, 1.0, 0, 0) * top + _vector(local, 0, -0.9, 0)
    flow = flow + _vector(local, 0, 0.25, -1.5) * front * high
    drift = {"bob": -0.12, "wavy": 0.05}.get(style.hair.style, -0.03)
    flow = flow + (_vector(local, drift, 0, 0) * torch.sign(local[:, :1]) - _vector(local, 0, 0.4, 0)) * hang
    if style.hair.style == "bob":
        inward = -local * _vector(local, 0.5, 0, 0.5)
        flow = flow + inward * max(0.0, t - 0.7) * 3
    bangs = _vector(local, 0, -0.75, 0.75) + side * _vector(local, 0.12, 0, 0)
    return torch.where(style.bangs[:, None], bangs, flow)


def _swept(style: Style, local: Tensor, t: float) -> Tensor:
    """Return the flow of hair brushed back."""
    front = smoothstep(0.3, 0.9, local[:, 2])[:, None]
    flow = _vector(local, 0, -0.25, -1.0) + _vector(local, 0, 0.35, 0) * front * (1 - t)
    sides = smoothstep(0.35, 0.6, local[:, 0].abs())[:, None] * smoothstep(0.75, 0.45, local[:, 1])[:, None]
    return flow + _vector(local, 0, -0.55, 0) * sides


def _side(style: Style, local: Tensor, t: float) -> Tensor:
    """Return the flow of hair combed over from a side parting, with hanging sides."""
    side = style.parting
    front = smoothstep(0.55, 0.8, local[:, 2]) * smoothstep(0.35, 0.55, local[:, 1])
    top = torch.maximum(smoothstep(0.72, 1.0, local[:, 1]), front)[:, None]
    over = (
        side * _vector(local, 1.0, 0, 0)
        + _vector(local, 0, 0.15, -0.55)
        - _vector(local, 0, 0, 0.6) * front[:, None]
    )
    down = _vector(local, 0, -1.0, -0.45)
    return torch.lerp(down, over, top)


def _short(style: Style, local: Tensor, t: float) -> Tensor:
    """Return the flow of short hair: up and forward on top, down at the sides."""
    top = smoothstep(0.45, 0.85, local[:, 1])[:, None]
    forward = _vector(local, 0.45 * (1 if style.hair.part >= 0 else -1), 0.0, 0.30)
    forward = forward + F.normalize(local, dim=1) * 0.40
    return torch.lerp(_vector(local, 0, -1.0, -0.25).expand_as(local), forward, top)


def _crop(style: Style, local: Tensor, t: float) -> Tensor:
    """Return the flow of hair brushed forward over the hairline."""
    top = smoothstep(0.45, 0.85, local[:, 1])[:, None]
    forward = _vector(local, 0.1, -0.3, 1.0)
    return torch.lerp(_vector(local, 0, -1.0, -0.1).expand_as(local), forward, top)


def _afro(style: Style, local: Tensor, t: float) -> Tensor:
    """Return the flow of hair that grows straight outward."""
    return F.normalize(local, dim=1) + _vector(local, 0, 0.1, 0)


def _curly(style: Style, local: Tensor, t: float) -> Tensor:
    """Return the flow of long hair that first grows outward."""
    return F.normalize(_long(style, local, t), dim=1) + F.normalize(local, dim=1) * (0.15 * (1 - t))


def _bun(style: Style, local: Tensor, t: float) -> Tensor:
    """Return the flow of hair pulled back and up to the crown."""
    knot = _vector(local, 0, 0.72, -0.75)
    return F.normalize(knot - local, dim=1) + F.normalize(local, dim=1) * 0.15


_FIELDS = {
    "buzz": _crop, "short": _short, "crop": _crop, "swept": _swept, "side": _side, "fringe": _long,
    "bob": _long, "long": _long, "wavy": _long, "curly": _curly, "afro": _afro, "bun": _bun,
}  # fmt: skip

_TOP_LENGTH = {
    "buzz": 0.09,
    "short": 0.30,
    "crop": 0.30,
    "swept": 1.25,
    "side": 0.95,
    "curly": 1.7,
    "afro": 0.42,
    "bun": 1.9,
}
_SIDE_LENGTH = {
    "buzz": 0.07,
    "short": 0.16,
    "crop": 0.15,
    "swept": 0.45,
    "side": 0.30,
    "curly": 1.15,
    "afro": 0.36,
    "bun": 1.9,
}
_THICKNESS = {
    "buzz": 0.015, "short": 0.05, "crop": 0.05, "swept": 0.13, "side": 0.11, "fringe": 0.13,
    "bob": 0.15, "long": 0.13, "wavy": 0.16, "curly": 0.17, "afro": 0.10, "bun": 0.05,
}  # fmt: skip


def make_style(hair: Hair, base: Tensor, noise: Noise, rng: np.random.Generator) -> Style:
    """Create growth rules for strands rooted at `base` [S, 3] on the unmorphed head."""
    count, device = len(base), base.device
    x, y, z = base.unbind(1)

    def random(*shape: int) -> Tensor:
        return torch.from_numpy(rng.random(shape, dtype=np.float32)).to(device)

    top = smoothstep(7.75, 8.1, y)
    if hair.style in _LONG:
        # Strands from higher up are longer, so that all tips end at about the same height.
        length = hair.length * (1.0 if hair.style == "bob" else 1.2) + 0.75 * (y - 7.6).clamp(-0.8, 0.9)
    else:
        length = _SIDE_LENGTH[hair.style] + (_TOP_LENGTH[hair.style] - _SIDE_LENGTH[hair.style]) * top
    bangs = torch.zeros(count, dtype=torch.bool, device=device)
    if hair.style == "fringe":
        bangs = (z > 0.95) & (y > 7.75) & (x.abs() < 0.5)
        length = torch.where(bangs, 0.60 + 0.75 * (y - 7.95).clamp_min(0) + 0.05 * hair.volume, length)
    length = length * (0.88 + 0.16 * random(count)) * (0.9 + 0.2 * noise(base * 3))
    layer = random(count)
    smooth = torch.stack([noise.fractal(base * 2.6 + shift, 2) - 0.5 for shift in (1.3, 7.9, 14.1)], 1)
    fine = random(count, 3) - 0.5
    # Many small clumps look like tight curls, few large ones like locks.
    clumps = {"afro": 700, "curly": 420, "buzz": 700}.get(hair.style, 240)
    centres = torch.from_numpy(rng.permutation(count)[:clumps].astype(np.int64)).to(device)
    leader = centres[torch.cdist(base, base[centres]).argmin(1)]
    lock = random(count)[leader]
    thickness = _THICKNESS[hair.style] * (0.6 + 0.5 * hair.volume)
    return Style(
        hair=hair,
        base=base,
        length=length,
        lift=_lift(hair, top),
        clearance=thickness * (0.15 + 0.85 * layer) * (0.75 + 0.5 * noise(base * 2.0 + 4)),
        jitter=smooth * (0.3 if hair.style in _LONG else 0.5)
        + fine * (0.05 if hair.style in _LONG else 0.10),
        tone=(0.88 + 0.24 * lock) * (0.94 + 0.12 * random(count)),
        parting=torch.tanh((x - 0.55 * hair.part) / 0.06)[:, None],
        leader=leader,
        bend=0.35 if hair.style in (*_LONG, "bun", "side") else 0.22,
        clump={"buzz": 0.0, "afro": 0.0, "curly": 0.6, "crop": 0.25, "short": 0.3}.get(hair.style, 0.45),
        wave={"wavy": 0.06, "curly": 0.06, "afro": 0.045}.get(hair.style, 0.012 + 0.03 * hair.curl),
        coil={"wavy": 0.4, "curly": 0.9, "afro": 1.0}.get(hair.style, 0.2),
        wave_turns=length * {"wavy": 1.15, "curly": 2.6, "afro": 4.0}.get(hair.style, 0.8),
        bangs=bangs,
        reaches_torso=hair.style in ("long", "wavy", "fringe", "curly"),
    )


def _lift(hair: Hair, top: Tensor) -> Tensor:
    """Return the steepness [S] at which strands leave the skin."""
    amount = {"swept": 1.1, "short": 1.2, "afro": 1.0, "curly": 0.9, "buzz": 1.5, "side": 0.7, "crop": 0.5}
    return amount.get(hair.style, 0.35) * (0.4 + 0.6 * top)
