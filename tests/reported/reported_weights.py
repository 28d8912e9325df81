"""What weights say is looked at, and nothing is concluded from names that are missing."""

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from process_inputs import names, tiny_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from livetalk.assembly.build import build_model
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.checkpoints.adapters import OwnKeys
from livetalk.checkpoints.layouts import find_published
from livetalk.checkpoints.manifest import describe_file, read_manifest, write_manifest
from livetalk.checkpoints.published import load_part
from livetalk.checkpoints.streaming_load import fill_network
from livetalk.checkpoints.tensor_files import index_tensors
from livetalk.cli.main import main
from livetalk.errors import WeightsError
from livetalk.ops.low_precision import quantize_channels
from reported import Case
from synthetic_checkpoint import make_synthetic_checkpoint

CPU = torch.device("cpu")


@functools.cache
def _published() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="published-"))
    make_synthetic_checkpoint(folder)
    return folder


def _copy_of_published(folder: Path) -> Path:
    shutil.copytree(_published(), folder / "models")
    return folder / "models" / "SoulX-FlashTalk-14B"


def _rewrite(path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(change(load_file(path)), path)


def _load_linear(folder: Path, tensors: dict[str, Tensor], dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a linear layer of 4 x 4 from a file with these tensors."""
    save_file(tensors, folder / "net.safetensors")
    with torch.device("meta"):
        network = nn.Linear(4, 4, bias=False)
    index = index_tensors(folder / "net.safetensors")
    return fill_network(network, OwnKeys(()), index, device=CPU, dtype=dtype)


def _strange(name: str, dtype: torch.dtype, message: str, **tensors: Tensor) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(WeightsError, match=message) as caught:
            _load_linear(folder, tensors, dtype)
        assert "\n" not in str(caught.value) and "net.safetensors" in str(caught.value)

    return Case("weights", name, check)


def _with(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
    weight = torch.eye(4)
    weight[2, 1] = value
    return weight.to(dtype)


def _stored_bytes(byte_format: str, **changes: Tensor) -> dict[str, Tensor]:
    levels, scale = quantize_channels(torch.eye(4), "int8" if byte_format == "int8" else "float8")
    return {"weight": levels, "weight_scale": scale, **changes}


def _one_scale_for_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = _stored_bytes("int8", weight_scale=torch.tensor(1.0 / 127))
    network = _load_linear(folder, tensors)
    torch.testing.assert_close(network.get_parameter("weight").detach(), torch.eye(4))


def _refused_export(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _copy_of_published(folder)
    shard = sorted(model.glob("diffusion_pytorch_model-*.safetensors"))[0]

    def spoil(state: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(name for name, tensor in state.items() if tensor.ndim == 2)
        state[name][0, 0] = torch.nan
        return state

    _rewrite(shard, spoil)
    assert main(["export", str(model), str(folder / "mine")]) == 2
    assert names(folder) == ["models"]


def _own_format(part: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = folder / "tiny"
        shutil.copytree(tiny_checkpoint(), model)

        def spoil(state: dict[str, Tensor]) -> dict[str, Tensor]:
            tensor = next(tensor for tensor in state.values() if tensor.is_floating_point())
            tensor.view(-1)[-1] = torch.inf
            return state

        path = model / f"{part}.safetensors"
        _rewrite(path, spoil)
        manifest = read_manifest(model)
        write_manifest(model, _replace_record(manifest, path))
        with pytest.raises(WeightsError, match=rf"{part}\.safetensors: .* holds NaN or infinite"):
            build_model(ModelSource(model=model), RunConfig(device="cpu"))

    return Case("weights", f"infinity in the {part} of our own format", check)


def _replace_record(manifest: object, path: Path) -> object:
    files = {**manifest.files, path.name: describe_file(path)}  # type: ignore[attr-defined]
    return type(manifest)(name="x", version="1", configs=manifest.configs, files=files)  # type: ignore


def _prefixed(prefix: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = _copy_of_published(folder)
        expected = load_part("dit", find_published(model), device=CPU, dtype=torch.float32).state_dict()
        index = model / "diffusion_pytorch_model.safetensors.index.json"
        for shard in model.glob("diffusion_pytorch_model-*.safetensors"):
            for name in load_file(shard):
                index.write_text(index.read_text().replace(f'"{name}":', f'"{prefix}{name}":'))
            _rewrite(shard, lambda state: {prefix + name: tensor for name, tensor in state.items()})
        found = load_part("dit", find_published(model), device=CPU, dtype=torch.float32).state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    return Case("absence", f"all keys begin with {prefix}", check)


def _foreign_keys(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _copy_of_published(folder)
    for path in model.glob("diffusion_pytorch_model*"):
        path.unlink()
    save_file({"unknown.layer.weight": torch.eye(4)}, model / "diffusion_pytorch_model.safetensors")
    with pytest.raises(WeightsError, match=r"its keys are like unknown\.layer\.weight") as caught:
        find_published(model)
    assert "no audio weights" not in str(caught.value)


def _shards_without_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _copy_of_published(folder)
    (model / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(WeightsError, match=r"2 shards of the transformer are there, but"):
        find_published(model)


def _nested(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"step": 7, "state_dict": {"module.a": torch.eye(2)}}, folder / "model.pth")
    assert list(index_tensors(folder / "model.pth").entries) == ["a"]


def _wrong_suffix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.eye(2)}, folder / "model.safetensors")
    save_file({"b": torch.eye(2)}, folder / "model.pth")
    assert [list(index_tensors(path).entries) for path in sorted(folder.iterdir())] == [["b"], ["a"]]


def _other_file(content: bytes, message: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("model.safetensors", "model.pth"):
            (folder / name).write_bytes(content)
            with pytest.raises(WeightsError, match=message) as caught:
                index_tensors(folder / name)
            assert "damaged" not in str(caught.value) and "\n" not in str(caught.value)

    return Case("absence", f"a file of weights that {message}", check)


def _truncated(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "model.safetensors"
    save_file({"a": torch.zeros(64, 64)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="the last 100 bytes are missing"):
        index_tensors(path)


def _pointer_in_a_clone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = folder / "tiny"
    shutil.copytree(tiny_checkpoint(), model)
    (model / "vae.safetensors").write_bytes(_POINTER)
    with pytest.raises(WeightsError, match=r"vae\.safetensors: is a pointer of git-LFS"):
        build_model(ModelSource(model=model), RunConfig(device="cpu"))


_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"

CASES = (
    _strange("NaN in one matrix", torch.float32, "weight or its scale holds NaN", weight=_with(torch.nan)),
    _strange("infinity", torch.bfloat16, "holds NaN or infinite", weight=_with(torch.inf)),
    _strange("NaN in FP8", torch.float32, "holds NaN", weight=_with(torch.nan, torch.float8_e4m3fn)),
    _strange("too large for the type", torch.float16, "in float16", weight=_with(1e6)),
    _strange(
        "NaN in a scale of int8",
        torch.float32,
        "scale holds NaN",
        **_stored_bytes("int8", weight_scale=torch.full((4, 1), torch.nan)),
    ),
    _strange(
        "infinity in a scale of FP8",
        torch.float32,
        "scale holds NaN",
        **_stored_bytes("float8", weight_scale=torch.full((4, 1), torch.inf)),
    ),
    _strange(
        "three scales for four rows",
        torch.float32,
        "weight_scale must be 4 or one floating-point number",
        **_stored_bytes("int8", weight_scale=torch.ones(3, 1)),
    ),
    _strange(
        "int8 without a scale",
        torch.float32,
        "int8 without a scale",
        weight=torch.ones(4, 4, dtype=torch.int8),
    ),
    Case("weights", "one scale for a whole matrix", _one_scale_for_all),
    Case("weights", "export of a model with NaN", _refused_export),
    _own_format("dit"),
    _own_format("vae"),
    _prefixed("diffusion_model."),
    _prefixed("model.diffusion_model."),
    _prefixed("module._orig_mod."),
    Case("absence", "keys of another program", _foreign_keys),
    Case("absence", "shards without their index", _shards_without_index),
    Case("absence", "weights within a training checkpoint", _nested),
    Case("absence", "the suffix of the other format", _wrong_suffix),
    Case("absence", "a download that lacks its end", _truncated),
    Case("absence", "a clone without git-LFS", _pointer_in_a_clone),
    _other_file(_POINTER, "is a pointer of git-LFS"),
    _other_file(b"<!DOCTYPE html><html>404</html>", "is a web page"),
    _other_file(b'{"error": "Repository not found"}', "is text in JSON"),
    _other_file(b"GGUF\x03\0\0\0" + bytes(100), "is a GGUF file"),
    _other_file(bytes(5000), "begins with zeros only"),
    _other_file(b"\x1f\x8b\x08" + bytes(50), "is a gzip archive"),
)
