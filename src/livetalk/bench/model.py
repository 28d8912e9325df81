"""Builds the model of a measurement from its options."""

from dataclasses import replace

import torch

from livetalk.accelerate.selection import select_attention
from livetalk.assembly.build import build_model
from livetalk.assembly.model import AvatarModel
from livetalk.bench.options import BenchOptions
from livetalk.ops.backends import AttentionSpec


def build_measured(options: BenchOptions, device: torch.device) -> AvatarModel:
    """Build the model of a measurement, not yet split between ranks.

    Raises:
        WeightsError: the checkpoint is missing, damaged or does not fit.
        InputError: there is no such model, or a fast form cannot run on `device`.
    """
    return build_model(options.source, replace(options.run, device=str(device)))


def name_attention(model: AvatarModel, options: BenchOptions) -> str:
    """Return the name of the self-attention kernel, with "auto" resolved."""
    config = model.executor.networks.dit.config
    work = AttentionSpec(model.executor.device, model.dtype, config.head_dim, config.num_heads)
    return select_attention(options.run.acceleration.attention, work).name
