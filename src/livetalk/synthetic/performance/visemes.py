"""Facial-unit weights from timed phonemes, by dominance coarticulation.

Every phoneme pulls four groups of articulators (jaw, lip height, lip shape, tongue) towards its targets,
with a strength and a reach per group; the result is the weighted mean of all pulls. Lip contact (/p b m/
and /f v/) is added afterwards, because a mean could leave a closure open. The time grid is 5 ms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from livetalk.synthetic.performance.performance import FACE_UNITS

FRAMES_PER_SECOND: Final = 25

Floats = NDArray[np.float64]

_GRID_RATE = 200
_SMOOTHING_STEPS = 11  # 50 ms
_REST_PULL = 0.02
_CONTACT_HALF_PLATEAU_SECONDS = 0.022  # Over half a video frame: sampling never misses a contact.
_CONTACT_RAMP_SECONDS = 0.05
_PAUSE_SECONDS = 0.14
_CLOSING_SECONDS = 0.11
_OPENING_SECONDS = 0.10


@dataclass(frozen=True, slots=True)
class PhonemeEvent:
    """One spoken phoneme."""

    symbol: str  # ARPAbet in lower case without stress (`aa` .. `zh`), `dx` for a flap, `pau` for a pause
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, slots=True)
class MouthStyle:
    """Deviation of a speaker's mouth from the average."""

    gain: float = 1.0  # strength of all lip shapes, about 0.8..1.25
    jaw_gain: float = 1.0  # strength of the jaw alone, about 0.8..1.25
    rounding_gain: float = 1.0  # strength of pucker and funnel, about 0.8..1.2
    asymmetry: float = 0.0  # -0.25..0.25, positive moves the left half more
    smile: float = 0.0  # 0..0.3, smile that remains during speech


@dataclass(frozen=True, slots=True)
class _Target:
    """Target of a phoneme for each articulator, and the weight of each group (`*_pull`)."""

    jaw: float = 0.0
    lower: float = 0.0
    upper: float = 0.0
    funnel: float = 0.0
    pucker: float = 0.0
    stretch: float = 0.0
    smile: float = 0.0
    tongue: float = 0.0
    jaw_pull: float = 1.0
    height_pull: float = 1.0
    shape_pull: float = 1.0
    tongue_pull: float = 1.0


_CHANNELS = ("jaw", "lower", "upper", "funnel", "pucker", "stretch", "smile", "tongue")
_GROUP_OF_CHANNEL = (0, 1, 1, 2, 2, 2, 2, 3)
# Reach beyond the phoneme and anticipation in seconds, per group: lips round early, the tongue is fast.
_GROUP_REACH = (0.030, 0.026, 0.040, 0.016)
_GROUP_LEAD = (0.012, 0.012, 0.030, 0.008)

_SOFT = {"height_pull": 0.5, "shape_pull": 0.3}

TARGETS: Final[Mapping[str, _Target]] = {
    "aa": _Target(jaw=0.50, lower=0.30, upper=0.14, funnel=0.06, shape_pull=0.6),
    "ae": _Target(jaw=0.42, lower=0.38, upper=0.25, stretch=0.22, smile=0.14),
    "ah": _Target(jaw=0.34, lower=0.27, upper=0.13, shape_pull=0.6),
    "ax": _Target(jaw=0.19, lower=0.20, upper=0.08, jaw_pull=0.6, height_pull=0.6, shape_pull=0.4),
    "eh": _Target(jaw=0.31, lower=0.33, upper=0.19, stretch=0.18, smile=0.14),
    "ih": _Target(jaw=0.18, lower=0.30, upper=0.15, stretch=0.14, smile=0.18),
    "iy": _Target(jaw=0.11, lower=0.35, upper=0.19, stretch=0.27, smile=0.36),
    "ao": _Target(jaw=0.39, lower=0.12, upper=0.05, funnel=0.42, pucker=0.16, shape_pull=1.3),
    "uh": _Target(jaw=0.16, lower=0.12, upper=0.04, funnel=0.26, pucker=0.40, shape_pull=1.2),
    "uw": _Target(jaw=0.09, lower=0.06, funnel=0.18, pucker=0.74, shape_pull=1.7),
    "er": _Target(jaw=0.15, lower=0.18, upper=0.06, funnel=0.28, pucker=0.30, shape_pull=1.1),
    "p": _Target(jaw=0.09, jaw_pull=0.9, height_pull=1.6, shape_pull=0.2),
    "f": _Target(jaw=0.08, upper=0.22, jaw_pull=1.2, height_pull=1.6, shape_pull=0.3),
    "th": _Target(jaw=0.14, lower=0.26, upper=0.13, tongue=0.42, shape_pull=0.3, tongue_pull=2.0),
    "t": _Target(jaw=0.10, lower=0.26, upper=0.12, tongue=0.05, jaw_pull=1.1, **_SOFT),
    "d": _Target(jaw=0.12, lower=0.26, upper=0.12, tongue=0.08, **_SOFT),
    "dx": _Target(jaw=0.16, lower=0.24, upper=0.10, tongue=0.06, jaw_pull=0.6, **_SOFT),
    "n": _Target(jaw=0.12, lower=0.24, upper=0.11, tongue=0.07, **_SOFT),
    "l": _Target(jaw=0.20, lower=0.26, upper=0.12, tongue=0.20, tongue_pull=1.5, **_SOFT),
    "k": _Target(jaw=0.17, lower=0.22, upper=0.08, jaw_pull=0.7, height_pull=0.4, shape_pull=0.2),
    "hh": _Target(jaw=0.20, lower=0.20, upper=0.08, jaw_pull=0.3, height_pull=0.2, shape_pull=0.1),
    "s": _Target(jaw=0.04, lower=0.40, upper=0.18, stretch=0.16, smile=0.10, jaw_pull=2.2, shape_pull=0.6),
    "sh": _Target(jaw=0.07, lower=0.32, upper=0.18, funnel=0.46, pucker=0.24, jaw_pull=2.0, shape_pull=1.5),
    "r": _Target(jaw=0.13, lower=0.16, upper=0.06, funnel=0.26, pucker=0.34, shape_pull=1.3),
    "w": _Target(jaw=0.08, lower=0.03, funnel=0.12, pucker=0.84, height_pull=1.4, shape_pull=2.2),
    "y": _Target(jaw=0.11, lower=0.30, upper=0.15, stretch=0.20, smile=0.26, shape_pull=0.8),
    "pau": _Target(jaw_pull=0.8, height_pull=0.8, shape_pull=0.6),
}
"""Targets of phonemes; others are looked up through `ALIASES`."""

ALIASES: Final[Mapping[str, str]] = {
    "b": "p", "m": "p", "v": "f", "dh": "th", "g": "k", "ng": "k", "z": "s",
    "zh": "sh", "ch": "sh", "jh": "sh",
}  # fmt: skip
"""Phonemes with the same viseme as another."""

DIPHTHONGS: Final[Mapping[str, tuple[str, str]]] = {
    "ay": ("aa", "iy"), "aw": ("aa", "uw"), "oy": ("ao", "iy"), "ey": ("eh", "iy"), "ow": ("ao", "uw"),
}  # fmt: skip
"""Diphthongs: 55 % of their time belongs to the first target."""

BILABIALS: Final = frozenset(("p", "b", "m"))
LABIODENTALS: Final = frozenset(("f", "v"))
PHONEMES: Final = frozenset(TARGETS) | frozenset(ALIASES) | frozenset(DIPHTHONGS)
"""All valid values of `PhonemeEvent.symbol`."""


def mouth_units(
    events: Sequence[PhonemeEvent],
    num_frames: int,
    style: MouthStyle = MouthStyle(),
    effort: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Compute facial-unit weights [F, 52], float32, from phonemes; only mouth, jaw and tongue differ from 0.

    The lips touch for at least one frame in each /p b m/ and are closed when no phoneme is within about
    0.12 s.

    Args:
        events: phonemes in time order; gaps count as pauses.
        num_frames: length F at 25 fps; frame f shows the time (f + 0.5) / 25 s.
        style: of the speaker.
        effort: [F], about 0.6..1.2, how wide vowels open the mouth; 1 if None.

    Raises:
        ValueError: a symbol is not in `PHONEMES`.
    """
    time = np.arange(round(num_frames / FRAMES_PER_SECOND * _GRID_RATE) + 1) / _GRID_RATE
    frame_times = (np.arange(num_frames) + 0.5) / FRAMES_PER_SECOND
    segments = _split_events(events)
    channels = _smooth(_blend_targets(segments, time))
    channels *= _speech_gate(events, time)[:, None]
    if effort is not None and num_frames:
        strength = np.interp(time, frame_times, effort.astype(np.float64))
        channels[:, :3] *= strength[:, None]
    lips = _contact_curve(events, BILABIALS, time)
    # Lip contact wins where both overlap, since a closure must never be open.
    teeth = _contact_curve(events, LABIODENTALS, time) * (1.0 - lips)
    units = _units_from_channels(channels, lips, teeth, style)
    # Sampled last, so that events between two frames still act on both.
    sampled = np.stack([np.interp(frame_times, time, units[:, u]) for u in range(units.shape[1])], 1)
    return np.clip(sampled, 0.0, 1.2).astype(np.float32)


def closure_frames(events: Sequence[PhonemeEvent], num_frames: int) -> list[int]:
    """Return the frame in which the lips must touch, for each /p b m/ inside the clip."""
    middles = [(event.start_seconds + event.end_seconds) / 2 for event in events if event.symbol in BILABIALS]
    frames = [int(middle * FRAMES_PER_SECOND) for middle in middles if middle >= 0.0]
    return [frame for frame in frames if frame < num_frames]


def _split_events(events: Sequence[PhonemeEvent]) -> list[tuple[_Target, float, float]]:
    """Resolve aliases and diphthongs into (target, start, end)."""
    segments: list[tuple[_Target, float, float]] = []
    for event in events:
        start, end = event.start_seconds, max(event.end_seconds, event.start_seconds + 0.005)
        if event.symbol in DIPHTHONGS:
            first, second = DIPHTHONGS[event.symbol]
            turn = start + 0.55 * (end - start)
            segments += [(TARGETS[first], start, turn), (TARGETS[second], turn, end)]
            continue
        name = ALIASES.get(event.symbol, event.symbol)
        if name not in TARGETS:
            raise ValueError(f"phoneme {event.symbol!r} is not in the alphabet: {' '.join(sorted(PHONEMES))}")
        segments.append((TARGETS[name], start, end))
    return segments


def _blend_targets(segments: Sequence[tuple[_Target, float, float]], time: Floats) -> Floats:
    """Return the weighted mean of all targets, [steps, channels]."""
    if not segments:
        return np.zeros((time.size, len(_CHANNELS)))
    starts = np.array([start for _, start, _ in segments])
    lengths = np.array([end - start for _, start, end in segments])
    wanted = np.array([[getattr(target, name) for name in _CHANNELS] for target, _, _ in segments])
    pulls = np.array([[t.jaw_pull, t.height_pull, t.shape_pull, t.tongue_pull] for t, _, _ in segments])
    channels = np.empty((time.size, len(_CHANNELS)))
    for group in range(len(_GROUP_REACH)):
        middle = starts + lengths / 2 - _GROUP_LEAD[group]
        reach = 0.45 * np.clip(lengths, 0.03, 0.25) + _GROUP_REACH[group]
        # Long phonemes reach their targets more fully, short ones are reduced.
        strength = pulls[:, group] * (np.clip(lengths, 0.03, 0.25) / 0.08) ** 0.3
        pull = strength * np.exp(-0.5 * ((time[:, None] - middle) / reach) ** 2)
        members = [c for c, g in enumerate(_GROUP_OF_CHANNEL) if g == group]
        channels[:, members] = (pull @ wanted[:, members]) / (pull.sum(1) + _REST_PULL)[:, None]
    return channels


def _smooth(channels: Floats) -> Floats:
    kernel = np.hanning(_SMOOTHING_STEPS + 2)[1:-1]
    kernel /= kernel.sum()
    padded = np.pad(channels, ((_SMOOTHING_STEPS // 2, _SMOOTHING_STEPS // 2), (0, 0)), mode="edge")
    return np.stack([np.convolve(column, kernel, "valid") for column in padded.T], 1)


def _speech_gate(events: Sequence[PhonemeEvent], time: Floats) -> Floats:
    """Return [steps], 1 near phonemes and 0 in pauses of more than 0.14 s, with smooth edges."""
    gate = np.zeros(time.size)
    for start, end in _speech_spans(events):
        rise = np.clip((time - start) / _OPENING_SECONDS + 1.0, 0.0, 1.0)
        fall = np.clip(1.0 - (time - end) / _CLOSING_SECONDS, 0.0, 1.0)
        gate = np.maximum(gate, np.minimum(rise, fall))
    return gate * gate * (3.0 - 2.0 * gate)


def _speech_spans(events: Sequence[PhonemeEvent]) -> list[tuple[float, float]]:
    """Merge phonemes into intervals of speech without long pauses."""
    spans: list[tuple[float, float]] = []
    for event in events:
        if event.symbol == "pau":
            continue
        if spans and event.start_seconds - spans[-1][1] < _PAUSE_SECONDS:
            spans[-1] = (spans[-1][0], event.end_seconds)
        else:
            spans.append((event.start_seconds, event.end_seconds))
    return spans


def _contact_curve(events: Sequence[PhonemeEvent], symbols: frozenset[str], time: Floats) -> Floats:
    """Return the strength of contact for the phonemes in `symbols`, [steps], 0..1."""
    curve = np.zeros(time.size)
    for event in events:
        if event.symbol not in symbols:
            continue
        middle = (event.start_seconds + event.end_seconds) / 2
        plateau = max(_CONTACT_HALF_PLATEAU_SECONDS, 0.32 * (event.end_seconds - event.start_seconds))
        distance = np.clip((np.abs(time - middle) - plateau) / _CONTACT_RAMP_SECONDS, 0.0, 1.0)
        curve = np.maximum(curve, 0.5 + 0.5 * np.cos(np.pi * distance))
    return curve


def _units_from_channels(channels: Floats, lips: Floats, teeth: Floats, style: MouthStyle) -> Floats:
    """Combine articulators, contacts and style into units [steps, 52].

    `mouthClose` cancels the lip opening of `jawOpen` of the same weight, so that a closure leaves the jaw
    where the neighbouring vowels put it.
    """
    columns = {name: index for index, name in enumerate(FACE_UNITS)}
    units = np.zeros((channels.shape[0], len(FACE_UNITS)))
    jaw, lower, upper, funnel, pucker, stretch, smile, tongue = channels.T
    free = 1.0 - lips
    jaw = jaw * style.jaw_gain * (1.0 - 0.45 * lips) * (1.0 - 0.35 * teeth)
    height = style.gain * free
    rounding = style.gain * style.rounding_gain
    smile = style.gain * smile * (1.0 - 0.4 * lips) + style.smile
    single = {
        "jawOpen": jaw,
        "mouthClose": jaw * lips,
        "mouthFunnel": funnel * rounding * free * (1.0 - 0.7 * teeth),
        "mouthPucker": pucker * rounding * (1.0 - 0.3 * lips),
        "mouthRollLower": np.maximum(0.20 * lips, 0.55 * teeth),
        "mouthRollUpper": 0.16 * lips,
        "mouthShrugLower": 0.24 * teeth,
        "tongueOut": tongue * free * (1.0 - teeth),
    }
    paired = {
        "mouthLowerDown": lower * height * (1.0 - 0.8 * teeth),
        "mouthUpperUp": np.maximum(upper * height, 0.42 * teeth),
        "mouthStretch": stretch * style.gain * (1.0 - 0.5 * lips),
        "mouthSmile": smile,
        "mouthPress": 0.36 * lips,
    }
    for name, curve in single.items():
        units[:, columns[name]] = curve
    for name, curve in paired.items():
        units[:, columns[f"{name}Left"]] = curve * (1.0 + style.asymmetry)
        units[:, columns[f"{name}Right"]] = curve * (1.0 - style.asymmetry)
    return units
