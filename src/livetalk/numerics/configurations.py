"""Ways of running one model, named in words: precision, form of the weights, fast forms, attention kernel."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from livetalk.accelerate.apply import AUTO, AccelerationConfig
from livetalk.assembly.build import accelerate_model, check_acceleration
from livetalk.assembly.model import AvatarModel
from livetalk.errors import InputError
from livetalk.models.dit import DiT
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionWork, apply_attention, select_attention
from livetalk.ops.kernels.selection import triton_problem
from livetalk.ops.matmul import float8_problem
from livetalk.placement.apply import WEIGHT_FORMS, PlacementConfig
from livetalk.placement.float8 import PREPARED_KEEP, apply_float8

Form = Literal["plain", "fast", "fp8"]

_OFFLOAD = re.compile(r"offload(\d*)")
_ATTENTION = {name.replace("-", ""): name for name in ATTENTION_KERNELS}
_MEANINGS: Mapping[str, tuple[str, Any]] = {
    "eager": ("compiled", False),
    "compile": ("compiled", True),
    **{word: ("weights", word) for word in WEIGHT_FORMS},
    "float32": ("dtype", torch.float32),
    "bfloat16": ("dtype", torch.bfloat16),
    "fast": ("form", "fast"),
    "fp8": ("form", "fp8"),
    **{word: ("attention", name) for word, name in _ATTENTION.items()},
}
_WORDS = (
    "eager or compile, full, float8 or int8 (weights), fast or fp8 (fast forms), offload or offloadN (N "
    f"blocks stay), float32 or bfloat16, or an attention kernel: {', '.join(_ATTENTION)}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One way of running a model.

    Attributes:
        name: as it was asked for.
        dtype: of the transformer and the VAE.
        compiled: the transformer is compiled.
        placement: of its weights.
        attention: kernel of its self-attention; None lets PyTorch choose.
        form: "fast" puts the fast forms in place that change numbers by rounding only, "fp8" also makes the
            blocks' products in FP8: what `--fast` and `--float8` of the other commands run.
    """

    name: str
    dtype: torch.dtype
    compiled: bool
    placement: PlacementConfig
    attention: str | None = None
    form: Form = "plain"


def parse_configuration(name: str) -> Configuration:
    """Read words joined by hyphens, such as "eager-float32" or "fp8-fa3fp8-bfloat16".

    Raises:
        InputError: a word is unknown or given twice, the precision is missing, or words do not go together.
    """
    found: dict[str, Any] = {}
    for word in name.split("-"):
        offload = _OFFLOAD.fullmatch(word)
        meaning = ("resident_blocks", int(offload[1] or 0)) if offload else _MEANINGS.get(word)
        if meaning is None or meaning[0] in found:
            raise InputError(
                f"configuration {name}: {word or 'an empty word'} does not fit there; use {_WORDS}"
            )
        found[meaning[0]] = meaning[1]
    if "dtype" not in found:
        raise InputError(f"configuration {name}: lacks float32 or bfloat16")
    placement = PlacementConfig(
        weights=found.get("weights", "full"), resident_blocks=found.get("resident_blocks")
    )
    configuration = Configuration(
        name=name,
        dtype=found["dtype"],
        compiled=found.get("compiled", False),
        placement=placement,
        attention=found.get("attention"),
        form=found.get("form", "plain"),
    )
    if configuration.form != "plain":
        check_acceleration(AccelerationConfig(float8=configuration.form == "fp8"), placement)
    return configuration


def apply_configuration(model: AvatarModel, configuration: Configuration) -> AvatarModel:
    """Change a model that was built with a configuration's precision and placement to run as it says.

    Fast forms are those that a benchmark runs. Where their kernels cannot, the plain twins of the kernels
    stand in for them, so that the same steps are taken; FP8 products are then made by their reference.

    Args:
        model: its transformer is changed in place, and by fast forms its VAE.
        configuration: of the run.

    Returns:
        The model.

    Raises:
        InputError: something in the configuration cannot run on the model's device.
    """
    dit = model.executor.networks.dit
    if configuration.form != "plain":
        model = _accelerate(model, configuration)
    elif configuration.attention is not None:
        size = dit.config
        work = AttentionWork(model.executor.device, model.dtype, size.head_dim, size.num_heads)
        apply_attention(dit, select_attention(configuration.attention, work), ("self_attention",))
    if configuration.compiled:
        dit.compile()
    return model


def check_device(configuration: Configuration, device: torch.device) -> None:
    """Refuse, before anything is loaded, FP8 products that a GPU cannot make; elsewhere their reference can.

    Raises:
        InputError: it has no FP8, or the precision is not the one that it makes them in.
    """
    if configuration.form != "fp8" or device.type != "cuda":
        return
    wide = configuration.dtype is not torch.bfloat16
    problem = "FP8 products of a GPU are bfloat16" if wide else float8_problem(device)
    if problem is not None:
        raise InputError(f"configuration {configuration.name}: {problem}")


def _accelerate(model: AvatarModel, configuration: Configuration) -> AvatarModel:
    """Put a configuration's fast forms in place."""
    device = model.executor.device
    check_device(configuration, device)
    float8 = configuration.form == "fp8"
    config = AccelerationConfig(
        float8=float8 and device.type == "cuda",
        attention=configuration.attention or AUTO,
        kernels=AUTO if triton_problem(device) is None else "torch",
    )
    if not float8 or config.float8:
        return accelerate_model(model, config)
    # `accelerate` refuses the reference, and joins layers that multiply in FP8 already.
    num_layers = apply_float8(model.executor.networks.dit, PREPARED_KEEP, allow_reference=True)
    model = accelerate_model(model, config)
    assert model.acceleration is not None
    return replace(model, acceleration=replace(model.acceleration, float8_layers=num_layers))


def describe_form(model: AvatarModel) -> str:
    """Say in a few words what fast forms a model of `apply_configuration` has; "" where it has none."""
    found = model.acceleration
    if found is None:
        return ""
    reference = found.float8_layers and model.executor.device.type != "cuda"
    return f"{found} by the reference" if reference else str(found)


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
