"""The wav2vec 2.0 speech encoder: form, timing and behaviour at the edges."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from livetalk.models.speech import AudioEncoder
from livetalk.models.wav2vec import (
    SAMPLES_PER_FRAME,
    Wav2Vec2Config,
    Wav2Vec2Encoder,
    normalize_samples,
    resample_features,
    wav2vec2_base,
)
from tolerance import assert_near, assert_same_network, expect, expect_narrow, relative

TINY = Wav2Vec2Config(
    width=16,
    num_layers=2,
    num_heads=2,
    ffn_dim=24,
    conv_dims=(8,) * 7,
    position_kernel=6,
    position_groups=4,
)


@pytest.fixture
def encoder() -> Wav2Vec2Encoder:
    """Build a tiny encoder with random weights."""
    torch.manual_seed(0)
    return Wav2Vec2Encoder(TINY).eval().requires_grad_(False)


def voice(num_samples: int, seed: int = 0) -> Tensor:
    """Return noise `[1, samples]`."""
    return torch.randn(1, num_samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("num_samples", [0, 639, 640, 1_279, 1_280, 17_920, 20_011])
def test_one_row_per_whole_video_frame(encoder: Wav2Vec2Encoder, num_samples: int) -> None:
    interface: AudioEncoder = encoder
    features = interface(voice(num_samples))
    assert features.shape == (1, num_samples // SAMPLES_PER_FRAME, 2, 16)
    assert (interface.num_blocks, interface.channels) == (2, 16)
    assert features.isfinite().all()


def test_level_and_offset_do_not_matter(encoder: Wav2Vec2Encoder) -> None:
    samples = voice(16_000)
    louder = encoder(samples * 7 + 0.5)
    # Beside an offset five times its size, the sound itself is rounded by that much more.
    found, limit = expect(lambda: encoder(samples), encoder)
    assert_near(louder, found, 5 * limit)


def test_each_audio_of_a_batch_stands_alone(encoder: Wav2Vec2Encoder) -> None:
    audio = torch.cat((voice(9_600), 30 * voice(9_600, seed=1)))
    assert_same_network(encoder(audio)[:1], lambda: encoder(audio[:1]), encoder)


def test_silence_is_finite(encoder: Wav2Vec2Encoder) -> None:
    assert encoder(torch.zeros(1, 16_000)).isfinite().all()
    assert normalize_samples(torch.zeros(1, 100)).count_nonzero() == 0


def test_resampling_keeps_both_ends() -> None:
    features = torch.arange(7.0)[None, None]
    resampled = resample_features(features, 4)
    assert resampled.shape == (1, 4, 1)
    torch.testing.assert_close(resampled.flatten(), torch.tensor([0.0, 2.0, 4.0, 6.0]))


def test_stacked_rows_are_the_outputs_of_the_layers_in_order(encoder: Wav2Vec2Encoder) -> None:
    outputs: list[Tensor] = []
    for layer in encoder.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    features = encoder(voice(6_400))
    assert len(outputs) == TINY.num_layers
    for index, output in enumerate(outputs):
        assert torch.equal(features[:, :, index], output)


def test_positions_see_as_far_as_the_kernel(encoder: Wav2Vec2Encoder) -> None:
    features = torch.zeros(1, 12, TINY.width)
    features[:, 6] = 1
    changed = (encoder.position(features) != encoder.position(torch.zeros_like(features))).any(dim=2)[0]
    assert changed.nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9]


def test_half_precision_follows_the_weights(encoder: Wav2Vec2Encoder) -> None:
    exact, limit = expect_narrow(lambda: encoder(voice(6_400)), torch.bfloat16, encoder)
    rounded = encoder.to(torch.bfloat16)(voice(6_400))
    assert rounded.dtype == torch.bfloat16
    assert 0 < relative(rounded, exact) < limit


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads"):
        replace(TINY, num_heads=3)
    with pytest.raises(ValueError, match="position_groups"):
        replace(TINY, position_groups=5)
    with pytest.raises(ValueError, match="one entry per convolution"):
        replace(TINY, conv_strides=(5, 2))


def test_base_size() -> None:
    with torch.device("meta"):
        encoder = Wav2Vec2Encoder(wav2vec2_base())
    assert (encoder.num_blocks, encoder.channels) == (12, 768)
    assert sum(p.numel() for p in encoder.parameters()) == 94_370_944
