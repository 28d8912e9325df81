"""What was loaded from published files is written back to the last bit, under the same names."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from livetalk.assembly.published import read_published_spec
from livetalk.checkpoints.export_published import export_published, published_adapter
from livetalk.checkpoints.layouts import PublishedFiles, find_published
from livetalk.checkpoints.published import PART_NAMES, PartName, load_part
from livetalk.checkpoints.tensor_files import index_tensors, read_tensors
from livetalk.errors import WeightsError
from livetalk.placement.linear import quantize_linears
from synthetic_checkpoint import SyntheticCheckpoint

CPU = torch.device("cpu")
DTYPES: dict[PartName, torch.dtype] = {
    "dit": torch.bfloat16,
    "vae": torch.float32,
    "text_encoder": torch.bfloat16,
    "image_encoder": torch.float16,
    "audio_encoder": torch.float32,
}


def tensors_of(files: PublishedFiles, part: PartName) -> dict[str, Tensor]:
    """Read all tensors of a part, under the names that they have in the files."""
    overlays = files.dit_overlays if part == "dit" else ()
    entries = index_tensors(getattr(files, part), *overlays).entries
    return {name: tensor.clone() for name, tensor in read_tensors(entries)}


def same_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Tell whether two sets of tensors are equal to the last bit."""
    return first.keys() == second.keys() and all(
        tensor.dtype == second[key].dtype
        and tensor.shape == second[key].shape
        and torch.equal(tensor.reshape(-1).view(torch.uint8), second[key].reshape(-1).view(torch.uint8))
        for key, tensor in first.items()
    )


def test_a_round_trip_gives_the_same_files(pristine: SyntheticCheckpoint, tmp_path: Path) -> None:
    original = find_published(pristine.model_dir)
    networks = {part: load_part(part, original, device=CPU, dtype=DTYPES[part]) for part in PART_NAMES}
    written = export_published(tmp_path, networks, source=original, max_shard_bytes=3 << 20)
    assert written == tmp_path / "SoulX-FlashTalk-14B"
    assert len(list(written.glob("diffusion_pytorch_model-0000?-of-00002.safetensors"))) == 2
    copy = find_published(written)
    assert read_published_spec(copy) == read_published_spec(original)
    for part in PART_NAMES:
        assert same_bits(tensors_of(original, part), tensors_of(copy, part)), part
    names = {path.relative_to(pristine.model_dir) for path in pristine.model_dir.rglob("*")}
    assert {path.relative_to(written) for path in written.rglob("*")} == names


def test_parts_that_are_not_given_are_copied(
    pristine_infinitetalk: SyntheticCheckpoint, tmp_path: Path
) -> None:
    original = find_published(pristine_infinitetalk.model_dir)
    copy = find_published(export_published(tmp_path, {}, source=original))
    # What was laid over the transformer is part of it now.
    assert copy.dit_overlays == ()
    for part in PART_NAMES:
        assert same_bits(tensors_of(original, part), tensors_of(copy, part)), part


def test_a_changed_network_is_written_with_its_changes(pristine: SyntheticCheckpoint, tmp_path: Path) -> None:
    original = find_published(pristine.model_dir)
    dit = load_part("dit", original, device=CPU, dtype=torch.bfloat16)
    dit.get_parameter("head.linear.bias").data.fill_(3.0)
    copy = find_published(export_published(tmp_path, {"dit": dit}, source=original))
    before, after = tensors_of(original, "dit"), tensors_of(copy, "dit")
    assert torch.equal(after.pop("head.head.bias"), torch.full((64,), 3.0, dtype=torch.bfloat16))
    del before["head.head.bias"]
    assert same_bits(before, after)


def test_pre_training_heads_survive_with_the_speech_encoder(
    pristine_infinitetalk: SyntheticCheckpoint, tmp_path: Path
) -> None:
    original = find_published(pristine_infinitetalk.model_dir)
    speech = load_part("audio_encoder", original, device=CPU, dtype=torch.float32)
    copy = find_published(export_published(tmp_path, {"audio_encoder": speech}, source=original))
    assert "quantizer.codevectors" in tensors_of(copy, "audio_encoder")
    again = load_part("audio_encoder", copy, device=CPU, dtype=torch.float32)
    assert same_bits(dict(speech.state_dict()), dict(again.state_dict()))


def test_rounded_weights_are_refused(pristine: SyntheticCheckpoint, tmp_path: Path) -> None:
    original = find_published(pristine.model_dir)
    dit = load_part("dit", original, device=CPU, dtype=torch.bfloat16)
    quantize_linears(dit, "int8")
    with pytest.raises(WeightsError, match="stored as bytes"):
        export_published(tmp_path, {"dit": dit}, source=original)


def test_networks_that_were_never_published_have_no_adapter() -> None:
    with pytest.raises(TypeError, match="a Linear has no published form"):
        published_adapter(nn.Linear(2, 2))
