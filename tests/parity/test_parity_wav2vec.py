"""The speech encoder against the published one: every stage from samples to stacked layers."""

import torch
from parity_case import Reference
from parity_networks import load_wav2vec
from torch import Tensor

from livetalk.checkpoints.encoder_adapters import wav2vec2_adapter
from livetalk.models.wav2vec import SAMPLES_PER_FRAME, Wav2Vec2Encoder, normalize_samples, resample_features

NAME = "wav2vec_tiny"


def stages(encoder: Wav2Vec2Encoder, samples: Tensor) -> dict[str, Tensor]:
    """Run every stage of the encoder; the names are those of the reference."""
    normalised = normalize_samples(samples[None])
    features = encoder.front_end(normalised)
    resampled = resample_features(features, samples.shape[0] // SAMPLES_PER_FRAME)
    states = encoder.encode_frames(resampled)
    return {
        "normalised": normalised[0],
        "conv_features": features,
        "interpolated": resampled,
        "hidden_states": torch.cat(states),
        "audio_emb": encoder(samples[None])[0],
    }


def test_parity_wav2vec_stages() -> None:
    reference = Reference.load(NAME)
    encoder = load_wav2vec(reference)
    for name in reference.meta["cases"]:
        case = reference.case(name)
        got: dict[str, Tensor] = {}
        for key, samples in case.items():
            if not key.startswith("in.audio_"):
                continue
            which = key.removeprefix("in.audio_")
            with torch.no_grad():
                got.update({f"{stage}_{which}": value for stage, value in stages(encoder, samples).items()})
        for key in reference.expected(name):
            source, _, length = key.partition("_to_")
            if length:
                features = case[source.replace("interpolated", "conv_features")]
                got[key] = resample_features(features, int(length))
        assert set(got) == reference.expected(name)
        reference.check(name, got)


def test_parity_wav2vec_old_spelling() -> None:
    reference = Reference.load(NAME)
    encoder, adapter = load_wav2vec(reference), wav2vec2_adapter()
    old = {
        "wav2vec2."
        + key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for key, tensor in reference.weights().items()
    }
    assert "wav2vec2.encoder.pos_conv_embed.conv.weight_g" in old
    imported = adapter.import_weights(encoder, old)
    assert all(torch.equal(imported[key], tensor) for key, tensor in encoder.state_dict().items())
