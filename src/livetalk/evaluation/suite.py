"""Many videos at once: a manifest in, a table with medians and the wrong-voice control out."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from livetalk.errors import InputError
from livetalk.evaluation.clip import ClipInputs, ClipMeasures, ClipResult, measure_clip
from livetalk.evaluation.identity import across_identities
from livetalk.evaluation.lips import correlate
from livetalk.evaluation.probe import LipProbe
from livetalk.evaluation.seams import CHUNK_FRAMES
from livetalk.evaluation.tracking import Instruments
from livetalk.media.files import require_input_file

MANIFEST_NAME = "manifest.json"
_PATHS = frozenset({"video", "truth", "reference_video", "audio", "events", "portrait"})
_WORDS = frozenset({"name", "transcript"})


@dataclass(frozen=True, slots=True, eq=False)
class SuiteResult:
    """The measures of many videos.

    Attributes:
        clips: one per video, in the manifest's order, controls among them.
        medians: of each measure over the videos that are no controls, NaN ones left out.
        control_correlation: median correlation of the manifest's controls with their truths; NaN without any.
        crossed_correlation: median correlation of each video with the truths of all the others: what a
            mouth gets that moves like speech, but like another sentence.
        across_identities: 5th percentile of the distances between the videos' people.
        failures: one line for each video that could not be measured, such as one without any face. They are
            in no median: a suite with failures has not been passed.
    """

    clips: tuple[ClipResult, ...]
    medians: dict[str, float]
    control_correlation: float
    crossed_correlation: float
    across_identities: float
    failures: tuple[str, ...] = ()


def load_manifest(path: str | os.PathLike[str]) -> list[ClipInputs]:
    """Read which videos to measure.

    Args:
        path: a JSON file, or a folder with `manifest.json`: a list, or an object with the list under `clips`.
            Each entry has the fields of `ClipInputs`; `video` is required, paths are relative to the file.

    Raises:
        InputError: the file is missing or says something else.
    """
    place = Path(path)
    file = require_input_file(place / MANIFEST_NAME if place.is_dir() else place, "manifest")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        entries = content["clips"] if isinstance(content, dict) else content
        clips = [_read_entry(entry, file.parent) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"manifest {file}: {error}") from error
    if not clips:
        raise InputError(f"manifest {file}: lists no clips")
    return clips


def measure_suite(
    clips: Sequence[ClipInputs],
    instruments: Instruments,
    probe: LipProbe | None = None,
    chunk_frames: int = CHUNK_FRAMES,
    report: Callable[[ClipResult], None] | None = None,
) -> SuiteResult:
    """Measure many videos.

    Args:
        clips: the videos and what is known about each.
        instruments: the models to look with.
        probe: guesses the truth from the voice where none is given.
        chunk_frames: new frames per chunk, for the seams.
        report: called with each result as soon as it is there.

    A video that cannot be measured does not stop the others.
    """
    results = []
    failures = []
    for clip in clips:
        try:
            results.append(measure_clip(clip, instruments, probe, chunk_frames))
        except InputError as error:
            failures.append(f"{clip.name}: {error}")
            continue
        if report is not None:
            report(results[-1])
    return summarise(results, failures)


def summarise(results: Sequence[ClipResult], failures: Sequence[str] = ()) -> SuiteResult:
    """Put the results of single videos together."""
    judged = [result for result in results if not result.inputs.is_control]
    controls = [result.measures.correlation for result in results if result.inputs.is_control]
    crossed = [
        correlate(result.lips, other.truth)
        for result in judged
        for other in judged
        if other is not result and other.truth is not None
    ]
    medians = {
        field.name: _median([float(getattr(result.measures, field.name)) for result in judged])
        for field in fields(ClipMeasures)
    }
    return SuiteResult(
        clips=tuple(results),
        medians=medians,
        control_correlation=_median(controls),
        crossed_correlation=_median(crossed),
        across_identities=across_identities([result.person for result in judged]),
        failures=tuple(failures),
    )


def _read_entry(entry: Mapping[str, object], folder: Path) -> ClipInputs:
    if "video" not in entry:
        raise ValueError("an entry has no `video`")
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
