"""The audio of a stream, chunk by chunk, as speech features around each frame.

Shapes: F frames of a window.
"""

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from livetalk.models.speech import AudioEncoder
from livetalk.streaming.audio import AudioBuffer, Recording, audio_context, recorded_context
from livetalk.streaming.executor import Executor
from livetalk.streaming.loudness import (
    LoudnessState,
    normalize_published,
    normalize_running,
    silence_noise,
)
from livetalk.streaming.settings import LoudnessMode, StreamSettings
from livetalk.streaming.state import StreamState
from livetalk.tracing import span


def start_live_audio(
    executor: Executor, settings: StreamSettings, lead_audio: Tensor | None
) -> tuple[AudioBuffer, LoudnessState | None]:
    """Return the audio state of a live stream before its first chunk.

    Args:
        executor: on whose device the audio is kept.
        settings: of the stream.
        lead_audio: samples of the look-ahead, `[n]`; zeros are added to fewer, and stand for None.

    Raises:
        ValueError: `lead_audio` is longer than the look-ahead.
    """
    loudness = LoudnessState.create() if settings.loudness is LoudnessMode.RUNNING else None
    audio = AudioBuffer.create(settings.buffer_samples, executor.device)
    if lead_audio is None:
        return audio, loudness
    geometry = settings.geometry
    missing = settings.audio.lookahead_frames * geometry.samples_per_frame - lead_audio.shape[0]
    if missing < 0:
        raise ValueError(f"lead_audio is {-missing} samples longer than the look-ahead")
    lead, loudness = adjust_level(settings, lead_audio, loudness)
    return audio.push(F.pad(lead, (0, missing))), loudness


def start_recording(executor: Executor, settings: StreamSettings, recording: Tensor) -> Recording:
    """Return the audio state of a stream whose audio is complete, before its first chunk.

    Args:
        executor: on whose device the audio is kept.
        settings: of the stream.
        recording: `[samples]` float32, -1..1, at least one sample.
    """
    geometry = settings.geometry
    if settings.loudness is LoudnessMode.RUNNING:
        recording, _ = normalize_running(recording, LoudnessState.create(), geometry.sample_rate)
    elif settings.loudness is LoudnessMode.PUBLISHED:
        recording = normalize_published(recording, geometry.sample_rate)
    return Recording.create(recording.to(executor.device), geometry)


def push_chunk_audio(
    executor: Executor, settings: StreamSettings, samples: Tensor, state: StreamState
) -> tuple[Tensor, StreamState]:
    """Add the audio of the next chunk to a stream and encode it.

    Args:
        executor: whose speech encoder is run.
        settings: of the stream.
        samples: the next `chunk_samples` samples, `[n]` float32, -1..1.
        state: of the stream; it is not changed.

    Returns:
        Speech features around each frame of the window, `[1, F, context, num_blocks, channels]`, and the
        state with the audio added and nothing else changed.

    Raises:
        ValueError: the number of samples is wrong.
    """
    geometry = settings.geometry
    if samples.shape != (geometry.chunk_samples,):
        raise ValueError(f"audio must be [{geometry.chunk_samples}], got {list(samples.shape)}")
    encoder = executor.networks.audio_encoder
    with span("step.speech"):
        samples, loudness = adjust_level(settings, samples, state.loudness)
        audio = state.audio.push(samples)
        if isinstance(audio, Recording):
            audio = audio.read(lambda waveform: _encode(encoder, settings, waveform[0]), geometry)
        context = encode_audio_context(encoder, settings, audio)
    return context, replace(state, audio=audio, loudness=loudness)


def encode_audio_context(
    encoder: AudioEncoder, settings: StreamSettings, audio: AudioBuffer | Recording
) -> Tensor:
    """Return the speech features around each frame of the newest window.

    Args:
        encoder: the speech encoder.
        settings: of the stream.
        audio: with the newest chunk; a recording after `Recording.read`.

    Returns:
        `[1, F, context, num_blocks, channels]`.
    """
    geometry, context_frames = settings.geometry, settings.audio.context_frames
    if isinstance(audio, Recording):
        return recorded_context(audio, geometry, context_frames)
    waveform = audio.waveform
    if settings.loudness is LoudnessMode.PUBLISHED:
        waveform = normalize_published(waveform, geometry.sample_rate)
    features = _encode(encoder, settings, waveform)
    return audio_context(features, settings.buffer_window_start, geometry.window_frames, context_frames)


def adjust_level(
    settings: StreamSettings, samples: Tensor, loudness: LoudnessState | None
) -> tuple[Tensor, LoudnessState | None]:
    """Apply a stream's running gain, if it has one, to its next samples `[n]`."""
    if loudness is None:
        return samples, None
    return normalize_running(samples, loudness, settings.geometry.sample_rate)


def _encode(encoder: AudioEncoder, settings: StreamSettings, waveform: Tensor) -> Tensor:
    """Encode `[samples]`; with a running gain, noise without speech is read as silence."""
    if settings.loudness is LoudnessMode.RUNNING:
        waveform = silence_noise(waveform, settings.geometry.sample_rate)
    return encoder(waveform[None])
