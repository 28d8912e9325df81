"""From a measurement's options to the model that is measured: load, then each fast path asked for."""

import torch

from livetalk.bench.options import BenchOptions
from livetalk.env import WorkerPlace
from livetalk.models.fused_qkv import fuse_qkv
from livetalk.ops.backends import AttentionWork, apply_attention, find_attention_backends, select_attention
from livetalk.ops.kernels.selection import select_kernels
from livetalk.quantization.float8 import apply_float8
from livetalk.runtime.build import BuildConfig, build_avatar, choose_device, choose_dtype
from livetalk.runtime.fused_blocks import fuse_blocks, fuse_channel_norms
from livetalk.runtime.model import AvatarModel
from livetalk.runtime.placement import PlacementConfig
from livetalk.runtime.random_model import build_random_model

_SELF_ATTENTION = ("self_attention",)


def choose_worker_device(options: BenchOptions, place: WorkerPlace | None) -> torch.device:
    """Return the device of this process: with several GPUs, the one of its place.

    Raises:
        InputError: there is no such device.
    """
    device = choose_device(options.device)
    if device.type == "cuda" and place is not None:
        return torch.device("cuda", place.local_rank)
    return device


def build_model(options: BenchOptions, device: torch.device) -> AvatarModel:
    """Build the model of a measurement, not yet spread over ranks.

    Args:
        options: of the measurement.
        device: of this process.

    Raises:
        WeightsError: the checkpoint is missing, damaged or does not fit.
        InputError: there is no such model, or a fast path cannot run here.
    """
    placement = PlacementConfig(weights=options.weights, resident_blocks=options.resident_blocks)
    if options.random_weights is not None:
        dtype = choose_dtype(options.precision, device)
        model = build_random_model(options.random_weights, device=device, dtype=dtype, placement=placement)
    else:
        config = BuildConfig(
            model=options.model,
            device=str(device),
            precision=options.precision,
            placement=placement,
            wav2vec_dir=options.wav2vec_dir,
        )
        model = build_avatar(config)
    _accelerate(model, options)
    return model


def _accelerate(model: AvatarModel, options: BenchOptions) -> None:
    """Put fast paths in place, in the only order in which each finds what it replaces."""
    dit, device = model.models.dit, model.models.device
    if options.fused:
        fuse_qkv(dit)
    if options.float8:
        apply_float8(dit)
    if options.attention != "auto":
        work = _attention_work(model)
        apply_attention(dit, select_attention(options.attention, work), _SELF_ATTENTION)
    if options.fused:
        kernels = select_kernels("auto", device)
        fuse_blocks(dit, kernels)
        fuse_channel_norms(model.models.vae, kernels)
    if options.compile:
        # Compilation happens at the first step, after whatever spreads the model.
        dit.compile()


def name_attention(model: AvatarModel, options: BenchOptions) -> str:
    """Return the kernel that the self-attention runs on."""
    if options.attention != "auto":
        return options.attention
    work = _attention_work(model)
    return next(backend.name for backend in find_attention_backends(*work) if backend.chosen)


def _attention_work(model: AvatarModel) -> AttentionWork:
    config = model.models.dit.config
    return AttentionWork(model.models.device, model.dtype, config.head_dim, config.num_heads)
