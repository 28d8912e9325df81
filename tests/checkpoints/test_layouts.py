"""Published models are recognised as they lie on disk, and every missing file is named at once."""

import shutil
from pathlib import Path

import pytest

from livetalk.checkpoints.layouts import Layout, find_published, recognise_layout
from livetalk.errors import WeightsError
from synthetic_checkpoint import SyntheticCheckpoint


def test_every_file_of_a_published_model_is_found(pristine: SyntheticCheckpoint) -> None:
    files = find_published(pristine.model_dir)
    assert recognise_layout(pristine.model_dir) is Layout.PUBLISHED
    assert files.name == "SoulX-FlashTalk-14B"
    assert files.dit.name == "diffusion_pytorch_model.safetensors.index.json"
    assert files.dit_overlays == ()
    assert files.audio_encoder == pristine.wav2vec_dir.resolve() / "model.safetensors"
    assert files.audio_config == pristine.wav2vec_dir.resolve() / "config.json"
    for path in (files.config, files.vae, files.text_encoder, files.image_encoder):
        assert path.is_file()
    assert files.tokenizer.is_dir()


def test_a_base_model_takes_the_audio_weights_beside_it(pristine_infinitetalk: SyntheticCheckpoint) -> None:
    files = find_published(pristine_infinitetalk.model_dir)
    assert pristine_infinitetalk.infinitetalk is not None
    assert [path.resolve() for path in files.dit_overlays] == [pristine_infinitetalk.infinitetalk.resolve()]
    assert files.name == "Wan2.1-I2V-14B-480P+infinitetalk"
    assert files.audio_encoder.name == "pytorch_model.bin"


@pytest.mark.parametrize("given", ["single/infinitetalk.safetensors", "single", "."])
def test_the_audio_weights_can_be_given_as_a_file_or_a_folder(
    pristine_infinitetalk: SyntheticCheckpoint, given: str
) -> None:
    infinitetalk = pristine_infinitetalk.infinitetalk
    assert infinitetalk is not None
    path = infinitetalk.parent.parent / given
    files = find_published(pristine_infinitetalk.model_dir, infinitetalk=path)
    assert [overlay.resolve() for overlay in files.dit_overlays] == [infinitetalk.resolve()]


def test_a_base_model_alone_is_refused(pristine_infinitetalk: SyntheticCheckpoint, tmp_path: Path) -> None:
    model = tmp_path / "Wan2.1-I2V-14B-480P"
    shutil.copytree(pristine_infinitetalk.model_dir, model)
    with pytest.raises(WeightsError, match="no audio weights, and no InfiniteTalk/single/infinitetalk"):
        find_published(model, wav2vec_dir=pristine_infinitetalk.wav2vec_dir)
    with pytest.raises(WeightsError, match=r"there is no .*elsewhere\.safetensors"):
        find_published(
            model,
            wav2vec_dir=pristine_infinitetalk.wav2vec_dir,
            infinitetalk=tmp_path / "elsewhere.safetensors",
        )


def test_the_speech_encoder_may_lie_in_the_model_or_under_its_makers_name(model_dir: Path) -> None:
    speech = model_dir.parent / "chinese-wav2vec2-base"
    inside = speech.rename(model_dir / speech.name)
    assert find_published(model_dir).audio_encoder.parent == inside
    registry = model_dir.parent / "checkpoints"
    moved = registry / "Soul-AILab" / model_dir.name
    moved.parent.mkdir(parents=True)
    maker = registry / "TencentGameMate"
    maker.mkdir()
    inside.rename(maker / inside.name)
    model_dir.rename(moved)
    assert find_published(moved).audio_encoder.parent == (maker / speech.name).resolve()


def test_all_missing_files_are_named_at_once(model_dir: Path) -> None:
    gone = [
        "Wan2.1_VAE.pth",
        "models_t5_umt5-xxl-enc-bf16.pth",
        "diffusion_pytorch_model-00002-of-00002.safetensors",
        "google/umt5-xxl/tokenizer.json",
    ]
    for name in gone:
        (model_dir / name).unlink()
    shutil.rmtree(model_dir.parent / "chinese-wav2vec2-base")
    with pytest.raises(WeightsError) as caught:
        find_published(model_dir)
    for name in (*gone, "chinese-wav2vec2-base", "livetalk download"):
        assert Path(name).name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_given_speech_folder_is_not_replaced_by_another(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no model.safetensors or pytorch_model.bin in .*nowhere"):
        find_published(model_dir, wav2vec_dir=tmp_path / "nowhere")


def test_other_folders_are_told_apart(model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"did you mean {model_dir}"):
        recognise_layout(tmp_path)
    with pytest.raises(WeightsError, match="no such folder"):
        recognise_layout(tmp_path / "nowhere")
    native = tmp_path / "native"
    native.mkdir()
    (native / "config.json").write_text('{"format_version": 1}')
    assert recognise_layout(native) is Layout.NATIVE
    (native / "config.json").write_text('{"architectures": ["Other"]}')
    with pytest.raises(WeightsError, match="is neither a livetalk checkpoint's nor a published model's"):
        recognise_layout(native)
    (native / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json: cannot be read as JSON"):
        recognise_layout(native)
    (native / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match="one JSON object"):
        recognise_layout(native)
