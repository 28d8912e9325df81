"""Speech features of a complete recording, for the lip probe."""

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from livetalk.models.audio_encoder import SAMPLES_PER_FRAME, SpeechEncoder, load_speech_encoder

ENCODER_PATH = Path(__file__).parent.parent / "weights" / "embedded" / "speech_encoder.safetensors"
_SECTION_FRAMES = 250
_CONTEXT_FRAMES = 25
"""Frames encoded on either side of a section and dropped, because the encoder reads both directions."""


def encode_speech(samples: NDArray[np.float32], encoder: SpeechEncoder | None = None) -> NDArray[np.float32]:
    """Encode audio [N], float32, -1..1, 16 kHz, to [N // 640, D], float32: a row per 25-fps frame.

    `encoder` None loads the one in the package; `WeightsError` if that is missing or damaged.
    """
    encoder = encoder or _shipped_encoder()
    num_frames = len(samples) // SAMPLES_PER_FRAME
    sections = [np.zeros((0, encoder.channels), dtype=np.float32)]
    # In sections, so that memory does not grow with the recording.
    for start in range(0, num_frames, _SECTION_FRAMES):
        end = min(start + _SECTION_FRAMES, num_frames)
        first = max(start - _CONTEXT_FRAMES, 0)
        last = min(end + _CONTEXT_FRAMES, num_frames)
        window = torch.from_numpy(samples[first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME])
        with torch.inference_mode():
            features = encoder(window[None].float())[0].flatten(1)
        sections.append(features[start - first : end - first].numpy())
    return np.concatenate(sections)


@functools.cache
def _shipped_encoder() -> SpeechEncoder:
    return load_speech_encoder(ENCODER_PATH)
