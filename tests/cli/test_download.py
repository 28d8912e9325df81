"""`livetalk download` against a hub on this machine: complete, resumed, checked, and clear when it fails."""

import argparse
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub_server import LARGE_BYTES, Hub, serve_hub
from livetalk.checkpoints import hub as hub_module
from livetalk.checkpoints.layouts import find_published
from livetalk.cli import download
from livetalk.errors import InputError, LivetalkError, OutputError, WeightsError
from synthetic_checkpoint import make_synthetic_checkpoint

pytest.importorskip("huggingface_hub", reason="DOWNLOADS NOT CHECKED: install the extra `download`")

MODEL = "Soul-AILab/SoulX-FlashTalk-14B"
SPEECH = "TencentGameMate/chinese-wav2vec2-base"
VAE = "Wan2.1_VAE.pth"


def contents(folder: Path) -> dict[str, bytes]:
    """Read every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


VAE_BYTES = random.Random(0).randbytes(3 * LARGE_BYTES)
MODEL_FILES = {
    "config.json": b"{}",
    "diffusion_pytorch_model-00001-of-00001.safetensors": bytes(LARGE_BYTES),
    "diffusion_pytorch_model.safetensors.index.json": b"{}",
    VAE: VAE_BYTES,
    "models_t5_umt5-xxl-enc-bf16.pth": bytes(LARGE_BYTES + 1),
    "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth": bytes(LARGE_BYTES + 2),
    "google/umt5-xxl/tokenizer.json": b"{}",
    "google/umt5-xxl/tokenizer_config.json": b"",
    "LICENSE": b"mine",
}
NOT_NEEDED = {
    "README.md": b"read me",
    "assets/clip.mp4": bytes(LARGE_BYTES),
    "xlm-roberta-large/tokenizer.json": b"{}",
    "google/umt5-xxl/../../x": b"escape",
}
SPEECH_FILES = {"config.json": b"{}", "preprocessor_config.json": b"{}", "pytorch_model.bin": b"weights"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has a model of the right names and some files that nobody needs."""
    repositories = {MODEL: MODEL_FILES | NOT_NEEDED, SPEECH: dict(SPEECH_FILES)}
    # Waiting a second before each new attempt is for people.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with serve_hub(Hub(repositories)) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.endpoint + "/")
        yield served


@pytest.fixture
def livetalk_download(hub: Hub, tmp_path: Path) -> Callable[..., int]:
    """Run the command into `tmp_path / "models"`."""

    def call(*arguments: str) -> int:
        parser = argparse.ArgumentParser()
        download.add_parser(parser.add_subparsers())
        folder = str(tmp_path / "models")
        return download.run(parser.parse_args(["download", "flashtalk-14b", "--dir", folder, *arguments]))

    return call


def test_a_model_is_fetched_complete(
    livetalk_download: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert livetalk_download() == 0
    fetched = tmp_path / "models" / "SoulX-FlashTalk-14B"
    assert contents(fetched) == MODEL_FILES
    assert contents(tmp_path / "models" / "chinese-wav2vec2-base") == SPEECH_FILES
    assert not list(tmp_path.rglob("x"))
    shown = capsys.readouterr().out
    assert "9 files" in shown
    assert "free on that disk" in shown
    assert f"livetalk generate --model {fetched}" in shown


def test_what_was_fetched_is_a_model(livetalk_download: Callable[..., int], hub: Hub, tmp_path: Path) -> None:
    made = make_synthetic_checkpoint(tmp_path / "served", speech_format="bin")
    hub.repositories.update({MODEL: contents(made.model_dir), SPEECH: contents(made.wav2vec_dir)})
    assert livetalk_download() == 0
    files = find_published(tmp_path / "models" / "SoulX-FlashTalk-14B")
    assert files.name == "SoulX-FlashTalk-14B"


def test_newer_speech_files_are_preferred(
    livetalk_download: Callable[..., int], hub: Hub, tmp_path: Path
) -> None:
    hub.repositories[SPEECH]["model.safetensors"] = b"new"
    assert livetalk_download() == 0
    speech = contents(tmp_path / "models" / "chinese-wav2vec2-base")
    assert speech["model.safetensors"] == b"new"
    assert "pytorch_model.bin" not in speech


def test_a_second_call_fetches_nothing(livetalk_download: Callable[..., int], hub: Hub) -> None:
    livetalk_download()
    hub.requests.clear()
    assert livetalk_download() == 0
    assert hub.fetched() == []


def test_a_dry_run_fetches_nothing(
    livetalk_download: Callable[..., int], hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert livetalk_download("--dry-run") == 0
    assert hub.fetched() == []
    assert not (tmp_path / "models").exists()
    assert "to download: 600.0 kB of 600.0 kB" in capsys.readouterr().out


def test_a_broken_connection_is_resumed_where_it_broke(
    livetalk_download: Callable[..., int],
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The package keeps what it has read of a block of this size only when the block is complete.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.break_after[VAE] = 105_000
    assert livetalk_download() == 0
    ranges = [span for _, path, span in hub.requests if path.endswith(VAE)]
    assert ranges == [None, "bytes=100000-"]
    fetched = tmp_path / "models" / "SoulX-FlashTalk-14B" / VAE
    assert fetched.read_bytes() == VAE_BYTES


def test_a_later_call_continues_what_an_earlier_one_left(
    livetalk_download: Callable[..., int], hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "SoulX-FlashTalk-14B"
    folder.mkdir(parents=True)
    (folder / f"{VAE}.part").write_bytes(VAE_BYTES[:123_456])
    assert livetalk_download() == 0
    assert [span for _, path, span in hub.requests if path.endswith(VAE)] == ["bytes=123456-"]
    assert (folder / VAE).read_bytes() == VAE_BYTES
    assert not (folder / f"{VAE}.part").exists()


def test_a_server_that_cannot_resume_sends_all_again(
    livetalk_download: Callable[..., int], hub: Hub, tmp_path: Path
) -> None:
    folder = tmp_path / "models" / "SoulX-FlashTalk-14B"
    folder.mkdir(parents=True)
    (folder / f"{VAE}.part").write_bytes(b"other bytes")
    hub.ignores_ranges = True
    assert livetalk_download() == 0
    assert (folder / VAE).read_bytes() == VAE_BYTES


@pytest.mark.parametrize("name", [VAE, "config.json"])
def test_a_wrong_hash_is_noticed(
    livetalk_download: Callable[..., int], hub: Hub, tmp_path: Path, name: str
) -> None:
    hub.corrupt.add(name)
    with pytest.raises(WeightsError, match=f"{name}: the download has another hash"):
        livetalk_download()
    folder = tmp_path / "models" / "SoulX-FlashTalk-14B"
    assert not (folder / name).exists()
    assert not (folder / f"{name}.part").exists()
    hub.corrupt.clear()
    assert livetalk_download() == 0


def test_a_damaged_file_on_the_disk_is_downloaded_again(
    livetalk_download: Callable[..., int], hub: Hub, tmp_path: Path
) -> None:
    livetalk_download()
    vae = tmp_path / "models" / "SoulX-FlashTalk-14B" / VAE
    content = vae.read_bytes()
    vae.write_bytes(bytes(len(content)))
    hub.requests.clear()
    assert livetalk_download() == 0
    assert vae.read_bytes() == content
    assert hub.fetched() == [VAE]


def test_a_full_disk_is_refused_before_anything_is_downloaded(
    livetalk_download: Callable[..., int], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match=r"only 0\.0 GB are free"):
        livetalk_download()
    assert hub.fetched() == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_hub_that_refuses_is_named(livetalk_download: Callable[..., int], hub: Hub, status: int) -> None:
    hub.status = status
    with pytest.raises(InputError, match=f"download {MODEL}: {hub.endpoint} is unreachable") as caught:
        livetalk_download()
    assert "\n" not in str(caught.value)


def test_a_hub_that_is_away_is_named(
    livetalk_download: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="check the network, or set HF_ENDPOINT") as caught:
        livetalk_download()
    assert "\n" not in str(caught.value)


def test_a_repository_without_its_files_is_named(livetalk_download: Callable[..., int], hub: Hub) -> None:
    del hub.repositories[MODEL][VAE]
    del hub.repositories[MODEL]["google/umt5-xxl/tokenizer.json"]
    del hub.repositories[MODEL]["google/umt5-xxl/tokenizer_config.json"]
    with pytest.raises(WeightsError, match=r"has no Wan2\.1_VAE\.pth, no google/umt5-xxl/\*"):
        livetalk_download()


def test_a_disk_that_refuses_is_named(livetalk_download: Callable[..., int], tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot be written \(Not a directory|File exists"):
        livetalk_download()


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(LivetalkError, match=r"pip install 'livetalk\[download\]'"):
        hub_module.plan_download("flashtalk-14b", tmp_path)
