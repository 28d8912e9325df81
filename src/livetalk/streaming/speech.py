"""Speech features of a stream: each chunk of audio is added to the state and encoded."""

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
    """Return the audio and loudness state of a live stream before its first chunk.

    `lead_audio` is the audio of the look-ahead, `[n]`; it is padded with zeros. `ValueError` if it is longer.
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
    """Return the audio state of a stream whose audio, `[samples]` float32, -1..1, is complete."""
    geometry = settings.geometry
    if settings.loudness is LoudnessMode.RUNNING:
        recording, _ = normalize_running(recording, LoudnessState.create(), geometry.sample_rate)
    elif settings.loudness is LoudnessMode.PUBLISHED:
        recording = normalize_published(recording, geometry.sample_rate)
    return Recording.create(recording.to(executor.device), geometry)


def push_chunk_audio(
    executor: Executor, settings: StreamSettings, samples: Tensor, state: StreamState
) -> tuple[Tensor, StreamState]:
    """Add the audio of the next chunk, `[chunk_samples]` float32, -1..1, to a stream and encode it.

    Returns the features around each of the window's F frames, `[1, F, context, num_blocks, channels]`, and
    `state` with only its audio and loudness advanced. `ValueError` for another number of samples.
    """
    geometry = settings.geometry
    if samples.shape != (geometry.chunk_samples,):
        raise ValueError(f"audio must be [{geometry.chunk_samples}], got {list(samples.shape)}")
    encoder = executor.networks.audio_encoder
    with span("step.speech"):
        samples, loudness = adjust_level(settings, samples, state.loudness)
        audio = state.audio.push(samples)
        if isinstance(audio, Recording):
            audio = audio.read(lambda section: _encode(encoder, settings, section[0]), geometry)
        context = encode_audio_context(encoder, settings, audio)
    return context, replace(state, audio=audio, loudness=loudness)


def encode_audio_context(
    encoder: AudioEncoder, settings: StreamSettings, audio: AudioBuffer | Recording
) -> Tensor:
    """Return the features around each frame of the newest window, `[1, F, context, num_blocks, channels]`.

    A recording must have been read with `Recording.read`.
    """
    geometry, context_frames = settings.geometry, settings.audio.context_frames
    if isinstance(audio, Recording):
        return recorded_context(audio, geometry, context_frames)
    samples = audio.samples
    # The published gain belongs to the encoder's input, so it changes from window to window.
    if settings.loudness is LoudnessMode.PUBLISHED:
        samples = normalize_published(samples, geometry.sample_rate)
    features = _encode(encoder, settings, samples)
    return audio_context(features, settings.buffer_window_start, geometry.window_frames, context_frames)


def adjust_level(
    settings: StreamSettings, samples: Tensor, loudness: LoudnessState | None
) -> tuple[Tensor, LoudnessState | None]:
    """Apply a stream's running gain, if it has one, to its next samples `[n]`."""
    if loudness is None:
        return samples, None
    return normalize_running(samples, loudness, settings.geometry.sample_rate)


def _encode(encoder: AudioEncoder, settings: StreamSettings, samples: Tensor) -> Tensor:
    # The running gain leaves noise alone, but an encoder that standardises its input would amplify it.
    if settings.loudness is LoudnessMode.RUNNING:
        samples = silence_noise(samples, settings.geometry.sample_rate)
    return encoder(samples[None])
