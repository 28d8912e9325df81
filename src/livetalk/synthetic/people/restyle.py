"""Other hair, beards, neck scarves and mirroring glasses of people in random worlds."""

from dataclasses import replace

import numpy as np

from livetalk.synthetic.people.identity import HAIR_STYLES, Hair, Identity
from livetalk.synthetic.people.world import Colour, NeckScarf, Print

_STREAM = 37


def restyle(identity: Identity, seed: int, cloth: Print, colour: Colour) -> Identity:
    """Return the same face with other hair, a beard, a neck scarf or reflections, each for a share of seeds.

    Args:
        identity: a person in a random world.
        seed: determines all draws.
        cloth: print of a scarf.
        colour: of a scarf, and of dyed hair.
    """
    # A generator of its own, so that the rest of the world is the same with and without these.
    rng = np.random.default_rng((seed, _STREAM))
    skin = identity.skin
    if identity.male and rng.random() < 0.25:
        beard = float(rng.uniform(0.4, 1))
        skin = replace(skin, beard=beard, moustache=beard if rng.random() < 0.8 else skin.moustache)
    scarf = None
    if rng.random() < 0.12:
        printed = cloth if rng.random() < 0.4 else None
        scarf = NeckScarf(colour=colour, thickness=float(rng.uniform(0.16, 0.32)), print=printed)
    reflection = float(rng.uniform(0.1, 0.55)) if rng.random() < 0.6 else 0.0
    hair = _hair(rng, identity.hair, colour)
    return replace(
        identity,
        skin=skin,
        hair=hair,
        world=replace(identity.world, neck_scarf=scarf, reflection=reflection),
    )


def _hair(rng: np.random.Generator, hair: Hair, dye: Colour) -> Hair:
    """Draw a hair style independently of the person, with more volume, other partings and dyes."""
    if rng.random() < 0.35:
        style, length = str(rng.choice(HAIR_STYLES)), float(rng.uniform(1.3, 3.8))
        hair = replace(hair, style=style, length=length, curl=float(rng.uniform(0, 1.2)))
    if rng.random() < 0.3:
        hair = replace(hair, volume=float(rng.uniform(0.4, 1.9)), part=float(rng.uniform(-0.8, 0.8)))
    if rng.random() < 0.12:
        red, green, blue = dye
        hair = replace(hair, colour=(0.5 * red, 0.5 * green, 0.5 * blue), tips=dye)
    return hair
