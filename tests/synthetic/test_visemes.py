"""Mouth shapes from timed phonemes."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.synthetic.performance.performance import FACE_UNITS
from livetalk.synthetic.performance.visemes import (
    BILABIALS,
    LABIODENTALS,
    PHONEMES,
    MouthStyle,
    PhonemeEvent,
    closure_frames,
    mouth_units,
)

Units = NDArray[np.float32]


def spoken(*symbols: str, start: float = 0.5, seconds: float = 0.1) -> list[PhonemeEvent]:
    """Phonemes of equal length in a row."""
    times = start + seconds * np.arange(len(symbols) + 1)
    return [
        PhonemeEvent(symbol, float(a), float(b))
        for symbol, a, b in zip(symbols, times[:-1], times[1:], strict=True)
    ]


def unit(units: Units, name: str) -> Units:
    return units[:, FACE_UNITS.index(name)]


def lip_gap(units: Units) -> Units:
    """Opening between the inner lips of the shipped head, in head units (full jaw: 0.345)."""
    pairs = {"mouthLowerDown": 0.019, "mouthUpperUp": 0.024, "mouthPress": -0.014, "mouthSmile": -0.015}
    gap = 0.345 * (unit(units, "jawOpen") - unit(units, "mouthClose")) + 0.14 * unit(units, "mouthFunnel")
    gap = gap - 0.038 * unit(units, "mouthRollLower") - 0.028 * unit(units, "mouthRollUpper")
    gap = gap - 0.049 * unit(units, "mouthShrugLower") - 0.009 * unit(units, "mouthPucker")
    for name, weight in pairs.items():
        gap = gap + weight * (unit(units, f"{name}Left") + unit(units, f"{name}Right"))
    return np.asarray(gap, np.float32)


def random_speech(seed: int, shortest: float) -> list[PhonemeEvent]:
    rng = np.random.default_rng(seed)
    symbols = sorted(PHONEMES - {"pau"})
    events, time = [], 0.3
    for _ in range(60):
        length = float(rng.uniform(shortest, 0.14))
        events.append(PhonemeEvent(str(rng.choice(symbols)), time, time + length))
        time += length
    return events


@pytest.mark.parametrize("seed", range(12))
def test_lips_touch_in_every_bilabial_however_short(seed: int) -> None:
    events = random_speech(seed, 0.03)
    units = mouth_units(events, 200, MouthStyle(gain=1.2, jaw_gain=1.25))
    frames = closure_frames(events, 200)
    assert len(frames) == sum(event.symbol in BILABIALS for event in events)
    gap = lip_gap(units)
    for event, frame in zip((e for e in events if e.symbol in BILABIALS), frames, strict=True):
        assert gap[frame] < -0.01, f"{event} is open by {gap[frame]:.3f}"


def test_lips_open_between_closures() -> None:
    gap = lip_gap(mouth_units(spoken("p", "aa", "p", "aa", "p"), 50))
    assert gap[16:17].max() > 0.05
    assert gap[18:20].min() < -0.01


def test_the_jaw_stays_low_while_the_lips_close() -> None:
    units = mouth_units(spoken("aa", "b", "aa", seconds=0.12), 50)
    frame = closure_frames(spoken("aa", "b", "aa", seconds=0.12), 50)[0]
    assert unit(units, "jawOpen")[frame] > 0.08
    assert unit(units, "mouthClose")[frame] == pytest.approx(unit(units, "jawOpen")[frame], rel=0.05)


def test_no_speech_means_a_closed_mouth() -> None:
    assert np.all(mouth_units([], 25) == 0.0)
    assert np.all(mouth_units([PhonemeEvent("pau", 0.0, 1.0)], 25) == 0.0)


@pytest.mark.parametrize("symbol", sorted(PHONEMES - {"pau"}))
def test_the_mouth_closes_within_120_ms_of_a_pause(symbol: str) -> None:
    events = [*spoken("aa", "t", symbol), PhonemeEvent("pau", 0.8, 1.4), *spoken("aa", start=1.4)]
    gap = lip_gap(mouth_units(events, 50))
    closed = slice(int(np.ceil((0.8 + 0.12) * 25)), int((1.4 - 0.14) * 25))
    assert np.abs(gap[closed]).max() < 0.01


def test_a_breath_of_40_ms_does_not_close_the_mouth() -> None:
    gap = lip_gap(mouth_units([*spoken("aa"), *spoken("aa", start=0.64)], 50))
    assert gap[15] > 0.05


def test_lower_lip_meets_the_teeth() -> None:
    for symbol in LABIODENTALS:
        units = mouth_units(spoken("aa", symbol, "aa"), 50)
        frame = int(0.65 * 25)
        assert unit(units, "mouthRollLower")[frame] > 0.35
        assert 0.0 < lip_gap(units)[frame] < 0.06


def test_shapes_tell_vowels_and_consonants_apart() -> None:
    def held(symbol: str, name: str) -> float:
        return float(unit(mouth_units(spoken(symbol, seconds=0.4), 40), name)[17])

    assert held("aa", "jawOpen") > 2 * held("iy", "jawOpen")
    assert held("uw", "mouthPucker") > 0.5 > held("aa", "mouthPucker")
    assert held("w", "mouthPucker") > 0.6
    assert held("iy", "mouthSmileLeft") > 0.25 > held("uw", "mouthSmileLeft")
    assert held("th", "tongueOut") > 0.3 > held("s", "tongueOut")
    assert held("l", "tongueOut") > 0.1
    assert held("s", "jawOpen") < 0.1 < held("k", "jawOpen")
    assert held("sh", "mouthFunnel") > 0.3 > held("s", "mouthFunnel")


def test_lips_round_before_the_vowel() -> None:
    early = unit(mouth_units(spoken("s", "t", "uw"), 50), "mouthPucker")
    flat = unit(mouth_units(spoken("s", "t", "iy"), 50), "mouthPucker")
    during_t = int(0.66 * 25)
    assert early[during_t] > flat[during_t] + 0.08


def test_motion_is_smooth() -> None:
    for seed in range(5):
        units = mouth_units(random_speech(seed, 0.05), 200)
        jaw = unit(units, "jawOpen")
        assert np.abs(np.diff(jaw)).max() < 0.32
        assert np.abs(np.diff(jaw, n=2)).mean() < 0.09


def test_effort_and_style_scale_the_opening() -> None:
    events = spoken("aa", "t", "ae", seconds=0.15)
    plain = unit(mouth_units(events, 50), "jawOpen").max()
    mumbled = unit(mouth_units(events, 50, effort=np.full(50, 0.6, np.float32)), "jawOpen").max()
    wide = unit(mouth_units(events, 50, MouthStyle(jaw_gain=1.2)), "jawOpen").max()
    assert mumbled == pytest.approx(0.6 * plain, rel=0.02)
    assert wide == pytest.approx(1.2 * plain, rel=0.02)
    tilted = mouth_units(events, 50, MouthStyle(asymmetry=0.2))
    assert unit(tilted, "mouthLowerDownLeft").max() > 1.3 * unit(tilted, "mouthLowerDownRight").max()


def test_result_is_repeatable_and_well_formed() -> None:
    events: Sequence[PhonemeEvent] = random_speech(3, 0.04)
    first, second = mouth_units(events, 120), mouth_units(events, 120)
    assert np.array_equal(first, second)
    assert first.shape == (120, 52) and first.dtype == np.float32
    assert first.min() >= 0.0 and first.max() <= 1.2
    assert mouth_units(events, 0).shape == (0, 52)
    moved = {name for name, column in zip(FACE_UNITS, first.T, strict=True) if column.any()}
    assert all(name.startswith(("jaw", "mouth", "tongue")) for name in moved)


def test_unknown_phonemes_are_refused() -> None:
    with pytest.raises(ValueError, match="'xx' is not in the alphabet"):
        mouth_units([PhonemeEvent("xx", 0.0, 0.1)], 10)
