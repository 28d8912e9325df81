"""From a video file to a table, with instruments that need no model."""

import json
from pathlib import Path

import numpy as np
import pytest
from drawn_face import BrightnessLandmarker, ColourEmbedder, write_video

from livetalk.errors import InputError
from livetalk.evaluation.clip import ClipInputs
from livetalk.evaluation.report import format_clip, format_suite, suite_to_json
from livetalk.evaluation.signals import LIPS
from livetalk.evaluation.suite import load_manifest, measure_clip, measure_suite
from livetalk.evaluation.tracking import Instruments, track_video

INSTRUMENTS = Instruments(BrightnessLandmarker(), ColourEmbedder(), embed_every=10)
NUM_FRAMES = 100


def make_opening(seed: int) -> np.ndarray:
    """Return a speech-like opening [100], closed in the first and last second."""
    steps = np.random.default_rng(seed).uniform(0, 1, NUM_FRAMES + 2)
    opening = np.convolve(steps, np.ones(3) / 3, mode="valid") * 0.8
    opening[:25] = opening[75:] = 0.0
    return opening


def test_track_reads_what_was_drawn(tmp_path: Path) -> None:
    opening = make_opening(0)
    track = track_video(write_video(tmp_path / "a.mp4", opening), INSTRUMENTS)
    assert track.num_frames == NUM_FRAMES
    assert track.fps == 25
    assert np.corrcoef(track.lips, opening)[0, 1] > 0.99
    assert track.embeddings.shape == (10, 128)
    assert track.embedding_seconds == pytest.approx(np.arange(10) * 0.4)
    assert list(track.signals) == [LIPS]


def test_clip_against_truth_and_reference(tmp_path: Path) -> None:
    opening = make_opening(0)
    late = np.roll(opening, 2)
    np.save(tmp_path / "truth.npy", opening)
    (tmp_path / "events.json").write_text(json.dumps([["b", 0.5, 0.6], ["a", 1.5, 1.6]]))
    inputs = ClipInputs(
        name="late",
        video=write_video(tmp_path / "late.mp4", late),
        truth=tmp_path / "truth.npy",
        reference_video=write_video(tmp_path / "reference.mp4", opening),
        events=tmp_path / "events.json",
    )
    result = measure_clip(inputs, INSTRUMENTS)
    values = result.values
    assert values["best_lag"] == 2
    assert values["best_correlation"] > 0.99
    assert values["reference_correlation"] > 0.99
    assert values["relative_correlation"] == pytest.approx(values["correlation"], rel=0.02)
    assert (values["closure_recall"], values["num_closures"]) == (1.0, 1)
    assert values["silence_opening"] < 0.1
    assert values["identity_distance"] < 0.1
    assert 10 < values["face_psnr"] < 60
    assert "best_lag" in format_clip(result)


def test_without_truth_sync_is_unknown_and_not_shown(tmp_path: Path) -> None:
    inputs = ClipInputs(name="alone", video=write_video(tmp_path / "a.mp4", make_opening(0)))
    result = measure_clip(inputs, INSTRUMENTS)
    assert np.isnan(result.values["correlation"])
    assert "correlation" not in format_clip(result)


def test_suite_separates_controls(tmp_path: Path) -> None:
    entries = []
    for seed in (1, 2, 3):
        write_video(tmp_path / f"{seed}.mp4", make_opening(seed))
        np.save(tmp_path / f"{seed}.npy", make_opening(seed))
        entries.append({"video": f"{seed}.mp4", "truth": f"{seed}.npy"})
    entries.append({"video": "2.mp4", "truth": "1.npy", "name": "wrong", "is_control": True})
    (tmp_path / "manifest.json").write_text(json.dumps({"clips": entries}))
    seen: list[str] = []
    suite = measure_suite(
        load_manifest(tmp_path), INSTRUMENTS, report=lambda result: seen.append(result.inputs.name)
    )
    assert seen == ["1", "2", "3", "wrong"]
    assert suite.medians["correlation"] > 0.98
    assert suite.control_correlation < suite.medians["correlation"] - 0.05
    assert suite.crossed_correlation < suite.medians["correlation"] - 0.05
    content = suite_to_json(suite)
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    table = format_suite(suite)
    assert "wrong (control)" in table
    assert len({len(line) for line in table.splitlines() if line.startswith("|")}) == 1


def test_a_video_that_cannot_be_measured_is_named_and_counts_nowhere(tmp_path: Path) -> None:
    good = ClipInputs(name="good", video=write_video(tmp_path / "good.mp4", make_opening(1)))
    suite = measure_suite([ClipInputs(name="gone", video=tmp_path / "gone.mp4"), good], INSTRUMENTS)
    assert [result.inputs.name for result in suite.clips] == ["good"]
    assert len(suite.failures) == 1
    assert "gone: video" in suite.failures[0]
    assert f"not measured: {suite.failures[0]}" in format_suite(suite)
    assert suite_to_json(suite)["failures"] == list(suite.failures)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[", "Expecting"),
        ("[]", "no clips"),
        ('[{"truth": "a.npy"}]', "lacks `video`"),
        ('[{"video": "a.mp4", "thruth": "a.npy"}]', "'thruth'"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(InputError, match=complaint):
        load_manifest(path)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    good = write_video(tmp_path / "good.mp4", make_opening(0))
    black = write_video(tmp_path / "black.mp4", np.full(10, 0.0))
    silent = write_video(tmp_path / "silent.mp4", make_opening(0), with_audio=False)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(InputError, match="is not an audio or video file"):
        track_video(text, INSTRUMENTS)
    with pytest.raises(InputError, match=r"missing\.mp4"):
        track_video(tmp_path / "missing.mp4", INSTRUMENTS)
    with pytest.raises(InputError, match=r"silent\.mp4"):
        measure_clip(ClipInputs(name="s", video=silent), INSTRUMENTS)
    with pytest.raises(InputError, match=r"text\.npy"):
        measure_clip(ClipInputs(name="t", video=good, truth=tmp_path / "text.npy"), INSTRUMENTS)

    class Blind:
        def find(self, frame: np.ndarray) -> np.ndarray:
            return np.full((478, 2), np.nan, dtype=np.float32)

    with pytest.raises(InputError, match="no face found in any of its 10 frames"):
        track_video(black, Instruments(Blind()))
