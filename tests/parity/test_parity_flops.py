"""Operations of the full-size networks, counted on the meta device, against the published ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from parity_case import require_file
from parity_networks import dit_config, meta_tensors, read_keys, vae_config
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from livetalk.models.clip_vision import CLIPVisionEncoder, clip_vit_h14
from livetalk.models.dit import DiT
from livetalk.models.umt5 import UMT5Encoder, umt5_xxl
from livetalk.models.vae import CausalVideoVAE
from livetalk.models.wav2vec import Wav2Vec2Encoder, wav2vec2_base

WINDOW_FRAMES = 33
LIMIT = 0.01
"""Relative difference allowed; every count so far is equal to the last operation."""


def published() -> dict[str, Any]:
    """Read the published counts, or skip the test loudly."""
    counts: dict[str, Any] = json.loads(require_file("counts_flops.json").read_text())
    return counts


def count(call: Callable[[], Any]) -> int:
    """Count the operations of a call on meta tensors."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), torch.device("meta"):
        call()
    return counter.get_total_flops()


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor without memory."""
    return torch.empty(shape, device="meta", dtype=dtype)


@cache
def build_dit(num_layers: int) -> DiT:
    """Build the published transformer with another number of blocks."""
    manifest = read_keys("dit_14b")
    config = replace(dit_config(manifest["config"], meta_tensors(manifest)), num_layers=num_layers)
    with torch.device("meta"):
        return DiT(config).eval()


@cache
def full_size_vae() -> CausalVideoVAE:
    """Build the published VAE."""
    with torch.device("meta"):
        return CausalVideoVAE(vae_config(read_keys("vae")["config"])).eval()


def count_dit(height: int, width: int, num_layers: int) -> int:
    """Count one step of the transformer, cut down to some blocks, for a window of frames."""
    dit, stride = build_dit(num_layers), full_size_vae().config.spatial_stride
    cfg = dit.config
    latents = (1 + (WINDOW_FRAMES - 1) // cfg.audio.latent_stride, height // stride, width // stride)
    audio = (WINDOW_FRAMES, cfg.audio.window, cfg.audio.num_blocks, cfg.audio.channels)
    return count(
        lambda: dit(
            empty(1, cfg.out_channels, *latents),
            empty(1),
            empty(1, cfg.in_channels - cfg.out_channels, *latents),
            empty(1, *audio),
            empty(1, cfg.text_len, cfg.text_dim or 0),
            empty(1, clip_vit_h14().num_tokens, cfg.image_dim or 0),
        )
    )


def count_vae(height: int, width: int, stage: str) -> int:
    """Count one use of the VAE, named as in the reference: `decode_9_latents`, `encode_5_frames`."""
    vae = full_size_vae()
    stride, channels = vae.config.spatial_stride, vae.config.latent_channels
    verb, length, _ = stage.split("_")
    if verb == "decode":
        return count(lambda: vae.decode(empty(1, channels, int(length), height // stride, width // stride)))
    return count(lambda: vae.encode(empty(1, 3, int(length), height, width)))


def sizes(size: str) -> tuple[int, int]:
    """Read `416x720`: height, width."""
    height, width = size.split("x")
    return int(height), int(width)


def test_parity_flops_dit() -> None:
    reference = published()["dit"]
    num_layers = read_keys("dit_14b")["config"]["num_layers"]
    assert reference
    for size, entry in reference.items():
        one, two = (count_dit(*sizes(size), num_layers=number) for number in (1, 2))
        # All blocks are equal: counting each of them would take ten times as long.
        flops = one + (num_layers - 1) * (two - one)
        assert flops == pytest.approx(entry["flops_per_forward"], rel=LIMIT), size


def test_parity_flops_vae() -> None:
    reference = published()["vae"]
    assert reference
    for size, stages in reference.items():
        for stage, flops in stages.items():
            assert count_vae(*sizes(size), stage) == pytest.approx(flops, rel=LIMIT), f"{size} {stage}"


def test_parity_flops_encoders() -> None:
    with torch.device("meta"):
        speech, text = Wav2Vec2Encoder(wav2vec2_base()), UMT5Encoder(umt5_xxl())
        image = CLIPVisionEncoder(clip_vit_h14())
    ids, mask = empty(1, 512, dtype=torch.long), empty(1, 512, dtype=torch.bool)
    got = {
        "clip_visual_31_blocks_1_image": count(lambda: image(empty(1, 3, 224, 224))),
        "umt5_512_tokens": count(lambda: text(ids, mask)),
        "wav2vec2_8s": count(lambda: speech(empty(1, 128_000))),
    }
    assert got == pytest.approx(published()["encoders"], rel=LIMIT)
