"""Adapters and sizes of the published speech, text and image encoders.

Published files contain more weights than the networks use, and spell some keys in several ways. An
`EncoderAdapter` maps each key of a file to its canonical spelling, or marks it as unused.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from livetalk.checkpoints.adapters import Rule, StateDictAdapter
from livetalk.errors import WeightsError
from livetalk.models.clip_vision import CLIPVisionConfig
from livetalk.models.umt5 import UMT5Config
from livetalk.models.wav2vec import Wav2Vec2Config

Shapes = Mapping[str, Sequence[int]]
"""Shape of each tensor of a published file, by canonical key."""


@dataclass(frozen=True, slots=True)
class EncoderAdapter(StateDictAdapter):
    """Adapter of a file with several spellings of a key and with weights that the network does not use.

    Attributes:
        spellings: pairs of a regular expression and its replacement, applied to every key in order.
        unused: canonical prefixes of ignored weights; `{n}` stands for a number.
    """

    spellings: tuple[tuple[str, str], ...] = ()
    unused: tuple[str, ...] = ()

    def canonical(self, key: str) -> str | None:
        """Return the canonical spelling of a key, or None for an unused weight."""
        for pattern, replacement in self.spellings:
            key = re.sub(pattern, replacement, key)
        prefixes = (re.escape(prefix).replace(r"\{n\}", r"\d+") for prefix in self.unused)
        return None if any(re.match(rf"{prefix}(\.|$)", key) for prefix in prefixes) else key

    def select(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the used tensors of a file by canonical key."""
        spelled = {self.canonical(key): tensor for key, tensor in published.items()}
        return {key: tensor for key, tensor in spelled.items() if key is not None}

    def import_weights(self, network: nn.Module, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Translate a published state dict in any spelling, see `StateDictAdapter.import_weights`."""
        # `slots=True` creates a new class, so that super() without arguments would refer to the old one.
        return StateDictAdapter.import_weights(self, network, self.select(published))


_WAV2VEC2_LAYER_RULES = (
    ("q", "attention.q_proj"),
    ("k", "attention.k_proj"),
    ("v", "attention.v_proj"),
    ("out", "attention.out_proj"),
    ("attention_norm", "layer_norm"),
    ("ffn_in", "feed_forward.intermediate_dense"),
    ("ffn_out", "feed_forward.output_dense"),
    ("ffn_norm", "final_layer_norm"),
)

_WAV2VEC2_RULES = (
    ("front_end.norm", "feature_extractor.conv_layers.0.layer_norm"),
    ("front_end.convolutions.{n}", "feature_extractor.conv_layers.{n}.conv"),
    ("feature_norm", "feature_projection.layer_norm"),
    ("feature_projection", "feature_projection.projection"),
    ("position.gain", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    ("position.direction", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    ("position.bias", "encoder.pos_conv_embed.conv.bias"),
    ("input_norm", "encoder.layer_norm"),
)

# Files of the pre-training network nest the encoder one level deeper; files of older libraries use other
# names for the two factors of the positional weight.
_WAV2VEC2_SPELLINGS = (
    (r"^wav2vec2\.", ""),
    (r"(?<=pos_conv_embed\.conv\.)weight_g$", "parametrizations.weight.original0"),
    (r"(?<=pos_conv_embed\.conv\.)weight_v$", "parametrizations.weight.original1"),
)

_UMT5_BLOCK_RULES = (
    ("attention_norm", "norm1"),
    ("q", "attn.q"),
    ("k", "attn.k"),
    ("v", "attn.v"),
    ("out", "attn.o"),
    ("position_bias", "pos_embedding.embedding"),
    ("ffn_norm", "norm2"),
    ("ffn_gate", "ffn.gate.0"),
    ("ffn_in", "ffn.fc1"),
    ("ffn_out", "ffn.fc2"),
)

_CLIP_BLOCK_RULES = (
    ("attention_norm", "norm1"),
    ("qkv", "attn.to_qkv"),
    ("out", "attn.proj"),
    ("ffn_norm", "norm2"),
    ("ffn_in", "mlp.0"),
    ("ffn_out", "mlp.2"),
)


def wav2vec2_adapter() -> EncoderAdapter:
    """Return the adapter of the published speech encoder, for both of its file formats."""
    layers = _numbered("layers", "encoder.layers", _WAV2VEC2_LAYER_RULES)
    rules = tuple(Rule(ours, published) for ours, published in _WAV2VEC2_RULES)
    return EncoderAdapter(
        (*rules, *layers),
        spellings=_WAV2VEC2_SPELLINGS,
        # Weights of the pre-training objectives.
        unused=("masked_spec_embed", "quantizer", "project_q", "project_hid", "lm_head"),
    )


def umt5_adapter() -> EncoderAdapter:
    """Return the adapter of the published text encoder."""
    rules = (Rule("token_embedding", "token_embedding"), Rule("norm", "norm"))
    return EncoderAdapter((*rules, *_numbered("blocks", "blocks", _UMT5_BLOCK_RULES)))


def clip_vision_adapter(config: CLIPVisionConfig) -> EncoderAdapter:
    """Return the adapter of the published image encoder, whose file also contains a text tower."""
    rules = (
        Rule("patch_embedding", "visual.patch_embedding"),
        Rule("class_embedding", "visual.cls_embedding"),
        Rule("position_embedding", "visual.pos_embedding"),
        Rule("input_norm", "visual.pre_norm"),
    )
    # The features are the input of the last block, so that block and all after it are unused.
    after = (f"visual.transformer.{config.num_layers}", "visual.post_norm", "visual.head")
    return EncoderAdapter(
        (*rules, *_numbered("blocks", "visual.transformer", _CLIP_BLOCK_RULES)),
        unused=("textual", "log_scale", *after),
    )


def _numbered(ours: str, published: str, rules: Sequence[tuple[str, str]]) -> tuple[Rule, ...]:
    """Return the rules of one layer with numbered prefixes."""
    return tuple(Rule(f"{ours}.{{n}}.{a}", f"{published}.{{n}}.{b}") for a, b in rules)


def wav2vec2_config(values: Mapping[str, Any]) -> Wav2Vec2Config:
    """Read the sizes of a published speech encoder from the fields of its `config.json`.

    Absent fields have the values of the base network.

    Raises:
        WeightsError: a value is not supported; the message names the field.
    """
    only = {
        "feat_extract_norm": "group",
        "feat_extract_activation": "gelu",
        "hidden_act": "gelu",
        "do_stable_layer_norm": False,
        "conv_bias": False,
    }
    for field, wanted in only.items():
        if values.get(field, wanted) != wanted:
            raise WeightsError(
                f"speech encoder: {field} is {values[field]!r}, only {wanted!r} is supported (base networks)"
            )
    try:
        return Wav2Vec2Config(
            width=int(values.get("hidden_size", 768)),
            num_layers=int(values.get("num_hidden_layers", 12)),
            num_heads=int(values.get("num_attention_heads", 12)),
            ffn_dim=int(values.get("intermediate_size", 3072)),
            conv_dims=tuple(map(int, values.get("conv_dim", (512,) * 7))),
            conv_kernels=tuple(map(int, values.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2)))),
            conv_strides=tuple(map(int, values.get("conv_stride", (5, 2, 2, 2, 2, 2, 2)))),
            position_kernel=int(values.get("num_conv_pos_embeddings", 128)),
            position_groups=int(values.get("num_conv_pos_embedding_groups", 16)),
            eps=float(values.get("layer_norm_eps", 1e-5)),
        )
    except (TypeError, ValueError) as error:
        raise WeightsError(
            f"speech encoder: its configuration does not describe a network: {error}"
        ) from error


def umt5_config(shapes: Shapes) -> UMT5Config:
    """Derive the sizes of a published text encoder from the shapes of its weights.

    Raises:
        WeightsError: the weights are those of another network.
    """
    try:
        vocabulary, dim = shapes["token_embedding.weight"]
        num_buckets, num_heads = shapes["blocks.0.pos_embedding.embedding.weight"]
        return UMT5Config(
            vocabulary=vocabulary,
            dim=dim,
            attention_dim=shapes["blocks.0.attn.q.weight"][0],
            ffn_dim=shapes["blocks.0.ffn.fc1.weight"][0],
            num_heads=num_heads,
            num_layers=_count(shapes, "blocks"),
            num_buckets=num_buckets,
        )
    except (KeyError, ValueError) as error:
        raise WeightsError(f"text encoder: the weights are those of another network ({error})") from error


def clip_vision_config(shapes: Shapes, num_heads: int = 16) -> CLIPVisionConfig:
    """Derive the sizes of a published image encoder from the shapes in its file.

    `num_heads` cannot be derived.

    Raises:
        WeightsError: the weights are those of another network.
    """
    try:
        dim, _, patch_size, _ = shapes["visual.patch_embedding.weight"]
        num_patches = shapes["visual.pos_embedding"][1] - 1
        return CLIPVisionConfig(
            image_size=patch_size * round(num_patches**0.5),
            patch_size=patch_size,
            dim=dim,
            ffn_dim=shapes["visual.transformer.0.mlp.0.weight"][0],
            num_heads=num_heads,
            # The last block is not counted, because the features are its input.
            num_layers=_count(shapes, "visual.transformer") - 1,
        )
    except (KeyError, ValueError) as error:
        raise WeightsError(f"image encoder: the weights are those of another network ({error})") from error


def _count(shapes: Shapes, prefix: str) -> int:
    """Return the number of numbered layers under a prefix."""
    numbers = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for key in shapes if (match := numbers.match(key))})
