"""Expressions laid over speech: how often, what they show, and that they give way."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from livetalk.synthetic.people.identity import sample_identity
from livetalk.synthetic.performance.expressions import (
    OPEN_SHARE,
    SMILE_SHARE,
    Expression,
    choose_start,
    draw_expression,
    express,
)
from livetalk.synthetic.performance.performance import FACE_UNITS, Performance
from livetalk.synthetic.performance.visemes import PhonemeEvent
from livetalk.synthetic.render_clips import cast_identity, sounding_frames

FRAMES = 77
MOUTH = [i for i, name in enumerate(FACE_UNITS) if name.startswith(("jaw", "mouth", "tongue"))]


def silence(num_frames: int = FRAMES) -> Performance:
    zeros = np.zeros((num_frames, 3), np.float32)
    units = np.zeros((num_frames, len(FACE_UNITS)), np.float32)
    return Performance(units, zeros, zeros, zeros[:, :2], zeros[:, 0])


def column(performance: Performance, name: str) -> NDArray[np.float32]:
    return performance.units[:, FACE_UNITS.index(name)]


def span(*pieces: tuple[int, bool]) -> NDArray[np.bool_]:
    return np.concatenate([np.full(length, speaks) for length, speaks in pieces])


@pytest.fixture(scope="module")
def drawn() -> list[Expression | None]:
    return [draw_expression(seed) for seed in range(3000)]


@pytest.fixture(scope="module")
def smiles(drawn: list[Expression | None]) -> list[Expression]:
    return [e for e in drawn if e is not None and e.stays]


@pytest.fixture(scope="module")
def toothy(smiles: list[Expression]) -> list[Expression]:
    return [e for e in smiles if e.teeth.any() and e.at_start and e.open_frame < 0]


def test_most_clips_only_speak(drawn: list[Expression | None], smiles: list[Expression]) -> None:
    some = [e for e in drawn if e is not None]
    assert len(smiles) / len(drawn) == pytest.approx(SMILE_SHARE, abs=0.03)
    assert (len(some) - len(smiles)) / len(drawn) == pytest.approx(OPEN_SHARE, abs=0.02)


def test_one_seed_one_expression() -> None:
    seed = next(seed for seed in range(100) if draw_expression(seed) is not None)
    first, again = (express(silence(), draw_expression(seed), span((FRAMES, False))) for _ in range(2))
    assert np.array_equal(first.units, again.units)
    assert first.units.max() > 0


def test_no_expression_changes_nothing() -> None:
    assert not express(silence(), None, span((FRAMES, False))).units.any()
    assert express(silence(0), draw_expression(0), span((0, False))).num_frames == 0


def test_smiles_hold_in_silence_and_show_the_upper_teeth(toothy: list[Expression]) -> None:
    assert len(toothy) > 100
    for expression in toothy:
        face = express(silence(), expression, span((FRAMES, False)))
        assert face.units.dtype == np.float32
        assert face.units.max() <= 1.2
        assert column(face, "mouthSmileLeft").min() > 0.4
        assert column(face, "mouthUpperUpRight").min() > 0.4
        assert 0.02 < column(face, "jawOpen").mean() < 0.3


def test_smiles_give_way_to_speech_within_0_7_seconds(smiles: list[Expression]) -> None:
    speech = silence()
    speech.units[:, FACE_UNITS.index("jawOpen")] = 0.37
    sounding = span((40, False), (37, True))
    for expression in smiles:
        quick = replace(expression, at_start=True, linger=0.0)
        face = express(speech, quick, sounding)
        assert column(face, "mouthSmileLeft")[38] > 0.3
        np.testing.assert_array_equal(face.units[57:], speech.units[57:])
        assert np.abs(np.diff(face.units, axis=0)).max() < 0.35


def test_a_lingering_smile_keeps_the_teeth_to_the_speech(toothy: list[Expression]) -> None:
    lingering = replace(toothy[0], linger=0.4, in_pauses=False)
    face = express(silence(), lingering, span((40, False), (37, True)))
    assert column(face, "mouthSmileLeft")[70] > 0.15
    assert column(face, "jawOpen")[60:].max() == 0.0
    assert column(face, "mouthUpperUpLeft")[60:].max() == 0.0


def test_smiles_in_pauses_begin_and_end_closed(toothy: list[Expression]) -> None:
    sounding = span((20, True), (40, False), (17, True))
    face = express(silence(), replace(toothy[0], at_start=False, in_pauses=True, linger=0.0), sounding)
    smile = column(face, "mouthSmileLeft")
    assert smile[:24].max() == 0.0
    assert smile[38:55].min() > 0.4
    short = span((20, True), (10, False), (47, True))
    assert not express(silence(), replace(toothy[0], at_start=False, in_pauses=True), short).units.any()


def test_other_open_mouths_close_in_silence(drawn: list[Expression | None]) -> None:
    others = [e for e in drawn if e is not None and not e.stays]
    for expression in others:
        face = express(silence(), expression, span((FRAMES, False)))
        assert column(face, "jawOpen")[:4].min() > 0.03
        assert not face.units[30:, MOUTH].any()


def test_smiling_clips_start_before_a_phrase(smiles: list[Expression], toothy: list[Expression]) -> None:
    sounding = span((60, True), (40, False), (30, True), (35, False), (50, True))
    chosen = {choose_start(toothy[0], sounding, 33, FRAMES, seed) for seed in range(20)}
    assert chosen == {100 - toothy[0].hold_frames, 165 - toothy[0].hold_frames}
    assert choose_start(toothy[0], span((200, True)), 33, FRAMES, 1) == 33


@pytest.mark.parametrize("num_frames", [1, 5, 200])
def test_clips_of_any_length_start_inside_the_recording(toothy: list[Expression], num_frames: int) -> None:
    for sounding in (span((195, False), (5, True)), span((60, True), (140, False))):
        for expression in (None, *toothy[:20]):
            assert 0 <= choose_start(expression, sounding, 0, num_frames, 3) <= 200 - num_frames


def test_clips_show_long_pauses_after_speech() -> None:
    sounding = span((50, True), (60, False), (90, True))
    starts = np.array([choose_start(None, sounding, 123, FRAMES, seed) for seed in range(200)])
    moved = starts[starts != 123]
    assert 0.6 < moved.size / starts.size < 0.9
    assert moved.min() >= 50 + 38 - FRAMES
    assert moved.max() <= 44
    assert choose_start(None, span((200, True)), 33, FRAMES, 1) == 33
    trailing = {choose_start(None, span((150, True), (50, False)), 0, FRAMES, seed) for seed in range(50)}
    assert min(trailing - {0}) >= 150 + 38 - FRAMES
    assert max(trailing) == 200 - FRAMES


def test_frames_sound_where_phonemes_are() -> None:
    events = [PhonemeEvent("aa", -0.1, 0.05), PhonemeEvent("pau", 0.05, 0.2), PhonemeEvent("s", 0.21, 0.3)]
    assert sounding_frames(events, 9).tolist() == [True] * 2 + [False] * 3 + [True] * 3 + [False]


def test_a_quarter_of_the_cast_wears_glasses() -> None:
    cast = [cast_identity(seed) for seed in range(600)]
    wearing = sum(person.outfit.glasses != "none" for person in cast) / len(cast)
    assert wearing == pytest.approx(0.26, abs=0.06)
    plain = [sample_identity(seed) for seed in range(600)]
    for person, before in zip(cast, plain, strict=True):
        assert replace(person, outfit=before.outfit) == before
