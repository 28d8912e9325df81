"""What a stream hears of a chunk: the sound taken in, the speech around each frame, and its tokens.

All of it happens on the models' lane. It needs nothing of the frames before, so that beside the main work the
speech of a chunk is made while the chunk before it still is.

Shapes: F frames · T latent frames · S tokens of a latent frame.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from livetalk.ops.lanes import Mark
from livetalk.streaming.audio import (
    AudioBuffer,
    Recording,
    audio_context,
    buffer_samples,
    buffer_window_start,
    recorded_context,
)
from livetalk.streaming.loudness import (
    LoudnessMode,
    LoudnessState,
    normalize_published,
    normalize_running,
    silence_noise,
)
from livetalk.streaming.models import Models
from livetalk.streaming.state import StreamState
from livetalk.tracing import span


class Speech(NamedTuple):
    """The speech of a window.

    Attributes:
        context: around each frame, `[1, F, context, num_blocks, channels]`.
        tokens: what the transformer makes of it, `[1, T, S, audio_dim]`; None where each step does so itself.
    """

    context: Tensor
    tokens: Tensor | None


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a chunk, for `begin_window` and to hear the next chunk after.

    Attributes:
        speech: made on the lane.
        ready: behind it, on the lane.
        audio: of the stream, with the chunk in it.
        loudness: what a running gain remembers after the chunk.
    """

    speech: Speech
    ready: Mark
    audio: AudioBuffer | Recording
    loudness: LoudnessState | None


@torch.no_grad()
def listen_live(models: Models, lead_audio: Tensor | None) -> tuple[AudioBuffer, LoudnessState | None]:
    """Begin to listen to a live sound.

    Args:
        models: networks and settings.
        lead_audio: of the look-ahead, `[n]`, as for `livetalk.streaming.step.create_state`.

    Raises:
        ValueError: `lead_audio` is longer than the look-ahead.
    """
    config = models.config
    loudness = LoudnessState.create() if models.loudness is LoudnessMode.RUNNING else None
    models.lane.follow()
    with models.lane.beside():
        audio = AudioBuffer.create(buffer_samples(config.geometry, config.audio), models.device)
        if lead_audio is None:
            return audio, loudness
        missing = config.audio.lookahead_frames * config.geometry.samples_per_frame - lead_audio.shape[0]
        if missing < 0:
            raise ValueError(f"lead_audio is {-missing} samples longer than the look-ahead")
        lead, loudness = _adjust_level(models, lead_audio, loudness)
        return audio.push(torch.nn.functional.pad(lead, (0, missing))), loudness


@torch.no_grad()
def listen_recorded(models: Models, recording: Tensor) -> Recording:
    """Begin to listen to a whole recording.

    Args:
        models: networks and settings.
        recording: `[samples]` float32, -1..1, at least one sample.
    """
    geometry = models.config.geometry
    models.lane.follow()
    with models.lane.beside():
        if models.loudness is LoudnessMode.RUNNING:
            recording, _ = normalize_running(recording, LoudnessState.create(), geometry.sample_rate)
        elif models.loudness is LoudnessMode.PUBLISHED:
            recording = normalize_published(recording, geometry.sample_rate)
        return Recording.create(recording.to(models.device), geometry)


@torch.no_grad()
def hear_chunk(models: Models, audio: Tensor, before: StreamState | Heard) -> Heard:
    """Take in the sound of a stream's next chunk; the chunks before need not have been made yet.

    Args:
        models: networks and settings.
        audio: the next `chunk_samples` samples, `[n]` float32, -1..1.
        before: the stream, or what was heard of the chunk before; it is not changed.

    Raises:
        ValueError: the number of samples is wrong.
    """
    geometry = models.config.geometry
    if audio.shape != (geometry.chunk_samples,):
        raise ValueError(f"audio must be [{geometry.chunk_samples}], got {list(audio.shape)}")
    with models.lane.beside(), span("step.speech"):
        samples, loudness = _adjust_level(models, audio, before.loudness)
        sound = before.audio.push(samples)
        if isinstance(sound, Recording):
            sound = sound.read(lambda waveform: _encode_speech(models, waveform[0]), geometry)
        speech = project_speech(models, encode_audio_context(models, sound))
    return Heard(speech, models.lane.mark(), sound, loudness)


def begin_window(models: Models, audio: Tensor | Heard, state: StreamState) -> tuple[Speech, StreamState]:
    """Bring the sound of a stream's next chunk to its frames.

    Args:
        models: networks and settings.
        audio: the samples, as for `hear_chunk`, or what was heard of them after `state`.
        state: of the stream; it is not changed.

    Returns:
        The speech of the next window, for the main work, and the state with the sound in it and nothing else
        changed.

    Raises:
        ValueError: the number of samples is wrong.
    """
    heard = audio if isinstance(audio, Heard) else hear_chunk(models, audio, state)
    models.lane.join(heard.ready, *(part for part in heard.speech if part is not None))
    return heard.speech, replace(state, audio=heard.audio, loudness=heard.loudness)


def project_speech(models: Models, context: Tensor) -> Speech:
    """Return the speech of a window from what is around its frames, projected if that is done once a chunk.

    Args:
        models: networks and settings.
        context: `[1, F, context, num_blocks, channels]`.
    """
    return Speech(context, None if models.prepare is None else models.dit.project_audio(context))


def encode_audio_context(models: Models, sound: AudioBuffer | Recording) -> Tensor:
    """Return the speech around each frame of the newest window: `[1, F, context, num_blocks, channels]`.

    Args:
        models: networks and settings.
        sound: with the newest chunk; a recording after `Recording.read`.
    """
    geometry, config = models.config.geometry, models.config.audio
    if isinstance(sound, Recording):
        return recorded_context(sound, geometry, config)
    waveform = sound.waveform
    if models.loudness is LoudnessMode.PUBLISHED:
        waveform = normalize_published(waveform, geometry.sample_rate)
    features = _encode_speech(models, waveform)
    start = buffer_window_start(geometry, config)
    return audio_context(features, start, geometry.window_frames, config.context_frames)


def _encode_speech(models: Models, waveform: Tensor) -> Tensor:
    """Encode `[samples]`; with a running gain, noise without speech counts as silence."""
    if models.loudness is LoudnessMode.RUNNING:
        waveform = silence_noise(waveform, models.config.geometry.sample_rate)
    return models.audio_encoder(waveform[None])


def _adjust_level(
    models: Models, samples: Tensor, loudness: LoudnessState | None
) -> tuple[Tensor, LoudnessState | None]:
    """Apply a stream's running gain, if it has one, to its next samples."""
    if loudness is None:
        return samples, None
    return normalize_running(samples, loudness, models.config.geometry.sample_rate)
