"""One video in, its measures out."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import InputError
from livetalk.evaluation.identity import measure_distances, slope_per_minute
from livetalk.evaluation.lips import (
    correlate,
    count_blinks,
    measure_range,
    score_closures,
    score_silence,
    score_sync,
)
from livetalk.evaluation.phones import Phone, align_transcript, load_phones
from livetalk.evaluation.probe import LipProbe
from livetalk.evaluation.seams import CHUNK_FRAMES, score_seams
from livetalk.evaluation.speech import encode_speech
from livetalk.evaluation.tracking import Instruments, VideoTrack, track_video
from livetalk.evaluation.video import iterate_frames
from livetalk.evaluation.voice import find_silence, find_speech, measure_levels, read_voice
from livetalk.media.files import require_input_file

_NAN = float("nan")


@dataclass(frozen=True, slots=True)
class ClipInputs:
    """What is known about one video.

    Attributes:
        name: for tables.
        video: the video to judge.
        truth: NPY file [F] with the true lip opening (any scale), or None.
        reference_video: the same performance, rendered or filmed, or None.
        audio: the voice; None takes the video's own sound.
        events: JSON file of the spoken sounds, or None.
        transcript: the spoken words, aligned to the voice when there are no events, or None.
        portrait: picture of the person, or None for the first frame of the reference or of the video.
        is_control: made from another voice than `truth` tells of: it should score low.
    """

    name: str
    video: Path
    truth: Path | None = None
    reference_video: Path | None = None
    audio: Path | None = None
    events: Path | None = None
    transcript: str | None = None
    portrait: Path | None = None
    is_control: bool = False


@dataclass(frozen=True, slots=True)
class ClipMeasures:
    """The measures of one video; NaN where something was not known or not asked for.

    docs/evaluation.md says how each is taken and what it means.
    """

    num_frames: int
    num_closures: float
    num_seams: int
    face_found: float
    correlation: float
    best_lag: float
    best_correlation: float
    reference_correlation: float
    relative_correlation: float
    closure_recall: float
    closure_chance: float
    reference_closure_recall: float
    silence_opening: float
    silence_lips: float
    blinks_per_minute: float
    identity_distance: float
    identity_distance_max: float
    identity_within: float
    identity_drift_per_minute: float
    seam_ratio: float
    seam_worst_ratio: float
    seam_z_score: float
    sharpness: float
    reference_sharpness: float
    sharpness_drift_per_minute: float
    color_change: float
    face_psnr: float


@dataclass(frozen=True, slots=True, eq=False)
class ClipResult:
    """The measures of one video and what a comparison with other videos needs.

    Attributes:
        inputs: what was given.
        measures: what was found.
        lips: [F], measured lip opening.
        truth: [F'], the true one, or None.
        person: [128], embedding of the reference person, NaN when unknown.
    """

    inputs: ClipInputs
    measures: ClipMeasures
    lips: NDArray[np.float64]
    truth: NDArray[np.float64] | None
    person: NDArray[np.float64]


def measure_clip(
    inputs: ClipInputs,
    instruments: Instruments,
    probe: LipProbe | None = None,
    chunk_frames: int = CHUNK_FRAMES,
) -> ClipResult:
    """Measure one video.

    Args:
        inputs: the video and what is known about it.
        instruments: the models to look with.
        probe: guesses the truth from the voice where there is neither truth nor reference video.
        chunk_frames: new frames per chunk, for the seams.

    Raises:
        InputError: a file is missing or unusable, or no frame shows a face.
    """
    track = track_video(inputs.video, instruments, inputs.reference_video)
    reference = track_video(inputs.reference_video, instruments) if inputs.reference_video else None
    samples = read_voice(inputs.audio or inputs.video)
    truth = _find_truth(inputs, reference, samples, probe)
    person = _find_person(inputs, instruments, track)
    measures = _Measurement(inputs, track, reference, samples).take(truth, person, chunk_frames)
    return ClipResult(inputs=inputs, measures=measures, lips=track.lips, truth=truth, person=person)


class _Measurement:
    """One video beside its reference and its voice."""

    def __init__(
        self,
        inputs: ClipInputs,
        track: VideoTrack,
        reference: VideoTrack | None,
        samples: NDArray[np.float32],
    ) -> None:
        self._inputs = inputs
        self._track = track
        self._reference = reference
        self._phones = _find_phones(inputs, samples)
        levels = measure_levels(samples, track.fps, track.num_frames)
        self._speech = find_speech(levels, track.fps)

    def take(
        self, truth: NDArray[np.float64] | None, person: NDArray[np.float64], chunk_frames: int
    ) -> ClipMeasures:
        """Put all measures together."""
        track = self._track
        seams = score_seams(track.changes, chunk_frames)
        return ClipMeasures(
            num_frames=track.num_frames,
            num_seams=seams.num_seams,
            seam_ratio=seams.ratio,
            seam_worst_ratio=seams.worst_ratio,
            seam_z_score=seams.z_score,
            face_found=float(np.isfinite(track.lips).mean()),
            blinks_per_minute=count_blinks(track.eyes, track.fps) / track.num_frames * track.fps * 60,
            **self._judge_sync(truth),
            **self._judge_mouth(),
            **self._judge_identity(person),
            **self._judge_picture(),
        )

    def _judge_sync(self, truth: NDArray[np.float64] | None) -> dict[str, float]:
        if truth is None:
            names = ("correlation", "best_lag", "best_correlation")
            return dict.fromkeys((*names, "reference_correlation", "relative_correlation"), _NAN)
        sync = score_sync(self._track.lips, truth)
        possible = _NAN
        if self._reference is not None and self._inputs.truth is not None:
            possible = correlate(self._reference.lips, truth)
        return {
            "correlation": sync.correlation,
            "best_lag": float(sync.best_lag),
            "best_correlation": sync.best_correlation,
            "reference_correlation": possible,
            "relative_correlation": sync.correlation / possible,
        }

    def _judge_mouth(self) -> dict[str, float]:
        track = self._track
        relative = measure_range(track.lips, self._speech).relative(track.lips)
        silence = find_silence(self._speech, track.fps)
        closures = score_closures(relative, self._phones, self._speech, track.fps)
        return {
            "num_closures": closures.num_closures,
            "closure_recall": closures.recall,
            "closure_chance": closures.chance,
            "reference_closure_recall": self._reference_closures(),
            "silence_opening": score_silence(relative, silence),
            "silence_lips": score_silence(track.lips, silence),
        }

    def _judge_identity(self, person: NDArray[np.float64]) -> dict[str, float]:
        track = self._track
        distances = measure_distances(track.embeddings, person)
        within = measure_distances(track.embeddings, _first_known(track.embeddings))
        return {
            "identity_distance": _median(distances),
            "identity_distance_max": _largest(distances),
            "identity_within": _largest(within),
            "identity_drift_per_minute": slope_per_minute(distances, track.embedding_seconds),
        }

    def _judge_picture(self) -> dict[str, float]:
        track, second = self._track, max(1, round(self._track.fps))
        seconds = np.arange(track.num_frames) / track.fps
        color_change = track.colors[-second:].mean(axis=0) - track.colors[:second].mean(axis=0)
        return {
            "sharpness": _median(track.sharpness),
            "reference_sharpness": _median(self._reference.sharpness) if self._reference else _NAN,
            "sharpness_drift_per_minute": slope_per_minute(track.sharpness, seconds),
            "color_change": float(np.abs(color_change).max()),
            "face_psnr": _median(track.face_psnr),
        }

    def _reference_closures(self) -> float:
        if self._reference is None:
            return _NAN
        length = min(self._reference.num_frames, self._track.num_frames)
        lips, speech = self._reference.lips[:length], self._speech[:length]
        relative = measure_range(lips, speech).relative(lips)
        return score_closures(relative, self._phones, speech, self._reference.fps).recall


def _find_phones(inputs: ClipInputs, samples: NDArray[np.float32]) -> list[Phone]:
    if inputs.events is not None:
        return load_phones(inputs.events)
    return align_transcript(samples, inputs.transcript) if inputs.transcript else []


def _find_truth(
    inputs: ClipInputs,
    reference: VideoTrack | None,
    samples: NDArray[np.float32],
    probe: LipProbe | None,
) -> NDArray[np.float64] | None:
    """Return the best truth there is: exact, seen in the reference video, or guessed from the voice."""
    if inputs.truth is not None:
        return _load_truth(inputs.truth)
    if reference is not None:
        return reference.lips
    return probe.predict(encode_speech(samples)) if probe is not None else None


def _load_truth(path: Path) -> NDArray[np.float64]:
    file = require_input_file(path, "truth")
    try:
        truth = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"truth {file}: not an NPY file ({error})") from error
    if not isinstance(truth, np.ndarray) or truth.ndim != 1:
        raise InputError(f"truth {file}: holds no single row of lip openings")
    return truth.astype(np.float64)


def _find_person(inputs: ClipInputs, instruments: Instruments, track: VideoTrack) -> NDArray[np.float64]:
    """Return the embedding of the person whom the video should show."""
    if instruments.embedder is None:
        return _first_known(track.embeddings)
    for source in (inputs.portrait, inputs.reference_video):
        if source is not None:
            # A picture file is a video of one frame to FFmpeg.
            frame = next(iterate_frames(source), None)
            if frame is None:
                raise InputError(f"portrait {source}: contains no picture")
            return instruments.embedder.embed(frame)
    return _first_known(track.embeddings)


def _first_known(embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    known = embeddings[np.isfinite(embeddings).all(axis=1)]
    return known[0] if len(known) else np.full(embeddings.shape[1], np.nan)


def _median(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else _NAN


def _largest(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else _NAN
