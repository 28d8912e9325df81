"""A checkpoint becomes a model on the wanted device in the wanted precision, or one plain line."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from livetalk.accelerate.apply import Acceleration, AccelerationConfig
from livetalk.accelerate.fused_color import match_color_fused
from livetalk.assembly import build
from livetalk.assembly.build import accelerate_model, build_model, find_checkpoint, read_spec
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.native import save_model
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.device import choose_device, choose_dtype
from livetalk.errors import InputError, WeightsError
from livetalk.models.dit import DiT
from livetalk.streaming.chunk import create_state, generate_chunk
from livetalk.streaming.color import match_color
from livetalk.streaming.conditioning import prepare_stream
from tiny import randomize
from tiny_checkpoint import SIZE, save_tiny_checkpoint, tiny_spec
from tolerance import assert_same_network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_a_model_is_what_was_saved(checkpoint: Path, precision: str, dtype: torch.dtype) -> None:
    run = RunConfig(device="cpu", precision=precision)  # type: ignore[arg-type]
    model = build_model(ModelSource(model=checkpoint), run)
    spec = tiny_spec()
    assert model.spec == spec == read_spec(ModelSource(model=checkpoint))
    assert (model.name, model.version, model.precision) == ("tiny", "test", precision)
    assert model.executor.networks.dit.config == spec.dit
    assert model.executor.networks.vae.config == spec.vae
    for network in (model.executor.networks.dit, model.executor.networks.vae):
        assert {parameter.dtype for parameter in network.parameters()} == {dtype}
        assert not any(parameter.requires_grad for parameter in network.parameters())


def first_frames(model: AvatarModel) -> Tensor:
    run = model.executor, model.settings
    # A picture of one colour would give its colours to the frames, whatever the networks say.
    picture = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prepared = prepare_stream(*run, picture)
    audio = torch.sin(torch.arange(17_920) / 20)
    chunk, _ = generate_chunk(*run, prepared, audio, create_state(*run, prepared, 0))
    return chunk.pixels


def test_compiling_changes_no_result(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tracing alone: generating machine code takes minutes and is PyTorch's affair.
    monkeypatch.setattr(DiT, "compile", lambda dit: nn.Module.compile(dit, backend="eager", fullgraph=True))
    plain, ready = (
        build_model(ModelSource(model=checkpoint), RunConfig(device="cpu", precision="float32", compile=fast))
        for fast in (False, True)
    )
    for model in (plain, ready):
        randomize(model.executor.networks.dit)  # New weights would predict zero.
    assert_same_network(first_frames(ready), lambda: first_frames(plain), plain.executor.networks.dit)


def test_colours_are_matched_on_the_kernels_that_the_rest_runs_on(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(ModelSource(model=checkpoint), RunConfig(device="cpu", precision="float32"))
    assert model.executor.match_color is match_color
    found = Acceleration(attention="flash", float8_layers=0, kernels="triton", match_color=match_color_fused)
    monkeypatch.setattr(build, "accelerate", lambda *networks, **options: found)
    executor = accelerate_model(model, AccelerationConfig(fast=True)).executor
    assert executor.match_color is match_color_fused


def test_damage_is_found_before_anything_runs(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "tiny")
    path = folder / "vae.safetensors"
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(WeightsError, match=r"vae\.safetensors: damaged, sha256 is [0-9a-f]{64} .* should be"):
        build_model(ModelSource(model=folder))


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no such folder, nor a shipped model \(embedded\)"):
        find_checkpoint("no-such-model")


def test_saving_needs_the_speech_encoder(checkpoint: Path, tmp_path: Path) -> None:
    model = build_model(ModelSource(model=checkpoint), RunConfig(device="cpu", precision="float32"))
    with pytest.raises(WeightsError, match=r"speech_encoder\.safetensors: no such file"):
        save_model(
            tmp_path,
            spec=tiny_spec(),
            version="1",
            dit=model.executor.networks.dit,
            vae=model.executor.networks.vae,
        )


def test_devices_are_checked() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="is not a device"):
        choose_device("toaster")
    with pytest.raises(InputError, match="CUDA devices"):
        choose_device("cuda:99")


def test_automatic_precision_is_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for capabilities, expected in [({}, torch.float32), ({"avx512_bf16": True}, torch.bfloat16)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        assert choose_dtype("auto", torch.device("cpu")) is expected
    assert choose_dtype("float32", torch.device("cpu")) is torch.float32
