"""What training clips show beyond the plain rendered heads: painted skin, backdrops, prints and finishes."""

from dataclasses import dataclass

Colour = tuple[float, float, float]
"""Linear-light red, green, blue, about 0..1."""

PRINTS = ("stripes", "checks", "tartan", "dots", "marks", "flowers", "zigzag")
HEADWEAR = ("cap", "brim", "peak", "scarf")
EARRINGS = ("stud", "hoop")
BACKDROPS = ("leaves", "noise", "wall", "page")


@dataclass(frozen=True)
class SkinPaint:
    """Additions to the skin texture; strengths are 0 (none) .. 1.

    Attributes:
        scales: strengths of albedo noise with features of about 7, 2.5, 0.9 and 0.3 cm.
        blotches, blotch: strength and multiplied colour of large patches.
        makeup, eyelid, lip, cheek: strength and colours of make-up.
        oil: highlights, from 0 as before to wet.
    """

    seed: int
    scales: tuple[float, float, float, float]
    blotches: float
    blotch: Colour
    freckles: float
    moles: int
    wrinkles: float
    stubble: float
    relief: float
    makeup: float
    eyelid: Colour
    lip: Colour
    cheek: Colour
    oil: float


@dataclass(frozen=True)
class Print:
    """A pattern on cloth or a wall: `kind` of `PRINTS`, two colours beside that of the ground."""

    kind: str
    first: Colour
    second: Colour
    period: float  # size of a repeat, decimetres on cloth
    angle: float  # radians
    seed: int


@dataclass(frozen=True)
class Backdrop:
    """A sharp or blurred background with the statistics of natural pictures: `kind` of `BACKDROPS`."""

    kind: str
    seed: int
    colours: tuple[Colour, ...]
    blur: float  # standard deviation in frame heights, 0 is sharp
    gain: float
    print: Print


@dataclass(frozen=True)
class Finish:
    """Development of the picture after the tone curve: tones of a camera, or a drawing's.

    Attributes:
        gain: of red, green and blue; `gamma` is an exponent of the display value.
        brush: radius of brush strokes in pixels of a frame of 256, 0 is none.
        levels: number of tones, 0 leaves them continuous.
        lines: strength of dark outlines, 0..1.
        paper: share of the picture that is replaced by white paper under the lines, 0..1.
    """

    saturation: float = 1.0
    gain: Colour = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    brush: int = 0
    levels: int = 0
    lines: float = 0.0
    paper: float = 0.0


@dataclass(frozen=True)
class Headwear:
    """A cap, perhaps with a brim or a peak, or a head scarf: `kind` of `HEADWEAR`."""

    kind: str
    colour: Colour
    level: float  # sine of the elevation of the edge at the temples
    clearance: float  # decimetres above the skin
    print: Print | None
    ribs: float  # slope of knitted ribs


@dataclass(frozen=True)
class Earrings:
    """Earrings: `kind` of `EARRINGS`, radius in decimetres."""

    kind: str
    radius: float
    colour: Colour


@dataclass(frozen=True)
class Teeth:
    """Teeth: `uneven` and `gap` are 0..1, `missing` is the number of an upper tooth, 0 next to the middle."""

    colour: Colour
    uneven: float
    gap: float
    missing: int | None


@dataclass(frozen=True)
class NeckScarf:
    """A scarf around the neck; `thickness` in decimetres."""

    colour: Colour
    thickness: float
    print: Print | None


@dataclass(frozen=True)
class World:
    """Additions to an identity; the defaults add nothing.

    Attributes:
        turn: yaw, pitch, roll added to every head rotation, radians.
        finish: None leaves the picture as it was.
        mood: weights that the actor adds to facial units of every frame.
        reflection: share of the lenses of glasses that mirror a window, 0..1; without glasses no effect.
    """

    skin: SkinPaint | None = None
    cloth: Print | None = None
    backdrop: Backdrop | None = None
    finish: Finish | None = None
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    headwear: Headwear | None = None
    earrings: Earrings | None = None
    teeth: Teeth | None = None
    mood: tuple[tuple[str, float], ...] = ()
    neck_scarf: NeckScarf | None = None
    reflection: float = 0.0


PLAIN = World()
