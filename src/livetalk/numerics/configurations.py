"""The runs that a comparison of numerics names in words, and the models that they are made with."""

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
    """A named way of running a model.

    Attributes:
        name: as it was asked for.
        run: how the model runs, in one process and in a precision that is named.
    """

    name: str
    run: RunConfig

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the transformer and the VAE."""
        return choose_dtype(self.run.precision, torch.device("cpu"))


def parse_configuration(name: str, base: RunConfig | None = None) -> Configuration:
    """Read the words of `parse_run`, such as "eager-float32" or "fp8-fa3fp8-bfloat16".

    Args:
        name: the words.
        base: what the words leave open; None is `RunConfig()`.

    Raises:
        InputError: the words cannot be used, no precision is named, or several GPUs are asked for.
    """
    run = parse_run(name, base)
    if run.precision == "auto":
        raise InputError(f"configuration {name}: lacks float32 or bfloat16")
    if run.gpus > 1:
        raise InputError(f"gpus {run.gpus}: numerics are compared in one process; leave it out")
    return Configuration(name=name, run=run)


def apply_configuration(model: AvatarModel, configuration: Configuration) -> AvatarModel:
    """Put the fast forms of a configuration in place.

    They are those that every other command runs. Where their kernels cannot run, the plain twins of the
    kernels take the same steps, and where there is no GPU, FP8 products are made by their reference.

    Args:
        model: from `load_model` with the configuration's run; its networks are changed in place.
        configuration: of the run.

    Returns:
        The model.

    Raises:
        InputError: something in the configuration cannot run on the model's device.
    """
    return finish_model(model, configuration.run, allow_reference=True)


def check_device(configuration: Configuration, device: torch.device) -> None:
    """Refuse, before anything is loaded, FP8 products that a GPU cannot make; elsewhere their reference can.

    Raises:
        InputError: the GPU has no FP8, or the precision is not the one that it makes them in.
    """
    if not configuration.run.acceleration.float8 or device.type != "cuda":
        return
    wide = configuration.dtype is not torch.bfloat16
    problem = "FP8 products of a GPU are bfloat16" if wide else float8_problem(device)
    if problem is not None:
        raise InputError(f"configuration {configuration.name}: {problem}")


def describe_form(model: AvatarModel) -> str:
    """Say in a few words what fast forms a model has; "" where it has none."""
    return "" if model.acceleration is None else str(model.acceleration)


@torch.no_grad()
def sharpen_attention(dit: DiT, factor: float) -> None:
    """Multiply the logits of a transformer's self-attention, through the weights of its queries' norm.

    Random weights make logits that deviate by 0.6 to 1; trained ones, by 2 to 4 in the shipped model. Nearly
    uniform attention is a mean over all tokens, in which what a kernel does to one of them cannot be seen.

    Args:
        dit: changed in place; as it was built, before any configuration is applied, all blocks on the device.
        factor: of the logits.
    """
    for block in dit.blocks.layers:
        weight = block.get_parameter("self_attention.norm_q.weight")
        # A bfloat16 number in every precision, as it was before.
        weight.copy_((weight.float() * factor).bfloat16())
