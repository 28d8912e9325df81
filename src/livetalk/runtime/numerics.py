"""How far two ways of running one model are apart, stage by stage: same weights, same noise, same inputs.

Errors are norms of differences over norms. "Relative" is the whole stream's: what was wrong before comes in.
"Alone" gives a network the inputs that it had in the first run, so that its own rounding stands alone.
"""

import contextlib
import gc
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from livetalk.diffusion.samplers import NoiseSource
from livetalk.errors import InputError
from livetalk.models.dit import DiT, StepInputs
from livetalk.models.dit_constants import prepare_step
from livetalk.models.vae import CausalVideoVAE
from livetalk.ops.backends import ATTENTION_KERNELS, AttentionWork, apply_attention, select_attention
from livetalk.ops.kernels.selection import triton_problem
from livetalk.ops.matmul import float8_problem
from livetalk.quantization.float8 import PREPARED_KEEP, apply_float8
from livetalk.runtime.acceleration import AUTO, AccelerationConfig
from livetalk.runtime.build import accelerate_model, check_acceleration
from livetalk.runtime.model import AvatarModel
from livetalk.runtime.placement import WEIGHT_FORMS, PlacementConfig
from livetalk.runtime.prompt import PromptEmbeds
from livetalk.runtime.stages import Observer, StageInputs, run_stages
from livetalk.streaming.step import Models

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
    dit = model.models.dit
    if configuration.form != "plain":
        model = _accelerate(model, configuration)
    elif configuration.attention is not None:
        size = dit.config
        work = AttentionWork(model.models.device, model.dtype, size.head_dim, size.num_heads)
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
    device = model.models.device
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
    num_layers = apply_float8(model.models.dit, PREPARED_KEEP, allow_reference=True)
    model = accelerate_model(model, config)
    assert model.acceleration is not None
    return replace(model, acceleration=replace(model.acceleration, float8_layers=num_layers))


def describe_form(model: AvatarModel) -> str:
    """Say in a few words what fast forms a model of `apply_configuration` has; "" where it has none."""
    found = model.acceleration
    if found is None:
        return ""
    reference = found.float8_layers and model.models.device.type != "cuda"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One use of a network.

    Attributes:
        network: "dit" or "vae".
        method: of it.
        arguments: with tensors on the CPU.
        output: float32 on the CPU.
    """

    network: str
    method: str
    arguments: tuple[Any, ...]
    output: Tensor


@dataclass(frozen=True, slots=True)
class StageError:
    """Difference of one result.

    Attributes:
        stage: such as "chunk 1 velocity 2".
        relative: norm of the difference over the first run's norm.
        largest: greatest difference of a single number.
        alone: the same with the first run's inputs; None for results that no single network makes.
    """

    stage: str
    relative: float
    largest: float
    alone: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of two runs.

    Attributes:
        errors: in the order of the computation.
        forms: what fast forms the first and the second run had, see `describe_form`.
    """

    errors: tuple[StageError, ...]
    forms: tuple[str, str] = ("", "")

    def worst(self, word: str = "") -> float:
        """Return the greatest relative error of the stages whose name has a word in it.

        Raises:
            ValueError: there is no such stage.
        """
        found = [error.relative for error in self.errors if word in error.stage]
        if not found:
            raise ValueError(f"no stage is called {word}")
        return max(found)


class Recorder(Observer):
    """Keeps every result of a stream, and every use of its networks.

    Attributes:
        results: by stage, float32 on the CPU, in the order of the computation.
        calls: by stage.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.results: dict[str, Tensor] = {}
        self.calls: dict[str, Call] = {}
        self._chunk = -1
        self._step = 0

    def see(self, name: str, value: Tensor) -> None:
        """Keep a result of the stream."""
        if name == "speech":
            self._chunk, self._step = self._chunk + 1, 0
        self._keep(f"latents {self._step}" if name == "latents" else name, value)

    def watch(self, models: Models) -> Models:
        """Return models whose networks are recorded."""
        return replace(
            models,
            dit=cast(DiT, _WatchedDiT(models.dit, self)),
            vae=cast(CausalVideoVAE, _WatchedVAE(models.vae, self)),
        )

    def see_velocity(self, arguments: tuple[Any, ...], velocity: Tensor) -> None:
        """Keep a use of the transformer, and the latents that it was given."""
        if self._step:
            self._keep(f"latents {self._step}", arguments[0])
        self._step += 1
        self._call(f"velocity {self._step}", _record_call("dit", "__call__", arguments, velocity))
        self._keep(f"velocity {self._step}", velocity)

    def see_vae(self, method: str, arguments: tuple[Any, ...], output: Tensor) -> None:
        """Keep a use of the VAE; those before the first chunk belong to the reference."""
        if self._chunk < 0:
            return
        pieces = sum(name.startswith(self._name(method)) for name in self.calls)
        name = f"{method} {pieces + 1}" if pieces else method
        self._call(name, _record_call("vae", method, arguments, output))
        if method == "decode":
            self._keep(name, output)

    def _name(self, stage: str) -> str:
        return stage if self._chunk < 0 else f"chunk {self._chunk + 1} {stage}"

    def _keep(self, stage: str, value: Tensor) -> None:
        self.results[self._name(stage)] = value.detach().to("cpu", torch.float32, copy=True)

    def _call(self, stage: str, call: Call) -> None:
        self.calls[self._name(stage)] = call


class _WatchedDiT:
    """Stands in for a transformer and shows its uses."""

    def __init__(self, dit: DiT, recorder: Recorder) -> None:
        self._dit = dit
        self._recorder = recorder

    def __call__(self, *arguments: Any, prepared: StepInputs | None) -> Tensor:
        velocity: Tensor = self._dit(*arguments, prepared=prepared)
        self._recorder.see_velocity(arguments, velocity)
        return velocity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dit, name)


class _WatchedVAE:
    """Stands in for a VAE and shows its uses."""

    def __init__(self, vae: CausalVideoVAE, recorder: Recorder) -> None:
        self._vae = vae
        self._recorder = recorder

    def encode(self, *arguments: Any) -> Any:
        latents, cache = self._vae.encode(*arguments)
        self._recorder.see_vae("encode", arguments, latents)
        return latents, cache

    def decode(self, *arguments: Any) -> Any:
        frames, cache = self._vae.decode(*arguments)
        self._recorder.see_vae("decode", arguments, frames)
        return frames, cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSource:
    """What a stream to compare is made from.

    Attributes:
        picture: makes the framed portrait, `[3, H, W]` float32, -1..1, for a model; None draws a pattern.
        sounds: makes the sound of each chunk, `[chunk_samples]` float32; None draws noise.
        num_chunks: of the stream, where noise is drawn.
        seed: of the diffusion's noise, and of what is drawn.
    """

    picture: Callable[[AvatarModel], Tensor] | None = None
    sounds: Callable[[AvatarModel], tuple[Tensor, ...]] | None = None
    num_chunks: int = 2
    seed: int = 0


def compare_numerics(
    build: Callable[[Configuration], AvatarModel],
    first: Configuration,
    seconds: Sequence[Configuration],
    source: StreamSource,
) -> Iterator[Comparison]:
    """Run a short stream one way and each of the others, and compare everything on the way.

    Only one of the models is in memory at a time.

    Args:
        build: makes the model, with the same weights every time.
        first: the reference; runs once.
        seconds: what is compared with it, one after the other.
        source: of the stream.

    Yields:
        The comparison of each of `seconds`, as soon as it is made.
    """
    with exact_products(first.dtype):
        model = build(first)
        inputs = make_inputs(model, source)
        reference = record(model, inputs, source.seed)
    first_form = describe_form(model)
    del model
    for second in seconds:
        _free_memory()
        with exact_products(second.dtype):
            model = build(second)
            other = record(model, inputs, source.seed)
            alone = _replay(model.models, reference.calls)
        forms = first_form, describe_form(model)
        del model
        yield replace(compare_recordings(reference, other, alone), forms=forms)


@contextlib.contextmanager
def exact_products(dtype: torch.dtype) -> Iterator[None]:
    """Let float32 products and convolutions be float32 in a run of that precision.

    By default a GPU's convolutions round their input to 10 bits (TF32), which is no better than bfloat16's
    8 by much. A run in bfloat16 is left as it is: what it has in float32 runs as it does for users.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = matmul.allow_tf32, cudnn.allow_tf32
    if dtype is torch.float32:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = allowed


def _free_memory() -> None:
    """Give the memory of the model before back to the device, whose next one may need all of it."""
    gc.collect()
    torch.cuda.empty_cache()


def record(model: AvatarModel, inputs: StageInputs, seed: int) -> Recorder:
    """Run a stream and keep everything; its noise is drawn from `seed`, whatever `inputs` has."""
    device, prompt = model.models.device, inputs.prompt
    recorder = Recorder()
    text, image = (None if x is None else x.to(device) for x in (prompt.text_embeds, prompt.image_embeds))
    placed = StageInputs(
        picture=inputs.picture.to(device),
        prompt=PromptEmbeds(text_embeds=text, image_embeds=image),
        sounds=tuple(sound.to(device) for sound in inputs.sounds),
        noise=shared_noise(seed),
    )
    run_stages(recorder.watch(model.models), placed, recorder)
    return recorder


def compare_recordings(
    first: Recorder, second: Recorder, alone: Mapping[str, float] | None = None
) -> Comparison:
    """Compare two runs of the same stream.

    Args:
        first: the reference.
        second: the other run.
        alone: errors of single networks by stage.
    """
    errors = []
    for stage, expected in first.results.items():
        found = second.results[stage]
        own = None if alone is None else alone.get(stage)
        largest = float((found - expected).abs().max())
        errors.append(StageError(stage, relative_error(found, expected), largest, own))
    return Comparison(tuple(errors))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected; 0 for two tensors of zeros."""
    difference = float(torch.linalg.vector_norm((found - expected).double()))
    size = float(torch.linalg.vector_norm(expected.double()))
    return 0.0 if difference == 0 else difference / size if size else float("inf")


def shared_noise(seed: int) -> NoiseSource:
    """Return a source of noise that is equal on every device and in every precision."""
    rng = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng).bfloat16().to(like)

    return draw


def make_inputs(model: AvatarModel, source: StreamSource) -> StageInputs:
    """Complete the inputs of a stream; prompt and portrait are encoded by this model, for both runs."""
    rng = torch.Generator().manual_seed(source.seed)
    portrait, geometry = model.portrait, model.models.config.geometry
    if source.picture is None:
        coarse = torch.rand(1, 3, 8, 8, generator=rng) * 1.6 - 0.8
        picture = F.interpolate(coarse, size=(portrait.height, portrait.width), mode="bilinear")[0]
    else:
        picture = source.picture(model)
    if source.sounds is None:
        shape = (source.num_chunks, geometry.chunk_samples)
        sounds = tuple(torch.randn(shape, generator=rng).mul_(0.1))
    else:
        sounds = source.sounds(model)
    prompt = PromptEmbeds(text_embeds=None, image_embeds=None)
    if model.prompt_encoder is not None:
        prompt = model.prompt_encoder.encode(model.defaults.prompt, picture[None].to(model.models.device))
    return StageInputs(picture=picture, prompt=prompt, sounds=sounds, noise=shared_noise(source.seed))


@torch.no_grad()
def _replay(models: Models, calls: Mapping[str, Call]) -> dict[str, float]:
    """Give each network the inputs of another run, and return the errors of its answers."""
    errors = {}
    for stage, call in calls.items():
        network = models.dit if call.network == "dit" else models.vae
        arguments = tree_map_only(Tensor, lambda x: x.to(models.device), call.arguments)
        prepares = call.network == "dit" and models.prepare is not None
        settled = {"prepared": prepare_step(models.dit, *arguments[1:])} if prepares else {}
        answer = getattr(network, call.method)(*arguments, **settled)
        output = answer if isinstance(answer, Tensor) else answer[0]
        errors[stage] = relative_error(output.to("cpu", torch.float32), call.output)
    return errors


def _record_call(network: str, method: str, arguments: tuple[Any, ...], output: Tensor) -> Call:
    return Call(
        network=network,
        method=method,
        arguments=tree_map_only(Tensor, lambda x: x.detach().cpu(), arguments),
        output=output.detach().to("cpu", torch.float32, copy=True),
    )
