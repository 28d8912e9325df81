"""Reader of the published networks' reference numbers; names, shapes, cases, tolerances are in the files."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

DEFAULT_DIR = Path(__file__).parents[3] / "shared" / "parity"


def parity_dir() -> Path:
    """Return the folder of reference numbers, from LIVETALK_PARITY_DIR or beside the repository."""
    return Path(os.environ.get("LIVETALK_PARITY_DIR", DEFAULT_DIR))


def require_file(name: str) -> Path:
    """Return the path of a reference file, or skip the test loudly."""
    path = parity_dir() / name
    if not path.is_file():
        pytest.skip(f"PARITY NOT CHECKED: {path} is absent; set LIVETALK_PARITY_DIR to the reference numbers")
    return path


def upcast(tensor: Tensor) -> Tensor:
    """Bring bfloat16 (storage only, exact) to float32."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


@dataclass(frozen=True)
class Reference:
    """One reference file."""

    name: str
    meta: dict[str, Any]

    @classmethod
    def load(cls, name: str) -> "Reference":
        """Read `NAME.json`, or skip the test loudly."""
        return cls(name, json.loads(require_file(f"{name}.json").read_text()))

    def weights(self) -> dict[str, Tensor]:
        """Read the published weights as float32."""
        return {k: upcast(v) for k, v in load_file(parity_dir() / self.meta["weights"]["file"]).items()}

    def case(self, case: str) -> dict[str, Tensor]:
        """Read the tensors of a case, bfloat16 upcast."""
        return {k: upcast(v) for k, v in load_file(parity_dir() / self.meta["cases"][case]["file"]).items()}

    def expected(self, case: str) -> set[str]:
        """Name every tensor of a case that has a tolerance and is not an input."""
        tensors = self.meta["cases"][case]["tensors"]
        return {k for k, v in tensors.items() if v.get("tolerance") and v["role"] != "input"}

    def check(self, case: str, got: dict[str, Tensor]) -> None:
        """Compare tensors with the reference, all of them before failing.

        Raises:
            AssertionError: a shape or a value is off; every such tensor is named with its error and limits.
        """
        reference = self.case(case)
        failures = []
        for key, tensor in got.items():
            failure = mismatch(tensor, reference[key], self.meta["cases"][case]["tensors"][key]["tolerance"])
            if failure is not None:
                failures.append(f"{self.name}/{case} {key}: {failure}")
        assert not failures, "\n".join(failures)


def mismatch(got: Tensor, reference: Tensor, tolerance: dict[str, float]) -> str | None:
    """Say how a tensor differs from its reference by more than the tolerance; None if it does not."""
    if got.shape != reference.shape:
        return f"shape {list(got.shape)} is not {list(reference.shape)}"
    got, reference = got.detach().double(), reference.double()
    # Equal infinities do not differ; anything else that is not finite fails below.
    difference = torch.where(got == reference, 0.0, got - reference)
    rel_l2 = (difference.norm() / reference.norm().clamp_min(1e-30)).item()
    max_abs = difference.abs().max().item()
    if rel_l2 <= tolerance["rel_l2"] and max_abs <= tolerance.get("max_abs", float("inf")):
        return None
    return f"rel_l2 {rel_l2:.2e}, max_abs {max_abs:.2e}, limits {tolerance}"
