"""Sizes and report lines of `kernels.py`."""

# ruff: noqa: T201  a program that measures and prints

import importlib
import importlib.util
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from livetalk.accelerate.selection import select_fused, triton_problem
from livetalk.assembly.random_model import random_spec
from livetalk.bench.calls import time_call
from livetalk.models.dit import DiTConfig
from livetalk.ops.kernels.interface import FusedKernels
from livetalk.ops.kernels.reference import TorchKernels

WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Sizes:
    """Tensor sizes for timing.

    Attributes:
        config: of the transformer, of which one block is built.
        latents: frames, rows and columns of a window.
        pixels: (channels, frames, rows, columns) of each stage of the VAE decoder.
        image_tokens: tokens of the encoded portrait.
    """

    config: DiTConfig
    latents: tuple[int, int, int]
    pixels: tuple[tuple[int, int, int, int], ...]
    image_tokens: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frames, rows and columns of a window's tokens."""
        frames, rows, columns = self.latents
        return frames, rows // 2, columns // 2

    @property
    def tokens(self) -> int:
        """Number of tokens of a window."""
        frames, rows, columns = self.grid
        return frames * rows * columns


def sizes_of(name: str) -> Sizes:
    """Return the published sizes at 720x416, or tiny ones."""
    if name == "published":
        stages = ((384, 9, 52, 90), (384, 17, 104, 180), (192, 33, 208, 360), (96, 33, 416, 720))
        return Sizes(random_spec("flashtalk-14b").dit, (9, 52, 90), stages, 257)
    config = replace(random_spec("tiny").dit, dim=64, ffn_dim=128)
    return Sizes(config, (3, 8, 12), ((8, 3, 8, 12),), 5)


class Bench:
    """Times calls on one device and collects the results."""

    def __init__(self, device: torch.device, sizes: Sizes, repeats: int, *, compiled: bool) -> None:
        """Prepare timing on `device`; each result is the median of `repeats` calls."""
        self.device = device
        self.sizes = sizes
        self.repeats = repeats
        self.compiled = compiled
        self.dtype = torch.bfloat16
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self._rng = torch.Generator(device).manual_seed(0)

    @property
    def has_torchao(self) -> bool:
        """Whether torchao's FP8 products can be timed."""
        return self.device.type == "cuda" and importlib.util.find_spec("torchao") is not None

    def draw(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Draw normally distributed numbers."""
        noise = torch.randn(shape, generator=self._rng, device=self.device)
        return noise.to(dtype or self.dtype)

    def kernel_sets(self) -> list[FusedKernels]:
        """Return the plain twins, and the Triton kernels if they can run."""
        found: list[FusedKernels] = [TorchKernels()]
        if triton_problem(self.device) is None:
            found.append(select_fused("triton", self.device))
        return found

    def add(self, section: str, name: str, form: str, call: Callable[[], object], **facts: float) -> None:
        """Time a call and print one line; a failing call is reported, and timing continues.

        Args:
            section: of the report.
            name: of the operation.
            form: implementation of the operation.
            call: runs it.
            facts: `flop` and `bytes` of the call are reported as TFLOP/s and GB/s, others unchanged.
        """
        row: dict[str, Any] = {"name": name, "form": form}
        self.rows.setdefault(section, []).append(row)
        try:
            ms = time_call(call, self.device, repeats=self.repeats, warm_up=min(WARM_UP, self.repeats))
        except RuntimeError as error:
            row["failed"] = str(error).splitlines()[0][:160]
            print(f"{name:40}{form:24}failed: {row['failed']}")
            return
        row["ms"] = round(ms, 4)
        if "flop" in facts:
            row["tflops"] = round(facts.pop("flop") / ms / 1e9, 1)
        if "bytes" in facts:
            row["gb_per_s"] = round(facts.pop("bytes") / ms / 1e6, 1)
        row |= {key: float(f"{value:.3g}") for key, value in facts.items()}
        rest = "  ".join(f"{key} {value}" for key, value in list(row.items())[3:])
        print(f"{name:40}{form:24}{ms:9.3f} ms  {rest}")


def relative(a: Tensor, b: Tensor) -> float:
    """Return the norm of the difference divided by the norm of the second tensor."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def quantize_with_torchao(network: nn.Module, names: Collection[str]) -> None:
    """Replace linear layers by torchao's FP8, with scales per row and per channel as in our product."""
    torchao = importlib.import_module("torchao.quantization")
    config = torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow())
    torchao.quantize_(network, config, filter_fn=lambda _module, name: name in names)
