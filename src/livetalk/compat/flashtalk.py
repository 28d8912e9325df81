"""The functions of `flash_talk.inference`: code that imports them runs after changing the import.

Importing reads no file and works in any working directory. docs/compatibility.md lists intended differences.
"""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image
from torch import Tensor

from livetalk.assembly.build import build_model
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.compat.pipeline import FlashTalkPipeline as FlashTalkPipeline
from livetalk.compat.pipeline import default_params
from livetalk.errors import InputError
from livetalk.placement.apply import PlacementConfig
from livetalk.streaming.audio import context_rows
from livetalk.streaming.loudness import (
    LoudnessState,
    normalize_published,
    normalize_running,
    silence_noise,
)
from livetalk.streaming.settings import LoudnessMode

infer_params = default_params()
"""Settings under their published names, read at every call; change them in place.

Two are additions: "loudness" is a `LoudnessMode`, and "keep_motion_frames" makes pipelines that are loaded
afterwards return whole windows, as the published code does since March 2026, instead of new frames only.
"""

CONTEXT_FRAMES = 2
"""Feature rows on either side of a video frame in its audio context."""


def get_pipeline(
    world_size: int,
    ckpt_dir: str | os.PathLike[str],
    wav2vec_dir: str | os.PathLike[str],
    cpu_offload: bool = False,
) -> FlashTalkPipeline:
    """Load a model from the folders of the published model and speech encoder.

    Args:
        world_size: must be 1.
        ckpt_dir: folder of the model.
        wav2vec_dir: folder of the speech encoder.
        cpu_offload: keep the transformer's blocks in host memory.

    Raises:
        InputError: `world_size` is not 1.
        WeightsError: files are missing or damaged.
    """
    if world_size != 1:
        raise InputError(
            f"world_size {world_size}: only 1 is supported; use livetalk.Avatar for several GPUs"
        )
    source = ModelSource(model=Path(ckpt_dir), wav2vec_dir=Path(wav2vec_dir))
    run = RunConfig(placement=PlacementConfig(resident_blocks=0 if cpu_offload else None))
    return FlashTalkPipeline(
        build_model(source, run), keep_motion_frames=bool(infer_params["keep_motion_frames"])
    )


def get_base_data(
    pipeline: FlashTalkPipeline,
    input_prompt: str,
    cond_image: str | os.PathLike[str] | Image.Image,
    base_seed: int,
) -> None:
    """Start a session with the settings of `infer_params`; `InputError` if the image or one is invalid."""
    pipeline.prepare_params(
        input_prompt=input_prompt,
        cond_image=cond_image,
        target_size=(infer_params["height"], infer_params["width"]),
        frame_num=infer_params["frame_num"],
        motion_frames_num=infer_params["motion_frames_num"],
        sampling_steps=infer_params["sample_steps"],
        seed=base_seed,
        shift=infer_params["sample_shift"],
        color_correction_strength=infer_params["color_correction_strength"],
    )


def get_audio_embedding(
    pipeline: FlashTalkPipeline,
    audio_array: ArrayLike,
    audio_start_idx: int = -1,
    audio_end_idx: int = -1,
) -> Tensor:
    """Encode samples and return the audio context of video frames, `[1, frames, 5, layers, width]` float32.

    Args:
        pipeline: provides the speech encoder.
        audio_array: `[samples]`, -1..1, 16 kHz.
        audio_start_idx: index of the first video frame.
        audio_end_idx: index after the last video frame; -1 for either index returns all frames.

    Raises:
        InputError: the indices reach beyond the audio, or another sample rate is set.
    """
    samples = torch.as_tensor(np.asarray(audio_array, dtype=np.float32))
    features = pipeline.preprocess_audio(
        _adjust_loudness(samples).numpy(), sr=infer_params["sample_rate"], fps=infer_params["tgt_fps"]
    )
    start, end = audio_start_idx, audio_end_idx
    if start == -1 or end == -1:
        start, end = 0, features.shape[0]
    if not 0 <= start <= end <= features.shape[0]:
        raise InputError(f"audio frames {start}..{end}: the audio has {features.shape[0]}")
    rows = context_rows(start, end - start, end, CONTEXT_FRAMES)
    return features[rows.to(features.device)][None]


def run_pipeline(pipeline: FlashTalkPipeline, audio_embedding: Tensor) -> Tensor:
    """Generate the next frames, `[frames, H, W, 3]` float32, 0..255, on the pipeline's device.

    The embedding is `[1, frame_num, 5, layers, width]`; see `FlashTalkPipeline.generate` for the frames.

    Raises:
        InputError: there is no session, or the embedding has another length.
    """
    pixels = pipeline.generate(audio_embedding)
    # Not rounded to integers: callers of the published function convert the frames themselves.
    return (((pixels + 1) / 2).permute(1, 2, 3, 0).clip(0, 1) * 255).contiguous()


def _adjust_loudness(samples: Tensor) -> Tensor:
    try:
        mode = LoudnessMode(infer_params["loudness"])
    except ValueError as error:
        raise InputError(f"loudness {infer_params['loudness']}: is not off, running or published") from error
    if mode is LoudnessMode.PUBLISHED:
        return normalize_published(samples, infer_params["sample_rate"])
    if mode is LoudnessMode.RUNNING:
        # The published function has no state, so the gain starts anew with each buffer.
        level, _ = normalize_running(samples, LoudnessState.create(), infer_params["sample_rate"])
        return silence_noise(level, infer_params["sample_rate"])
    return samples
