"""Speech features of a whole recording, for the lip probe."""

import functools
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from livetalk.models.audio_encoder import SAMPLES_PER_FRAME, SpeechEncoder, load_speech_encoder

ENCODER_PATH = Path(__file__).parent.parent / "weights" / "embedded" / "speech_encoder.safetensors"
_PIECE_FRAMES = 250
_MARGIN_FRAMES = 25
"""Frames on either side of a piece that are encoded with it and thrown away: the encoder looks both ways."""


def encode_speech(samples: NDArray[np.float32], encoder: SpeechEncoder | None = None) -> NDArray[np.float32]:
    """Encode a recording of any length.

    Args:
        samples: [N], float32, -1..1, 16 kHz.
        encoder: None takes the one in the package.

    Returns:
        [N // 640, D], float32: one row per 25-fps video frame.

    Raises:
        WeightsError: the encoder in the package is missing or damaged.
    """
    encoder = encoder or _shipped_encoder()
    num_frames = len(samples) // SAMPLES_PER_FRAME
    pieces = [np.zeros((0, encoder.channels), dtype=np.float32)]
    for start in range(0, num_frames, _PIECE_FRAMES):
        end = min(start + _PIECE_FRAMES, num_frames)
        first = max(start - _MARGIN_FRAMES, 0)
        last = min(end + _MARGIN_FRAMES, num_frames)
        window = torch.from_numpy(samples[first * SAMPLES_PER_FRAME : last * SAMPLES_PER_FRAME])
        with torch.inference_mode():
            features = encoder(window[None].float())[0].flatten(1)
        pieces.append(features[start - first : end - first].numpy())
    return np.concatenate(pieces)


@functools.cache
def _shipped_encoder() -> SpeechEncoder:
    return load_speech_encoder(ENCODER_PATH)
