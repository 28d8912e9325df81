"""The speech encoder: alignment with video frames, cutting, silence, packed weights."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import livetalk
from livetalk.errors import WeightsError
from livetalk.models.audio_encoder import (
    LogMel,
    SpeechEncoder,
    SpeechEncoderConfig,
    cut_log_mel,
    load_speech_encoder,
    pack_tensors,
    packed_metadata,
    unpack_tensors,
)
from tolerance import assert_near, assert_same_network, expect, rounding

PACKED = Path(livetalk.__file__).parent / "weights" / "embedded" / "speech_encoder.safetensors"
TINY = SpeechEncoderConfig(num_layers=1, width=48, num_heads=2, num_mel_bins=80)


@pytest.fixture(scope="module")
def encoder() -> SpeechEncoder:
    return load_speech_encoder(PACKED)


def vowel_like(seconds: float, seed: int = 0) -> Tensor:
    """Harmonics of a gliding pitch in syllable-sized bursts, over a little noise: [1, samples]."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 16_000)) / 16_000
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * time)) / 16_000
    voice = sum(np.sin(k * phase) / k for k in range(1, 25)) * np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    return torch.from_numpy((0.2 * voice + 1e-3 * rng.normal(size=time.size)).astype(np.float32))[None]


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (160, 0), (639, 0), (640, 1), (1279, 1), (1280, 2), (17_920, 28)]
)
def test_one_feature_vector_per_whole_video_frame(samples: int, frames: int) -> None:
    features = SpeechEncoder(TINY).eval()(torch.zeros(2, samples))
    assert features.shape == (2, frames, 1, 96)
    assert torch.isfinite(features).all()


def test_log_mel_matches_a_direct_computation() -> None:
    samples = vowel_like(0.4)
    front = LogMel()
    m = 11
    piece = samples[0, 160 * m - 40 : 160 * m + 360].double()
    hann = 0.5 - 0.5 * torch.cos(2 * torch.pi * torch.arange(400, dtype=torch.float64) / 400)
    power = (front.filters.double() @ torch.fft.rfft(piece * hann).abs().square()).clamp_min(1e-10)
    # An amplitude is off by the rounding of the largest one, and its logarithm by that over its own size.
    limit = 2 / math.log(10) * rounding(400) * (power.max() / power).sqrt()
    assert ((front(samples)[0, m].double() - power.log10()).abs() <= limit).all()


def test_filters_have_unit_area_and_cover_the_band() -> None:
    filters = LogMel().filters
    assert torch.all(filters >= 0)
    assert torch.all(filters.sum(1) > 0)
    assert torch.allclose(filters[60:].sum(1) * 40.0, torch.ones(20), atol=0.05)
    assert filters[0].argmax() <= 1 and filters[-1].argmax() >= 190


def test_a_click_amid_a_video_frame_weighs_equally_on_both_of_its_tokens() -> None:
    samples = torch.zeros(1, 6400)
    samples[0, 5 * 640 + 320] = 0.5
    power = 10.0 ** LogMel()(samples)[0].double().sum(1).div(80)
    first, second = 2 * 10, 2 * 11  # log-mel frames on which the tokens of frame 5 are centred
    assert power.argmax() == 21
    # Powers down to 1e-10 come as logarithms, whose rounding is that of their exponent.
    limit = 10 * math.log(10) * rounding(400)
    assert torch.allclose(power[first - 1 : 21], power[22 : second + 2].flip(0), rtol=limit, atol=0)


def test_cut_log_mel_equals_log_mel_of_the_cut_audio(encoder: SpeechEncoder) -> None:
    samples = vowel_like(3.0)
    whole = encoder.log_mel(samples)
    for start_frame, num_frames in ((0, 75), (10, 33), (42, 33), (74, 1)):
        piece = samples[:, start_frame * 640 : (start_frame + num_frames) * 640]
        cut = cut_log_mel(whole, start_frame * 4, num_frames * 4)
        assert_near(cut, encoder.log_mel(piece), rounding(400))
        with torch.inference_mode():
            assert_same_network(encoder.encode_log_mel(cut), lambda piece=piece: encoder(piece), encoder)


def test_batch_equals_single(encoder: SpeechEncoder) -> None:
    loud, quiet = vowel_like(1.0, 1), 0.01 * vowel_like(1.0, 2)
    with torch.inference_mode():
        both = encoder(torch.cat((loud, quiet)))
        assert_same_network(both[:1], lambda: encoder(loud), encoder)
        assert_same_network(both[1:], lambda: encoder(quiet), encoder)


def test_features_respond_where_the_audio_is(encoder: SpeechEncoder) -> None:
    samples = torch.zeros(1, 50 * 640)
    samples[:, 20 * 640 : 25 * 640] = vowel_like(0.2)[:, : 5 * 640] * 2
    with torch.inference_mode():
        change = (encoder(samples) - encoder(torch.zeros_like(samples)))[0, :, 0].norm(dim=1)
    assert 20 <= change.argmax() < 25
    assert change[20:25].mean() > 1.25 * torch.cat((change[:18], change[27:])).mean()


def test_hiss_below_the_floor_looks_like_digital_silence(encoder: SpeechEncoder) -> None:
    rng = torch.Generator().manual_seed(0)
    hiss = torch.randn(1, 32_000, generator=rng) * 10.0 ** (-86 / 20)
    with torch.inference_mode():
        silence, limit = expect(lambda: encoder(torch.zeros(1, 32_000)), encoder)
        assert_near(encoder(hiss), silence, limit)
        audible = encoder(hiss * 100)
    assert (audible - silence).abs().mean() > 0.05


def test_features_of_voice_have_about_unit_variance(encoder: SpeechEncoder) -> None:
    with torch.inference_mode():
        features = encoder(vowel_like(4.0))
    assert 0.5 < features.std().item() < 2.0
    assert features.abs().max().item() < 30.0


def test_nan_and_overload_are_survived(encoder: SpeechEncoder) -> None:
    samples = vowel_like(0.5)
    samples[0, 100:200] = torch.nan
    samples[0, 300] = torch.inf
    with torch.inference_mode():
        assert torch.isfinite(encoder(samples)).all()
        assert torch.isfinite(encoder(samples.nan_to_num(0.0) * 1e6)).all()


def test_windows_too_long_or_ragged_are_refused() -> None:
    encoder = SpeechEncoder(TINY)
    with pytest.raises(ValueError, match="longer than 30 s"):
        encoder.encode_log_mel(torch.zeros(1, 3004, 80))
    with pytest.raises(ValueError, match="whole number of video frames"):
        encoder.encode_log_mel(torch.zeros(1, 6, 80))
    with pytest.raises(ValueError, match="num_heads"):
        SpeechEncoder(SpeechEncoderConfig(width=50, num_heads=4))


def test_packing_keeps_matrices_within_half_a_level() -> None:
    weight = torch.randn(16, 96, generator=torch.Generator().manual_seed(1))
    state = {"layer.weight": weight, "layer.bias": weight[0]}
    restored = unpack_tensors(pack_tensors(state))
    assert torch.equal(restored["layer.bias"], state["layer.bias"])
    step = weight.reshape(16, 2, 48).abs().amax(2) / 127
    assert ((restored["layer.weight"] - weight).abs().reshape(16, 2, 48) <= 0.6 * step[..., None]).all()


def test_packed_weights_are_small_frozen_and_complete(encoder: SpeechEncoder) -> None:
    assert PACKED.stat().st_size <= 6_500_000
    assert (encoder.num_blocks, encoder.channels) == (1, 768)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_saved_encoder_loads_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = SpeechEncoder(TINY).eval()
    packed = pack_tensors(made.state_dict())
    save_file(packed, tmp_path / "tiny.safetensors", packed_metadata(TINY, packed))
    loaded = load_speech_encoder(tmp_path / "tiny.safetensors")
    assert loaded.config == TINY
    with torch.inference_mode():
        assert torch.allclose(loaded(vowel_like(0.5)), made(vowel_like(0.5)), atol=0.1)


def test_missing_damaged_and_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        load_speech_encoder(tmp_path / "absent.safetensors")
    short = tmp_path / "short.safetensors"
    short.write_bytes(PACKED.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match=r"short\.safetensors.*cannot be read"):
        load_speech_encoder(short)
    flipped = tmp_path / "flipped.safetensors"
    data = bytearray(PACKED.read_bytes())
    data[-1000] ^= 0xFF
    flipped.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="checksum"):
        load_speech_encoder(flipped)
    foreign = tmp_path / "foreign.safetensors"
    tensors = load_file(PACKED)
    tensors.pop("conv1.bias")
    save_file(tensors, foreign, packed_metadata(SpeechEncoderConfig(), tensors))
    with pytest.raises(WeightsError, match="does not hold a speech encoder"):
        load_speech_encoder(foreign)
