"""All motion of a speaker except the mouth shapes: head, gaze, lids, eyebrows, smiles, breath.

Head and eyebrows follow the accents of the voice; between phrases the head settles, in silence it is nearly
still. All choices are drawn from one seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.performance.prosody import Prosody, measure_prosody
from livetalk.synthetic.performance.visemes import FRAMES_PER_SECOND, MouthStyle, PhonemeEvent, mouth_units

Floats = NDArray[np.float64]

_POSTURE_SD: Final = np.array([0.055, 0.028, 0.018])  # yaw, pitch, roll, radians
_FIDGET_SD: Final = np.array([0.010, 0.009, 0.006])


@dataclass(frozen=True, slots=True)
class PerformanceStyle:
    """Behaviour of a person while speaking."""

    mouth: MouthStyle = field(default_factory=MouthStyle)  # deviation of the mouth from the average
    liveliness: float = 1.0  # scale of head motion, about 0.5..1.5
    brow_activity: float = 0.35  # probability that an accent lifts the eyebrows
    blink_interval_seconds: float = 3.5  # mean time between blinks, about 2..6
    glance_interval_seconds: float = 6.0  # mean time between looks away from the camera
    smile_interval_seconds: float = 8.0  # mean time between small smiles


def draw_style(rng: np.random.Generator) -> PerformanceStyle:
    """Draw a person's way of speaking."""
    mouth = MouthStyle(
        gain=float(rng.uniform(0.85, 1.2)),
        jaw_gain=float(rng.uniform(0.85, 1.25)),
        rounding_gain=float(rng.uniform(0.85, 1.15)),
        asymmetry=float(np.clip(rng.normal(0.0, 0.07), -0.2, 0.2)),
        smile=float(rng.uniform(0.04, 0.24)) if rng.random() < 0.4 else 0.0,
    )
    return PerformanceStyle(
        mouth=mouth,
        liveliness=float(rng.uniform(0.6, 1.4)),
        brow_activity=float(rng.uniform(0.1, 0.6)),
        blink_interval_seconds=float(rng.uniform(2.0, 5.5)),
        glance_interval_seconds=float(rng.uniform(3.5, 12.0)),
        smile_interval_seconds=float(rng.uniform(5.0, 15.0)),
    )


def build_performance(
    events: Sequence[PhonemeEvent],
    waveform: NDArray[np.float32],
    num_frames: int,
    seed: int,
    style: PerformanceStyle | None = None,
) -> Performance:
    """Create the facial and head motion for a voice, deterministically.

    Args:
        events: phonemes in time order; empty for silence.
        waveform: [samples], float32, -1..1, 16 kHz.
        num_frames: length F at 25 fps.
        seed: of all random choices, including the style if none is given.
        style: of the person.
    """
    return perform(events, measure_prosody(waveform, num_frames), num_frames, seed, style)


def perform(
    events: Sequence[PhonemeEvent],
    prosody: Prosody,
    num_frames: int,
    seed: int,
    style: PerformanceStyle | None = None,
) -> Performance:
    """Create a performance from prosody of at least `num_frames` frames; see `build_performance`."""
    rng = np.random.default_rng(seed)
    style = draw_style(rng) if style is None else style
    voice = _Voice(events, prosody, num_frames)
    units = mouth_units(events, num_frames, style.mouth, voice.effort()).astype(np.float64)
    accents = voice.accents()
    rotation = _head_rotation(rng, voice, accents, style)
    breath = _breath(rng, voice)
    blinks, gaze = _eyes(rng, voice, style)
    _add(units, "eyeBlink", blinks)
    _add_brows(rng, units, voice, accents, style)
    _add_smiles(rng, units, voice, style)
    return Performance(
        units=np.clip(units, 0.0, 1.2).astype(np.float32),
        head_rotation=rotation.astype(np.float32),
        head_translation=_head_translation(rng, rotation, breath).astype(np.float32),
        gaze=gaze.astype(np.float32),
        breath=breath.astype(np.float32),
    )


class _Voice:
    """Properties of the voice per frame that drive the motion."""

    def __init__(self, events: Sequence[PhonemeEvent], prosody: Prosody, num_frames: int) -> None:
        self.num_frames = num_frames
        self.times = (np.arange(num_frames) + 0.5) / FRAMES_PER_SECOND
        level = np.zeros(num_frames)
        used = min(num_frames, prosody.energy_db.size)
        level[:used] = prosody.level()[:used]
        sounding = np.zeros(num_frames)
        for event in events:
            if event.symbol != "pau":
                first = int(event.start_seconds * FRAMES_PER_SECOND)
                last = int(np.ceil(event.end_seconds * FRAMES_PER_SECOND))
                sounding[max(0, first) : max(0, last)] = 1.0
        self.level = level * sounding
        self.sounding = sounding
        self.activity = _smooth(sounding, 0.9)
        self.pitch = np.zeros(num_frames)
        self.pitch[:used] = prosody.pitch_hz[:used]

    def effort(self) -> NDArray[np.float32]:
        """Return how wide vowels open, [F], 0.6..1.2, more in loud syllables."""
        loudness = _smooth(self.level, 0.2)
        return np.clip(0.45 + 0.60 * loudness, 0.6, 1.2).astype(np.float32)

    def accents(self) -> list[tuple[float, float]]:
        """Return (time, strength 0..1) of accents: syllables that are loud or high for this voice."""
        voiced = self.pitch > 0
        height = np.zeros(self.num_frames)
        if voiced.any():
            centre = np.median(self.pitch[voiced])
            height[voiced] = np.clip(np.log2(self.pitch[voiced] / centre), -0.6, 0.6)
        salience = _smooth(self.level, 0.14) + 0.6 * _smooth(height, 0.14)
        # Relative to the surrounding second, because emphasis is local.
        salience -= _smooth(salience, 1.2)
        found: list[tuple[float, float]] = []
        for frame in np.argsort(-salience):
            if salience[frame] < 0.08:
                break
            time = float(self.times[frame])
            if all(abs(time - other) > 0.35 for other, _ in found):
                found.append((time, float(np.clip(salience[frame] / 0.4, 0.2, 1.0))))
        return sorted(found)

    def phrase_ends(self) -> list[float]:
        """Return the times at which speech stops for a pause."""
        falling = np.flatnonzero(np.diff(self.sounding) < 0)
        return [float(self.times[frame]) for frame in falling]


def _head_rotation(
    rng: np.random.Generator, voice: _Voice, accents: Sequence[tuple[float, float]], style: PerformanceStyle
) -> Floats:
    """Return held postures with quick changes, fidgeting during speech and nods on most accents, [F, 3]."""
    rotation = _postures(rng, voice) * _POSTURE_SD * style.liveliness
    rotation += rng.normal(size=3) * np.array([0.03, 0.015, 0.010])
    fidget = np.stack([_wander(rng, voice.times, 1.1) for _ in range(3)], 1)
    rotation += fidget * _FIDGET_SD * style.liveliness * (0.12 + 0.88 * voice.activity)[:, None]
    for time, strength in accents:
        if rng.random() < 0.75:
            nod = rng.uniform(0.015, 0.05) * strength * style.liveliness
            pulse = _pulse(voice.times, time + rng.uniform(-0.05, 0.05), 0.16, 0.34)
            rotation[:, 1] += nod * pulse
            rotation[:, 0] += rng.normal(0.0, 0.4) * nod * pulse
            rotation[:, 2] += rng.normal(0.0, 0.3) * nod * pulse
    limits = np.array([0.3, 0.18, 0.12])
    return np.asarray(np.clip(rotation, -limits, limits), np.float64)


def _postures(rng: np.random.Generator, voice: _Voice) -> Floats:
    """Return unit-variance postures that change in smooth steps, rarely in silence, [F, 3]."""
    posture = rng.normal(size=3)
    track = np.tile(posture, (voice.num_frames, 1))
    time = rng.uniform(0.2, 1.2)
    end = voice.num_frames / FRAMES_PER_SECOND
    while time < end:
        active = voice.activity[min(int(time * FRAMES_PER_SECOND), voice.num_frames - 1)]
        size = 0.35 + 0.65 * active
        kept = 1.0 - 0.75 * size
        wanted = kept * posture + np.sqrt(1.0 - kept**2) * rng.normal(size=3)
        progress = np.clip((voice.times - time) / rng.uniform(0.45, 1.1), 0.0, 1.0)
        # Minimum-jerk trajectory, as of human reaching and head movements.
        track += (progress**3 * (10.0 - 15.0 * progress + 6.0 * progress**2))[:, None] * (wanted - posture)
        posture = wanted
        time += rng.uniform(0.6, 2.2) if active > 0.5 else rng.uniform(2.2, 4.5)
    return track


def _head_translation(rng: np.random.Generator, rotation: Floats, breath: Floats) -> Floats:
    """Return head translation [F, 3] in head heights: it follows the rotation and rises with the breath."""
    lean = np.stack(
        [0.16 * rotation[:, 0] - 0.2 * rotation[:, 2], -0.10 * rotation[:, 1], 0.22 * rotation[:, 1]], 1
    )
    lean[:, 1] += 0.0025 * breath
    kernel_seconds = 0.3
    lean = np.stack([_smooth(column, kernel_seconds) for column in lean.T], 1)
    offset: Floats = rng.normal(size=3) * np.array([0.012, 0.008, 0.012])
    return lean + offset


def _breath(rng: np.random.Generator, voice: _Voice) -> Floats:
    """Return breath [F], -1..1: in during pauses, out during speech, slow waves in silence."""
    breath = np.empty(voice.num_frames)
    rate, phase = rng.uniform(0.2, 0.3), rng.uniform(0.0, 2.0 * np.pi)
    resting = np.sin(2.0 * np.pi * rate * voice.times + phase)
    state = float(rng.uniform(-0.5, 0.5))
    for frame in range(voice.num_frames):
        if voice.sounding[frame]:
            state += (-1.0 - state) / (2.8 * FRAMES_PER_SECOND)
        else:
            wanted = 1.0 if voice.activity[frame] > 0.25 else resting[frame]
            state += (wanted - state) / (0.5 * FRAMES_PER_SECOND)
        breath[frame] = state
    return np.clip(_smooth(breath, 0.2), -1.0, 1.0)


def _eyes(rng: np.random.Generator, voice: _Voice, style: PerformanceStyle) -> tuple[Floats, Floats]:
    """Return lids [F] (1 is closed) and gaze [F, 2]: fixation of the camera, saccades, glances aside."""
    length = voice.num_frames / FRAMES_PER_SECOND
    gaze, glances = _gaze(rng, voice, style)
    wanted = [time for time in voice.phrase_ends() if rng.random() < 0.45]
    wanted += [time for time in glances if rng.random() < 0.35]
    time = rng.uniform(0.0, style.blink_interval_seconds)
    while time < length:
        wanted.append(time)
        if rng.random() < 0.1:
            wanted.append(time + rng.uniform(0.32, 0.45))
        # Intervals between blinks are less regular than a clock and more than a Poisson process.
        time += np.clip(rng.gamma(4.0, style.blink_interval_seconds / 4.0), 0.9, 9.0)
    lids = np.zeros(voice.num_frames)
    last = -1.0
    for start in sorted(wanted):
        if start - last < 0.3:
            continue
        last = start
        lids = np.maximum(lids, _pulse(voice.times, start + 0.09, 0.09, 0.19) * rng.uniform(0.94, 1.0))
    return lids, gaze


def _gaze(rng: np.random.Generator, voice: _Voice, style: PerformanceStyle) -> tuple[Floats, list[float]]:
    jumps: list[tuple[float, Floats]] = [(-1.0, rng.normal(0.0, 0.01, 2))]
    glances: list[float] = []
    length = voice.num_frames / FRAMES_PER_SECOND
    time = rng.uniform(0.2, 1.0)
    next_glance = rng.exponential(style.glance_interval_seconds)
    while time < length:
        if time >= next_glance:
            away = rng.choice([-1.0, 1.0]) * rng.uniform(0.08, 0.26)
            jumps.append((time, np.array([away, rng.uniform(-0.08, 0.10)])))
            glances.append(time)
            time += rng.uniform(0.35, 1.3)
            next_glance = time + rng.exponential(style.glance_interval_seconds)
        jumps.append((time, rng.normal(0.0, 0.012, 2)))
        time += rng.uniform(0.3, 1.5)
    starts = np.array([start for start, _ in jumps])
    points = np.array([point for _, point in jumps])
    # A saccade lasts about a frame, so at most one frame shows a position between two points.
    index = np.searchsorted(starts, voice.times, side="right") - 1
    progress = np.clip((voice.times - starts[index]) / 0.045, 0.0, 1.0)[:, None]
    before = points[np.maximum(index - 1, 0)]
    return before + (points[index] - before) * progress, glances


def _add_brows(
    rng: np.random.Generator,
    units: Floats,
    voice: _Voice,
    accents: Sequence[tuple[float, float]],
    style: PerformanceStyle,
) -> None:
    """Lift the eyebrows on some accents, on top of a slowly changing offset."""
    mood = 0.10 * _wander(rng, voice.times, 0.15) + rng.normal(0.0, 0.06)
    raised = np.zeros(voice.num_frames)
    for time, strength in accents:
        if rng.random() < style.brow_activity:
            raised += (
                rng.uniform(0.15, 0.55) * strength * _pulse(voice.times, time, 0.2, rng.uniform(0.3, 0.7))
            )
    raised = np.minimum(raised, 0.8)
    up = np.maximum(mood, 0.0) + raised
    _add(units, "browInnerUp", up * rng.uniform(0.7, 1.0))
    _add(units, "browOuterUp", up * rng.uniform(0.4, 0.9), rng.normal(0.0, 0.15))
    _add(units, "browDown", np.maximum(-mood, 0.0) * (1.0 - raised))
    _add(units, "eyeWide", 0.25 * raised)


def _add_smiles(rng: np.random.Generator, units: Floats, voice: _Voice, style: PerformanceStyle) -> None:
    """Add small smiles with cheeks and lids, more often at the ends of phrases."""
    starts = [time for time in voice.phrase_ends() if rng.random() < 0.2]
    time = rng.exponential(style.smile_interval_seconds)
    while time < voice.num_frames / FRAMES_PER_SECOND:
        starts.append(time)
        time += 1.5 + rng.exponential(style.smile_interval_seconds)
    smile = np.zeros(voice.num_frames)
    for start in starts:
        pulse = _pulse(
            voice.times, start + rng.uniform(0.3, 0.8), rng.uniform(0.35, 0.7), rng.uniform(0.8, 2.0)
        )
        smile = np.maximum(smile, rng.uniform(0.08, 0.32) * pulse)
    lean = style.mouth.asymmetry
    _add(units, "mouthSmile", smile, lean)
    warmth = smile + style.mouth.smile
    _add(units, "cheekSquint", 0.7 * warmth, lean)
    _add(units, "eyeSquint", 0.45 * warmth)


def _add(units: Floats, name: str, curve: Floats, lean: float = 0.0) -> None:
    """Add a curve to a unit, or to both sides of a pair, the left scaled by (1 + lean)."""
    if name in FACE_UNITS:
        units[:, FACE_UNITS.index(name)] += curve
        return
    units[:, FACE_UNITS.index(f"{name}Left")] += curve * (1.0 + lean)
    units[:, FACE_UNITS.index(f"{name}Right")] += curve * (1.0 - lean)


def _pulse(times: Floats, peak: float, rise: float, fall: float) -> Floats:
    """Return a smooth bump [F] with peak 1 that is 0 outside peak - rise .. peak + fall."""
    distance = np.where(times < peak, (peak - times) / rise, (times - peak) / fall)
    bump: Floats = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance, 0.0, 1.0))
    return bump


def _wander(rng: np.random.Generator, times: Floats, rate_hz: float) -> Floats:
    """Return smooth noise [F] of about unit variance around a frequency."""
    curve = np.zeros(times.size)
    for share in (0.35, 0.6, 1.0, 1.5):
        phase = rng.uniform(0.0, 2.0 * np.pi)
        curve += rng.normal() * np.sin(
            2.0 * np.pi * rate_hz * share * rng.uniform(0.85, 1.15) * times + phase
        )
    return curve / float(np.sqrt(2.0))


def _smooth(curve: Floats, seconds: float) -> Floats:
    """Return the curve [F] filtered with a Hann window, with repeated ends."""
    half = max(1, round(seconds * FRAMES_PER_SECOND / 2))
    kernel = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(curve, half, mode="edge") if curve.size else curve
    return np.convolve(padded, kernel / kernel.sum(), "valid") if curve.size else curve
