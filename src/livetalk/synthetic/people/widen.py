"""Random worlds for training clips: skin, light, background, clothes, camera and finish."""

from dataclasses import replace

import numpy as np

from livetalk.synthetic.people.identity import Identity, Light, View
from livetalk.synthetic.people.restyle import restyle
from livetalk.synthetic.people.wear import dress
from livetalk.synthetic.people.world import (
    BACKDROPS,
    PRINTS,
    Backdrop,
    Colour,
    Finish,
    Print,
    SkinPaint,
    World,
)

DRAWN_SHARE = 0.08
"""Share of worlds that look drawn or painted."""

_STREAM = 23
_CHEST = 2.3
"""Decimetres of the body below the eyes that the mesh has, with a margin."""


def widen(identity: Identity, seed: int) -> Identity:
    """Return the same person in a random world, deterministically by `seed`.

    Each property has its own strength and is often left as it was, so that worlds between the plain one and
    the widest are frequent.
    """
    # A generator of its own: the person is the same with and without the world.
    rng = np.random.default_rng((seed, _STREAM))
    view, turn = _view(rng, identity.view)
    light = _light(rng, identity.light, view)
    world = World(
        skin=_skin(rng) if rng.random() < 0.85 else None,
        cloth=_print(rng) if rng.random() < 0.55 else None,
        backdrop=_backdrop(rng) if rng.random() < 0.72 else None,
        finish=_finish(rng),
        turn=turn,
    )
    # Periods on headwear are radians.
    world = dress(world, seed, _print(rng), _colour(rng, 0.03, 0.8))
    widened = replace(identity, light=light, view=view, world=world)
    return restyle(widened, seed, _print(rng), _colour(rng, 0.03, 0.6))


def _strength(rng: np.random.Generator, share: float) -> float:
    """Draw 0..1, more often small, for a share of the draws; otherwise 0."""
    return float(rng.random() ** 1.5) if rng.random() < share else 0.0


def _colour(rng: np.random.Generator, low: float = 0.01, high: float = 0.9) -> Colour:
    """Draw any colour, strong ones included, with its brightest channel in low..high (linear)."""
    hue = rng.random() * 2 * np.pi - np.array([0, 2 * np.pi / 3, 4 * np.pi / 3])
    wheel = (1 + np.cos(hue)) / 2
    pale = 1 - rng.random() ** 1.3 * (1 - wheel)
    value = np.exp(rng.uniform(np.log(low), np.log(high)))
    red, green, blue = (float(channel) for channel in pale / pale.max() * value)
    return red, green, blue


_NATURAL = (
    (0.72, 0.70, 0.66), (0.45, 0.42, 0.38), (0.30, 0.20, 0.12), (0.16, 0.20, 0.07), (0.09, 0.12, 0.05),
    (0.35, 0.52, 0.75), (0.55, 0.45, 0.30), (0.62, 0.60, 0.62), (0.10, 0.09, 0.08), (0.40, 0.14, 0.09),
    (0.80, 0.78, 0.72), (0.20, 0.26, 0.33),
)  # fmt: skip
"""Plaster, stone, wood, leaves, sky, sand, concrete, shade, brick, paper, slate; linear light."""


def _palette(rng: np.random.Generator, count: int) -> tuple[Colour, ...]:
    """Draw the colours of a background: of things outdoors and in rooms, or for a third of the draws any."""
    if rng.random() < 0.33:
        return tuple(_colour(rng, 0.03, 0.9) for _ in range(count))
    chosen = np.array(_NATURAL)[rng.integers(len(_NATURAL), size=count)]
    varied = np.clip(chosen * np.exp(rng.normal(0, 0.35, (count, 1)) + rng.normal(0, 0.1, (count, 3))), 0, 1)
    return tuple((float(red), float(green), float(blue)) for red, green, blue in varied)


def _skin(rng: np.random.Generator) -> SkinPaint:
    """Draw skin with several kinds of unevenness, each absent in many people."""
    first, second, third, fourth = (_strength(rng, 0.7) for _ in range(4))
    blotches = [(1.05, 0.68, 0.62), (0.62, 0.52, 0.46), (1.25, 1.2, 1.15), (0.95, 0.85, 0.6)]
    makeup = _strength(rng, 0.25)
    return SkinPaint(
        seed=int(rng.integers(1 << 31)),
        scales=(first, second, third, fourth),
        blotches=_strength(rng, 0.45),
        blotch=blotches[rng.integers(len(blotches))],
        freckles=_strength(rng, 0.3),
        moles=int(rng.integers(1, 9)) if rng.random() < 0.5 else 0,
        wrinkles=_strength(rng, 0.5),
        stubble=_strength(rng, 0.5),
        relief=_strength(rng, 0.6),
        makeup=makeup,
        eyelid=_colour(rng, 0.05, 0.5),
        lip=_colour(rng, 0.1, 0.6),
        cheek=(0.8, float(rng.uniform(0.2, 0.4)), float(rng.uniform(0.15, 0.4))),
        oil=_strength(rng, 0.45),
    )


def _print(rng: np.random.Generator, smallest: float = 0.06) -> Print:
    """Draw a pattern of two more colours."""
    return Print(
        kind=str(rng.choice(PRINTS)),
        first=_colour(rng),
        second=_colour(rng),
        period=float(smallest * np.exp(rng.uniform(0, np.log(18)))),
        angle=float(rng.choice([0.0, np.pi / 2, rng.uniform(0, np.pi)])),
        seed=int(rng.integers(1 << 31)),
    )


def _backdrop(rng: np.random.Generator) -> Backdrop:
    """Draw a background, sharp in two fifths of the draws."""
    kind = str(rng.choice(BACKDROPS, p=[0.55, 0.15, 0.15, 0.15]))
    blur = 0.0 if rng.random() < 0.4 else float(0.0015 * np.exp(rng.uniform(0, np.log(20))))
    count = int(rng.integers(3, 9))
    return Backdrop(
        kind=kind,
        seed=int(rng.integers(1 << 31)),
        colours=_palette(rng, count),
        blur=blur,
        gain=float(np.exp(rng.uniform(np.log(0.5), np.log(2.5)))),
        print=_print(rng),
    )


def _finish(rng: np.random.Generator) -> Finish | None:
    """Draw the tones of a camera for half of the worlds, and drawings for a share."""
    kind = rng.random()
    if kind < DRAWN_SHARE:
        return _drawing(rng)
    if kind > 0.5:
        return None
    cast = 1 + rng.normal(0, 0.09, 3)
    # Black and white, and the toned paper of old photographs.
    grey = rng.random() < 0.12
    if grey and rng.random() < 0.5:
        cast = np.array([1.08, 0.97, 0.8])
    red, green, blue = (float(channel) for channel in cast)
    return Finish(
        saturation=0.0 if grey else float(rng.uniform(0.4, 1.7)),
        gain=(red, green, blue),
        gamma=float(np.exp(rng.normal(0, 0.2))),
    )


def _drawing(rng: np.random.Generator) -> Finish:
    """Draw toon shading, oil paint, or lines on paper."""
    kind = rng.random()
    gamma = float(np.exp(rng.normal(-0.2, 0.2)))
    if kind < 0.4:
        levels, lines = int(rng.integers(3, 7)), float(rng.uniform(0.4, 1))
        brush, saturation = int(rng.integers(1, 4)), float(rng.uniform(1.1, 2.2))
        return Finish(saturation=saturation, gamma=gamma, brush=brush, levels=levels, lines=lines)
    if kind < 0.75:
        saturation, brush = float(rng.uniform(0.8, 1.8)), int(rng.integers(2, 6))
        return Finish(saturation=saturation, gamma=gamma, brush=brush, lines=_strength(rng, 0.3))
    paper, saturation = float(rng.uniform(0.4, 0.9)), float(rng.choice([0.0, rng.uniform(0.5, 1.5)]))
    levels = int(rng.choice([0, 3, 4]))
    return Finish(saturation=saturation, brush=2, levels=levels, lines=1.0, paper=paper, gamma=gamma)


def _view(rng: np.random.Generator, view: View) -> tuple[View, tuple[float, float, float]]:
    """Draw framing, focal length and pose, so that chin and eyes stay in the frame.

    Returns the camera and the yaw, pitch and roll to add to the head's. Camera and head share the turn.
    """
    height = view.height
    if rng.random() < 0.7:
        height = float(np.clip(3.5 * np.exp(rng.normal(0.05, 0.27)), 2.5, 6.2))
    lowest = 1 - _CHEST / height
    row = float(np.clip(rng.normal(0.42, 0.06), max(0.25, lowest), max(lowest, 1 - 1.35 / height)))
    room = 0.5 - 0.95 / height
    shift = float(np.clip(rng.normal(0, 0.08), -room, room))
    yaw = float(rng.uniform(-0.52, 0.52)) if rng.random() < 0.6 else view.azimuth
    pitch = float(np.clip(rng.normal(0, 0.13), -0.32, 0.32))
    share_yaw, share_pitch = rng.uniform(0.3, 1, 2)
    # A short lens at arm's length up to a long one across a room.
    fov = float(np.exp(rng.uniform(np.log(9), np.log(42))))
    camera = View(
        fov=fov,
        height=height,
        eye_row=row,
        shift=shift,
        azimuth=-yaw * float(share_yaw),
        elevation=pitch * float(share_pitch),
    )
    roll = float(np.clip(rng.normal(0, 0.09), -0.26, 0.26))
    return camera, (yaw * (1 - float(share_yaw)), pitch * (1 - float(share_pitch)), roll)


_LIGHTS = ("kept", "side", "flash", "below", "coloured", "above", "flat")


def _light(rng: np.random.Generator, light: Light, view: View) -> Light:
    """Draw side light, flash, light from below or above, coloured or flat light, or keep it; then expose."""
    kind = str(rng.choice(_LIGHTS, p=[0.2, 0.18, 0.13, 0.08, 0.18, 0.13, 0.10]))
    side = float(rng.choice([-1, 1]))
    soft = float(rng.uniform(0.15, 1.2))
    if kind == "side":
        light = _keyed(rng, light, (side * rng.uniform(1.0, 1.75), rng.uniform(-0.1, 0.6)), 0.18, soft)
    elif kind == "flash":
        offset = rng.normal(0, 0.06, 2)
        towards = view.azimuth + offset[0], view.elevation + 0.05 + abs(offset[1])
        light = _keyed(rng, light, towards, 0.2, 0.2)
    elif kind == "below":
        light = _keyed(rng, light, (side * rng.uniform(0, 0.8), rng.uniform(-1.0, -0.3)), 0.3, soft)
    elif kind == "above":
        light = _keyed(rng, light, (side * rng.uniform(0, 1.4), rng.uniform(0.85, 1.25)), 0.45, soft)
    elif kind == "flat":
        sky = _tinted(rng, 1.15, 0.1)
        light = replace(light, key=_tinted(rng, 0.25, 0.1), rim=(0.0, 0.0, 0.0), sky=sky, ground=sky)
    elif kind == "coloured":
        strength = float(rng.uniform(0.25, 1))
        azimuth, elevation = side * rng.uniform(0.4, 1.5), rng.uniform(-0.3, 0.8)
        light = _keyed(rng, light, (azimuth, elevation), 0.35, soft)
        light = replace(
            light,
            key=_tinted(rng, 2.2, 0.7 * strength),
            fill=_tinted(rng, 0.9, 0.9 * strength),
            rim=_tinted(rng, 1.5, 0.9 * strength),
            fill_direction=_direction(-side * rng.uniform(0.6, 1.6), rng.uniform(-0.3, 0.4)),
        )
    exposure = 1.0
    if rng.random() < 0.35:
        # Dark scenes down to a sixth of the light, and bright ones that clip.
        exposure = float(np.exp(rng.uniform(np.log(0.16), np.log(1.6))))
    return _exposed(light, exposure)


def _keyed(
    rng: np.random.Generator, light: Light, towards: tuple[float, float], sky: float, softness: float
) -> Light:
    """Return a light whose key comes from (azimuth, elevation), with an ambient of up to `sky`."""
    around = _tinted(rng, float(rng.uniform(0.15, 1.0)) * sky * 1.6, 0.15)
    bounce = float(rng.uniform(0.3, 0.9))
    return replace(
        light,
        key_direction=_direction(*towards),
        key=_tinted(rng, float(rng.uniform(1.9, 3.2)), 0.14),
        fill=_scaled(light.fill, float(rng.uniform(0.0, 0.6))),
        rim=_scaled(light.rim, float(rng.random() < 0.4)),
        sky=around,
        ground=_scaled(around, bounce),
        softness=softness,
    )


def _exposed(light: Light, exposure: float) -> Light:
    return replace(
        light,
        key=_scaled(light.key, exposure),
        fill=_scaled(light.fill, exposure),
        rim=_scaled(light.rim, exposure),
        sky=_scaled(light.sky, exposure),
        ground=_scaled(light.ground, exposure),
    )


def _tinted(rng: np.random.Generator, value: float, saturation: float) -> Colour:
    """Draw light of this brightness and a random hue; `saturation` is 0 (white) .. 1."""
    hue = rng.random() * 2 * np.pi - np.array([0, 2 * np.pi / 3, 4 * np.pi / 3])
    red, green, blue = (float(channel) for channel in value * (1 + saturation * np.cos(hue)))
    return red, green, blue


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = colour
    return red * factor, green * factor, blue * factor


def _direction(azimuth: float, elevation: float) -> Colour:
    """Return the unit vector towards (azimuth, elevation), radians; azimuth 0 is in front of the face."""
    flat = np.cos(elevation)
    return float(np.sin(azimuth) * flat), float(np.sin(elevation)), float(np.cos(azimuth) * flat)
