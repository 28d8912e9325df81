"""What every registered measure promises, and that a new one needs nothing but its own file."""

import numpy as np
import pytest
from drawn_face import BrightnessLandmarker, ColourEmbedder, write_video

from livetalk.evaluation.clip import Clip, ClipInputs, Need
from livetalk.evaluation.measure import COUNT, Column, Measure, Value, list_signals, list_values
from livetalk.evaluation.registry import MEASURES
from livetalk.evaluation.report import format_clip, format_suite, suite_to_json
from livetalk.evaluation.signals import Signal
from livetalk.evaluation.suite import measure_clip, measure_suite
from livetalk.evaluation.tracking import Instruments

INSTRUMENTS = Instruments(BrightnessLandmarker(), ColourEmbedder())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ClipInputs:
    """A clip of which everything is known."""
    folder = tmp_path_factory.mktemp("clip")
    opening = np.concatenate([np.zeros(25), 0.4 - 0.4 * np.cos(np.arange(35) / 3)])
    np.save(folder / "truth.npy", opening)
    (folder / "events.json").write_text('[["b", 0.5, 0.6]]')
    video = write_video(folder / "clip.mp4", opening)
    return ClipInputs(
        name="clip",
        video=video,
        truth=folder / "truth.npy",
        reference_video=video,
        events=folder / "events.json",
    )


def test_names_are_unique() -> None:
    values = [value.name for value in list_values(MEASURES)]
    assert len(set(values)) == len(values)
    assert len({measure.name for measure in MEASURES}) == len(MEASURES)
    headings = [value.column.heading for value in list_values(MEASURES) if value.column is not None]
    assert len(set(headings)) == len(headings)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_measure_works_alone_with_the_signals_that_it_declares(
    inputs: ClipInputs, measure: Measure
) -> None:
    alone = measure_clip(inputs, INSTRUMENTS, measures=[measure]).values
    together = measure_clip(inputs, INSTRUMENTS).values
    assert set(alone) == {value.name for value in measure.values}
    assert alone == pytest.approx({name: together[name] for name in alone}, nan_ok=True, abs=0, rel=0)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_measure_that_lacks_something_is_unknown(inputs: ClipInputs, measure: Measure) -> None:
    bare = ClipInputs(name="bare", video=inputs.video)
    clip = Clip(
        bare,
        Instruments(BrightnessLandmarker()),
        signals=list_signals([measure]),
        probe=None,
        chunk_frames=28,
    )
    found = measure.take(clip)
    if measure.needs:
        assert all(found[value.name] == 0 or np.isnan(found[value.name]) for value in measure.values)
        assert "track" not in vars(clip), "the video was looked at in vain"
    else:
        assert any(np.isfinite(number) for number in found.values())


def test_what_a_clip_does_not_provide_cannot_be_read(inputs: ClipInputs) -> None:
    bare = ClipInputs(name="bare", video=inputs.video)
    clip = Clip(bare, INSTRUMENTS, signals=[], probe=None, chunk_frames=28)
    assert [need for need in Need if clip.provides(need)] == [Need.IDENTITY]
    for name in ("truth", "reference", "phones"):
        with pytest.raises(ValueError, match="the clip has"):
            getattr(clip, name)


def test_the_frames_are_passed_over_once_for_all_measures(inputs: ClipInputs) -> None:
    seen = 0

    class Counting(BrightnessLandmarker):
        def find(self, frame: np.ndarray) -> np.ndarray:
            nonlocal seen
            seen += 1
            return super().find(frame)

    measure_clip(inputs, Instruments(Counting(), ColourEmbedder()))
    assert seen == 2 * 60, "once the video, once the reference"


def test_a_new_measure_is_in_every_report(inputs: ClipInputs) -> None:
    brightness = Signal("brightness", lambda view: float(view.frame.mean()))
    measure = Measure(
        name="brightness",
        values=(
            Value(name="brightness", unit="levels", meaning="mean", column=Column("bright", ".1f")),
            Value(name="num_bright", unit=COUNT, meaning="bright frames"),
        ),
        find=lambda clip: {
            "num_bright": int((clip.track.signals[brightness] > 60).sum()),
            "brightness": float(clip.track.signals[brightness].mean()),
        },
        signals=(brightness,),
    )
    suite = measure_suite([inputs], INSTRUMENTS, measures=[*MEASURES, measure])
    (result,) = suite.clips
    assert 40 < result.values["brightness"] < 160
    assert format_clip(result).splitlines()[3].startswith("num_bright ")
    assert "brightness  " in format_clip(result)
    assert format_suite(suite).count(f" {result.values['brightness']:.1f} |") == 2
    content = suite_to_json(suite)
    assert content["clips"][0]["num_bright"] == result.values["num_bright"]  # type: ignore[index]
    assert suite.medians["brightness"] == result.values["brightness"]


def test_a_measure_that_breaks_its_word_is_an_error(inputs: ClipInputs) -> None:
    value = Value(name="promised", unit="ratio", meaning="nothing")
    measure = Measure(name="careless", values=(value,), find=lambda clip: {"other": 1.0})
    with pytest.raises(ValueError, match="careless returned"):
        measure_clip(inputs, INSTRUMENTS, measures=[measure])
