"""The transformer against the published one: output and intermediates, float32 and bfloat16."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity_case import Reference
from parity_networks import load_dit
from torch import Tensor, nn

from livetalk.models import dit_blocks
from livetalk.models.dit import DiT
from livetalk.ops.rope import apply_rope

NAME = "dit_tiny"
MODULES = {
    "text_embedding": "text_projection",
    "img_emb": "image_projection",
    "audio_proj": "audio_projection",
    "head": "head",
}
BLOCK_MODULES = {
    "self_attn": "self_attention",
    "cross_attn": "context_attention",
    "audio_cross_attn": "audio_attention",
    "ffn": "ffn",
}


def locate(dit: DiT, key: str) -> nn.Module:
    """Find our module for a published intermediate such as `blocks.0.self_attn`."""
    parts = key.split(".")
    if parts[0] != "blocks":
        return dit.get_submodule(MODULES[key])
    path = ["blocks", "layers", parts[1], *(BLOCK_MODULES[part] for part in parts[2:])]
    return dit.get_submodule(".".join(path))


def record(
    got: dict[str, Tensor], key: str, shape: tuple[int, ...]
) -> Callable[[nn.Module, Any, Tensor], None]:
    """Return a hook that stores a module's output in the reference's shape."""

    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        got[key] = output.view(shape)

    return hook


def watch(dit: DiT, case: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Hook every intermediate of a case and return the dictionary that a forward will fill."""
    got: dict[str, Tensor] = {}
    rotated: list[Tensor] = []

    def keep_rope(x: Tensor, rope: Any) -> Tensor:
        rotated.append(apply_rope(x, rope))
        layer, which = divmod(len(rotated) - 1, 2)
        key = f"mid.blocks.{layer}.self_attn.{'qk'[which]}_rope"
        if key in case:
            got[key] = rotated[-1]
        return rotated[-1]

    def keep_patches(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if "mid.patch_embedding" in case:
            got["mid.patch_embedding"] = output.transpose(1, 2).reshape(case["mid.patch_embedding"].shape)

    def keep_time(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        outputs = {"mid.time_embedding": output[0], "mid.time_projection": output[1].flatten(1)}
        got.update({key: value for key, value in outputs.items() if key in case})

    monkeypatch.setattr(dit_blocks, "apply_rope", keep_rope)
    dit.patch_embedding.register_forward_hook(keep_patches)
    dit.time_embedding.register_forward_hook(keep_time)
    special = {"patch_embedding", "time_embedding", "time_projection"}
    for name, reference in case.items():
        key = name.removeprefix("mid.")
        if name.startswith("mid.") and key not in special and not key.endswith("_rope"):
            locate(dit, key).register_forward_hook(record(got, name, tuple(reference.shape)))
    return got


def run(dit: DiT, case: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """Call the transformer with the inputs of a case; latents, embeddings and audio in `dtype`."""
    with torch.no_grad():
        velocity: Tensor = dit(
            case["in.x"][None].to(dtype),
            case["in.t"],
            case["in.y"].to(dtype),
            case["in.audio"].to(dtype),
            case["in.context"][None].to(dtype),
            case["in.clip_fea"].to(dtype),
        )
    return velocity


def cases() -> list[str]:
    """Name the cases of the reference; one placeholder when it is absent, whose test skips."""
    try:
        return list(Reference.load(NAME).meta["cases"])
    except pytest.skip.Exception:
        return ["absent"]


@pytest.mark.parametrize("case_name", cases())
def test_parity_dit_float32(case_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference.load(NAME)
    case = reference.case(case_name)
    dit = load_dit(reference)
    got = watch(dit, case, monkeypatch)
    got["out"] = run(dit, case, torch.float32)
    assert set(got) == reference.expected(case_name) - {"out_bf16"}
    reference.check(case_name, got)


@pytest.mark.parametrize("case_name", cases())
def test_parity_dit_bfloat16(case_name: str) -> None:
    reference = Reference.load(NAME)
    if "out_bf16" not in reference.expected(case_name):
        pytest.skip(f"{NAME}/{case_name} has no bfloat16 output")
    dit = load_dit(reference).to(torch.bfloat16)
    reference.check(case_name, {"out_bf16": run(dit, reference.case(case_name), torch.bfloat16)})
