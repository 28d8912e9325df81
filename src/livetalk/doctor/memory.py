"""Forecast of the memory of a model on GPU and host, and search for a setting that fits, before loading.

Weights are counted, temporaries come from a dry run on the meta device. Memory of drivers and libraries is
estimated by the constants below, which `scripts/measure_memory.py` compares with a real GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from livetalk.accelerate.apply import AccelerationConfig
from livetalk.assembly.run import RunConfig
from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.device import choose_dtype
from livetalk.doctor.dry_run import DRY_RUN_LAYERS, constant_bytes, dry_run, weight_bytes
from livetalk.errors import InputError
from livetalk.placement.apply import PlacementConfig, WeightForm
from livetalk.placement.offload import NUM_SLOTS

GIB = 2**30

CONTEXT_BYTES = 600 * 2**20
"""CUDA context of a process that has loaded the kernels of PyTorch's libraries."""

WORKSPACE_BYTES = 96 * 2**20
"""Workspace of the matrix libraries, which the allocator counts as allocated."""

CACHE_SHARE = 0.10
"""Fragmentation of the caching allocator, as a share of the temporaries."""

HOST_BYTES = 3 * GIB
"""Host memory of a process with the libraries of PyTorch and CUDA, without weights."""

HOST_CPU_BYTES = GIB
"""Host memory of a process that computes on the CPU, without weights."""

SPLIT_OVERHEAD = 1.15
"""Factor on a rank's share of the temporaries, for the send and peer buffers of several GPUs."""

ENCODER_RESERVE_BYTES = 2 * GIB
"""A prompt encoder runs on the GPU only if this much memory remains free."""

PROMPT_STAGE = "prompt"
ENCODER_PARTS = ("text encoder", "image encoder")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest:
    """A model and a resolved run: the device is "cpu" or "cuda", the precision is not "auto".

    The forecast ignores the fast forms of the run.
    """

    spec: ModelSpec
    portrait: PortraitConfig
    run: RunConfig = field(default_factory=lambda: RunConfig(device="cuda", precision="bfloat16"))

    @property
    def num_gpus(self) -> int:
        """Number of GPUs that share the tokens of one stream; 0 for the CPU."""
        return self.run.gpus if self.run.device == "cuda" else 0

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the transformer and the VAE."""
        return choose_dtype(self.run.precision, torch.device("cpu"))

    @property
    def placement(self) -> PlacementConfig:
        """Storage of the weights, and where blocks and encoders are."""
        return self.run.placement

    def with_placement(self, placement: PlacementConfig) -> Self:
        """Return the request with another placement; offloaded blocks exclude the fused forms."""
        acceleration = self.run.acceleration
        if placement.resident_blocks is not None:
            acceleration = AccelerationConfig(attention=acceleration.attention)
        return replace(self, run=replace(self.run, placement=placement, acceleration=acceleration))

    def __post_init__(self) -> None:
        """Refuse sizes that the model cannot generate, and unresolved runs.

        Raises:
            InputError: the size is not a multiple of the model's, the model has one fixed size, or several
                processes would share a CPU.
            ValueError: the device is neither "cpu" nor "cuda", or the precision is "auto".
        """
        if self.run.device not in ("cpu", "cuda") or self.run.precision == "auto":
            raise ValueError(f"a forecast needs a resolved run, not {self.run.device} {self.run.precision}")
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
    """Forecast in bytes. On the CPU (`num_gpus` 0) all memory is host memory.

    Attributes:
        transient_bytes: the largest encoder that is on the GPU only during the stage "prompt"; 0 if none is.
    """

    request: MemoryRequest
    weights: dict[str, int]  # weights that stay on a GPU, by part
    stages: dict[str, int]  # peak of each stage in addition to those weights
    host_bytes: int  # memory that the host needs
    transient_bytes: int = 0

    @property
    def weight_bytes(self) -> int:
        """Sum of the weights that stay on a GPU."""
        return sum(self.weights.values())

    @property
    def peak_stage(self) -> str:
        """Name of the stage with the highest peak."""
        return max(self.stages, key=lambda name: self.stages[name])

    @property
    def allocated_bytes(self) -> int:
        """Peak of allocated memory on a GPU, comparable with `torch.cuda.max_memory_allocated`."""
        return self.weight_bytes + self.stages[self.peak_stage] + WORKSPACE_BYTES

    @property
    def gpu_bytes(self) -> int:
        """Free memory that a GPU needs: allocations, the allocator's cache and the CUDA context."""
        cache = round(CACHE_SHARE * self.stages[self.peak_stage])
        return self.allocated_bytes + cache + CONTEXT_BYTES

    def resolve(self, gpu_bytes: int) -> "MemoryPlan":
        """Return the plan for GPUs with `gpu_bytes` free: encoders that do not fit run on the host."""
        # Encoders choose their device by the free memory when they are used, with the same reserve.
        available = gpu_bytes - self.weight_bytes - CONTEXT_BYTES - ENCODER_RESERVE_BYTES
        if not self.transient_bytes or self.transient_bytes <= available:
            return self
        return replace(
            self,
            stages={name: size for name, size in self.stages.items() if name != PROMPT_STAGE},
            host_bytes=self.host_bytes + self.transient_bytes,
            transient_bytes=0,
        )

    def fits(self, gpu_bytes: int, host_bytes: int) -> bool:
        """Return whether the plan fits the free memory of each GPU (unused on the CPU) and of the host."""
        return self.host_bytes <= host_bytes and (self.request.num_gpus == 0 or self.gpu_bytes <= gpu_bytes)


def plan_memory(request: MemoryRequest) -> MemoryPlan:
    """Forecast the memory of a request."""
    spec, placement = request.spec, request.placement
    parts = weight_bytes(spec, request.dtype, placement.weights)
    stages = dict(dry_run(spec, request.portrait, request.dtype, placement.weights))
    block = parts.pop("block")
    encoders = {name: parts.pop(name) for name in ENCODER_PARTS if name in parts}
    num_offloaded = len(placement.offloaded_blocks(spec.dit.num_layers))
    num_resident = spec.dit.num_layers - num_offloaded
    _add_constants(stages, request, num_resident - DRY_RUN_LAYERS)
    weights = {f"{num_resident} transformer blocks": num_resident * block, **parts}
    if request.num_gpus == 0:
        weights |= encoders
        needed = sum(weights.values()) + num_offloaded * block + max(stages.values())
        return MemoryPlan(request=request, weights=weights, stages=stages, host_bytes=needed + HOST_CPU_BYTES)
    if num_offloaded:
        weights["slots for offloaded blocks"] = min(NUM_SLOTS, num_offloaded) * block
    if placement.encoders == "resident":
        weights |= encoders
    transient = max(encoders.values(), default=0) if placement.encoders == "cpu-after-use" else 0
    on_host = sum(encoders.values()) if placement.encoders == "cpu" else 0
    return MemoryPlan(
        request=request,
        weights=weights,
        stages=_adapt_stages(request, stages, transient),
        host_bytes=HOST_BYTES + num_offloaded * pinned_bytes(block) + on_host,
        transient_bytes=transient,
    )


def first_fit(request: MemoryRequest, gpu_bytes: int, host_bytes: int) -> MemoryPlan | None:
    """Return the first setting that fits the free memory of each GPU and of the host, or None.

    Tries the requested setting, then settings without cost in speed or quality, then one-byte weights, then
    blocks in host memory, then smaller frames.
    """
    if _is_hopeless(request, gpu_bytes, host_bytes):
        return None
    for portrait in (request.portrait, *smaller_sizes(request.spec, request.portrait)):
        sized = replace(request, portrait=portrait)
        for placement in _frugal_placements(sized, gpu_bytes):
            plan = plan_memory(sized.with_placement(placement)).resolve(gpu_bytes)
            if plan.fits(gpu_bytes, host_bytes):
                return plan
    return None


def smaller_sizes(spec: ModelSpec, portrait: PortraitConfig) -> list[PortraitConfig]:
    """List smaller sizes of about the same shape, largest first: 85, 70, 60 and 50 % of the sides."""
    if not spec.any_size:
        return []
    multiple = spec.size_multiple
    # Rounded down, so that no size exceeds its share of the original.
    scaled = [
        PortraitConfig(
            height=int(portrait.height * percent / 100) // multiple * multiple,
            width=int(portrait.width * percent / 100) // multiple * multiple,
        )
        for percent in (85, 70, 60, 50)
    ]
    return [size for size in dict.fromkeys(scaled) if size.height and size.width and size != portrait]


def pinned_bytes(num_bytes: int) -> int:
    """Return the size of a pinned allocation: PyTorch's host allocator rounds up to a power of two."""
    return 1 << max(0, num_bytes - 1).bit_length()


def describe_size(portrait: PortraitConfig) -> str:
    """Return a size as HEIGHTxWIDTH, as on the command line."""
    return f"{portrait.height}x{portrait.width}"


def _add_constants(stages: dict[str, int], request: MemoryRequest, num_blocks: int) -> None:
    """Add the constants that `num_blocks` blocks outside the dry run keep for a stream and a chunk."""
    stream, chunk = constant_bytes(request.spec, request.portrait, request.dtype)
    for name in stages.keys() - {PROMPT_STAGE}:
        stages[name] += max(0, num_blocks) * (stream + chunk * (name == "transformer"))


def _adapt_stages(request: MemoryRequest, stages: dict[str, int], transient: int) -> dict[str, int]:
    """Adapt the stages of the dry run to the encoders' device and to the number of GPUs."""
    if transient:
        stages[PROMPT_STAGE] += transient
    elif request.placement.encoders != "resident":
        del stages[PROMPT_STAGE]
    if request.num_gpus > 1:
        stages["transformer"] = round(stages["transformer"] / request.num_gpus * SPLIT_OVERHEAD)
    return stages


def _is_hopeless(request: MemoryRequest, gpu_bytes: int, host_bytes: int) -> bool:
    """Return whether even the smallest storage of the weights does not fit, so that no search is needed."""
    form: WeightForm = "float8" if request.placement.weights == "full" else request.placement.weights
    parts = weight_bytes(request.spec, request.dtype, form)
    block = parts.pop("block")
    if request.num_gpus == 0:
        return request.spec.dit.num_layers * block + sum(parts.values()) > host_bytes
    least = sum(size for name, size in parts.items() if name not in ENCODER_PARTS)
    return least + NUM_SLOTS * block + CONTEXT_BYTES > gpu_bytes


def _frugal_placements(request: MemoryRequest, gpu_bytes: int) -> Iterator[PlacementConfig]:
    """Yield placements, the requested one first, each with less GPU memory than the one before."""
    asked = request.placement
    yield asked
    forms: tuple[WeightForm, ...] = ("full", "float8") if asked.weights == "full" else (asked.weights,)
    if request.num_gpus == 0:
        yield from (replace(asked, weights=form) for form in forms)
        return
    # Skip the search if the smallest placement does not fit.
    least = PlacementConfig(weights=forms[-1], resident_blocks=0)
    if plan_memory(request.with_placement(least)).resolve(gpu_bytes).gpu_bytes > gpu_bytes:
        return
    for form in forms:
        yield PlacementConfig(weights=form, resident_blocks=asked.resident_blocks)
    # One-byte weights come first, because more of their blocks fit.
    for form in reversed(forms):
        yield from _offloaded(request, form, gpu_bytes)


def _offloaded(request: MemoryRequest, form: WeightForm, gpu_bytes: int) -> Iterator[PlacementConfig]:
    """Yield the placement with the largest number of resident blocks that fits, if there is one."""
    bare = PlacementConfig(weights=form, encoders="cpu", resident_blocks=0)
    plan = plan_memory(request.with_placement(bare))
    block = plan.weights["slots for offloaded blocks"] // NUM_SLOTS
    spare = gpu_bytes - plan.gpu_bytes
    if spare >= 0:
        # With `NUM_SLOTS` offloaded blocks or fewer, the slots take as much memory as the blocks.
        most = request.spec.dit.num_layers - NUM_SLOTS - 1
        # Constants of the resident blocks need memory, too, so fewer blocks may fit than `spare // block`.
        for resident in range(max(0, min(most, spare // block)), -1, -1):
            placement = PlacementConfig(weights=form, resident_blocks=resident)
            if plan_memory(request.with_placement(placement)).resolve(gpu_bytes).gpu_bytes <= gpu_bytes:
                yield placement
                return
