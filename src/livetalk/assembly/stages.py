"""A short stream through the engine's own steps, one after the other, for an observer that measures them."""

import contextlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from livetalk.diffusion.samplers import NoiseSource
from livetalk.streaming.audio import AudioBuffer, buffer_samples
from livetalk.streaming.color import measure_color
from livetalk.streaming.hearing import encode_audio_context, project_speech
from livetalk.streaming.models import Models
from livetalk.streaming.state import StreamState
from livetalk.streaming.step import decode_window, denoise_window, end_window, prepare_conditioning
from livetalk.types import Conditioning, PromptEmbeds, VideoChunk


class Observer:
    """Is told what happens in `run_stages`; this one does nothing."""

    def stage(self, name: str) -> contextlib.AbstractContextManager[object]:
        """Surround a stage: "reference", "speech", "transformer" or "decode"."""
        return contextlib.nullcontext()

    def see(self, name: str, value: Tensor) -> None:
        """Look at a result: "reference", and for each chunk "speech", "latents", "colour" and "encode"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageInputs:
    """What a stream is made from.

    Attributes:
        picture: `[3, H, W]` float32, -1..1, the framed portrait.
        prompt: embeddings for the branches that the transformer has.
        sounds: of each chunk, `[chunk_samples]` float32, -1..1.
        noise: of all chunks.
    """

    picture: Tensor
    prompt: PromptEmbeds
    sounds: tuple[Tensor, ...]
    noise: NoiseSource


@torch.no_grad()
def run_stages(models: Models, inputs: StageInputs, observer: Observer) -> None:
    """Start a stream and make its chunks as `generate_chunk` does, on any device, the meta device included.

    Args:
        models: networks and settings; the level of the sound is left alone.
        inputs: of the stream.
        observer: surrounds the stages and sees their results.
    """
    with observer.stage("reference"):
        prompt = inputs.prompt
        conditioning = prepare_conditioning(models, inputs.picture, prompt.text_embeds, prompt.image_embeds)
    observer.see("reference", conditioning.condition)
    state = _first_state(models, conditioning)
    for sound in inputs.sounds:
        state = _run_chunk(
            models, conditioning, replace(state, audio=state.audio.push(sound)), inputs, observer
        )


def _run_chunk(
    models: Models, conditioning: Conditioning, state: StreamState, inputs: StageInputs, observer: Observer
) -> StreamState:
    with observer.stage("speech"):
        speech = project_speech(models, encode_audio_context(models, state.audio))
    observer.see("speech", speech.context)
    with observer.stage("transformer"):
        latents = denoise_window(models, conditioning, speech, state.motion_latents, inputs.noise)
    observer.see("latents", latents)
    with observer.stage("decode"):
        pixels, motion_latents = decode_window(models, latents, state)
        chunk = VideoChunk(pixels=pixels[0, :, -models.config.geometry.chunk_frames :], first_frame=0)
        chunk.to_uint8()
    observer.see("colour", chunk.pixels)
    observer.see("encode", motion_latents)
    return end_window(models, state, pixels[:, :, -1], motion_latents)


def _first_state(models: Models, conditioning: Conditioning) -> StreamState:
    """Return what `create_state` makes, without a random generator: the meta device knows none."""
    config = models.config
    return StreamState(
        motion_latents=conditioning.reference_latents,
        audio=AudioBuffer.create(buffer_samples(config.geometry, config.audio), models.device),
        rng_state=torch.empty(0, dtype=torch.uint8),
        color=measure_color(conditioning.reference_pixels),
        chunk_index=0,
    )
