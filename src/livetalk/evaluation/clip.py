"""One video with its known facts; results that several measures share are computed once, on demand."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from livetalk.errors import UNSUITABLE_CONTENT, InputError
from livetalk.evaluation.lips import measure_range
from livetalk.evaluation.phones import Phone, align_transcript, load_phones
from livetalk.evaluation.probe import LipProbe
from livetalk.evaluation.signals import Signal
from livetalk.evaluation.speech import encode_speech
from livetalk.evaluation.tracking import Instruments, VideoTrack, track_video
from livetalk.evaluation.voice import find_silence, find_speech, measure_levels, read_voice
from livetalk.media.files import require_input_file
from livetalk.media.image import load_image
from livetalk.media.video_reading import read_frames


@dataclass(frozen=True, slots=True)
class ClipInputs:
    """A video and what is known about it.

    Attributes:
        transcript: the spoken words, which are aligned to the audio if there are no events, or None.
        portrait: image of the person; None takes the first frame of the reference or of the video.
    """

    name: str
    video: Path
    truth: Path | None = None  # NPY file [F] with the true lip opening (any scale), or None
    reference_video: Path | None = None  # the same performance, rendered or filmed, or None
    audio: Path | None = None  # the audio; None takes that of the video
    events: Path | None = None  # JSON file of phones, or None
    transcript: str | None = None
    portrait: Path | None = None
    is_control: bool = False


class Need(Enum):
    """Information that a measure may require and a clip may lack; the value describes it."""

    TRUTH = "true lip opening"
    REFERENCE = "reference video"
    PHONES = "spoken sounds"
    IDENTITY = "face recognition"


class Clip:
    """One video as the measures read it.

    Attributes are computed when they are first read, so that measures share the pass over the frames, the
    audio and the alignment. Those that depend on a `Need` raise ValueError unless `provides` is true for it.
    """

    def __init__(
        self,
        inputs: ClipInputs,
        instruments: Instruments,
        *,
        signals: Collection[Signal],
        probe: LipProbe | None,
        chunk_frames: int,
    ) -> None:
        """Store the inputs; no file is read yet.

        `probe` predicts the truth from the audio where there is neither truth nor reference video.
        `chunk_frames` is that of the model that generated the video.
        """
        self.inputs = inputs
        self.chunk_frames = chunk_frames
        self._instruments = instruments
        self._signals = tuple(signals)
        self._probe = probe

    def provides(self, need: Need) -> bool:
        """Return whether the clip has the information."""
        inputs = self.inputs
        provided = {
            Need.TRUTH: (inputs.truth, inputs.reference_video, self._probe),
            Need.REFERENCE: (inputs.reference_video,),
            Need.PHONES: (inputs.events, inputs.transcript),
            Need.IDENTITY: (self._instruments.embedder,),
        }
        return any(source is not None and source != "" for source in provided[need])

    @cached_property
    def track(self) -> VideoTrack:
        """The signals of the video, see `track_video` for the errors."""
        return track_video(self.inputs.video, self._instruments, self._signals, self.inputs.reference_video)

    @cached_property
    def reference(self) -> VideoTrack:
        """The signals of the reference video, without embeddings. Needs `Need.REFERENCE`."""
        if self.inputs.reference_video is None:
            raise ValueError("the clip has no reference video")
        # No measure reads embeddings of the reference, and they take far longer than landmarks.
        instruments = dataclasses.replace(self._instruments, embedder=None)
        return track_video(self.inputs.reference_video, instruments, self._signals)

    @cached_property
    def voice(self) -> NDArray[np.float32]:
        """The audio, [N], float32, -1..1, 16 kHz. Raises InputError if there is none that is usable."""
        return read_voice(self.inputs.audio or self.inputs.video)

    @cached_property
    def speech(self) -> NDArray[np.bool_]:
        """[F], true for frames with speech."""
        levels = measure_levels(self.voice, self.track.fps, self.track.num_frames)
        return find_speech(levels, self.track.fps)

    @cached_property
    def silence(self) -> NDArray[np.bool_]:
        """[F], true for frames well inside a silence."""
        return find_silence(self.speech, self.track.fps)

    @cached_property
    def relative_lips(self) -> NDArray[np.float64]:
        """[F], lip opening as a share of the clip's range, see `OpeningRange`."""
        return measure_range(self.track.lips, self.speech).relative(self.track.lips)

    @cached_property
    def phones(self) -> list[Phone]:
        """The phones, read or aligned. Needs `Need.PHONES`."""
        if self.inputs.events is not None:
            return load_phones(self.inputs.events)
        if not self.inputs.transcript:
            raise ValueError("the clip has neither events nor a transcript")
        return align_transcript(self.voice, self.inputs.transcript)

    @cached_property
    def truth(self) -> NDArray[np.float64]:
        """[F'], the best available truth, 25 times a second.

        It is exact, from the reference video, or predicted from the audio: any quantity that rises and
        falls with the true lip opening. Needs `Need.TRUTH`.
        """
        if self.inputs.truth is not None:
            return self._align(_load_truth(self.inputs.truth))
        if self.inputs.reference_video is not None:
            return self.reference.lips
        if self._probe is None:
            raise ValueError("the clip has no truth, no reference video and no probe")
        return self._probe.predict(encode_speech(self.voice))

    @cached_property
    def person(self) -> NDArray[np.float64]:
        """[128], embedding of the person that the video should show; NaN if unknown.

        It is taken from the portrait, else the first frame of the reference, else the first face of the
        video. InputError if the portrait or the reference contains no frame.
        """
        embedder = self._instruments.embedder
        if embedder is None:
            return self.first_face
        if self.inputs.portrait is not None:
            return embedder.embed(load_image(self.inputs.portrait))
        if self.inputs.reference_video is None:
            return self.first_face
        frame = next(read_frames(self.inputs.reference_video), None)
        if frame is None:
            raise InputError(f"video {self.inputs.reference_video}: contains no frame")
        return embedder.embed(frame.pixels)

    @cached_property
    def first_face(self) -> NDArray[np.float64]:
        """[128], the first known embedding of the video; NaN without any."""
        embeddings = self.track.embeddings
        known = embeddings[np.isfinite(embeddings).all(axis=1)]
        return known[0] if len(known) else np.full(embeddings.shape[1], np.nan)

    def _align(self, truth: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a truth at 25 values a second, given one for each frame of the video or of that rate."""
        track = self.track
        if len(truth) == track.num_frames or len(truth) != sum(1 for _ in read_frames(self.inputs.video)):
            return truth
        return truth[track.source_frames]


def _load_truth(path: Path) -> NDArray[np.float64]:
    file = require_input_file(path, "truth")
    try:
        truth = np.load(file, allow_pickle=False)
    except UNSUITABLE_CONTENT as error:
        raise InputError(f"truth {file}: not an NPY file ({error})") from error
    if not isinstance(truth, np.ndarray) or truth.ndim != 1:
        raise InputError(f"truth {file}: must be one row of lip openings")
    return truth.astype(np.float64)
