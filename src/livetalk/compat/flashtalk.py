"""The functions of `flash_talk.inference`: code that imports them runs after changing the import.

    from livetalk.compat.flashtalk import get_pipeline, get_base_data, get_audio_embedding, run_pipeline

They mean what they mean there, in any working directory and without reading a file at import; where they
differ on purpose, docs/compatibility.md says how and why.
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
"""Settings, read whenever a function is called: change them in place.

Besides the published ones, "loudness" is "off", "running" or "published" (see `LoudnessMode`), and
"keep_motion_frames" makes pipelines that are loaded from then on return whole windows, as the published code
does since March 2026, instead of their new frames.
"""

CONTEXT_FRAMES = 2
"""Frames of speech that a video frame hears on either side."""


def get_pipeline(
    world_size: int,
    ckpt_dir: str | os.PathLike[str],
    wav2vec_dir: str | os.PathLike[str],
    cpu_offload: bool = False,
) -> FlashTalkPipeline:
    """Load a model.

    Args:
        world_size: number of GPUs; 1.
        ckpt_dir: the model's folder.
        wav2vec_dir: the speech encoder's folder.
        cpu_offload: keep the transformer's blocks in host memory, for GPUs that cannot hold them.

    Raises:
        InputError: more than one GPU.
        WeightsError: files are missing or damaged.
    """
    if world_size != 1:
        raise InputError(f"world_size {world_size}: one process on one GPU is what this module offers")
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
    """Start a session with a prompt, a picture and a seed, and the settings of `infer_params`.

    Raises:
        InputError: one of them cannot be used.
    """
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
    """Encode a sound and gather the speech around each of its frames.

    Args:
        pipeline: whose speech encoder is used.
        audio_array: `[samples]`, -1..1, 16 kHz.
        audio_start_idx: first video frame wanted.
        audio_end_idx: the one after the last; with -1 for either of them all frames are returned.

    Returns:
        `[1, frames, 5, layers, width]` float32.

    Raises:
        InputError: the frames wanted reach beyond the sound, or another rate is set.
    """
    waveform = torch.as_tensor(np.asarray(audio_array, dtype=np.float32))
    features = pipeline.preprocess_audio(
        _level(waveform).numpy(), sr=infer_params["sample_rate"], fps=infer_params["tgt_fps"]
    )
    start, end = audio_start_idx, audio_end_idx
    if start == -1 or end == -1:
        start, end = 0, features.shape[0]
    if not 0 <= start <= end <= features.shape[0]:
        raise InputError(f"audio frames {start}..{end}: the sound has {features.shape[0]}")
    rows = context_rows(start, end - start, end, CONTEXT_FRAMES)
    return features[rows.to(features.device)][None]


def run_pipeline(pipeline: FlashTalkPipeline, audio_embedding: Tensor) -> Tensor:
    """Make the next frames.

    Args:
        pipeline: with a session.
        audio_embedding: `[1, frame_num, 5, layers, width]`.

    Returns:
        `[frames, H, W, 3]` float32, 0..255, on the pipeline's device; frames as in
        `FlashTalkPipeline.generate`.

    Raises:
        InputError: there is no session, or the embedding has another length.
    """
    pixels = pipeline.generate(audio_embedding)
    return (((pixels + 1) / 2).permute(1, 2, 3, 0).clip(0, 1) * 255).contiguous()


def _level(waveform: Tensor) -> Tensor:
    """Normalise the loudness of `[samples]` as `infer_params` says."""
    try:
        mode = LoudnessMode(infer_params["loudness"])
    except ValueError as error:
        raise InputError(f"loudness {infer_params['loudness']}: is not off, running or published") from error
    if mode is LoudnessMode.PUBLISHED:
        return normalize_published(waveform, infer_params["sample_rate"])
    if mode is LoudnessMode.RUNNING:
        level, _ = normalize_running(waveform, LoudnessState.create(), infer_params["sample_rate"])
        return silence_noise(level, infer_params["sample_rate"])
    return waveform
