"""`FlashTalkPipeline` of the published code: a model with one stream."""

import dataclasses
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from livetalk.assembly.model import AvatarModel, prepare_portrait
from livetalk.errors import InputError
from livetalk.media.image import ImageInput, image_to_tensor, load_image, resize_and_center_crop
from livetalk.media.samples import to_samples
from livetalk.streaming.chunk import create_state, denoise_window, drain, finish_window
from livetalk.streaming.conditioning import Prepared
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.streaming.settings import SamplerConfig, StreamSettings
from livetalk.streaming.spec import parse_size
from livetalk.streaming.state import StreamState

RATE, FPS = 16_000, 25
UNSEEDED = 9999
"""Seed if none or a negative one is given, as in the published program."""


class FlashTalkPipeline:
    """A loaded model with one stream.

    New code should use `livetalk.Avatar`, whose streams are independent of each other and of the model.
    """

    def __init__(self, model: AvatarModel, *, keep_motion_frames: bool = False) -> None:
        """Wrap a model from `build_model`; `keep_motion_frames` makes `generate` return whole windows."""
        self._model = model
        self._keep_motion_frames = keep_motion_frames
        self._stream: tuple[StreamSettings, Prepared] | None = None
        self._state: StreamState | None = None

    @property
    def device(self) -> torch.device:
        """Device of the networks."""
        return self._model.executor.device

    @torch.no_grad()
    def prepare_params(  # noqa: PLR0913  the published signature
        self,
        input_prompt: str,
        cond_image: ImageInput,
        target_size: tuple[int, int],
        frame_num: int,
        motion_frames_num: int,
        sampling_steps: int,
        seed: int | None = None,
        shift: float = 5.0,
        color_correction_strength: float = 0.0,
    ) -> None:
        """Start a stream and end the previous one.

        `target_size` is height and width in pixels, multiples of 16; `frame_num` and `motion_frames_num` are
        1 + a multiple of 4; `color_correction_strength` is 0..1. A missing or negative seed is 9999.

        Raises:
            InputError: the image or a number is invalid.
        """
        height, width = parse_size(f"{target_size[0]}x{target_size[1]}")
        settings = self._settings(
            frame_num, motion_frames_num, sampling_steps, shift, color_correction_strength
        )
        framed = resize_and_center_crop(load_image(cond_image), height, width)
        image = image_to_tensor(framed, self._model.image_dtype)
        prepared = prepare_portrait(self._model, settings, image, input_prompt)
        self._stream = settings, prepared
        seed = UNSEEDED if seed is None or seed < 0 else seed
        self._state = create_state(self._model.executor, settings, prepared, seed)

    @torch.no_grad()
    def preprocess_audio(self, speech_array: ArrayLike, sr: int = RATE, fps: int = FPS) -> Tensor:
        """Encode samples `[samples]`, -1..1, without loudness adjustment.

        Returns speech features `[samples // 640, layers, width]` float32 on the pipeline's device.

        Raises:
            InputError: `sr` is not 16000 or `fps` is not 25.
        """
        if (sr, fps) != (RATE, FPS):
            raise InputError(
                f"audio of {sr} Hz at {fps} frames a second: only {RATE} Hz at {FPS} is supported"
            )
        samples = torch.as_tensor(to_samples(speech_array), device=self.device)
        return self._model.executor.networks.audio_encoder(samples[None])[0]

    @torch.no_grad()
    def generate(self, audio_embedding: Tensor) -> Tensor:
        """Generate the next frames, `[3, F, H, W]` float32, -1..1.

        The embedding is `[1, frame_num, 5, layers, width]`, from `get_audio_embedding`.

        Raises:
            InputError: no stream was started, or the embedding has another length.
        """
        if self._stream is None or self._state is None:
            raise InputError("pipeline: call get_base_data (or prepare_params) before generating")
        settings, prepared = self._stream
        geometry = settings.geometry
        if audio_embedding.shape[:2] != (1, geometry.window_frames):
            shape = list(audio_embedding.shape)
            raise InputError(f"audio embedding {shape}: a window needs [1, {geometry.window_frames}, ...]")
        executor, context = self._model.executor, audio_embedding.to(self.device)
        latents, state = denoise_window(executor, settings, prepared, context, self._state)
        pieces, self._state = drain(finish_window(executor, settings, prepared, latents, state))
        pixels = torch.cat([piece.pixels for piece in pieces], dim=2)[0]
        return pixels if self._keep_motion_frames else pixels[:, -geometry.chunk_frames :]

    def _settings(
        self, window_frames: int, motion_frames: int, num_steps: int, shift: float, color_strength: float
    ) -> StreamSettings:
        settings = self._model.settings
        try:
            geometry = dataclasses.replace(
                settings.geometry, window_frames=window_frames, motion_frames=motion_frames
            )
            sampler = SamplerConfig(
                num_steps=num_steps, shift=shift, kind=settings.sampler.kind, color_strength=color_strength
            )
            return dataclasses.replace(settings, geometry=geometry, sampler=sampler)
        except ValueError as error:
            raise InputError(f"pipeline: {error}") from error


def default_params() -> dict[str, Any]:
    """Return the published settings under their published names, and the two additions."""
    geometry, sampler = ChunkGeometry(), SamplerConfig()
    return {
        "frame_num": geometry.window_frames,
        "motion_frames_num": geometry.motion_frames,
        "tgt_fps": geometry.fps,
        "sample_rate": geometry.sample_rate,
        "sample_steps": sampler.num_steps,
        "sample_shift": sampler.shift,
        "color_correction_strength": sampler.color_strength,
        # Seconds; as in the published settings, where callers read it to size their buffer.
        "cached_audio_duration": 8,
        "height": 768,
        "width": 448,
        "loudness": "running",
        "keep_motion_frames": False,
    }
