"""Consecutive chunks of the live path against the published pipeline, with its recorded noise."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from parity_case import Reference
from parity_networks import load_dit, load_vae
from torch import Tensor, nn

from livetalk.diffusion.flow import timesteps_from_sigma
from livetalk.diffusion.schedule import sigmas_from_steps
from livetalk.media.image import image_to_tensor, resize_and_center_crop
from livetalk.streaming import step
from livetalk.streaming.color import match_color
from livetalk.streaming.config import SamplerConfig, StreamConfig
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.models import Models
from livetalk.types import Conditioning, to_levels

NAME = "sampler"


@dataclass
class RecordedEncoder:
    """Stands for the speech encoder: returns the recorded features of the chunk that is next."""

    features: Tensor
    first_row: int

    @property
    def num_blocks(self) -> int:
        return self.features.shape[1]

    @property
    def channels(self) -> int:
        return self.features.shape[2]

    def __call__(self, waveform: Tensor) -> Tensor:
        # Rows before the first recorded one are never read: not-a-number there would show up in every result.
        unread = torch.full((self.first_row, *self.features.shape[1:]), torch.nan)
        return torch.cat((unread, self.features))[None]


def build_models(config: dict[str, Any], features: Tensor) -> Models:
    """Build the networks and settings of the reference run."""
    vae = load_vae(Reference.load(config["vae"]))
    stream = StreamConfig(
        geometry=ChunkGeometry(
            window_frames=config["frame_num"],
            motion_frames=config["motion_frames_num"],
            latent_stride=vae.config.temporal_stride,
        ),
        sampler=SamplerConfig(
            num_steps=config["sampling_steps"],
            shift=config["shift"],
            color_strength=config["color_correction_strength"],
        ),
    )
    dit = load_dit(Reference.load(config["dit"]))
    return Models(dit=dit, vae=vae, audio_encoder=RecordedEncoder(features, config["lo"]), config=stream)


class Recorder:
    """Replays the recorded noise, and keeps what transformer, VAE and colour match see and return."""

    def __init__(self, models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
        self.got: dict[str, Tensor] = {}
        self.noise: Iterator[Tensor] = iter(())
        self.chunk = 0
        self.step_index = 0
        models.dit.register_forward_hook(self.keep_step)
        monkeypatch.setattr(step, "normal_noise", lambda _rng: self.draw)

    def start(self, chunk: int, noise: list[Tensor]) -> None:
        """Begin a chunk."""
        self.got, self.chunk, self.step_index, self.noise = {}, chunk, 0, iter(noise)

    def draw(self, like: Tensor) -> Tensor:
        """Return the next recorded noise."""
        noise = next(self.noise)[None]
        assert noise.shape == like.shape
        return noise

    def keep_step(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep one call of the transformer."""
        self.got[f"latent_in.{self.chunk}.{self.step_index}"] = inputs[0][0].clone()
        self.got[f"pred.{self.chunk}.{self.step_index}"] = output[0]
        self.step_index += 1

    def keep_match(self, pixels: Tensor, *args: Any) -> Tensor:
        """Keep what goes into the colour match and what comes out."""
        self.got[f"decoded.{self.chunk}"] = pixels
        self.got[f"video.{self.chunk}"] = match_color(pixels, *args)
        return self.got[f"video.{self.chunk}"]


def condition(models: Models, config: dict[str, Any], case: dict[str, Tensor]) -> Conditioning:
    """Prepare the stream from the recorded picture."""
    image = resize_and_center_crop(case["in.image"].numpy(), config["H"], config["W"])
    return step.prepare_conditioning(
        models, image_to_tensor(image), case["in.context"][None], case["in.clip_fea"]
    )


def test_parity_sampler(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference.load(NAME)
    config = reference.meta["config"]
    names = sorted(reference.meta["cases"])
    first = reference.case(names[0])
    models = build_models(config, first["in.features.0"])
    recorder = Recorder(models, monkeypatch)
    models = replace(models, match_color=recorder.keep_match)
    decode = models.vae.decode

    def keep_latents(latents: Tensor, *args: Any) -> tuple[Tensor, Any]:
        recorder.got[f"latent_out.{recorder.chunk}"] = latents[0]
        return decode(latents, *args)

    monkeypatch.setattr(models.vae, "decode", keep_latents)
    conditioning = condition(models, config, first)
    state = step.create_state(models, conditioning, config["rng"])
    audio = torch.zeros(models.config.geometry.chunk_samples)
    for chunk, name in enumerate(names):
        case = reference.case(name)
        models.audio_encoder.features = case[f"in.features.{chunk}"]  # type: ignore[attr-defined]
        recorder.start(chunk, [case[f"noise.{chunk}.{n}"] for n in range(config["sampling_steps"] + 1)])
        before = state
        video, state = step.generate_chunk(models, conditioning, audio, state)
        got = recorder.got
        got[f"motion_latent.{chunk}"] = before.motion_latents[0]
        got[f"frames.{chunk}"] = to_levels(video.pixels)
        if chunk == 0:
            sigmas = sigmas_from_steps(config["sampling_steps"], config["shift"])
            got["timesteps"] = timesteps_from_sigma(sigmas)
            got["cond_image"], got["y"] = conditioning.reference_pixels, conditioning.condition
        if f"motion_latent.{chunk + 1}" in reference.expected(name):
            got[f"motion_latent.{chunk + 1}"] = state.motion_latents[0]
        assert set(got) == reference.expected(name)
        reference.check(name, got)
