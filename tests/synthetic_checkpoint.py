"""Write a complete checkpoint in a published layout, with random weights.

Every file of the real one is there under its real name: two transformer shards and their index, VAE, text
encoder with its tokenizer, image encoder, speech encoder. `tiny` takes megabytes; `wide` has the real widths
and few layers, gigabytes of it, to measure how much memory loading takes.

    python scripts/make_synthetic_checkpoint.py OUT --size tiny --speech-format bin
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from livetalk.checkpoints.adapters import StateDictAdapter, dit_adapter, vae_adapter
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from synthetic_shapes import (
    CONV_KERNELS,
    CONV_STRIDES,
    TINY,
    WIDE,
    Shapes,
    Sizes,
    image_encoder_shapes,
    speech_encoder_shapes,
    text_encoder_shapes,
)

Size = Literal["tiny", "wide"]
Layout = Literal["flashtalk", "infinitetalk"]
SpeechFormat = Literal["safetensors", "bin"]

MODEL_DIRS: dict[Layout, str] = {"flashtalk": "SoulX-FlashTalk-14B", "infinitetalk": "Wan2.1-I2V-14B-480P"}
LATENT_CHANNELS = 16
# Everything that InfiniteTalk adds to the base model.
_AUDIO_KEYS = ("audio_proj.", "audio_cross_attn.", "norm_x.")
# A pool of noise, repeated where a weight is larger: drawing gigabytes would take minutes.
_POOL_NUMEL = 1 << 22
_SIZES: dict[Size, Sizes] = {"tiny": TINY, "wide": WIDE}


@dataclass(frozen=True, slots=True)
class SyntheticCheckpoint:
    """Where a checkpoint was written.

    Attributes:
        model_dir: what `--model` takes.
        wav2vec_dir: the speech encoder's folder, beside it.
        infinitetalk: file of the audio weights; None in the layout that has them in the model.
        sizes: of the networks.
    """

    model_dir: Path
    wav2vec_dir: Path
    infinitetalk: Path | None
    sizes: Sizes


def make_synthetic_checkpoint(
    directory: Path,
    *,
    size: Size = "tiny",
    layout: Layout = "flashtalk",
    speech_format: SpeechFormat = "safetensors",
    num_layers: int | None = None,
) -> SyntheticCheckpoint:
    """Write a checkpoint of random weights, the same every time.

    Args:
        directory: where to; made when absent. It receives the model's folder and `chinese-wav2vec2-base`.
        size: "tiny" or "wide".
        layout: "flashtalk", or "infinitetalk": a base model plus `InfiniteTalk/single/*.safetensors`.
        speech_format: of the speech encoder: `model.safetensors` with new key names, or `pytorch_model.bin`
            as its authors saved it.
        num_layers: of the transformer; None takes the size's own.

    Returns:
        Where it lies.
    """
    sizes = _SIZES[size]
    if num_layers is not None:
        sizes = replace(sizes, num_layers=num_layers)
    model_dir = directory / MODEL_DIRS[layout]
    wav2vec_dir = directory / "chinese-wav2vec2-base"
    for folder in (model_dir / "google" / "umt5-xxl", wav2vec_dir):
        folder.mkdir(parents=True, exist_ok=True)
    noise = _Noise()
    infinitetalk = None
    if layout == "infinitetalk":
        infinitetalk = directory / "InfiniteTalk" / "single" / "infinitetalk.safetensors"
        infinitetalk.parent.mkdir(parents=True, exist_ok=True)
    _write_dit(model_dir, sizes, noise, infinitetalk)
    _write_encoders(model_dir, sizes, noise)
    write_tokenizer(model_dir / "google" / "umt5-xxl")
    _write_speech_encoder(wav2vec_dir, sizes, speech_format, noise)
    return SyntheticCheckpoint(model_dir, wav2vec_dir, infinitetalk, sizes)


class _Noise:
    """Draws weights that keep activations near one: norms near 1, matrices by their fan-in."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self._pool = torch.randn(_POOL_NUMEL, generator=rng)
        self._offset = 0

    def draw(self, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return the weight of `key`."""
        numel = math.prod(shape)
        self._offset = (self._offset + 1_000_003) % (_POOL_NUMEL // 2)
        pool = self._pool[self._offset :]
        noise = pool.repeat(-(-numel // pool.numel()))[:numel] if numel > pool.numel() else pool[:numel]
        if len(shape) < 2 or key.endswith("gamma"):
            is_scale = key.endswith(("weight", "gamma"))
            values = noise * 0.1 + 1.0 if is_scale else noise * 0.02
        elif key.endswith(("original0", "weight_g")):
            values = noise.abs() * 0.1 + 1.0
        else:
            values = noise * math.prod(shape[1:]) ** -0.5
        return values.reshape(shape).to(dtype).clone()

    def state(self, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, Tensor]:
        """Return the weights of a whole network."""
        return {key: self.draw(key, shape, dtype) for key, shape in shapes.items()}


def dit_config(sizes: Sizes) -> DiTConfig:
    """Return our configuration of the transformer."""
    return DiTConfig(
        dim=sizes.dim,
        ffn_dim=sizes.ffn_dim,
        num_heads=sizes.dim // 128,
        num_layers=sizes.num_layers,
        in_channels=2 * LATENT_CHANNELS + 4,
        out_channels=LATENT_CHANNELS,
        text_dim=sizes.text_dim,
        image_dim=sizes.image_dim,
        audio=AudioProjectionConfig(
            num_blocks=sizes.speech_layers,
            channels=sizes.speech_dim,
            hidden_dim=sizes.audio_hidden,
            context_tokens=sizes.audio_tokens,
            output_dim=sizes.audio_dim,
        ),
    )


def _published_shapes(network: nn.Module, adapter: StateDictAdapter) -> Shapes:
    return {
        adapter.to_published(key): adapter.published_shape(key, tuple(tensor.shape))
        for key, tensor in network.state_dict().items()
    }


def _write_dit(folder: Path, sizes: Sizes, noise: _Noise, infinitetalk: Path | None) -> None:
    config = dit_config(sizes)
    with torch.device("meta"):
        shapes = _published_shapes(DiT(config), dit_adapter(config))
    base = {
        key: shape
        for key, shape in shapes.items()
        if infinitetalk is None or not any(word in key for word in _AUDIO_KEYS)
    }
    weight_map: dict[str, str] = {}
    for index, keys in enumerate(_split(base, sizes.num_shards), start=1):
        name = f"diffusion_pytorch_model-{index:05d}-of-{sizes.num_shards:05d}.safetensors"
        save_file(noise.state({key: base[key] for key in keys}, torch.bfloat16), folder / name)
        weight_map |= dict.fromkeys(keys, name)
    total = sum(2 * math.prod(shape) for shape in base.values())
    _write_json(
        folder / "diffusion_pytorch_model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )
    if infinitetalk is not None:
        audio = {key: shape for key, shape in shapes.items() if key not in base}
        save_file(noise.state(audio, torch.bfloat16), infinitetalk)
    _write_json(folder / "config.json", _dit_json(config, with_audio=infinitetalk is None))


def _split(shapes: Shapes, num_shards: int) -> Iterator[list[str]]:
    """Cut keys into runs of about equal size, in order."""
    share = sum(math.prod(shape) for shape in shapes.values()) / num_shards
    shard: list[str] = []
    numel = 0
    left = num_shards - 1
    for key, shape in shapes.items():
        if shard and left and numel + math.prod(shape) > share:
            yield shard
            shard, numel, left = [], 0, left - 1
        shard.append(key)
        numel += math.prod(shape)
    yield shard


def _dit_json(config: DiTConfig, *, with_audio: bool) -> dict[str, Any]:
    """Return `config.json`; some fields are never saved by the code that publishes such files."""
    base = {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": config.dim,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_channels,
        "model_type": "i2v",
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_dim": config.out_channels,
        "text_len": config.text_len,
    }
    if not with_audio:
        return base
    return base | {
        "audio_window": config.audio.window,
        "context_tokens": config.audio.context_tokens,
        "intermediate_dim": config.audio.hidden_dim,
        "norm_input_visual": True,
        "norm_output_audio": True,
        "output_dim": config.audio.output_dim,
        "vae_scale": config.audio.latent_stride,
        "weight_init": True,
    }


def _write_encoders(folder: Path, sizes: Sizes, noise: _Noise) -> None:
    """Write the VAE, the text encoder and the image encoder in the precisions they are published in."""
    vae_config = VAEConfig(
        base_dim=sizes.vae_dim,
        latent_channels=LATENT_CHANNELS,
        dim_multipliers=(1, 2, 4, 4),
        num_res_blocks=2,
        temporal_downsample=(False, True, True),
    )
    with torch.device("meta"):
        vae_shapes = _published_shapes(CausalVideoVAE(vae_config), vae_adapter(vae_config))
    torch.save(noise.state(vae_shapes, torch.float32), folder / "Wan2.1_VAE.pth")
    text = noise.state(text_encoder_shapes(sizes), torch.bfloat16)
    torch.save(text, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    image = noise.state(image_encoder_shapes(sizes), torch.float16)
    torch.save(image, folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")


def _write_speech_encoder(folder: Path, sizes: Sizes, speech_format: SpeechFormat, noise: _Noise) -> None:
    state = noise.state(speech_encoder_shapes(sizes), torch.float32)
    if speech_format == "safetensors":
        save_file(state, folder / "model.safetensors")
    else:
        # As its authors saved it: inside the model for pre-training, with the old names of the weight norm.
        renamed = {
            "wav2vec2."
            + key.replace("parametrizations.weight.original0", "weight_g").replace(
                "parametrizations.weight.original1", "weight_v"
            ): tensor
            for key, tensor in state.items()
        }
        renamed |= {"quantizer.codevectors": torch.zeros(1, 4, 8), "project_q.bias": torch.zeros(8)}
        torch.save(renamed, folder / "pytorch_model.bin")
    config = {
        "model_type": "wav2vec2",
        "hidden_size": sizes.speech_dim,
        "num_hidden_layers": sizes.speech_layers,
        "num_attention_heads": sizes.speech_heads,
        "intermediate_size": 4 * sizes.speech_dim,
        "conv_dim": [sizes.speech_conv_dim] * len(CONV_KERNELS),
        "conv_kernel": list(CONV_KERNELS),
        "conv_stride": list(CONV_STRIDES),
        "conv_bias": False,
        "feat_extract_norm": "group",
        "feat_extract_activation": "gelu",
        "hidden_act": "gelu",
        "num_conv_pos_embeddings": sizes.position_kernel,
        "num_conv_pos_embedding_groups": sizes.position_groups,
        "do_stable_layer_norm": False,
        "layer_norm_eps": 1e-5,
    }
    _write_json(folder / "config.json", config)
    extractor = {"do_normalize": True, "feature_size": 1, "padding_value": 0.0, "sampling_rate": 16000}
    _write_json(folder / "preprocessor_config.json", extractor)


def write_tokenizer(folder: Path) -> None:
    """Write a `tokenizer.json` that knows single ASCII letters and ends every text with `</s>`."""
    special = ["<pad>", "</s>", "<s>", "<unk>"]
    letters = ["\u2581", *(chr(code) for code in range(33, 127))]
    vocab = [[piece, 0.0] for piece in special] + [[piece, -3.0] for piece in letters]
    added = [
        {"id": index, "content": piece, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for index, piece in enumerate(special)
    ]
    space = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    sequence = [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}]
    end = {
        "type": "TemplateProcessing",
        "single": sequence,
        "pair": sequence,
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
    }
    _write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": space,
            "post_processor": end,
            "decoder": space,
            "model": {"type": "Unigram", "unk_id": 3, "vocab": vocab, "byte_fallback": False},
        },
    )
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", "pad_token": "<pad>"})


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and write the checkpoint."""
    parser = argparse.ArgumentParser(description="Write a random checkpoint in a published layout.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size", choices=sorted(_SIZES), default="tiny")
    parser.add_argument("--layout", choices=sorted(MODEL_DIRS), default="flashtalk")
    parser.add_argument("--speech-format", choices=["safetensors", "bin"], default="safetensors")
    parser.add_argument("--num-layers", type=int, help="of the transformer (default: the size's own)")
    args = parser.parse_args()
    made = make_synthetic_checkpoint(
        args.directory,
        size=args.size,
        layout=args.layout,
        speech_format=args.speech_format,
        num_layers=args.num_layers,
    )
    print(f"--model {made.model_dir} --wav2vec-dir {made.wav2vec_dir}")  # noqa: T201, it is a program here


if __name__ == "__main__":
    main()
