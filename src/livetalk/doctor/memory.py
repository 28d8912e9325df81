"""What a model takes of a GPU and of the host, and the first setting that fits, before anything is loaded.

Weights are counted, temporaries rehearsed on the meta device; what drivers and libraries take besides is
estimated by the constants below, which `scripts/measure_memory.py` checks on a GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from livetalk.accelerate.apply import AccelerationConfig
from livetalk.assembly.run import RunConfig
from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.device import choose_dtype
from livetalk.doctor.rehearsal import REHEARSED_LAYERS, constant_bytes, rehearse, weight_bytes
from livetalk.errors import InputError
from livetalk.placement.apply import PlacementConfig, WeightForm
from livetalk.placement.offload import NUM_SLOTS

GIB = 2**30

CONTEXT_BYTES = 600 * 2**20
"""What the CUDA driver takes for a process that has loaded the kernels of PyTorch's libraries."""

WORKSPACE_BYTES = 96 * 2**20
"""Work space of the matrix libraries, which the allocator counts as allocated."""

CACHE_SHARE = 0.10
"""Of the temporaries: what the caching allocator holds beyond them, in pieces too small to use again."""

HOST_BYTES = 3 * GIB
"""Of a process with the libraries of PyTorch and CUDA loaded, before any weight."""

HOST_CPU_BYTES = GIB
"""Of a process that computes on the CPU."""

SPLIT_OVERHEAD = 1.15
"""Several GPUs: the temporaries of a share of the tokens, with the buffers of the exchange."""

VISITOR_ROOM_BYTES = 2 * GIB
"""An encoder visits the GPU only where it leaves this much free."""

PROMPT_STAGE = "prompt"
ENCODER_PARTS = ("text encoder", "image encoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest:
    """What is asked about.

    Attributes:
        spec: of the model.
        portrait: picture size.
        run: how it runs, settled: the device is "cpu" or "cuda", the precision is named. Fast forms are not
            part of the forecast.
    """

    spec: ModelSpec
    portrait: PortraitConfig
    run: RunConfig = field(default_factory=lambda: RunConfig(device="cuda", precision="bfloat16"))

    @property
    def num_gpus(self) -> int:
        """GPUs that share the tokens of one stream; 0 for the CPU."""
        return self.run.gpus if self.run.device == "cuda" else 0

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the transformer and the VAE."""
        return choose_dtype(self.run.precision, torch.device("cpu"))

    @property
    def placement(self) -> PlacementConfig:
        """Form and place of the weights."""
        return self.run.placement

    def with_placement(self, placement: PlacementConfig) -> Self:
        """Return the same request with other weights; offloaded blocks leave the fused forms out."""
        acceleration = self.run.acceleration
        if placement.resident_blocks is not None:
            acceleration = AccelerationConfig(attention=acceleration.attention)
        return replace(self, run=replace(self.run, placement=placement, acceleration=acceleration))

    def __post_init__(self) -> None:
        """Refuse pictures that the model cannot make, and runs that are not settled.

        Raises:
            InputError: the size does not divide, the model makes another one only, or several processes would
                share a CPU.
            ValueError: the device is neither "cpu" nor "cuda", or the precision is "auto".
        """
        if self.run.device not in ("cpu", "cuda") or self.run.precision == "auto":
            raise ValueError(f"a forecast is for a settled run, not {self.run.device} {self.run.precision}")
        if self.run.device == "cpu" and self.run.gpus > 1:
            raise InputError(f"gpus {self.run.gpus}: the forecast for a CPU is of one process; leave it out")
        spec, portrait, multiple = self.spec, self.portrait, self.spec.size_multiple
        if not spec.any_size and portrait != spec.portrait:
            own = describe_size(spec.portrait)
            raise InputError(
                f"size {describe_size(portrait)}: the model {spec.name} makes {own} pictures only"
            )
        if portrait.height % multiple or portrait.width % multiple or portrait.height * portrait.width <= 0:
            raise InputError(
                f"size {describe_size(portrait)}: height and width must be multiples of {multiple}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """The answer, in bytes. On the CPU (`num_gpus` 0) everything is host memory.

    Attributes:
        request: what was asked.
        weights: of each part that stays on a GPU.
        stages: peak of each stage beyond those weights.
        host_bytes: of the host.
        visitor_bytes: the largest encoder that visits the GPU during the stage "prompt", 0 if none does.
    """

    request: MemoryRequest
    weights: dict[str, int]
    stages: dict[str, int]
    host_bytes: int
    visitor_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """Weights that stay on a GPU."""
        return sum(self.weights.values())

    @property
    def peak_stage(self) -> str:
        """Name of the stage that takes most."""
        return max(self.stages, key=lambda name: self.stages[name])

    @property
    def allocated_bytes(self) -> int:
        """Peak of what PyTorch allocates on a GPU, as `torch.cuda.max_memory_allocated` counts."""
        return self.weight_bytes + self.stages[self.peak_stage] + WORKSPACE_BYTES

    @property
    def gpu_bytes(self) -> int:
        """What a GPU must have free: allocations, the allocator's cache and the driver's context."""
        cache = round(CACHE_SHARE * self.stages[self.peak_stage])
        return self.allocated_bytes + cache + CONTEXT_BYTES

    def settle(self, gpu_bytes: int) -> "MemoryPlan":
        """Return the plan on a GPU of so many free bytes: encoders that find no room compute on the host."""
        room = gpu_bytes - self.weight_bytes - CONTEXT_BYTES - VISITOR_ROOM_BYTES
        if not self.visitor_bytes or self.visitor_bytes <= room:
            return self
        return replace(
            self,
            stages={name: size for name, size in self.stages.items() if name != PROMPT_STAGE},
            host_bytes=self.host_bytes + self.visitor_bytes,
            visitor_bytes=0,
        )

    def fits(self, gpu_bytes: int, host_bytes: int) -> bool:
        """Tell whether a machine can do it.

        Args:
            gpu_bytes: free memory of each GPU; not used on the CPU.
            host_bytes: free memory of the host.
        """
        return self.host_bytes <= host_bytes and (self.request.num_gpus == 0 or self.gpu_bytes <= gpu_bytes)


def plan_memory(request: MemoryRequest) -> MemoryPlan:
    """Predict the memory of a setting."""
    spec, placement = request.spec, request.placement
    parts = weight_bytes(spec, request.dtype, placement.weights)
    stages = dict(rehearse(spec, request.portrait, request.dtype, placement.weights))
    block = parts.pop("block")
    encoders = {name: parts.pop(name) for name in ENCODER_PARTS if name in parts}
    num_waiting = len(placement.offloaded_blocks(spec.dit.num_layers))
    num_resident = spec.dit.num_layers - num_waiting
    _add_constants(stages, request, num_resident - REHEARSED_LAYERS)
    weights = {f"{num_resident} transformer blocks": num_resident * block, **parts}
    if request.num_gpus == 0:
        weights |= encoders
        needed = sum(weights.values()) + num_waiting * block + max(stages.values())
        return MemoryPlan(request=request, weights=weights, stages=stages, host_bytes=needed + HOST_CPU_BYTES)
    if num_waiting:
        weights["slots for waiting blocks"] = min(NUM_SLOTS, num_waiting) * block
    if placement.encoders == "resident":
        weights |= encoders
    visitor = max(encoders.values(), default=0) if placement.encoders == "cpu-after-use" else 0
    at_home = sum(encoders.values()) if placement.encoders == "cpu" else 0
    return MemoryPlan(
        request=request,
        weights=weights,
        stages=_adapt_stages(request, stages, visitor),
        host_bytes=HOST_BYTES + num_waiting * pinned_bytes(block) + at_home,
        visitor_bytes=visitor,
    )


def first_fit(request: MemoryRequest, gpu_bytes: int, host_bytes: int) -> MemoryPlan | None:
    """Try settings from the one asked for to ever more frugal ones.

    First what costs no speed or quality, then one-byte weights, then blocks that wait in host memory, then
    smaller pictures.

    Args:
        request: where to start.
        gpu_bytes: free memory of each GPU.
        host_bytes: free memory of the host.

    Returns:
        The first setting that fits, or None.
    """
    if _is_hopeless(request, gpu_bytes, host_bytes):
        return None
    for portrait in (request.portrait, *smaller_sizes(request.spec, request.portrait)):
        sized = replace(request, portrait=portrait)
        for placement in _frugal_placements(sized, gpu_bytes):
            plan = plan_memory(sized.with_placement(placement)).settle(gpu_bytes)
            if plan.fits(gpu_bytes, host_bytes):
                return plan
    return None


def smaller_sizes(spec: ModelSpec, portrait: PortraitConfig) -> list[PortraitConfig]:
    """List smaller pictures of about the same shape, largest first: 85, 70, 60 and 50 % of the sides."""
    if not spec.any_size:
        return []
    multiple = spec.size_multiple
    scaled = [
        PortraitConfig(
            height=int(portrait.height * percent / 100) // multiple * multiple,
            width=int(portrait.width * percent / 100) // multiple * multiple,
        )
        for percent in (85, 70, 60, 50)
    ]
    return [size for size in dict.fromkeys(scaled) if size.height and size.width and size != portrait]


def pinned_bytes(num_bytes: int) -> int:
    """Return what the host's allocator takes to lock so many bytes: the next power of two."""
    return 1 << max(0, num_bytes - 1).bit_length()


def describe_size(portrait: PortraitConfig) -> str:
    """Name a picture size as the command line does."""
    return f"{portrait.height}x{portrait.width}"


def _add_constants(stages: dict[str, int], request: MemoryRequest, num_blocks: int) -> None:
    """Add what blocks that were not rehearsed are given for a session and a chunk."""
    session, chunk = constant_bytes(request.spec, request.portrait, request.dtype)
    for name in stages.keys() - {PROMPT_STAGE}:
        stages[name] += max(0, num_blocks) * (session + chunk * (name == "transformer"))


def _adapt_stages(request: MemoryRequest, stages: dict[str, int], visitor: int) -> dict[str, int]:
    """Change the rehearsed stages for where the encoders are and for the number of GPUs."""
    if visitor:
        stages[PROMPT_STAGE] += visitor
    elif request.placement.encoders != "resident":
        del stages[PROMPT_STAGE]
    if request.num_gpus > 1:
        stages["transformer"] = round(stages["transformer"] / request.num_gpus * SPLIT_OVERHEAD)
    return stages


def _is_hopeless(request: MemoryRequest, gpu_bytes: int, host_bytes: int) -> bool:
    """Tell whether the smallest form of the weights leaves no room for any picture."""
    form: WeightForm = "float8" if request.placement.weights == "full" else request.placement.weights
    parts = weight_bytes(request.spec, request.dtype, form)
    block = parts.pop("block")
    if request.num_gpus == 0:
        return request.spec.dit.num_layers * block + sum(parts.values()) > host_bytes
    least = sum(size for name, size in parts.items() if name not in ENCODER_PARTS)
    return least + NUM_SLOTS * block + CONTEXT_BYTES > gpu_bytes


def _frugal_placements(request: MemoryRequest, gpu_bytes: int) -> Iterator[PlacementConfig]:
    """Yield placements, the one asked for first, each more frugal with the GPU than the one before."""
    asked = request.placement
    yield asked
    forms: tuple[WeightForm, ...] = ("full", "float8") if asked.weights == "full" else (asked.weights,)
    if request.num_gpus == 0:
        yield from (replace(asked, weights=form) for form in forms)
        return
    least = PlacementConfig(weights=forms[-1], resident_blocks=0)
    if plan_memory(request.with_placement(least)).settle(gpu_bytes).gpu_bytes > gpu_bytes:
        return
    for form in forms:
        yield PlacementConfig(weights=form, resident_blocks=asked.resident_blocks)
    for form in reversed(forms):
        yield from _offloaded(request, form, gpu_bytes)


def _offloaded(request: MemoryRequest, form: WeightForm, gpu_bytes: int) -> Iterator[PlacementConfig]:
    """Yield the placement with as many resident blocks as fit, if any number does."""
    bare = PlacementConfig(weights=form, encoders="cpu", resident_blocks=0)
    plan = plan_memory(request.with_placement(bare))
    block = plan.weights["slots for waiting blocks"] // NUM_SLOTS
    spare = gpu_bytes - plan.gpu_bytes
    if spare >= 0:
        most = request.spec.dit.num_layers - NUM_SLOTS - 1
        # A resident block brings its constants with it, which a few blocks less make room for.
        for resident in range(max(0, min(most, spare // block)), -1, -1):
            placement = PlacementConfig(weights=form, resident_blocks=resident)
            if plan_memory(request.with_placement(placement)).settle(gpu_bytes).gpu_bytes <= gpu_bytes:
                yield placement
                return
