"""Published files give exactly their weights, whatever their format; what does not fit is named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from livetalk.checkpoints.layouts import PublishedFiles, find_published
from livetalk.checkpoints.published import (
    PART_NAMES,
    PartName,
    load_part,
    open_audio_encoder,
    open_dit,
    open_image_encoder,
)
from livetalk.checkpoints.tensor_files import index_tensors, read_tensors
from livetalk.errors import WeightsError
from synthetic_checkpoint import SyntheticCheckpoint, make_synthetic_checkpoint

CPU = torch.device("cpu")
FIRST_SHARD = "diffusion_pytorch_model-00001-of-00002.safetensors"
SECOND_SHARD = "diffusion_pytorch_model-00002-of-00002.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def tensors_of(files: PublishedFiles, part: PartName) -> dict[str, Tensor]:
    """Read all tensors of a part as published."""
    overlays = files.dit_overlays if part == "dit" else ()
    entries = index_tensors(getattr(files, part), *overlays).entries
    return {name: tensor.clone() for name, tensor in read_tensors(entries)}


def load_dit(model_dir: Path) -> torch.nn.Module:
    """Load the transformer of a folder."""
    return load_part("dit", find_published(model_dir), device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("part", PART_NAMES)
@pytest.mark.parametrize("layout", ["pristine", "pristine_infinitetalk"])
def test_every_weight_is_the_published_one(
    part: PartName, layout: str, request: pytest.FixtureRequest
) -> None:
    made: SyntheticCheckpoint = request.getfixturevalue(layout)
    files = find_published(made.model_dir)
    network = load_part(part, files, device=CPU, dtype=torch.float32)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    # Sums tell weights apart without naming them; names are proven by the parity of the outputs.
    published = sorted(tensor.double().sum().item() for tensor in tensors_of(files, part).values())
    loaded = sorted(tensor.double().sum().item() for tensor in network.state_dict().values())
    assert set(loaded) <= set(published)
    if part in ("dit", "vae", "text_encoder"):
        assert loaded == published


def test_the_transformer_has_its_weights_under_the_right_names(pristine: SyntheticCheckpoint) -> None:
    files = find_published(pristine.model_dir)
    dit = open_dit(files).load(device=CPU, dtype=torch.float32)
    published = tensors_of(files, "dit")
    layer = dit.blocks.layers[1]
    for ours, name in (
        (dit.patch_embedding.weight, "patch_embedding.weight"),
        (dit.head.modulation, "head.modulation"),
        (layer.get_parameter("self_attention.q.weight"), "blocks.1.self_attn.q.weight"),
        (layer.get_parameter("audio_attention.kv.bias"), "blocks.1.audio_cross_attn.kv_linear.bias"),
    ):
        assert torch.equal(ours.flatten(), published[name].float().flatten())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_arrive_in_the_wanted_precision(pristine: SyntheticCheckpoint, dtype: torch.dtype) -> None:
    files = find_published(pristine.model_dir)
    for part in PART_NAMES:
        network = load_part(part, files, device=CPU, dtype=dtype)
        assert {tensor.dtype for tensor in network.state_dict().values()} == {dtype}


def test_both_formats_of_the_speech_encoder_are_the_same_network(
    pristine: SyntheticCheckpoint, tmp_path: Path
) -> None:
    older = make_synthetic_checkpoint(tmp_path, speech_format="bin")
    assert not (older.wav2vec_dir / "model.safetensors").exists()
    networks = [
        open_audio_encoder(find_published(made.model_dir)).load(device=CPU, dtype=torch.float32)
        for made in (pristine, older)
    ]
    first, second = (network.state_dict() for network in networks)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_infinitetalks_weights_replace_those_of_the_base(
    pristine_infinitetalk: SyntheticCheckpoint, tmp_path: Path
) -> None:
    assert pristine_infinitetalk.infinitetalk is not None
    audio = load_file(pristine_infinitetalk.infinitetalk)
    changed = tmp_path / "mine.safetensors"
    save_file(audio | {"head.head.bias": torch.full((64,), 7.0)}, changed)
    files = find_published(pristine_infinitetalk.model_dir, infinitetalk=changed)
    dit = open_dit(files).load(device=CPU, dtype=torch.float32)
    assert torch.equal(dit.get_parameter("head.linear.bias"), torch.full((64,), 7.0))


def test_the_network_does_not_depend_on_the_files_any_more(model_dir: Path) -> None:
    dit = open_dit(find_published(model_dir)).load(device=CPU, dtype=torch.bfloat16)
    before = {key: tensor.clone() for key, tensor in dit.state_dict().items()}
    for name in (FIRST_SHARD, SECOND_SHARD):
        size = (model_dir / name).stat().st_size
        with (model_dir / name).open("r+b") as shard:
            shard.write(b"\xff" * size)
    assert all(torch.equal(tensor, before[key]) for key, tensor in dit.state_dict().items())


def edit_shard(model_dir: Path, name: str, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change the tensors of a shard, and the index with them."""
    state = load_file(model_dir / name)
    change(state)
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, model_dir / name)
    index = json.loads((model_dir / INDEX).read_text())
    weight_map = {key: file for key, file in index["weight_map"].items() if file != name}
    index["weight_map"] = weight_map | dict.fromkeys(state, name)
    (model_dir / INDEX).write_text(json.dumps(index))


def test_a_renamed_key_is_missing_and_unexpected(model_dir: Path) -> None:
    def rename(state: dict[str, Tensor]) -> None:
        state["head.head.wait"] = state.pop("head.head.bias")

    edit_shard(model_dir, SECOND_SHARD, rename)
    with pytest.raises(WeightsError) as caught:
        load_dit(model_dir)
    message = str(caught.value)
    assert f"{INDEX}: lacks head.head.bias" in message
    assert f"{SECOND_SHARD} holds unexpected head.head.wait" in message
    assert "\n" not in message


def test_many_missing_keys_are_counted(model_dir: Path) -> None:
    def clear(state: dict[str, Tensor]) -> None:
        for key in [key for key in state if ".ffn." in key or ".self_attn." in key]:
            if key != "blocks.0.ffn.0.weight":
                del state[key]

    for shard in (FIRST_SHARD, SECOND_SHARD):
        edit_shard(model_dir, shard, clear)
    with pytest.raises(WeightsError, match=r"lacks blocks\.0\..* and 22 more"):
        load_dit(model_dir)


def test_a_misshapen_weight_is_named_with_its_file(model_dir: Path) -> None:
    def cut(state: dict[str, Tensor]) -> None:
        state["head.head.bias"] = state["head.head.bias"][:3]

    edit_shard(model_dir, SECOND_SHARD, cut)
    with pytest.raises(WeightsError, match=rf"{SECOND_SHARD}: .*head\.head\.bias \[3\] instead of \[64\]"):
        load_dit(model_dir)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "image_encoder"])
def test_keys_of_the_other_files_are_checked_too(model_dir: Path, part: PartName) -> None:
    files = find_published(model_dir)
    path: Path = getattr(files, part)
    state = torch.load(path, weights_only=True)
    gone = {
        "vae": "decoder.conv1.bias",
        "text_encoder": "norm.weight",
        "image_encoder": "visual.pre_norm.bias",
    }[part]
    del state[gone]
    torch.save(state | {"surplus": torch.zeros(1)}, path)
    with pytest.raises(WeightsError) as caught:
        load_part(part, files, device=CPU, dtype=torch.float32)
    assert f"weights {path}: lacks {gone}" in str(caught.value)
    assert f"{path.name} holds unexpected surplus" in str(caught.value)


@pytest.mark.parametrize("part", PART_NAMES)
def test_a_truncated_file_gives_one_line(model_dir: Path, part: PartName) -> None:
    files = find_published(model_dir)
    path = model_dir / SECOND_SHARD if part == "dit" else getattr(files, part)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="truncated, damaged") as caught:
        load_part(part, files, device=CPU, dtype=torch.float32)
    assert str(path) in str(caught.value)


def test_the_last_block_of_the_image_encoder_is_left_alone(model_dir: Path) -> None:
    files = find_published(model_dir)
    expected = open_image_encoder(files).load(device=CPU, dtype=torch.float16).state_dict()
    state = torch.load(files.image_encoder, weights_only=True)
    for key in state:
        if key.startswith(("visual.transformer.2.", "visual.post_norm", "textual.", "visual.head")):
            state[key] = torch.full_like(state[key], float("nan"))
    torch.save(state, files.image_encoder)
    changed = open_image_encoder(files).load(device=CPU, dtype=torch.float16).state_dict()
    assert all(torch.equal(expected[key], changed[key]) for key in expected)


def test_progress_counts_every_byte_once(pristine: SyntheticCheckpoint) -> None:
    files = find_published(pristine.model_dir)
    calls: list[tuple[int, int]] = []
    network = open_dit(files).load(
        device=CPU, dtype=torch.float32, progress=lambda done, total: calls.append((done, total))
    )
    num_bytes = sum(2 * tensor.numel() for tensor in network.state_dict().values())
    assert calls[-1] == (num_bytes, num_bytes)
    assert {total for _, total in calls} == {num_bytes}
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})


def test_a_model_in_one_file_is_loaded_too(model_dir: Path) -> None:
    expected = load_dit(model_dir).state_dict()
    state = load_file(model_dir / FIRST_SHARD) | load_file(model_dir / SECOND_SHARD)
    for name in (FIRST_SHARD, SECOND_SHARD, INDEX):
        (model_dir / name).unlink()
    save_file(state, model_dir / "diffusion_pytorch_model.safetensors")
    loaded = load_dit(model_dir).state_dict()
    assert all(torch.equal(expected[key], loaded[key]) for key in expected)
