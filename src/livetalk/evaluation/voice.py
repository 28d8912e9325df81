"""Speech and silence in the audio of a clip."""

import os

import numpy as np
from numpy.typing import NDArray

from livetalk.media.audio import SAMPLE_RATE, open_audio

_BELOW_SPEECH_DB = 32.0
"""A frame this far below the clip's loud frames contains no speech."""
_FLOOR_DB = -55.0
"""No frame below this level, in dB of full scale, counts as speech, even in a nearly silent clip."""
_HOLD_SECONDS = 0.12
"""Shorter dips belong to speech, such as the closure before a plosive."""
_SILENCE_BORDER_SECONDS = 0.24
"""Start and end of a silence belong to speech, because lips close after a word and open before one."""


def read_voice(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read the audio of a file as [N], float32, -1..1, 16 kHz; `InputError` if it has none that is usable."""
    return np.concatenate(list(open_audio(path).mono_blocks(SAMPLE_RATE)))


def measure_levels(samples: NDArray[np.float32], fps: float, num_frames: int) -> NDArray[np.float64]:
    """Return the level of audio [N], 16 kHz, during each video frame: [F], float64, dB of full scale.

    Frames after the end of the audio are silent; the least level is -120.
    """
    # Rounding each edge separately keeps frames and audio in sync at any frame rate.
    edges = np.round(np.arange(num_frames + 1) * SAMPLE_RATE / fps).astype(int)
    energy = np.concatenate([[0.0], np.cumsum(samples.astype(np.float64) ** 2)])
    edges = np.minimum(edges, len(samples))
    lengths = np.maximum(np.diff(edges), 1)
    power = np.maximum(np.diff(energy[edges]) / lengths, 1e-12)
    return np.asarray(10 * np.log10(power))


def find_speech(levels: NDArray[np.float64], fps: float) -> NDArray[np.bool_]:
    """Return the frames [F] with speech, given levels [F] in dB of full scale."""
    if not len(levels):
        return np.zeros(0, dtype=bool)
    threshold = max(float(np.percentile(levels, 95)) - _BELOW_SPEECH_DB, _FLOOR_DB)
    speech = levels > threshold
    for start, end in find_runs(~speech):
        between_words = start > 0 and end < len(speech)
        if between_words and end - start <= round(_HOLD_SECONDS * fps):
            speech[start:end] = True
    return np.asarray(speech)


def find_silence(speech: NDArray[np.bool_], fps: float) -> NDArray[np.bool_]:
    """Return the frames [F] well inside a silence, where a mouth should not move, given those with speech."""
    border = round(_SILENCE_BORDER_SECONDS * fps)
    silence = np.zeros_like(speech)
    for start, end in find_runs(~speech):
        first = start + border if start > 0 else start
        last = end - border if end < len(speech) else end
        silence[first : max(first, last)] = True
    return silence


def find_runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return start and end (exclusive) of each run of true values in a mask [F]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]
