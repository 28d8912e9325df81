"""Measurement of many videos: a manifest in, a table with medians and controls out."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import UNSUITABLE_CONTENT, InputError
from livetalk.evaluation.clip import Clip, ClipInputs, Need
from livetalk.evaluation.measure import Measure, list_signals, list_values
from livetalk.evaluation.measures.seams import CHUNK_FRAMES
from livetalk.evaluation.probe import LipProbe
from livetalk.evaluation.recognition import across_identities
from livetalk.evaluation.registry import MEASURES
from livetalk.evaluation.statistics import correlate
from livetalk.evaluation.tracking import Instruments
from livetalk.media.files import require_input_file

MANIFEST_NAME = "manifest.json"
_PATHS = frozenset({"video", "truth", "reference_video", "audio", "events", "portrait"})
_WORDS = frozenset({"name", "transcript"})


@dataclass(frozen=True, slots=True, eq=False)
class ClipResult:
    """The values of one video and what comparisons between videos need."""

    inputs: ClipInputs
    values: dict[str, float]  # by name, in the order of reports; NaN if unknown or not requested
    lips: NDArray[np.float64]
    truth: NDArray[np.float64] | None
    person: NDArray[np.float64]  # [128], embedding of the reference person, NaN if unknown


@dataclass(frozen=True, slots=True, eq=False)
class SuiteResult:
    """The results of many videos.

    Attributes:
        control_correlation: median correlation of the manifest's controls with their truths; NaN without any.
        crossed_correlation: median correlation of each video with the truths of all others: the score of a
            mouth that moves like speech, but like another sentence.
        failures: one line for each video that could not be measured, such as one without a face. These are in
            no median, so a suite with failures is not a valid result.
    """

    clips: tuple[ClipResult, ...]
    measures: tuple[Measure, ...]
    medians: dict[str, float]  # of each value over all videos except controls, without NaN
    control_correlation: float
    crossed_correlation: float
    across_identities: float  # 5th percentile of the distances between the videos' people
    failures: tuple[str, ...] = ()


def load_manifest(path: str | os.PathLike[str]) -> list[ClipInputs]:
    """Read the videos to measure from a JSON file, or from `manifest.json` in a folder.

    The file has a list, or an object with the list under `clips`. Each entry has the fields of `ClipInputs`;
    `video` is required, and paths are relative to the file.

    Raises:
        InputError: the file is missing or has other content.
    """
    location = Path(path)
    file = require_input_file(location / MANIFEST_NAME if location.is_dir() else location, "manifest")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        entries = content["clips"] if isinstance(content, dict) else content
        clips = [_read_entry(entry, file.parent) for entry in entries]
    except UNSUITABLE_CONTENT as error:
        raise InputError(f"manifest {file}: {error}") from error
    if not clips:
        raise InputError(f"manifest {file}: lists no clips")
    return clips


def measure_clip(
    inputs: ClipInputs,
    instruments: Instruments,
    probe: LipProbe | None = None,
    chunk_frames: int = CHUNK_FRAMES,
    measures: Sequence[Measure] = MEASURES,
) -> ClipResult:
    """Measure one video; see `Clip` for the arguments.

    Raises:
        InputError: a file is missing or unusable, or no frame shows a face.
    """
    signals = list_signals(measures)
    clip = Clip(inputs, instruments, signals=signals, probe=probe, chunk_frames=chunk_frames)
    found: dict[str, float] = {}
    for measure in measures:
        found |= measure.take(clip)
    return ClipResult(
        inputs=inputs,
        values={value.name: found[value.name] for value in list_values(measures)},
        lips=clip.track.lips,
        truth=clip.truth if clip.provides(Need.TRUTH) else None,
        person=clip.person,
    )


def measure_suite(
    clips: Sequence[ClipInputs],
    instruments: Instruments,
    probe: LipProbe | None = None,
    chunk_frames: int = CHUNK_FRAMES,
    report: Callable[[ClipResult], None] | None = None,
    measures: Sequence[Measure] = MEASURES,
) -> SuiteResult:
    """Measure many videos, and call `report` with each result; see `Clip` for the other arguments.

    A video that cannot be measured becomes an entry of `SuiteResult.failures`.
    """
    results = []
    failures = []
    for clip in clips:
        try:
            results.append(measure_clip(clip, instruments, probe, chunk_frames, measures))
        except InputError as error:
            failures.append(f"{clip.name}: {error}")
            continue
        if report is not None:
            report(results[-1])
    return summarise(results, measures, failures)


def summarise(
    results: Sequence[ClipResult], measures: Sequence[Measure], failures: Sequence[str]
) -> SuiteResult:
    """Compute the statistics across videos."""
    # Controls must score low, so they are no part of the medians.
    judged = [result for result in results if not result.inputs.is_control]
    controls = [
        correlate(result.lips, result.truth)
        for result in results
        if result.inputs.is_control and result.truth is not None
    ]
    crossed = [
        correlate(result.lips, other.truth)
        for result in judged
        for other in judged
        if other is not result and other.truth is not None
    ]
    medians = {
        value.name: _median([result.values[value.name] for result in judged])
        for value in list_values(measures)
    }
    return SuiteResult(
        clips=tuple(results),
        measures=tuple(measures),
        medians=medians,
        control_correlation=_median(controls),
        crossed_correlation=_median(crossed),
        across_identities=across_identities([result.person for result in judged]),
        failures=tuple(failures),
    )


def _read_entry(entry: Mapping[str, object], folder: Path) -> ClipInputs:
    if "video" not in entry:
        raise ValueError("an entry lacks `video`")
    unknown = set(entry) - _PATHS - _WORDS - {"is_control"}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}")
    paths = {key: folder / str(value) for key, value in entry.items() if key in _PATHS and value is not None}
    words = {key: str(value) for key, value in entry.items() if key in _WORDS and value is not None}
    return ClipInputs(
        name=words.get("name", paths["video"].stem),
        video=paths["video"],
        truth=paths.get("truth"),
        reference_video=paths.get("reference_video"),
        audio=paths.get("audio"),
        events=paths.get("events"),
        transcript=words.get("transcript"),
        portrait=paths.get("portrait"),
        is_control=bool(entry.get("is_control", False)),
    )


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else float("nan")
