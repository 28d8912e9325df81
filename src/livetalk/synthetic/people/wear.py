"""What people of random worlds wear and how they look on: headwear, earrings, teeth, lasting expressions."""

from dataclasses import replace

import numpy as np

from livetalk.synthetic.people.world import (
    EARRINGS,
    HEADWEAR,
    Colour,
    Earrings,
    Headwear,
    Print,
    Teeth,
    World,
)

_STREAM = 31

_METALS = ((0.75, 0.55, 0.2), (0.7, 0.7, 0.72), (0.05, 0.05, 0.05), (0.8, 0.78, 0.7))

_MOODS = (
    ("mouthSmileLeft", "mouthSmileRight"),
    ("mouthSmileLeft",),
    ("mouthSmileRight",),
    ("mouthFrownLeft", "mouthFrownRight"),
    ("browDownLeft", "browDownRight"),
    ("browInnerUp",),
    ("browOuterUpLeft",),
    ("browOuterUpRight", "browOuterUpLeft"),
    ("eyeSquintLeft", "eyeSquintRight"),
    ("eyeWideLeft", "eyeWideRight"),
    ("cheekSquintLeft", "cheekSquintRight"),
    ("noseSneerLeft", "noseSneerRight"),
)
"""Facial units that neither open nor shut the lips, so that closures stay closures."""


def dress(world: World, seed: int, cloth: Print, colour: Colour) -> World:
    """Return the world with headwear of this cloth and colour, earrings, teeth, a mood, each for a share."""
    # A generator of its own, so that the rest of the world is the same with and without these.
    rng = np.random.default_rng((seed, _STREAM))
    headwear = None
    if rng.random() < 0.2:
        headwear = Headwear(
            kind=str(rng.choice(HEADWEAR)),
            colour=colour,
            level=float(rng.uniform(0.1, 0.24)),
            clearance=float(rng.uniform(0.05, 0.14)),
            print=cloth if rng.random() < 0.4 else None,
            ribs=float(rng.choice([0.0, rng.uniform(0.1, 0.5)])),
        )
    earrings = None
    if rng.random() < 0.25:
        kind = str(rng.choice(EARRINGS))
        radius = float(rng.uniform(0.02, 0.05) if kind == "stud" else rng.uniform(0.07, 0.2))
        earrings = Earrings(kind, radius, _METALS[rng.integers(len(_METALS))])
    return replace(
        world,
        headwear=headwear,
        earrings=earrings,
        teeth=_teeth(rng) if rng.random() < 0.6 else None,
        mood=_mood(rng) if rng.random() < 0.5 else (),
    )


def _teeth(rng: np.random.Generator) -> Teeth:
    """Draw teeth from bleached to yellow and brown, uneven and with gaps."""
    white, yellow, brown = np.array([[0.92, 0.92, 0.9], [0.72, 0.58, 0.34], [0.38, 0.27, 0.15]])
    stain = rng.random() ** 1.5
    colour = white + (yellow - white) * min(1.0, 1.6 * stain)
    colour = colour + (brown - colour) * max(0.0, stain - 0.6)
    red, green, blue = (float(channel) for channel in colour)
    return Teeth(
        colour=(red, green, blue),
        uneven=float(rng.random() ** 2),
        gap=float(rng.random() ** 2),
        missing=int(rng.integers(-4, 4)) if rng.random() < 0.12 else None,
    )


def _mood(rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """Draw one or two lasting expressions, as weights added to facial units."""
    chosen = rng.choice(len(_MOODS), size=int(rng.integers(1, 3)), replace=False)
    weights: dict[str, float] = {}
    for index in chosen:
        strength = float(rng.uniform(0.15, 0.6))
        weights |= dict.fromkeys(_MOODS[index], strength)
    return tuple(weights.items())
