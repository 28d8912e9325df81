"""Consecutive chunks of the live path against the published pipeline, with its recorded noise."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from parity_case import Reference
from parity_networks import load_dit, load_vae
from torch import Tensor, nn

from livetalk.diffusion.flow import timesteps_from_sigma
from livetalk.diffusion.schedule import sigmas_from_steps
from livetalk.media.image import image_to_tensor, resize_and_center_crop
from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.color import match_color
from livetalk.streaming.conditioning import Prepared, prepare_stream
from livetalk.streaming.executor import Executor
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.networks import Networks
from livetalk.streaming.settings import SamplerConfig, StreamSettings
from livetalk.types import PromptEmbeds, to_levels
from tiny import TinyModel

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

    def __call__(self, samples: Tensor) -> Tensor:
        # Rows before the first recorded one are never read: not-a-number there would show up in every result.
        unread = torch.full((self.first_row, *self.features.shape[1:]), torch.nan)
        return torch.cat((unread, self.features))[None]


def build_model(config: dict[str, Any], features: Tensor) -> TinyModel:
    """Build the networks and settings of the reference run."""
    vae = load_vae(Reference.load(config["vae"]))
    settings = StreamSettings(
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
    encoder = RecordedEncoder(features, config["lo"])
    return TinyModel(Executor(networks=Networks(dit=dit, vae=vae, audio_encoder=encoder)), settings)


class Recorder:
    """Replays the recorded noise, and keeps what transformer, VAE and colour match see and return."""

    def __init__(self, model: TinyModel) -> None:
        self.got: dict[str, Tensor] = {}
        self.noise: Iterator[Tensor] = iter(())
        self.chunk = 0
        self.step_index = 0
        model.executor.networks.dit.register_forward_hook(self.keep_step)

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


def prepare(model: TinyModel, config: dict[str, Any], case: dict[str, Tensor]) -> Prepared:
    """Prepare the stream from the recorded picture."""
    image = resize_and_center_crop(case["in.image"].numpy(), config["H"], config["W"])
    embeds = PromptEmbeds(text_embeds=case["in.context"][None], image_embeds=case["in.clip_fea"])
    return prepare_stream(*model, image_to_tensor(image), embeds)


def test_parity_sampler() -> None:
    reference = Reference.load(NAME)
    config = reference.meta["config"]
    names = sorted(reference.meta["cases"])
    first = reference.case(names[0])
    model = build_model(config, first["in.features.0"])
    recorder = Recorder(model)
    executor = replace(model.executor, match_color=recorder.keep_match)
    model = model._replace(executor=executor)
    vae = model.executor.networks.vae
    decode = vae.decode

    def keep_latents(latents: Tensor, *args: Any) -> tuple[Tensor, Any]:
        recorder.got[f"latent_out.{recorder.chunk}"] = latents[0]
        return decode(latents, *args)

    vae.decode = keep_latents  # type: ignore[method-assign]
    prepared = prepare(model, config, first)
    conditioning = prepared.conditioning
    state = create_state(*model, prepared, config["rng"])
    audio = torch.zeros(model.settings.geometry.chunk_samples)
    for chunk, name in enumerate(names):
        case = reference.case(name)
        model.executor.networks.audio_encoder.features = case[f"in.features.{chunk}"]  # type: ignore[attr-defined]
        recorder.start(chunk, [case[f"noise.{chunk}.{n}"] for n in range(config["sampling_steps"] + 1)])
        before = state
        video, state = generate_chunk(*model, prepared, audio, state, recorder.draw)
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
