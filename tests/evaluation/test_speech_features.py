"""Encoding recordings longer than one window of the speech encoder."""

import numpy as np
import torch

from livetalk.evaluation.speech import ENCODER_PATH, encode_speech
from livetalk.models.audio_encoder import SpeechEncoder, SpeechEncoderConfig, load_speech_encoder
from tolerance import assert_same_network


def make_encoder() -> SpeechEncoder:
    """Return a small random encoder."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return SpeechEncoder(SpeechEncoderConfig(num_layers=1, width=48, num_heads=2)).eval()


def make_audio(num_samples: int) -> np.ndarray:
    """Return noise whose loudness comes and goes."""
    noise = np.random.default_rng(0).normal(size=num_samples)
    return (0.2 * noise * np.sin(np.arange(num_samples) / 5000) ** 2).astype(np.float32)


def test_one_row_per_frame_at_any_length() -> None:
    encoder = make_encoder()
    for num_samples in (0, 100, 640, 16_000, 640 * 613 + 5):
        features = encode_speech(make_audio(num_samples), encoder)
        assert features.shape == (num_samples // 640, 96)
        assert np.isfinite(features).all()


def test_a_short_recording_is_encoded_in_one_piece() -> None:
    encoder, audio = make_encoder(), make_audio(640 * 80)
    found = torch.from_numpy(encode_speech(audio, encoder))
    assert_same_network(found, lambda: encoder(torch.from_numpy(audio)[None])[0].flatten(1), encoder)


def test_the_shipped_encoder_is_found() -> None:
    assert load_speech_encoder(ENCODER_PATH).channels == 768
