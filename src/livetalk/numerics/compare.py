"""Comparison of two ways to run one model, stage by stage, with the same weights, noise and inputs.

A "relative" error is the norm of a difference divided by a norm, and accumulates along the stream. The error
"alone" is that of one network on the inputs of the first run, and so only the network's own rounding.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_map_only

from livetalk.assembly.model import AvatarModel
from livetalk.diffusion.samplers import NoiseSource
from livetalk.models.dit import DiT, StepInputs
from livetalk.models.dit_precompute import precompute_step
from livetalk.models.vae import CausalVideoVAE
from livetalk.numerics.configurations import Configuration, describe_form
from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.conditioning import prepare_stream
from livetalk.streaming.executor import Executor
from livetalk.streaming.settings import LoudnessMode
from livetalk.types import PromptEmbeds


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a network, "dit" or "vae": arguments and float32 output, on the CPU."""

    network: str
    method: str
    arguments: tuple[Any, ...]
    output: Tensor


@dataclass(frozen=True, slots=True)
class StageError:
    """Error of one result."""

    stage: str  # such as "chunk 1 velocity 2"
    relative: float  # norm of the difference divided by the norm of the first run's result
    largest: float  # largest absolute difference of an element
    alone: float | None  # relative error on the first run's inputs; None if no network computed the result


@dataclass(frozen=True, slots=True)
class Comparison:
    """Errors of the second of two runs, in the order of computation; `forms` are their fast forms."""

    errors: tuple[StageError, ...]
    forms: tuple[str, str] = ("", "")

    def worst(self, word: str = "") -> float:
        """Return the largest relative error among stages whose names contain `word`; else `ValueError`."""
        found = [error.relative for error in self.errors if word in error.stage]
        if not found:
            raise ValueError(f"no stage is called {word}")
        return max(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInputs:
    """Inputs of a stream."""

    picture: Tensor  # `[3, H, W]` float32, -1..1, the framed portrait
    embeds: PromptEmbeds
    chunks: tuple[Tensor, ...]  # samples of each chunk, `[chunk_samples]` float32, -1..1


class Recorder:
    """Stores every result of a stream and every call of its networks, by stage, in float32 on the CPU."""

    def __init__(self) -> None:
        self.results: dict[str, Tensor] = {}
        self.calls: dict[str, Call] = {}
        self._chunk = 0
        self._step = 0

    def observe(self, executor: Executor) -> Executor:
        """Return an executor whose networks are recorded."""
        networks = replace(
            executor.networks,
            dit=cast(DiT, _ObservedDiT(executor.networks.dit, self)),
            vae=cast(CausalVideoVAE, _ObservedVAE(executor.networks.vae, self)),
        )
        return replace(executor, networks=networks)

    def begin_chunk(self) -> None:
        """Start a new chunk; results before the first chunk belong to the reference."""
        self._chunk, self._step = self._chunk + 1, 0

    def keep(self, stage: str, value: Tensor) -> None:
        """Store a result of the stream; pieces of one result are concatenated along their frames."""
        name = self._name(stage)
        value = value.detach().to("cpu", torch.float32, copy=True)
        before = self.results.get(name)
        self.results[name] = value if before is None else torch.cat((before, value), dim=2)

    def record_velocity(self, arguments: tuple[Any, ...], velocity: Tensor) -> None:
        """Store a call of the transformer with its input: audio context at step 1, later latents."""
        if self._step:
            self.keep(f"latents {self._step}", arguments[0])
        else:
            self.keep("speech", arguments[3])
        self._step += 1
        self._call(f"velocity {self._step}", _record_call("dit", "__call__", arguments, velocity))
        self.keep(f"velocity {self._step}", velocity)

    def record_vae(self, method: str, arguments: tuple[Any, ...], output: Tensor) -> None:
        """Store a call of the VAE, except those that encode the reference, before the first chunk."""
        if not self._chunk:
            return
        pieces = sum(name.startswith(self._name(method)) for name in self.calls)
        name = f"{method} {pieces + 1}" if pieces else method
        self._call(name, _record_call("vae", method, arguments, output))
        if method == "decode":
            self.keep(f"latents {self._step}", arguments[0])
            self.keep(name, output)

    def _name(self, stage: str) -> str:
        return f"chunk {self._chunk} {stage}" if self._chunk else stage

    def _call(self, stage: str, call: Call) -> None:
        self.calls[self._name(stage)] = call


class _ObservedDiT:
    def __init__(self, dit: DiT, recorder: Recorder) -> None:
        self._dit = dit
        self._recorder = recorder

    def __call__(self, *arguments: Any, **prepared: StepInputs) -> Tensor:
        velocity: Tensor = self._dit(*arguments, **prepared)
        self._recorder.record_velocity(arguments, velocity)
        return velocity

    def __getattr__(self, name: str) -> Any:
        return getattr(self._dit, name)


class _ObservedVAE:
    def __init__(self, vae: CausalVideoVAE, recorder: Recorder) -> None:
        self._vae = vae
        self._recorder = recorder

    def encode(self, *arguments: Any) -> Any:
        latents, cache = self._vae.encode(*arguments)
        self._recorder.record_vae("encode", arguments, latents)
        return latents, cache

    def decode(self, *arguments: Any) -> Any:
        frames, cache = self._vae.decode(*arguments)
        self._recorder.record_vae("decode", arguments, frames)
        return frames, cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSource:
    """Functions that create the inputs of a stream for a model.

    Attributes:
        picture: returns the framed portrait, `[3, H, W]` float32, -1..1; None draws a pattern.
        audio: returns the samples of each chunk, `[chunk_samples]` float32; None draws noise.
    """

    picture: Callable[[AvatarModel], Tensor] | None = None
    audio: Callable[[AvatarModel], tuple[Tensor, ...]] | None = None
    num_chunks: int = 2  # used if noise is drawn
    seed: int = 0  # of the diffusion noise and of drawn inputs


def compare_numerics(
    build: Callable[[Configuration], AvatarModel],
    first: Configuration,
    seconds: Sequence[Configuration],
    source: StreamSource,
) -> Iterator[Comparison]:
    """Run a short stream in several configurations and yield the comparison of each with the first.

    `build` returns the model in a configuration, with the same weights in every call. The first model creates
    the inputs for all. Only one model is in memory at a time.
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
            alone = _replay(model.executor, reference.calls)
        forms = first_form, describe_form(model)
        del model
        yield replace(compare_recordings(reference, other, alone), forms=forms)


@contextlib.contextmanager
def exact_products(dtype: torch.dtype) -> Iterator[None]:
    """Disable TF32 in float32 runs, so that products and convolutions are computed in float32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = matmul.allow_tf32, cudnn.allow_tf32
    # TF32 rounds inputs to 10 bits, hardly better than the 8 of bfloat16. A bfloat16 run keeps the default,
    # because its float32 parts run with it in normal use.
    if dtype is torch.float32:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = allowed


def _free_memory() -> None:
    # The next model may need all of the device's memory.
    gc.collect()
    torch.cuda.empty_cache()


@torch.no_grad()
def record(model: AvatarModel, inputs: StreamInputs, seed: int) -> Recorder:
    """Run a stream with inputs on any device and noise from `shared_noise`, and record all results."""
    device, embeds = model.executor.device, inputs.embeds
    text, image = (None if x is None else x.to(device) for x in (embeds.text_embeds, embeds.image_embeds))
    recorder = Recorder()
    executor, noise_source = recorder.observe(model.executor), shared_noise(seed)
    # Loudness adjustment runs before the networks and depends on no configuration.
    settings = replace(model.settings, loudness=LoudnessMode.OFF)
    prepared = prepare_stream(
        executor, settings, inputs.picture, PromptEmbeds(text_embeds=text, image_embeds=image)
    )
    recorder.keep("reference", prepared.conditioning.condition)
    state = create_state(executor, settings, prepared, seed)
    for samples in inputs.chunks:
        recorder.begin_chunk()
        chunk, state = generate_chunk(executor, settings, prepared, samples.to(device), state, noise_source)
        recorder.keep("colour", chunk.pixels)
        recorder.keep("encode", state.motion_latents)
    return recorder


def compare_recordings(
    first: Recorder, second: Recorder, alone: Mapping[str, float] | None = None
) -> Comparison:
    """Compare two runs of one stream; `alone` are the errors of single networks, by stage."""
    errors = []
    for stage, expected in first.results.items():
        found = second.results[stage]
        own = None if alone is None else alone.get(stage)
        largest = float((found - expected).abs().max())
        errors.append(StageError(stage, relative_error(found, expected), largest, own))
    return Comparison(tuple(errors))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference divided by the norm of `expected`; 0 for two tensors of zeros."""
    difference = float(torch.linalg.vector_norm((found - expected).double()))
    size = float(torch.linalg.vector_norm(expected.double()))
    return 0.0 if difference == 0 else difference / size if size else float("inf")


def shared_noise(seed: int) -> NoiseSource:
    """Return a source of noise that is equal on every device and in every precision."""
    # Drawn on the host and rounded to the narrowest precision, so that every conversion is exact.
    rng = torch.Generator().manual_seed(seed)

    def draw(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=rng).bfloat16().to(like)

    return draw


def make_inputs(model: AvatarModel, source: StreamSource) -> StreamInputs:
    """Create the inputs of a stream; this model encodes prompt and portrait for all runs."""
    rng = torch.Generator().manual_seed(source.seed)
    portrait, geometry = model.spec.portrait, model.settings.geometry
    if source.picture is None:
        # Smooth, as portraits are: the VAE would lose most of white noise.
        coarse = torch.rand(1, 3, 8, 8, generator=rng) * 1.6 - 0.8
        picture = F.interpolate(coarse, size=(portrait.height, portrait.width), mode="bilinear")[0]
    else:
        picture = source.picture(model)
    if source.audio is None:
        shape = (source.num_chunks, geometry.chunk_samples)
        chunks = tuple(torch.randn(shape, generator=rng).mul_(0.1))
    else:
        chunks = source.audio(model)
    embeds = PromptEmbeds(text_embeds=None, image_embeds=None)
    if model.prompt_encoder is not None:
        embeds = model.prompt_encoder.encode(
            model.spec.defaults.prompt, picture[None].to(model.executor.device)
        )
    return StreamInputs(picture=picture, embeds=embeds, chunks=chunks)


@torch.no_grad()
def _replay(executor: Executor, calls: Mapping[str, Call]) -> dict[str, float]:
    """Call each network with the inputs of another run, and return the relative errors by stage."""
    errors, networks = {}, executor.networks
    for stage, call in calls.items():
        network = networks.dit if call.network == "dit" else networks.vae
        arguments = tree_map_only(Tensor, lambda x: x.to(networks.device), call.arguments)
        plan = executor.plan if call.network == "dit" else None
        prepared = {} if plan is None else {"prepared": precompute_step(networks.dit, plan, *arguments[1:])}
        result = getattr(network, call.method)(*arguments, **prepared)
        # The VAE also returns its cache.
        output = result if isinstance(result, Tensor) else result[0]
        errors[stage] = relative_error(output.to("cpu", torch.float32), call.output)
    return errors


def _record_call(network: str, method: str, arguments: tuple[Any, ...], output: Tensor) -> Call:
    return Call(
        network=network,
        method=method,
        arguments=tree_map_only(Tensor, lambda x: x.detach().cpu(), arguments),
        output=output.detach().to("cpu", torch.float32, copy=True),
    )
