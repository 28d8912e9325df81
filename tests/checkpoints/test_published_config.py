"""What `config.json` says is held against the weights; a wrong field is named with its file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from livetalk.assembly.published import read_published_spec
from livetalk.checkpoints.layouts import find_published
from livetalk.checkpoints.published import open_audio_encoder, open_dit
from livetalk.errors import WeightsError
from livetalk.models.dit import DiTConfig
from synthetic_checkpoint import SyntheticCheckpoint, dit_config, make_synthetic_checkpoint


def change(path: Path, **fields: Any) -> None:
    """Change fields of a JSON file; None takes one out."""
    values = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def read(model_dir: Path) -> DiTConfig:
    """Read the configuration of the transformer."""
    return open_dit(find_published(model_dir)).config


def test_the_sizes_of_all_networks_are_read(pristine: SyntheticCheckpoint) -> None:
    configs = read_published_spec(find_published(pristine.model_dir))
    sizes = pristine.sizes
    assert configs.dit == dit_config(sizes)
    assert configs.vae.base_dim == sizes.vae_dim
    assert (configs.text.dim, configs.text.num_layers) == (sizes.text_dim, sizes.text_layers)
    assert configs.text.num_heads == sizes.text_heads
    assert (configs.image.dim, configs.image.num_heads) == (sizes.image_dim, 2)
    assert configs.image.num_layers == sizes.image_layers - 1
    assert configs.image.image_size == sizes.image_side
    assert (configs.speech.width, configs.speech.num_layers) == (32, sizes.speech_layers)


def test_fields_that_are_left_out_are_read_off_the_weights(model_dir: Path) -> None:
    expected = read(model_dir)
    config = model_dir / "config.json"
    for name in json.loads(config.read_text()):
        change(config, **{name: None})
    assert json.loads(config.read_text()) == {}
    assert read(model_dir) == expected


def test_a_base_models_file_says_nothing_of_audio(pristine_infinitetalk: SyntheticCheckpoint) -> None:
    files = find_published(pristine_infinitetalk.model_dir)
    assert "intermediate_dim" not in json.loads(files.config.read_text())
    assert open_dit(files).config == dit_config(pristine_infinitetalk.sizes)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dim", 512, "dim is 512 but should be 256"),
        ("dim", "256", "dim is '256' but should be 256"),
        ("ffn_dim", 100, "ffn_dim is 100 but should be 320"),
        ("freq_dim", 128, "freq_dim is 128 but should be 256"),
        ("in_dim", 16, "in_dim is 16 but should be 36"),
        ("out_dim", 4, "out_dim is 4 but should be 16"),
        ("num_heads", 4, "num_heads is 4 but should be 2"),
        ("num_layers", 40, "num_layers is 40 but should be 2"),
        ("num_layers", 2.0, "num_layers is 2.0 but should be 2"),
        ("text_dim", 4096, "text_dim is 4096 but should be 32"),
        ("intermediate_dim", 512, "intermediate_dim is 512 but should be 16"),
        ("output_dim", 768, "output_dim is 768 but should be 24"),
        ("context_tokens", 32, "context_tokens is 32 but should be 4"),
        ("audio_window", 3, "audio_window is 3 but should be 5"),
        ("vae_scale", 8, "vae_scale is 8 but should be 4"),
        ("patch_size", [1, 1, 1], r"patch_size is \[1, 1, 1\] but should be \[1, 2, 2\]"),
        ("text_len", 0, "text_len is 0 but should be a whole number from 1 to 4096"),
        ("text_len", "512", "text_len is '512' but should be a whole number"),
        ("eps", 1, "eps is 1 but should be a number between"),
        ("eps", 0.1, "eps is 0.1 but should be a number between"),
        ("model_type", "t2v", "model_type is 't2v' but should be 'i2v'"),
        ("qk_norm", False, "qk_norm is False but should be True"),
        ("window_size", [4, 4], r"window_size is \[4, 4\] but should be"),
        ("num_experts", 8, "num_experts: unknown fields"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(
    model_dir: Path, field: str, value: object, message: str
) -> None:
    change(model_dir / "config.json", **{field: value})
    with pytest.raises(WeightsError, match=message) as caught:
        read(model_dir)
    assert str(caught.value).startswith(f"weights {model_dir / 'config.json'}: {field}")
    assert "\n" not in str(caught.value)


def test_true_values_of_every_field_are_taken(model_dir: Path) -> None:
    expected = read(model_dir)
    extra = {"qk_norm": True, "cross_attn_norm": True, "window_size": [-1, -1], "patch_size": [1, 2, 2]}
    change(model_dir / "config.json", text_dim=32, **extra)
    assert read(model_dir) == expected
    change(model_dir / "config.json", text_len=64, eps=1e-5)
    assert read(model_dir) == replace(expected, text_len=64, eps=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 64, "hidden_size is 64 but should be 32"),
        ("num_hidden_layers", 12, "num_hidden_layers is 12 but should be 2"),
        ("intermediate_size", 3072, "intermediate_size is 3072 but should be 128"),
        ("conv_dim", [512] * 7, "conv_dim is 512 but should be 16"),
        ("num_conv_pos_embeddings", 128, "num_conv_pos_embeddings is 128 but should be 16"),
        ("num_conv_pos_embedding_groups", 16, "num_conv_pos_embedding_groups is 16 but should be 4"),
        ("do_stable_layer_norm", True, "do_stable_layer_norm is True, only False is supported"),
        ("num_attention_heads", 5, "num_heads"),
    ],
)
def test_a_wrong_field_of_the_speech_encoder_is_named(
    model_dir: Path, field: str, value: object, message: str
) -> None:
    config = model_dir.parent / "chinese-wav2vec2-base" / "config.json"
    change(config, **{field: value})
    with pytest.raises(WeightsError, match=message) as caught:
        open_audio_encoder(find_published(model_dir))
    assert str(config.resolve()) in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("do_normalize", False), ("sampling_rate", 8000)])
def test_audio_that_is_prepared_otherwise_is_refused(model_dir: Path, field: str, value: object) -> None:
    config = model_dir.parent / "chinese-wav2vec2-base" / "preprocessor_config.json"
    change(config, **{field: value})
    with pytest.raises(WeightsError, match=rf"preprocessor_config\.json: {field} is {value}"):
        open_audio_encoder(find_published(model_dir))
    config.unlink()
    open_audio_encoder(find_published(model_dir))


def test_the_speech_encoder_must_be_the_one_of_the_training(model_dir: Path, tmp_path: Path) -> None:
    other = make_synthetic_checkpoint(tmp_path / "other", size="tiny").wav2vec_dir
    files = find_published(model_dir, wav2vec_dir=other)
    files = replace(files, audio_config=None)
    with pytest.raises(WeightsError, match="hidden_size is 768 but should be 32"):
        open_dit(files)


def test_encoders_of_another_model_are_refused(model_dir: Path) -> None:
    files = find_published(model_dir)
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth: text encoder: .* another network"):
        read_published_spec(replace(files, text_encoder=files.vae))
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth: image encoder: .* another network"):
        read_published_spec(replace(files, image_encoder=files.vae))
    with pytest.raises(WeightsError, match="it is not the VAE"):
        read_published_spec(replace(files, vae=files.text_encoder))
    with pytest.raises(WeightsError, match="it is not the speech encoder"):
        read_published_spec(replace(files, audio_encoder=files.vae))
    with pytest.raises(WeightsError, match="not those of an audio-driven image-to-video transformer"):
        read_published_spec(replace(files, dit=files.vae))
