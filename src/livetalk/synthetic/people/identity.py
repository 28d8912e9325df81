"""Identities: all random properties of a synthetic person and their surroundings, drawn from one seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from livetalk.synthetic.people.face_shape import sample_shape
from livetalk.synthetic.people.world import PLAIN, Colour, World

HAIR_STYLES = (
    "bald", "buzz", "short", "crop", "swept", "side", "fringe", "bob", "long", "wavy", "curly", "afro", "bun",
)  # fmt: skip
CLOTHES = ("crew", "v_neck", "turtleneck", "shirt", "jacket")
SCENES = ("studio", "room", "office", "bokeh", "outdoor")


@dataclass(frozen=True)
class Skin:
    """Appearance of skin, eyes, teeth and facial hair."""

    tone: Colour
    lip: Colour
    melanin: float
    redness: float
    freckles: float
    age: float
    makeup: float
    oil: float
    beard: float
    moustache: float
    brow_thickness: float
    brow_arch: float
    brow_strength: float
    brow: Colour
    iris: Colour
    teeth: float


@dataclass(frozen=True)
class Hair:
    """Hair: `part` is the parting's position (-1 the model's right .. 1 left), `length` in decimetres."""

    style: str
    colour: Colour
    tips: Colour
    part: float
    length: float
    volume: float
    curl: float
    hairline: float
    recede: float


@dataclass(frozen=True)
class Outfit:
    """Clothes and glasses: `pattern` is 'plain', 'stripes' or 'melange'."""

    kind: str
    colour: Colour
    inner: Colour
    accent: Colour
    pattern: str
    opening: float
    glasses: str
    glasses_colour: Colour


@dataclass(frozen=True)
class Light:
    """Lights: directions towards the light (unit vectors), linear colours, ambient from above and below."""

    key_direction: Colour
    key: Colour
    fill_direction: Colour
    fill: Colour
    rim_direction: Colour
    rim: Colour
    sky: Colour
    ground: Colour
    softness: float


@dataclass(frozen=True)
class View:
    """Camera.

    Attributes:
        azimuth, elevation: position of the camera around the head, radians.
    """

    fov: float  # field of view in degrees
    height: float  # visible height at the face in decimetres
    eye_row: float  # vertical position of the eyes in the frame, 0 top .. 1 bottom
    shift: float  # horizontal shift of the head
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Identity:
    """All random choices of one synthetic person; `shape` maps morph names to weights.

    `sample_identity` leaves `world` plain.
    """

    seed: int
    male: bool
    age: float
    shape: dict[str, float]
    skin: Skin
    hair: Hair
    outfit: Outfit
    light: Light
    view: View
    scene: str
    scene_colour: Colour
    scene_seed: int
    world: World = PLAIN


def sample_identity(seed: int) -> Identity:
    """Draw a person, their clothes, light, camera and background, deterministically."""
    rng = np.random.default_rng([seed, 7919])
    male = bool(rng.random() < 0.5)
    age = float(np.clip(rng.beta(1.2, 2.6), 0, 0.85))
    ancestry = _ancestry(rng)
    melanin = float(
        np.clip(
            0.10
            + 0.72 * ancestry[0]
            + 0.16 * ancestry[1] * rng.random()
            + rng.normal(0, 0.05)
            + 0.1 * rng.random(),
            0.04,
            0.86,
        )
    )
    hair_colour = _hair_colour(rng, ancestry, age)
    scene = str(rng.choice(SCENES, p=[0.28, 0.26, 0.18, 0.13, 0.15]))
    return Identity(
        seed=seed,
        male=male,
        age=age,
        shape=sample_shape(rng, male, age, ancestry),
        skin=_skin(rng, male, age, melanin, hair_colour, ancestry[2]),
        hair=_hair(rng, male, age, ancestry, hair_colour),
        outfit=_outfit(rng, male),
        light=_light(rng),
        view=View(
            fov=float(rng.uniform(15, 28)),
            height=float(rng.uniform(3.1, 3.8)),
            eye_row=float(rng.uniform(0.385, 0.44)),
            shift=float(rng.normal(0, 0.035)),
            azimuth=float(np.clip(rng.normal(0, 0.08), -0.2, 0.2)),
            elevation=float(np.clip(rng.normal(0.0, 0.05), -0.1, 0.12)),
        ),
        scene=scene,
        scene_colour=_calm_colour(rng, 0.16, 0.04, 0.55),
        scene_seed=int(rng.integers(1 << 31)),
    )


def _ancestry(rng: np.random.Generator) -> tuple[float, float, float]:
    """Draw African, Asian and European shares of the face, mostly dominated by one."""
    shares = rng.dirichlet([0.35, 0.35, 0.42])
    return float(shares[0]), float(shares[1]), float(shares[2])


def _hair_colour(rng: np.random.Generator, ancestry: tuple[float, float, float], age: float) -> Colour:
    """Draw black, brown, blond, red or grey hair."""
    colours = np.array(
        [
            (0.010, 0.008, 0.007),
            (0.022, 0.013, 0.008),
            (0.055, 0.028, 0.014),
            (0.12, 0.064, 0.030),
            (0.32, 0.205, 0.10),
            (0.20, 0.070, 0.026),
        ]
    )
    shares = np.array([0.16, 0.26, 0.26, 0.16, 0.12, 0.04])
    if ancestry[2] < 0.6:
        shares = np.array([0.55, 0.33, 0.12, 0, 0, 0])
    colour = colours[rng.choice(len(colours), p=shares)] * rng.uniform(0.85, 1.2)
    grey = float(np.clip((age - 0.35) * 2.2, 0, 1)) * float(rng.random() < 0.7) * rng.uniform(0.3, 1)
    mixed = colour * (1 - grey) + np.array([0.36, 0.35, 0.335]) * rng.uniform(0.7, 1.15) * grey
    return _colour(mixed)


def _skin(
    rng: np.random.Generator, male: bool, age: float, melanin: float, hair: Colour, european: float
) -> Skin:
    """Draw skin tone from melanin, lips, eyebrows, beard and make-up."""
    light, middle, dark = (
        np.array([0.64, 0.42, 0.325]),
        np.array([0.46, 0.265, 0.175]),
        np.array([0.135, 0.068, 0.044]),
    )
    tone = (
        light * (1 - melanin * 2) + middle * melanin * 2
        if melanin < 0.5
        else middle * (2 - melanin * 2) + dark * (melanin * 2 - 1)
    )
    tone = tone * (1 + rng.normal(0, 0.025, 3)) * rng.uniform(0.93, 1.05)
    makeup = 0.0 if male else float(rng.random() ** 1.3)
    natural = tone * np.array([0.86, 0.60, 0.60]) + np.array([0.03, 0, 0.004])
    lipsticks = np.array([[0.42, 0.10, 0.11], [0.50, 0.20, 0.19], [0.33, 0.07, 0.10], [0.48, 0.22, 0.20]])
    lipstick = lipsticks[rng.integers(4)] * (0.55 + 0.45 * (1 - melanin))
    lip = natural * (1 - 0.75 * makeup) + lipstick * 0.75 * makeup
    irises = np.array(
        [
            (0.075, 0.036, 0.016),
            (0.14, 0.075, 0.032),
            (0.12, 0.13, 0.06),
            (0.13, 0.20, 0.27),
            (0.17, 0.20, 0.215),
        ]
    )
    shares = [0.35, 0.25, 0.12, 0.18, 0.10] if european > 0.5 and melanin < 0.35 else [0.8, 0.2, 0, 0, 0]
    beard = float(rng.choice([0, 0.25, 0.5, 0.9], p=[0.42, 0.30, 0.14, 0.14])) if male else 0.0
    moustache = beard if rng.random() < 0.8 else float(male) * float(rng.choice([0.0, 0.8]))
    brow = np.minimum(np.array(hair) * 0.75, np.array([0.14, 0.09, 0.05])) * 0.9
    return Skin(
        tone=_colour(tone),
        lip=_colour(lip),
        melanin=melanin,
        redness=float(rng.uniform(0.3, 1)),
        freckles=float(rng.random() ** 3) * float(melanin < 0.35),
        age=age,
        makeup=makeup,
        oil=float(rng.random()),
        beard=beard,
        moustache=moustache,
        brow_thickness=float(rng.uniform(0.75, 1.2) * (1.12 if male else 0.82)),
        brow_arch=float(rng.uniform(0.4, 1.4) * (0.7 if male else 1.1)),
        brow_strength=float(rng.uniform(0.55, 0.95)),
        brow=_colour(brow),
        iris=_colour(irises[rng.choice(5, p=shares)] * rng.uniform(0.8, 1.25)),
        teeth=float(rng.uniform(0, 1)),
    )


def _hair(
    rng: np.random.Generator, male: bool, age: float, ancestry: tuple[float, float, float], colour: Colour
) -> Hair:
    """Draw a hair style that depends on sex, age and ancestry."""
    shares = dict.fromkeys(HAIR_STYLES, 0.0)
    if male:
        shares |= {
            "bald": 0.07 + 0.1 * age,
            "buzz": 0.17,
            "short": 0.26,
            "crop": 0.14,
            "swept": 0.13,
            "side": 0.16,
            "curly": 0.05,
            "wavy": 0.02,
        }
    else:
        shares |= {
            "side": 0.05,
            "short": 0.04,
            "fringe": 0.13,
            "bob": 0.19,
            "long": 0.22,
            "wavy": 0.17,
            "bun": 0.13,
            "curly": 0.07,
        }
    if ancestry[0] > 0.55:
        shares |= {"afro": 0.3, "buzz": 0.3 if male else 0.08, "swept": 0.02, "side": 0.02, "curly": 0.14}
    total = sum(shares.values())
    style = str(rng.choice(HAIR_STYLES, p=[share / total for share in shares.values()]))
    length = {
        "bob": rng.uniform(1.35, 1.9),
        "long": rng.uniform(2.4, 3.6),
        "wavy": rng.uniform(2.0, 3.2),
        "fringe": rng.uniform(1.4, 2.8),
    }
    curl = {"wavy": rng.uniform(0.4, 0.8), "curly": rng.uniform(0.8, 1.2), "afro": 1.3}
    tips = np.array(colour) * rng.uniform(1.05, 1.55)
    side = float(rng.choice([-1, 1]))
    return Hair(
        style=style,
        colour=colour,
        tips=_colour(tips),
        part=float(rng.choice([0.0, side * rng.uniform(0.25, 0.6)], p=[0.3, 0.7])),
        length=float(length.get(style, 1.0)),
        volume=float(rng.uniform(0.6, 1.3)),
        curl=float(curl.get(style, rng.uniform(0, 0.3))),
        hairline=float(rng.normal(0, 0.04)),
        recede=float(np.clip(age * rng.uniform(0.2, 1.2), 0, 0.8)) if male else 0.0,
    )


def _outfit(rng: np.random.Generator, male: bool) -> Outfit:
    """Draw clothes with mostly muted colours, sometimes glasses."""
    shares = [0.30, 0.17, 0.10, 0.20, 0.23] if male else [0.28, 0.27, 0.12, 0.15, 0.18]
    kind = str(rng.choice(CLOTHES, p=shares))
    glasses = str(rng.choice(["none", "thin", "thick"], p=[0.86, 0.08, 0.06]))
    return Outfit(
        kind=kind,
        colour=_calm_colour(rng, 0.35, 0.02, 0.20 if kind == "jacket" else 0.5),
        inner=_calm_colour(rng, 0.12, 0.35, 0.75)
        if rng.random() < 0.75
        else _calm_colour(rng, 0.4, 0.02, 0.3),
        accent=_calm_colour(rng, 0.6, 0.02, 0.25),
        pattern=str(rng.choice(["plain", "stripes", "melange"], p=[0.68, 0.1, 0.22])),
        opening=float(rng.uniform(0.3, 1)),
        glasses=glasses,
        glasses_colour=_colour(
            np.array([[0.01, 0.01, 0.011], [0.06, 0.03, 0.015], [0.22, 0.2, 0.18]])[rng.integers(3)]
        ),
    )


def _light(rng: np.random.Generator) -> Light:
    """Draw key, fill and rim light with a colour temperature and without extreme exposure."""
    side = float(rng.choice([-1, 1]))
    azimuth, elevation = side * rng.uniform(0.1, 1.0), rng.uniform(0.25, 0.85)
    warm = rng.uniform(-1, 1)
    contrast = rng.uniform(0, 1)
    key = np.array([1 + 0.11 * warm, 1.0, 1 - 0.15 * warm]) * (1.40 + 0.75 * contrast)
    cool = np.array([1 - 0.08 * warm, 1.0, 1 + 0.10 * warm])
    fill = cool * (0.70 - 0.45 * contrast) * rng.uniform(0.7, 1.2)
    rim = cool * rng.uniform(0, 1.6) * float(rng.random() < 0.65)
    sky = cool * rng.uniform(0.62, 0.85) * (1 - 0.35 * contrast)
    rim_azimuth = -side * rng.uniform(2.2, 2.7)
    return Light(
        key_direction=_direction(azimuth, elevation),
        key=_colour(key),
        fill_direction=_direction(-side * rng.uniform(0.5, 1.2), rng.uniform(0.0, 0.3)),
        fill=_colour(fill),
        rim_direction=_direction(rim_azimuth, 0.45),
        rim=_colour(rim),
        sky=_colour(sky),
        ground=_colour(sky * np.array([0.62, 0.52, 0.46])),
        softness=float(rng.uniform(0.6, 1.6)),
    )


def _direction(azimuth: float, elevation: float) -> Colour:
    """Return the unit vector towards (azimuth, elevation) in radians; azimuth 0 is the camera's side."""
    flat = np.cos(elevation)
    return float(np.sin(azimuth) * flat), float(np.sin(elevation)), float(np.cos(azimuth) * flat)


def _calm_colour(rng: np.random.Generator, saturation: float, low: float, high: float) -> Colour:
    """Draw a colour with at most this saturation and brightness low..high (linear)."""
    hue = rng.random() * 2 * np.pi
    strength = saturation * rng.random() ** 1.2
    value = np.exp(rng.uniform(np.log(low), np.log(high)))
    wheel = np.cos(hue - np.array([0, 2 * np.pi / 3, 4 * np.pi / 3]))
    return _colour(value * (1 + strength * wheel))


def _colour(values: NDArray[np.float64]) -> Colour:
    red, green, blue = (float(v) for v in np.clip(values, 0.0, 4.0))
    return red, green, blue
