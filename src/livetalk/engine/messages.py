"""Messages between an engine and its clients: frozen values that are checked on construction.

A client sends requests, an engine answers with events. Every stream has a number of the client's choice and
an epoch, which each cut raises by one. This module needs no PyTorch.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from livetalk.crop import CROPS, Crop
from livetalk.errors import InputError
from livetalk.streaming.settings import AudioMode, LoudnessMode

SIDE_MULTIPLE = 16
MAX_SIDE = 4096
MIN_SIDE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec:
    """Options of a stream. None selects the model's own choice.

    Attributes:
        seed: of the noise, 0..2**63 - 1.
        crop: what of the portrait is used.
        num_steps: denoising steps.
        size: height and width of the frames, pixels, multiples of 16.
        prompt: for a model with a text branch.
        audio_mode: STREAM makes frames as audio arrives; WHOLE waits for the end of the audio and cannot be
            cut.
        loudness: what is done to the level of the audio.
        latents_per_decode: latent frames that are decoded together.
        progressive: deliver frames as they are decoded instead of whole chunks.
        max_pending_frames: no chunk is begun while this many delivered frames have not been taken; None is
            one chunk.
        cuttable: keep what a cut needs: the frames and states of the last chunks.
    """

    seed: int | None = None
    crop: Crop | None = None
    num_steps: int | None = None
    size: tuple[int, int] | None = None
    prompt: str | None = None
    audio_mode: AudioMode = AudioMode.STREAM
    loudness: LoudnessMode | None = None
    latents_per_decode: int | None = None
    progressive: bool = False
    max_pending_frames: int | None = None
    cuttable: bool = True

    def __post_init__(self) -> None:
        """Refuse values that no model can use, with an `InputError`."""
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed}: must be 0 or more and below 2**63")
        if self.crop is not None and self.crop not in CROPS:
            raise InputError(f"crop {self.crop}: is not one of {', '.join(CROPS)}")
        for name in ("num_steps", "latents_per_decode", "max_pending_frames"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name.replace('_', ' ')} {value}: at least 1 is needed")
        for side in self.size or ():
            if side % SIDE_MULTIPLE or not 0 < side <= MAX_SIDE:
                raise InputError(
                    f"size {self.size}: sides must be multiples of {SIDE_MULTIPLE} up to {MAX_SIDE} pixels"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """What a client must know about an open stream.

    Attributes:
        fps: frames per second.
        sample_rate: samples per second of the audio.
        height: of the frames, pixels.
        width: of the frames, pixels.
        chunk_frames: frames that are generated together.
        lookahead_frames: frames of audio after a chunk's end that it needs.
        audio_mode: how audio is used.
        cut_frames: frames already taken that a cut can take back.
    """

    fps: int
    sample_rate: int
    height: int
    width: int
    chunk_frames: int
    lookahead_frames: int
    audio_mode: AudioMode
    cut_frames: int

    @property
    def samples_per_frame(self) -> int:
        """Audio samples that last as long as one frame."""
        return self.sample_rate // self.fps

    @property
    def chunk_samples(self) -> int:
        """Audio samples that last as long as one chunk."""
        return self.chunk_frames * self.samples_per_frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A stream between two chunks; any engine of the same model and settings can continue it.

    Attributes:
        data: the state, opaque.
        num_frames: frames of the stream before it.
        num_samples: samples of the stream that it has used: the next one to push.
    """

    data: bytes
    num_frames: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error by name, for a process that may not have its class.

    Attributes:
        kind: name of the error's class.
        message: one line.
    """

    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """Describe an error."""
        return cls(kind=type(error).__name__, message=" ".join(str(error).split()))

    def __str__(self) -> str:
        """Return name and message."""
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStream:
    """Begin a stream; answered by `StreamOpened`.

    Attributes:
        stream: its number, not used by the client before.
        image: `[H, W, 3]` uint8 RGB, the portrait.
        spec: how the stream is made.
        snapshot: continue from here instead of starting anew.
    """

    stream: int
    image: NDArray[np.uint8] = field(repr=False)
    spec: StreamSpec = StreamSpec()
    snapshot: Snapshot | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise `InputError` for anything but a picture."""
        if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
            raise InputError(f"image {self.image.shape}, {self.image.dtype}: must be [H, W, 3], uint8")
        if min(self.image.shape[:2]) < MIN_SIDE:
            raise InputError(f"image {self.image.shape}: sides must have at least {MIN_SIDE} pixels")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushAudio:
    """Append audio to a stream. Audio of another epoch than the stream's is dropped.

    Attributes:
        stream: its number.
        epoch: that the audio belongs to.
        samples: `[n]` float32, -1..1, mono, at the stream's sample rate.
    """

    stream: int
    epoch: int
    samples: NDArray[np.float32] = field(repr=False)

    def __post_init__(self) -> None:
        """Raise `InputError` for anything but audio."""
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            raise InputError(
                f"audio {self.samples.shape}, {self.samples.dtype}: must be [samples], float32, one channel"
            )
        if not np.isfinite(self.samples).all():
            raise InputError("audio: holds values that are not finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class EndAudio:
    """Say that no audio of an epoch follows; answered by `StreamEnded` after the last frame.

    Attributes:
        stream: its number.
        epoch: of the audio.
    """

    stream: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CutStream:
    """Go on from the state after a frame that was shown, without audio; answered by `StreamCut`.

    Attributes:
        stream: its number.
        epoch: the new one: one more than the stream's.
        num_frames: frames of the stream that stay; audio and frames after them are forgotten.
    """

    stream: int
    epoch: int
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesTaken:
    """Report that delivered frames were consumed, so that more can be generated; `Stream` sends it itself.

    Attributes:
        stream: its number.
        epoch: of the frames.
        num_frames: how many.
    """

    stream: int
    epoch: int
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeSnapshot:
    """Ask for the state at the next border between two chunks; answered by `SnapshotTaken`.

    Attributes:
        stream: its number.
    """

    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseStream:
    """Forget a stream; answered by `StreamClosed`.

    Attributes:
        stream: its number.
    """

    stream: int


@dataclass(frozen=True, slots=True)
class StopEngine:
    """End the engine; answered by `EngineStopped`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReady:
    """The model is loaded.

    Attributes:
        model: what runs where and how, in a line.
    """

    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """Portrait and prompt are encoded.

    Attributes:
        stream: its number.
        info: about it.
    """

    stream: int
    info: StreamInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesReady:
    """Frames to show, in order and without a gap.

    Attributes:
        stream: its number.
        epoch: of the frames.
        first_frame: index of the first of them in the stream.
        frames: `[F, H, W, 3]` uint8 RGB, F >= 1; may be read-only.
    """

    stream: int
    epoch: int
    first_frame: int
    frames: NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded:
    """All frames of the audio were delivered; a cut or more epochs may follow.

    Attributes:
        stream: its number.
        epoch: of the audio.
        num_frames: frames of the stream.
    """

    stream: int
    epoch: int
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCut:
    """A stream was cut.

    Attributes:
        stream: its number.
        epoch: the new one.
        num_frames: frames of the stream that stayed: the index of the next one.
        num_samples: index in the stream of the next sample to push; with a look-ahead it is later than the
            next frame.
    """

    stream: int
    epoch: int
    num_frames: int
    num_samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotTaken:
    """The answer to `TakeSnapshot`.

    Attributes:
        stream: its number.
        epoch: of the stream.
        snapshot: of it.
    """

    stream: int
    epoch: int
    snapshot: Snapshot = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed:
    """A stream is forgotten; its last event.

    Attributes:
        stream: its number.
    """

    stream: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFailed:
    """A stream has failed and is forgotten, others go on; its last event.

    Attributes:
        stream: its number.
        failure: why.
    """

    stream: int
    failure: Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStopped:
    """The engine has ended, and all of its streams.

    Attributes:
        failure: why; None where it was asked to.
    """

    failure: Failure | None = None


Request = (
    OpenStream | PushAudio | EndAudio | CutStream | FramesTaken | TakeSnapshot | CloseStream | StopEngine
)
StreamEvent = (
    StreamOpened | FramesReady | StreamEnded | StreamCut | SnapshotTaken | StreamClosed | StreamFailed
)
Event = EngineReady | StreamEvent | EngineStopped
