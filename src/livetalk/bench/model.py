"""From a measurement's options to the model that is measured: load, then each fast path asked for."""

import torch

from livetalk.accelerate.apply import AUTO, AccelerationConfig
from livetalk.accelerate.compile import compile_transformer
from livetalk.assembly.build import BuildConfig, accelerate_model, build_avatar
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.random_model import build_random_model
from livetalk.bench.options import BenchOptions
from livetalk.device import choose_dtype
from livetalk.ops.backends import AttentionKernel, AttentionWork, apply_attention, select_attention
from livetalk.placement.apply import PlacementConfig


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
    model = _accelerate(model, options)
    if options.compile:
        # It happens at the first step, after whatever spreads the model.
        compile_transformer(model.executor.networks.dit, options.compile_cache)
    return model


def _accelerate(model: AvatarModel, options: BenchOptions) -> AvatarModel:
    if options.accelerated:
        config = AccelerationConfig(
            float8=options.float8,
            attention=options.attention,
            kernels=options.kernels,
            graphs=options.graphs,
        )
        return accelerate_model(model, config)
    if options.attention != AUTO:
        # By itself, so that what a kernel brings can be told from what the fast forms bring.
        apply_attention(model.executor.networks.dit, _select_kernel(model, options), ("self_attention",))
    return model


def name_attention(model: AvatarModel, options: BenchOptions) -> str:
    """Return the kernel that the self-attention runs on."""
    return _select_kernel(model, options).name


def _select_kernel(model: AvatarModel, options: BenchOptions) -> AttentionKernel:
    config = model.executor.networks.dit.config
    work = AttentionWork(model.executor.device, model.dtype, config.head_dim, config.num_heads)
    return select_attention(options.attention, work)
