"""What to measure, and the command line that asks for it."""

from dataclasses import dataclass
from pathlib import Path

from livetalk.bench.record import require_commit
from livetalk.device import Precision
from livetalk.errors import InputError
from livetalk.ops.kernels.selection import KernelChoice
from livetalk.placement.apply import WeightForm

DEFAULT_CHUNKS = 20
DEFAULT_WARM_UP = 3
"""The first chunk of a stream has fewer motion latents than the others; each shape runs at least once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """One measurement.

    Attributes:
        model: a shipped model or a checkpoint folder; not used with `random_weights`.
        random_weights: the graph of a model without its weights.
        wav2vec_dir: speech encoder of a published model.
        gpus: GPUs that share a stream; with device "cpu" processes.
        device: "auto", "cpu", "cuda" or "cuda:1".
        size: of the picture, or None for the model's own.
        precision: of the networks.
        weights: form of the transformer's weights.
        attention: kernel of the self-attention, "auto" for PyTorch's choice.
        steps: denoising steps, or None for the model's own.
        latents_per_decode: latent frames that are decoded together, or None for the model's own choice.
        fast: put the fast forms in place that change numbers by rounding only, see `AccelerationConfig`.
        kernels: of the elementwise work of the fast forms.
        float8: multiply the transformer's blocks in FP8; brings the other fast forms with it.
        graphs: replay the blocks of the fast forms from CUDA graphs, where several GPUs share the work.
        compile: compile the transformer.
        compile_cache: folder that compiled code is kept in, or None for the usual one.
        resident_blocks: transformer blocks that stay on the device, or None for all.
        chunks: that are measured.
        warm_up: chunks before them.
        threads: CPU threads of a process, or None for PyTorch's choice.
        commit: of the source, where it cannot be asked from its repository.
    """

    model: str = "embedded"
    random_weights: str | None = None
    wav2vec_dir: Path | None = None
    gpus: int = 1
    device: str = "auto"
    size: str | None = None
    precision: Precision = "auto"
    weights: WeightForm = "full"
    attention: str = "auto"
    steps: int | None = None
    latents_per_decode: int | None = None
    fast: bool = False
    kernels: KernelChoice = "auto"
    float8: bool = False
    graphs: bool = True
    compile: bool = False
    compile_cache: Path | None = None
    resident_blocks: int | None = None
    chunks: int = DEFAULT_CHUNKS
    warm_up: int = DEFAULT_WARM_UP
    threads: int | None = None
    commit: str | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        least = {"gpus": 1, "chunks": 2, "warm_up": 2}
        for name, number in least.items():
            if (value := getattr(self, name)) < number:
                raise InputError(f"{name.replace('_', '-')} {value}: at least {number} is needed")
        if self.commit is not None:
            require_commit(self.commit)
        if self.float8 and self.weights != "full":
            raise InputError(f"float8: multiplies full weights, not those stored as {self.weights}")
        if self.accelerated and self.resident_blocks is not None:
            raise InputError("fast and float8: need all blocks on the device; leave resident-blocks out")
        if self.kernels != "auto" and not self.accelerated:
            raise InputError(f"kernels {self.kernels}: are part of the fast forms; ask for --fast, too")

    @property
    def accelerated(self) -> bool:
        """The fast forms are put in place."""
        return self.fast or self.float8

    def to_arguments(self) -> list[str]:
        """Return the arguments of `livetalk bench` that ask for this, defaults left out."""
        arguments = []
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value == self.__dataclass_fields__[name].default:
                continue
            option = name.replace("_", "-")
            arguments.append(f"--no-{option}" if value is False else f"--{option}")
            if not isinstance(value, bool):
                arguments.append(str(value))
        return arguments
