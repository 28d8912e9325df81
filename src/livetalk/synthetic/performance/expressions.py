"""Expressions besides speech: smiles with teeth, surprise and parted lips, added to a performance.

Portraits often smile, but speech alone never shows a smile at rest. A share of the clips therefore begins
with an expression that gives way to speech, or smiles in a pause. All other clips rest with closed lips.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.performance.visemes import FRAMES_PER_SECOND

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

SMILE_SHARE: Final = 0.20
"""Share of clips in which the person smiles at the start or in a pause."""

OPEN_SHARE: Final = 0.08
"""Share of clips that begin with another open mouth: surprise or parted lips."""

_SHORTEST_PAUSE = 18
_LONG_PAUSE = 38
_LONG_PAUSE_CHANCE = 0.75
_LEAST_SPEECH = 6
_SLIGHTEST_SMILE = 0.5


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression of a face besides speech; frames count from the start of the clip."""

    units: Floats  # [52], the expression without `teeth`
    teeth: Floats  # [52], added to `units` to show the teeth
    stays: bool  # held until speech begins; otherwise it relaxes after `hold_frames` even in silence
    at_start: bool  # whether the clip begins with it
    in_pauses: bool  # whether it returns in pauses
    hold_frames: int  # minimum duration at the start
    open_frame: int  # frame at which the teeth begin to show; negative means the first frame
    release_frames: float  # duration of the transition to speech
    linger: float  # 0..1, share of a smile (without teeth) that remains during speech
    phase: float  # of its slow modulation, radians


def draw_expression(seed: int) -> Expression | None:
    """Draw the expression of a clip from a seed; None for most clips."""
    rng = np.random.default_rng((seed, 17))
    kind = rng.random()
    if kind < SMILE_SHARE:
        return _draw_smile(rng)
    if kind < SMILE_SHARE + OPEN_SHARE:
        return _draw_open_mouth(rng)
    return None


def choose_start(
    expression: Expression | None, sounding: Flags, start: int, num_frames: int, seed: int
) -> int:
    """Choose the first frame of a clip, 0..F - `num_frames`, so that smiles and pauses are usually complete.

    A clip that begins with a smile prefers the silence before a phrase. Most others show speech followed by a
    long pause, if there is one, because training data must show the mouth closing and staying closed.
    `sounding` [F] marks frames of the recording with speech; `start` is the default.
    """
    rng = np.random.default_rng((seed, 18))
    starts = np.arange(sounding.size - num_frames + 1)
    if expression is not None and expression.stays and expression.at_start:
        lead = min(expression.hold_frames, num_frames - 1)
        before = np.array([sounding[s + lead] and not sounding[s : s + lead].any() for s in starts])
        return int(rng.choice(starts[before])) if before.any() else start
    if rng.random() < _LONG_PAUSE_CHANCE:
        fits = np.zeros(starts.size, np.bool_)
        for begin, end in _pauses(sounding, _LONG_PAUSE):
            shown = np.minimum(starts + num_frames, end) - begin
            fits |= (starts <= begin - _LEAST_SPEECH) & (shown >= _LONG_PAUSE)
        return int(rng.choice(starts[fits])) if fits.any() else start
    return start


def express(performance: Performance, expression: Expression | None, sounding: Flags) -> Performance:
    """Add an expression to a performance of F frames; `sounding` [F] marks frames with speech."""
    if expression is None or not performance.num_frames:
        return performance
    times = np.arange(performance.num_frames)
    weight = _weights(expression, sounding)
    opening = _ramp((times - expression.open_frame) / 10.0) if expression.open_frame >= 0 else 1.0
    swell = 1.0 + 0.05 * np.sin(times * (2.0 * np.pi * 0.35 / FRAMES_PER_SECOND) + expression.phase)
    under = np.maximum(weight, expression.linger * _lingers(weight))
    shown = (swell * under)[:, None] * expression.units + (swell * weight * opening)[
        :, None
    ] * expression.teeth
    units = performance.units.astype(np.float64)
    mouth = _is_mouth()
    units[:, mouth] = units[:, mouth] * (1.0 - weight[:, None]) + shown[:, mouth]
    units[:, ~mouth] = np.maximum(units[:, ~mouth], shown[:, ~mouth])
    return replace(performance, units=np.clip(units, 0.0, 1.2).astype(np.float32))


def _draw_smile(rng: np.random.Generator) -> Expression:
    """Draw a smile, usually with teeth, which may appear some frames later."""
    smile, toothy = rng.uniform(_SLIGHTEST_SMILE, 1.05), rng.random() < 0.85
    lean = float(np.clip(rng.normal(0.0, 0.05), -0.15, 0.15))
    face = {"mouthSmile": smile, "mouthStretch": rng.uniform(0.0, 0.45) * smile}
    face |= {"cheekSquint": 0.55 * smile, "eyeSquint": rng.uniform(0.2, 0.45) * smile}
    width = rng.uniform(0.5, 1.0) if toothy else 0.0
    # Lips part over closed teeth: the upper teeth show first and most, the jaw opens slightly.
    teeth = {"mouthUpperUp": (0.45 + 0.5 * width) * toothy, "mouthLowerDown": (0.15 + 0.4 * width) * toothy}
    teeth["jawOpen"] = width * rng.uniform(0.1, 0.26)
    at_start = bool(rng.random() < 0.85)
    return Expression(
        units=_row(face, lean),
        teeth=_row(teeth, lean),
        stays=True,
        at_start=at_start,
        in_pauses=not at_start or bool(rng.random() < 0.4),
        hold_frames=int(rng.integers(10, 30)),
        open_frame=int(rng.integers(3, 14)) if rng.random() < 0.15 else -1,
        release_frames=rng.uniform(0.3, 0.6) * FRAMES_PER_SECOND,
        linger=rng.uniform(0.1, 0.45) if rng.random() < 0.5 else 0.0,
        phase=rng.uniform(0.0, 2.0 * np.pi),
    )


def _draw_open_mouth(rng: np.random.Generator) -> Expression:
    """Draw surprise or slightly parted lips; both close soon, even in silence."""
    if rng.random() < 0.5:
        brows = rng.uniform(0.3, 0.9)
        face = {"jawOpen": rng.uniform(0.2, 0.5), "mouthFunnel": rng.uniform(0.0, 0.3)}
        face |= {"browInnerUp": brows, "browOuterUp": 0.8 * brows, "eyeWide": 0.6 * brows}
    else:
        face = {"jawOpen": rng.uniform(0.04, 0.2), "mouthLowerDown": rng.uniform(0.0, 0.3)}
        face["mouthUpperUp"] = rng.uniform(0.0, 0.3)
    return Expression(
        units=_row(face, 0.0),
        teeth=np.zeros(len(FACE_UNITS)),
        stays=False,
        at_start=True,
        in_pauses=False,
        hold_frames=int(rng.integers(4, 16)),
        open_frame=-1,
        release_frames=rng.uniform(0.2, 0.5) * FRAMES_PER_SECOND,
        linger=0.0,
        phase=rng.uniform(0.0, 2.0 * np.pi),
    )


def _weights(expression: Expression, sounding: Flags) -> Floats:
    """Return the strength of the expression, [F], 0..1."""
    num_frames = sounding.size
    times = np.arange(num_frames)
    weight = np.zeros(num_frames)
    speaks = np.append(sounding, True)
    if expression.at_start:
        first = int(np.argmax(speaks)) if expression.stays else 0
        # During speech there is no pause in which to hold it, so it is released early.
        held = (
            expression.hold_frames if first > 0 or not expression.stays else min(expression.hold_frames, 12)
        )
        end = max(first - 1, held) if first < num_frames else num_frames + expression.release_frames
        weight = 1.0 - _ramp((times - end) / expression.release_frames)
    if expression.in_pauses:
        for begin, end in _pauses(sounding, _SHORTEST_PAUSE):
            rise = _ramp((times - begin - 4) / 10.0)
            fall = 1.0 - _ramp((times - end + 2) / expression.release_frames)
            weight = np.maximum(weight, np.minimum(rise, fall) if end < num_frames else rise)
    return weight


def _lingers(weight: Floats) -> Floats:
    """Return the maximum strength so far, [F], 0..1."""
    return np.maximum.accumulate(weight)


def _pauses(sounding: Flags, shortest: int) -> list[tuple[int, int]]:
    """Return (start, exclusive end) of pauses after speech of at least `shortest` frames."""
    edges = np.flatnonzero(np.diff(np.concatenate([[True], sounding, [True]]).astype(np.int8)))
    pairs = [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]
    return [(begin, end) for begin, end in pairs if begin > 0 and end - begin >= shortest]


def _is_mouth() -> Flags:
    return np.array([name.startswith(("jaw", "mouth", "tongue")) for name in FACE_UNITS])


def _row(weights: Mapping[str, float], lean: float) -> Floats:
    """Return unit weights [52]; the name of a pair sets both sides, the left scaled by (1 + lean)."""
    row = np.zeros(len(FACE_UNITS))
    for name, weight in weights.items():
        if name in FACE_UNITS:
            row[FACE_UNITS.index(name)] = weight
            continue
        row[FACE_UNITS.index(f"{name}Left")] = weight * (1.0 + lean)
        row[FACE_UNITS.index(f"{name}Right")] = weight * (1.0 - lean)
    return row


def _ramp(progress: Floats) -> Floats:
    """Return a smooth step from 0 at progress 0 to 1 at progress 1."""
    kept = np.clip(progress, 0.0, 1.0)
    return kept * kept * (3.0 - 2.0 * kept)
