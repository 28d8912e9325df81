"""Sizes of published networks: the fields of `config.json`, checked against the shapes of the weights."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livetalk.checkpoints.adapters import published_dit_config, published_vae_config
from livetalk.checkpoints.encoder_adapters import clip_vision_config, umt5_config, wav2vec2_config
from livetalk.checkpoints.layouts import read_json
from livetalk.errors import WeightsError
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.clip_vision import CLIPVisionConfig
from livetalk.models.dit import DiTConfig
from livetalk.models.umt5 import UMT5Config
from livetalk.models.vae import VAEConfig
from livetalk.models.wav2vec import Wav2Vec2Config

Shapes = Mapping[str, tuple[int, ...]]

HEAD_DIM = 128
"""Width of an attention head in every published transformer of this family, which no weight shows."""

IMAGE_HEAD_DIM = 80
"""Width of an attention head of the published image encoder, which no weight shows."""

_PREPROCESSOR_NAME = "preprocessor_config.json"
_PATCH = "patch_embedding.weight"
_BLOCK = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class _Field:
    """A size in `config.json` that the weights also show."""

    name: str  # key in `config.json`
    measure: Callable[[Shapes], int]  # derives it from the shapes of the weights
    witness: str  # name of that weight, for messages


def _axis(name: str, witness: str, axis: int) -> _Field:
    return _Field(name, lambda shapes: shapes[witness][axis], witness)


# The sizes that the weights show. Window and stride of the audio projection are checked separately.
_MEASURED = (
    _axis("dim", _PATCH, 0),
    _axis("ffn_dim", "blocks.0.ffn.0.weight", 0),
    _axis("freq_dim", "time_embedding.0.weight", 1),
    _axis("in_dim", _PATCH, 1),
    _axis("intermediate_dim", "audio_proj.proj1.weight", 0),
    _axis("output_dim", "audio_proj.norm.weight", 0),
    _axis("text_dim", "text_embedding.0.weight", 1),
    _Field(
        "num_layers",
        lambda shapes: len({match[1] for name in shapes if (match := _BLOCK.match(name))}),
        "blocks",
    ),
    _Field(
        "num_heads",
        lambda shapes: shapes[_PATCH][0] // HEAD_DIM,
        f"{_PATCH}, in heads {HEAD_DIM} wide",
    ),
    _Field(
        "out_dim",
        lambda shapes: shapes["head.head.weight"][0] // math.prod(shapes[_PATCH][2:]),
        "head.head.weight",
    ),
    _Field(
        "context_tokens",
        lambda shapes: shapes["audio_proj.proj3.weight"][0] // shapes["audio_proj.norm.weight"][0],
        "audio_proj.proj3.weight",
    ),
)
# Properties of which the transformer implements only one value.
_FIXED: dict[str, Any] = {
    "model_type": "i2v",
    "qk_norm": True,
    "cross_attn_norm": True,
    "norm_input_visual": True,
    "norm_output_audio": True,
    "window_size": [-1, -1],
}
# Sizes that the weights do not show: (default, lowest, highest).
_CHOSEN = {"text_len": (512, 1, 4096), "audio_window": (5, 1, 99), "vae_scale": (4, 2, 64)}
_IGNORED = frozenset({"weight_init"})


def read_dit_config(path: Path, shapes: Shapes, *, speech: tuple[int, int]) -> DiTConfig:
    """Read the sizes of a published transformer from its `config.json` and the shapes of its weights.

    Fields that the published code omits are derived from the weights; the others must agree with them.
    `shapes` has published keys; `speech` is the number and width of the speech encoder's layers.

    Raises:
        WeightsError: a field is unknown, contradicts the weights or has an impossible value; names it.
    """
    fields = read_json(path)
    _refuse_unknown(path, fields)
    try:
        sizes = {field.name: field.measure(shapes) for field in _MEASURED}
        patch = shapes[_PATCH][2:]
        image_dim = shapes["img_emb.proj.1.weight"][1]
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise WeightsError(
            f"weights {path.parent}: the weights are not those of an audio-driven image-to-video transformer "
            f"(no usable {error}; its keys are like {next(iter(shapes), 'none')})"
        ) from error
    for field in _MEASURED:
        _check_measured(path, field, fields.get(field.name, sizes[field.name]), sizes[field.name])
    if tuple(fields.get("patch_size", patch)) != patch:
        raise _wrong(path, "patch_size", fields["patch_size"], f"{list(patch)} as in {_PATCH}")
    chosen = {name: _read_chosen(path, fields, name) for name in _CHOSEN}
    eps = _read_eps(path, fields)
    _check_audio_window(path, shapes, chosen, speech)
    try:
        return DiTConfig(
            dim=sizes["dim"],
            ffn_dim=sizes["ffn_dim"],
            num_heads=sizes["num_heads"],
            num_layers=sizes["num_layers"],
            in_channels=sizes["in_dim"],
            out_channels=sizes["out_dim"],
            patch_size=(patch[0], patch[1], patch[2]),
            freq_dim=sizes["freq_dim"],
            text_dim=sizes["text_dim"],
            text_len=chosen["text_len"],
            image_dim=image_dim,
            eps=eps,
            audio=AudioProjectionConfig(
                window=chosen["audio_window"],
                num_blocks=speech[0],
                channels=speech[1],
                hidden_dim=sizes["intermediate_dim"],
                context_tokens=sizes["context_tokens"],
                output_dim=sizes["output_dim"],
                latent_stride=chosen["vae_scale"],
            ),
        )
    except ValueError as error:
        raise WeightsError(f"weights {path}: {error}") from error


def read_vae_config(path: Path, shapes: Shapes) -> VAEConfig:
    """Derive the width of a published VAE from its weights; its other sizes are constant.

    Raises:
        WeightsError: the weights are those of another network.
    """
    name = "encoder.conv1.weight"
    if name not in shapes:
        keys = next(iter(shapes), "none")
        raise WeightsError(f"weights {path}: lacks {name}, so it is not the VAE; its keys are like {keys}")
    return published_vae_config(shapes[name][0])


def _refuse_unknown(path: Path, fields: Mapping[str, Any]) -> None:
    known = {field.name for field in _MEASURED} | _FIXED.keys() | _CHOSEN.keys() | _IGNORED
    known |= {"eps", "patch_size"}
    # Names with an underscore are notes of the library that wrote the file.
    if unknown := sorted(name for name in fields if not name.startswith("_") and name not in known):
        raise WeightsError(
            f"weights {path}: {', '.join(unknown)}: unknown fields, so the network may differ; "
            "remove them if they have no effect"
        )
    for name, wanted in _FIXED.items():
        if name in fields and fields[name] != wanted:
            raise _wrong(path, name, fields[name], repr(wanted))


def _check_measured(path: Path, field: _Field, given: object, measured: int) -> None:
    if type(given) is not int or given != measured:
        raise _wrong(path, field.name, given, f"{measured} as in the weights ({field.witness})")


def _read_chosen(path: Path, fields: Mapping[str, Any], name: str) -> int:
    default, lowest, highest = _CHOSEN[name]
    value = fields.get(name, default)
    if type(value) is not int or not lowest <= value <= highest:
        raise _wrong(path, name, value, f"a whole number from {lowest} to {highest}")
    return value


def _read_eps(path: Path, fields: Mapping[str, Any]) -> float:
    value = fields.get("eps", published_dit_config().eps)
    if type(value) is not float or not 0.0 < value < 1e-3:
        raise _wrong(path, "eps", value, "a number between 0 and 0.001")
    return value


def _check_audio_window(
    path: Path, shapes: Shapes, chosen: Mapping[str, int], speech: tuple[int, int]
) -> None:
    """Check audio window, stride and speech encoder against the input widths of two layers.

    One layer reads the features of `window` frames, the other those of `window + stride - 1` frames.
    """
    features = speech[0] * speech[1]
    window, stride = chosen["audio_window"], chosen["vae_scale"]
    for witness, rows, name in (
        ("audio_proj.proj1.weight", window, "audio_window"),
        ("audio_proj.proj1_vf.weight", window + stride - 1, "vae_scale"),
    ):
        measured = shapes[witness][1] if witness in shapes else rows * features
        if measured % features:
            raise WeightsError(
                f"weights {path.parent}: {witness} reads {measured} numbers, which is no multiple of the "
                f"{speech[0]} x {speech[1]} of the speech encoder; give the one it was trained with"
            )
        if measured != rows * features:
            right = measured // features - (0 if name == "audio_window" else window - 1)
            raise _wrong(path, name, chosen[name], f"{right} as in the weights ({witness})")


def _wrong(path: Path, field: str, value: object, wanted: str) -> WeightsError:
    return WeightsError(f"weights {path}: {field} is {value!r} but should be {wanted}")


def read_speech_config(path: Path | None, weights: Path, shapes: Shapes) -> Wav2Vec2Config:
    """Read the sizes of a published speech encoder and check them against its weights.

    `path` is its `config.json`, None for the base network; `shapes` has canonical keys.

    Raises:
        WeightsError: the network is not supported, or the weights contradict the file.
    """
    origin = weights if path is None else path
    _check_preprocessor(weights.parent / _PREPROCESSOR_NAME)
    try:
        config = wav2vec2_config({} if path is None else read_json(path))
    except WeightsError as error:
        raise WeightsError(f"weights {origin}: {error}") from error
    layer = re.compile(r"encoder\.layers\.(\d+)\.")
    norm = "feature_projection.layer_norm.weight"
    hidden = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    position = "encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    if missing := [name for name in (norm, hidden, position) if name not in shapes]:
        raise WeightsError(f"weights {weights}: lacks {', '.join(missing)}, so it is not the speech encoder")
    for name, given, measured in (
        ("hidden_size", config.width, shapes[position][0]),
        ("num_hidden_layers", config.num_layers, len({m[1] for key in shapes if (m := layer.match(key))})),
        ("intermediate_size", config.ffn_dim, shapes[hidden][0]),
        ("conv_dim", config.conv_dims[-1], shapes[norm][0]),
        ("num_conv_pos_embeddings", config.position_kernel, shapes[position][2]),
        ("num_conv_pos_embedding_groups", config.position_groups, config.width // shapes[position][1]),
    ):
        if given != measured:
            raise _wrong(origin, name, given, f"{measured} as in {weights.name}")
    return config


def _check_preprocessor(path: Path) -> None:
    """Reject a speech encoder that needs other preprocessing than this package's."""
    fields = read_json(path) if path.is_file() else {}
    for name, wanted in (("do_normalize", True), ("sampling_rate", 16_000)):
        if fields.get(name, wanted) != wanted:
            raise _wrong(path, name, fields[name], repr(wanted))


def read_text_config(path: Path, shapes: Shapes) -> UMT5Config:
    """Derive the sizes of a published text encoder; `WeightsError` if the weights are another network's."""
    try:
        return umt5_config(shapes)
    except WeightsError as error:
        raise WeightsError(f"weights {path}: {error}") from error


def read_image_config(path: Path, shapes: Shapes) -> CLIPVisionConfig:
    """Derive the sizes of a published image encoder; `WeightsError` if the weights are another network's."""
    dim = shapes.get("visual.pos_embedding", (0, 0, IMAGE_HEAD_DIM))[-1]
    try:
        return clip_vision_config(shapes, num_heads=max(1, dim // IMAGE_HEAD_DIM))
    except WeightsError as error:
        raise WeightsError(f"weights {path}: {error}") from error
