"""`RunConfig`, how a model runs: shared by the Python API and all commands.

The command-line options for it are in `livetalk.assembly.run_options`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from livetalk.accelerate.apply import AUTO, AccelerationConfig
from livetalk.device import PRECISIONS, Precision, parse_device
from livetalk.errors import InputError
from livetalk.ops.backends import ATTENTION_KERNELS
from livetalk.placement.apply import WEIGHT_FORMS, PlacementConfig

MAX_THREADS = 1024  # OpenMP ends the process where it cannot start a thread
MAX_PROCESSES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How a model runs, independent of which model it is."""

    device: str = AUTO  # "auto" prefers a GPU; otherwise a device of `torch.device`, such as "cuda:1"
    # Of the transformer and the VAE; "auto" is bfloat16 where the device computes it natively, else float32.
    precision: Precision = "auto"
    threads: int | None = None  # CPU threads of each process; None leaves PyTorch's choice
    gpus: int = 1  # GPUs that share a stream, one process each; with device "cpu", the number of processes
    compile: bool = False  # compile the blocks: the first chunk takes minutes, later ones are faster
    compile_cache: Path | None = None  # folder for compiled code; None for that of `compile_transformer`
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    acceleration: AccelerationConfig = field(default_factory=AccelerationConfig)

    def __post_init__(self) -> None:
        # `build_model` checks what depends on the machine.
        parse_device(self.device)
        if self.precision not in PRECISIONS:
            raise InputError(f"precision {self.precision}: is not one of {', '.join(PRECISIONS)}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads {self.threads}: at least 1 is needed")
        if self.threads is not None and self.threads > MAX_THREADS:
            raise InputError(f"threads {self.threads}: at most {MAX_THREADS}")
        if self.gpus > MAX_PROCESSES:
            raise InputError(f"gpus {self.gpus}: at most {MAX_PROCESSES} processes share a stream")
        if self.gpus < 1:
            raise InputError(f"gpus {self.gpus}: at least 1 is needed")
        if self.acceleration.fused and self.placement.resident_blocks is not None:
            raise InputError("fast and float8: need all blocks on the device; leave resident-blocks out")
        # An FP8 product multiplies float8 bytes, which int8 storage does not have.
        if self.acceleration.float8 and self.placement.weights == "int8":
            raise InputError("float8: multiplies weights that are full or stored as float8, not as int8")


_OFFLOAD = re.compile(r"offload(\d*)")
_ATTENTION = {name.replace("-", ""): name for name in ATTENTION_KERNELS}
_MEANINGS: Mapping[str, tuple[str, Any]] = {
    "eager": ("compile", False),
    "compile": ("compile", True),
    **{word: ("weights", word) for word in WEIGHT_FORMS},
    "float32": ("precision", "float32"),
    "bfloat16": ("precision", "bfloat16"),
    "plain": ("form", {}),
    "fast": ("form", {"fast": True}),
    "fp8": ("form", {"float8": True}),
    **{word: ("attention", name) for word, name in _ATTENTION.items()},
}
_WORDS = (
    "eager or compile, full, float8 or int8 (weights), plain, fast or fp8 (fast forms), offload or offloadN "
    f"(N blocks stay), float32 or bfloat16, or an attention kernel: {', '.join(_ATTENTION)}"
)


def parse_run(words: str, base: RunConfig | None = None) -> RunConfig:
    """Parse a configuration from words joined by hyphens, such as "fp8-fa3fp8-bfloat16".

    The words are those of `_WORDS`, in any order, one of each kind; `base` gives all other options.
    `InputError` if a word is unknown, its kind is given twice, or two words exclude each other.
    """
    found: dict[str, Any] = {}
    for word in words.split("-"):
        offload = _OFFLOAD.fullmatch(word)
        meaning = ("resident_blocks", int(offload[1] or 0)) if offload else _MEANINGS.get(word)
        if meaning is None or meaning[0] in found:
            raise InputError(
                f"configuration {words}: {word or 'an empty word'} does not fit there; use {_WORDS}"
            )
        found[meaning[0]] = meaning[1]
    base = base or RunConfig()
    form = {"fast": False, "float8": False} | found.pop("form") if "form" in found else {}
    placed = {name: found.pop(name) for name in ("weights", "resident_blocks") if name in found}
    fast = form | ({"attention": found.pop("attention")} if "attention" in found else {})
    return replace(
        base,
        placement=replace(base.placement, **placed),
        acceleration=replace(base.acceleration, **fast),
        **found,
    )
