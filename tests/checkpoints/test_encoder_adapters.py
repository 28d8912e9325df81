"""Key maps of the published encoders: round trips, spellings, weights left alone, sizes, refusals."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from livetalk.checkpoints.encoder_adapters import (
    EncoderAdapter,
    clip_vision_adapter,
    clip_vision_config,
    umt5_adapter,
    umt5_config,
    wav2vec2_adapter,
    wav2vec2_config,
)
from livetalk.errors import WeightsError
from livetalk.models.clip_vision import CLIPVisionConfig, CLIPVisionEncoder
from livetalk.models.umt5 import UMT5Config, UMT5Encoder
from livetalk.models.wav2vec import Wav2Vec2Config, Wav2Vec2Encoder

SPEECH = Wav2Vec2Config(
    width=16, num_layers=2, num_heads=2, ffn_dim=24, conv_dims=(8,) * 7, position_kernel=6, position_groups=4
)
TEXT = UMT5Config(vocabulary=40, dim=16, attention_dim=24, ffn_dim=20, num_heads=4, num_layers=2)
IMAGE = CLIPVisionConfig(image_size=16, patch_size=4, dim=24, ffn_dim=32, num_heads=3, num_layers=2)

Pair = tuple[Callable[[], nn.Module], EncoderAdapter]
PAIRS: list[Pair] = [
    (lambda: Wav2Vec2Encoder(SPEECH), wav2vec2_adapter()),
    (lambda: UMT5Encoder(TEXT), umt5_adapter()),
    (lambda: CLIPVisionEncoder(IMAGE), clip_vision_adapter(IMAGE)),
]
NAMES = ["speech", "text", "image"]


def shapes_of(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor."""
    return {key: tuple(tensor.shape) for key, tensor in weights.items()}


@pytest.mark.parametrize("pair", PAIRS, ids=NAMES)
def test_round_trip(pair: Pair) -> None:
    build, adapter = pair
    network, other = build(), build()
    published = adapter.export_weights(network)
    other.load_state_dict(adapter.import_weights(other, published), strict=True)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key])
        assert adapter.to_ours(adapter.to_published(key)) == key
    assert all(adapter.canonical(key) == key for key in published)


@pytest.mark.parametrize("pair", PAIRS, ids=NAMES)
def test_every_fault_is_named(pair: Pair) -> None:
    build, adapter = pair
    network = build()
    published = adapter.export_weights(network)
    victim = sorted(published)[len(published) // 2]
    for weights, words in (
        ({k: v for k, v in published.items() if k != victim}, f"missing {victim}"),
        ({**published, "stranger.weight": torch.zeros(1)}, "unexpected stranger.weight"),
        ({**published, victim: torch.zeros(2, 2, 2, 2, 2)}, f"'{victim}' has shape"),
    ):
        with pytest.raises(WeightsError, match=words):
            adapter.import_weights(network, weights)


def test_speech_keys_have_several_spellings() -> None:
    adapter, network = wav2vec2_adapter(), Wav2Vec2Encoder(SPEECH)
    stem = "encoder.pos_conv_embed.conv."
    assert adapter.canonical(f"wav2vec2.{stem}weight_g") == f"{stem}parametrizations.weight.original0"
    assert adapter.canonical(f"{stem}weight_v") == f"{stem}parametrizations.weight.original1"
    unused = ("masked_spec_embed", "wav2vec2.masked_spec_embed", "quantizer.codevectors", "project_q.bias")
    assert [adapter.canonical(key) for key in unused] == [None] * len(unused)
    assert adapter.canonical("project_quickly.bias") == "project_quickly.bias"
    published = adapter.export_weights(network)
    file = {f"wav2vec2.{key}": tensor for key, tensor in published.items()} | {
        "lm_head.weight": torch.ones(3)
    }
    assert adapter.import_weights(network, file).keys() == network.state_dict().keys()


def test_the_text_tower_and_the_last_block_are_left_alone() -> None:
    whole = CLIPVisionEncoder(replace(IMAGE, num_layers=3))
    file = clip_vision_adapter(whole.config).export_weights(whole)
    assert any(key.startswith("visual.transformer.2.") for key in file)
    file |= {
        "textual.norm.weight": torch.ones(2),
        "log_scale": torch.ones(()),
        "visual.head": torch.ones(2, 2),
    }
    file |= {"visual.post_norm.weight": torch.ones(24), "visual.post_norm.bias": torch.ones(24)}
    config = clip_vision_config(shapes_of(file), num_heads=3)
    assert config == IMAGE
    network = CLIPVisionEncoder(config)
    network.load_state_dict(clip_vision_adapter(config).import_weights(network, file), strict=True)
    assert all(torch.equal(tensor, whole.state_dict()[key]) for key, tensor in network.state_dict().items())
    with pytest.raises(WeightsError, match=r"unexpected visual.transformer.3"):
        clip_vision_adapter(config).import_weights(network, {**file, "visual.transformer.3.x": torch.ones(1)})


def test_sizes_are_read_off_the_weights() -> None:
    assert umt5_config(shapes_of(umt5_adapter().export_weights(UMT5Encoder(TEXT)))) == TEXT
    with pytest.raises(WeightsError, match="text encoder: the weights are those of another network"):
        umt5_config({"token_embedding.weight": (4, 2)})
    with pytest.raises(WeightsError, match="image encoder: the weights are those of another network"):
        clip_vision_config({"visual.patch_embedding.weight": (8, 3, 4, 4)})


def test_speech_sizes_are_read_from_the_configuration() -> None:
    values = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    values2 = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 6, "num_conv_pos_embedding_groups": 4}
    assert wav2vec2_config({**values, **values2, "ctc_loss_reduction": "sum"}) == SPEECH
    with pytest.raises(WeightsError, match="do_stable_layer_norm is True"):
        wav2vec2_config({"do_stable_layer_norm": True})
    with pytest.raises(WeightsError, match="num_heads 5"):
        wav2vec2_config({**values, "num_attention_heads": 5})
    with pytest.raises(WeightsError, match="does not describe a network"):
        wav2vec2_config({"hidden_size": "wide"})
