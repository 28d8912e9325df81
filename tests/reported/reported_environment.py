"""Environment variables and other libraries: one line that names the cause and the way out."""

import os
import sys
from pathlib import Path

import pytest
from process_inputs import generate_arguments, names, run_in_process

from livetalk.accelerate.compile import default_compile_cache
from livetalk.cli.main import main
from livetalk.env import (
    cache_folder,
    huggingface_endpoint,
    keep_compiled_code,
    require_meeting_point,
    worker_place,
)
from livetalk.errors import InputError
from reported import Case

_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def _set(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name in _RANKS:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def _ignored(**variables: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _set(monkeypatch, **variables)
        assert main(generate_arguments(folder)) == 0
        assert names(folder) == ["out.mp4"]

    return Case("environment", f"empty is unset: {variables}", check)


def _named(variable: str, **variables: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        _set(monkeypatch, **variables)
        with pytest.raises(InputError, match=f"environment variable {variable}=") as caught:
            worker_place()
            huggingface_endpoint()
            require_meeting_point()
        assert "\n" not in str(caught.value)

    return Case("environment", f"nonsense is named: {variables}", check)


def _debug_word(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVETALK_DEBUG", "perhaps")
    _require_line(monkeypatch, ["doctor"], "LIVETALK_DEBUG=perhaps: must be 1 or 0")


def _no_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost() -> Path:
        raise RuntimeError("Could not determine home directory.")

    _set(monkeypatch, XDG_CACHE_HOME="not/absolute")
    monkeypatch.setattr(Path, "home", lost)
    assert cache_folder().is_absolute()
    assert default_compile_cache().is_absolute()


def _unwritable_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Set first, so that the end of the test takes away what is set in it.
    _set(monkeypatch, TORCHINDUCTOR_CACHE_DIR="", TRITON_CACHE_DIR="")
    (folder / "cache").write_text("a file in place of the folder")
    keep_compiled_code(folder / "cache")
    chosen = Path(os.environ["TRITON_CACHE_DIR"])
    assert chosen.is_absolute() and not chosen.is_relative_to(folder / "cache")


def _require_line(monkeypatch: pytest.MonkeyPatch, arguments: list[str], *words: str) -> None:
    printed: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", printed.append)
    assert run_in_process(arguments) == 2
    text = "".join(printed)
    assert text.count("\n") == 1 and text.startswith("livetalk: error: "), text
    assert all(word in text for word in words), text


def _device(device: str, *command: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        arguments = generate_arguments(folder) if command == ("generate",) else list(command)
        _require_line(monkeypatch, [*arguments, "--device", device], f"device {device}: ", "cpu")
        assert names(folder) == []

    return Case("libraries", f"{command[0]} --device {device}", check)


def _proxy(value: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        # A client that an earlier test has opened would keep using the environment of that time.
        pytest.importorskip("huggingface_hub").close_session()
        _set(monkeypatch, all_proxy=value, HF_ENDPOINT="http://127.0.0.1:9")
        _require_line(monkeypatch, ["download", "flashtalk-14b", "--dir", str(folder)], "all_proxy")

    return Case("libraries", f"all_proxy={value}", check)


def _missing_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    arguments = [word if word != "center" else "face" for word in generate_arguments(folder)]
    _require_line(monkeypatch, arguments, "cv2", "install")
    assert names(folder) == []


CASES = (
    _ignored(RANK="", WORLD_SIZE=""),
    _ignored(RANK=" ", WORLD_SIZE="", LOCAL_RANK="", MASTER_PORT="", LIVETALK_DEBUG=""),
    _named("RANK", RANK="one", WORLD_SIZE="2"),
    _named("WORLD_SIZE", RANK="0", WORLD_SIZE="-2"),
    _named("RANK", RANK="2", WORLD_SIZE="2"),
    _named("LOCAL_RANK", RANK="0", WORLD_SIZE="1", LOCAL_RANK="x"),
    _named("MASTER_PORT", RANK="0", WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT="9" * 12),
    _named("MASTER_ADDR", RANK="0", WORLD_SIZE="2", MASTER_PORT="1234"),
    _named("HF_ENDPOINT", HF_ENDPOINT="mirror.example"),
    Case("environment", "LIVETALK_DEBUG=perhaps", _debug_word),
    Case("environment", "no home, and a relative XDG_CACHE_HOME", _no_home),
    Case("environment", "a cache folder that cannot be written", _unwritable_cache),
    _device("mps", "generate"),
    _device("cuda:9", "generate"),
    _device("mps", "avatar", "new", "--seed", "1"),
    _device("xla", "doctor"),
    _device("meta", "bench"),
    _device("mps", "train", "vae", "--corpus", "c", "--work", "w", "--out", "o"),
    _proxy("socks5://127.0.0.1:9"),
    _proxy("nonsense://127.0.0.1:9"),
    Case("libraries", "OpenCV is missing", _missing_package),
)
