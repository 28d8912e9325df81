"""The VAE against the published one: encode, decode, moments, float32 and bfloat16."""

import re
from collections.abc import Callable

import pytest
import torch
from parity_case import Reference
from parity_networks import load_vae
from torch import Tensor

from livetalk.checkpoints.adapters import published_vae_config
from livetalk.models.vae import CausalVideoVAE
from tolerance import assert_near, rounding

NAME = "vae_tiny"
COMPARED = re.compile(
    r"out\.(enc|dec)\d+(_bf16)?|out\.enc_cond\d*|out\.enc\d+_raw_(mu|logvar)|out\.dec\d+_unclamped"
    r"|scale\.(mean|inv_std)(_bf16)?"
)
"""Names of the tensors that the tests below look for."""


def encode(vae: CausalVideoVAE, video: Tensor) -> Tensor:
    """Encode in one pass; the reference drops the batch axis."""
    return vae.encode(video)[0][0]


def encode_in_pieces(vae: CausalVideoVAE, video: Tensor) -> Tensor:
    """Encode the first frame, then groups of the temporal stride."""
    stride = vae.config.temporal_stride
    latents, cache = vae.encode(video[:, :, :1])
    pieces = [latents]
    for start in range(1, video.shape[2], stride):
        latents, cache = vae.encode(video[:, :, start : start + stride], cache)
        pieces.append(latents)
    return torch.cat(pieces, dim=2)[0]


def decode(vae: CausalVideoVAE, latents: Tensor) -> Tensor:
    """Decode in one pass; the reference has no batch axis in its latents."""
    return vae.decode(latents[None])[0]


def decode_in_pieces(vae: CausalVideoVAE, latents: Tensor) -> Tensor:
    """Decode one latent frame at a time."""
    cache, pieces = None, []
    for latent in torch.chunk(latents, latents.shape[1], dim=1):
        frames, cache = vae.decode(latent[None], cache)
        pieces.append(frames)
    return torch.cat(pieces, dim=2)


Coder = Callable[[CausalVideoVAE, Tensor], Tensor]


@pytest.mark.parametrize(
    ("encoder", "decoder"), [(encode, decode), (encode_in_pieces, decode_in_pieces)], ids=["whole", "pieces"]
)
def test_parity_vae_float32(encoder: Coder, decoder: Coder) -> None:
    reference = Reference.load(NAME)
    vae = load_vae(reference)
    for case_name in reference.meta["cases"]:
        case = reference.case(case_name)
        got = {}
        with torch.no_grad():
            for key in sorted(reference.expected(case_name)):
                if key.startswith("out.enc_cond"):
                    got[key] = encoder(vae, case[f"in.{key.removeprefix('out.enc_')}"])
                elif key.removeprefix("out.enc").isdigit():
                    got[key] = encoder(vae, case[f"in.video{key.removeprefix('out.enc')}"])
                elif key.removeprefix("out.dec").isdigit():
                    got[key] = decoder(vae, case[f"in.z{key.removeprefix('out.dec')}"])
        assert any(key.startswith("out.enc") for key in got) and any(key.startswith("out.dec") for key in got)
        reference.check(case_name, got)


def test_parity_vae_moments_and_unclamped() -> None:
    reference = Reference.load(NAME)
    vae = load_vae(reference)
    for case_name in reference.meta["cases"]:
        case = reference.case(case_name)
        got = {}
        with torch.no_grad():
            for key in reference.expected(case_name):
                if key.endswith("_raw_mu"):
                    frames = key.removeprefix("out.enc").removesuffix("_raw_mu")
                    got[key], got[f"out.enc{frames}_raw_logvar"] = vae.encode_moments(
                        case[f"in.video{frames}"]
                    )
                elif key.endswith("_unclamped"):
                    frames = key.removeprefix("out.dec").removesuffix("_unclamped")
                    got[key] = vae.decode_raw(case[f"in.z{frames}"][None])
        assert got
        reference.check(case_name, got)


def test_parity_vae_scale() -> None:
    reference = Reference.load(NAME)
    vae, shipped = load_vae(reference), published_vae_config()
    mean, std = torch.tensor(shipped.latents_mean), torch.tensor(shipped.latents_std)
    for case_name in reference.meta["cases"]:
        case, expected = reference.case(case_name), reference.expected(case_name)
        # The published code rounds the statistics as well; ours stay float32, and these are what it rounds.
        got = {
            "scale.mean": mean,
            "scale.inv_std": 1 / std,
            "scale.mean_bf16": mean.bfloat16(),
            "scale.inv_std_bf16": 1 / std.bfloat16(),
        }
        assert {key for key in expected if key.startswith("scale.")} <= set(got)
        reference.check(case_name, {key: got[key] for key in got if key in expected})
        raw = vae.denormalize(torch.zeros(1, mean.shape[0], 1, 1, 1)).flatten()
        assert_near(raw, case["scale.mean"], rounding(2))


def test_parity_vae_bfloat16() -> None:
    reference = Reference.load(NAME)
    vae = load_vae(reference).to(torch.bfloat16)
    for case_name in reference.meta["cases"]:
        case = reference.case(case_name)
        got = {}
        with torch.no_grad():
            for key in reference.expected(case_name):
                name = key.removesuffix("_bf16")
                if name == key:
                    continue
                if name.startswith("out.enc"):
                    got[key] = encode(vae, case[f"in.video{name.removeprefix('out.enc')}"])
                elif name.startswith("out.dec"):
                    got[key] = decode(vae, case[f"in.z{name.removeprefix('out.dec')}"])
        assert got
        reference.check(case_name, got)


def test_parity_vae_leaves_no_tensor_out() -> None:
    reference = Reference.load(NAME)
    for case_name in reference.meta["cases"]:
        assert [key for key in reference.expected(case_name) if not COMPARED.fullmatch(key)] == []
