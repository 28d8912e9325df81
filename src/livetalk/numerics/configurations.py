"""Configurations of a comparison of numerics, parsed from words, and their application to a model."""

from dataclasses import dataclass

import torch

from livetalk.assembly.build import finish_model
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.run import RunConfig, parse_run
from livetalk.device import choose_dtype
from livetalk.errors import InputError
from livetalk.models.dit import DiT
from livetalk.ops.matmul import float8_problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """A named run in one process, with a precision other than "auto"."""

    name: str
    run: RunConfig

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the transformer and the VAE."""
        return choose_dtype(self.run.precision, torch.device("cpu"))


def parse_configuration(name: str, base: RunConfig | None = None) -> Configuration:
    """Parse words, see `parse_run`, such as "eager-float32" or "fp8-fa3fp8-bfloat16".

    `base` supplies all other values.

    Raises:
        InputError: the words are invalid, the precision is missing, or several GPUs are requested.
    """
    run = parse_run(name, base)
    if run.precision == "auto":
        raise InputError(f"configuration {name}: lacks float32 or bfloat16")
    if run.gpus > 1:
        raise InputError(f"gpus {run.gpus}: numerics are compared in one process; leave it out")
    return Configuration(name=name, run=run)


def apply_configuration(model: AvatarModel, configuration: Configuration) -> AvatarModel:
    """Apply the fast forms of a configuration to a model from `load_model`; its networks change in place.

    Raises:
        InputError: a form of the configuration cannot run on the model's device.
    """
    # With plain twins where kernels cannot run, so that their rounding can be measured anywhere.
    return finish_model(model, configuration.run, allow_reference=True)


def check_device(configuration: Configuration, device: torch.device) -> None:
    """Raise `InputError` for FP8 products that a GPU cannot compute, before anything is loaded."""
    if not configuration.run.acceleration.float8 or device.type != "cuda":
        return
    wide = configuration.dtype is not torch.bfloat16
    problem = "FP8 products of a GPU are bfloat16" if wide else float8_problem(device)
    if problem is not None:
        raise InputError(f"configuration {configuration.name}: {problem}")


def describe_form(model: AvatarModel) -> str:
    """Return the fast forms of a model in a few words; "" if it has none."""
    return "" if model.acceleration is None else str(model.acceleration)


@torch.no_grad()
def sharpen_attention(dit: DiT, factor: float) -> None:
    """Multiply the logits of a transformer's self-attention, through the weights of the queries' norm.

    Call it before any configuration is applied and with all blocks on the device; weights change in place.
    """
    for block in dit.blocks.layers:
        # Logits have a standard deviation of 0.6 to 1 with random weights, and of 2 to 4 in the shipped
        # model. Nearly uniform attention averages all tokens, which hides the error of a kernel in a single
        # token.
        weight = block.get_parameter("self_attention.norm_q.weight")
        # Random weights are bfloat16 numbers in every precision, see `draw_weights`; they stay so.
        weight.copy_((weight.float() * factor).bfloat16())
