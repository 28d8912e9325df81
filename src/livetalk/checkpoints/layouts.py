"""Folder layouts of published models and exports: which file is which, and which files are missing."""

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from livetalk.checkpoints.file_kinds import recognise_file
from livetalk.checkpoints.manifest import Manifest, read_manifest, verify_sizes
from livetalk.checkpoints.tensor_files import INDEX_SUFFIX, index_tensors
from livetalk.errors import UNSUITABLE_CONTENT, WeightsError

CONFIG_NAME = "config.json"
DIT_STEM = "diffusion_pytorch_model"
VAE_NAME = "Wan2.1_VAE.pth"
TEXT_ENCODER_NAME = "models_t5_umt5-xxl-enc-bf16.pth"
IMAGE_ENCODER_NAME = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
TOKENIZER_NAME = "google/umt5-xxl"
SPEECH_ENCODER_DIR = "chinese-wav2vec2-base"
EXPORTED_TOKENIZER = "tokenizer"
INFINITETALK_NAME = "InfiniteTalk/single/infinitetalk.safetensors"

_DIT_FILE = f"{DIT_STEM}.safetensors"
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
_SPEECH_FILES = ("model.safetensors", "pytorch_model.bin")
# Only an audio-driven transformer has weights with this prefix.
_AUDIO_PREFIX = "audio_proj."
_BLOCK_PREFIX = "blocks."
_DOWNLOAD_HINT = "livetalk download flashtalk-14b fetches what is missing"


class Layout(Enum):
    """Kinds of checkpoint folders.

    Attributes:
        NATIVE: a model of this package, with manifest and hashes.
        PUBLISHED: a transformer, VAE and encoders of the published kinds, with published file names or
            exported to this package's format.
    """

    NATIVE = "native"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFiles:
    """Paths of the parts of a published model."""

    model_dir: Path
    config: Path  # sizes of the transformer
    dit: Path  # weights of the transformer: one file or the index of several
    dit_overlays: tuple[Path, ...] = ()  # files whose weights are added to those of `dit`
    vae: Path
    text_encoder: Path
    tokenizer: Path
    image_encoder: Path
    audio_encoder: Path
    audio_config: Path | None  # sizes of the speech encoder; None means those of the base network
    manifest: Manifest | None = None  # of a model that was exported to this package's format, None otherwise

    @property
    def name(self) -> str:
        """Name of the model: that of its folder, followed by those of the overlays."""
        if self.manifest is not None:
            return self.manifest.name
        parts = [self.model_dir.resolve().name, *(path.stem for path in self.dit_overlays)]
        return "+".join(parts)


def recognise_layout(model_dir: Path) -> Layout:
    """Return the kind of checkpoint in a folder.

    Raises:
        WeightsError: it is no checkpoint; the message names the missing or unsuitable file.
    """
    if not model_dir.is_dir():
        raise WeightsError(f"weights {model_dir}: no such folder")
    config = model_dir / CONFIG_NAME
    if not config.is_file():
        # Users often give the folder above: a download puts the model into a subfolder.
        configs = (*model_dir.glob(f"*/{CONFIG_NAME}"), *model_dir.glob(f"snapshots/*/{CONFIG_NAME}"))
        inside = sorted(path.parent for path in configs if _dit_file(path.parent))
        hint = f"; did you mean {inside[0]}?" if inside else ""
        raise WeightsError(
            f"weights {model_dir}: no {CONFIG_NAME} there, so it is neither a livetalk checkpoint nor a "
            f"published model{hint}"
        )
    fields = read_json(config)
    if "format_version" in fields:
        return Layout.PUBLISHED if "text_encoder" in fields.get("configs", {}) else Layout.NATIVE
    if _dit_file(model_dir) is not None or "model_type" in fields:
        return Layout.PUBLISHED
    raise WeightsError(
        f"weights {model_dir}: its {CONFIG_NAME} is neither a livetalk checkpoint's nor a published model's"
    )


def find_published(
    model_dir: Path, *, wav2vec_dir: Path | None = None, infinitetalk: Path | None = None
) -> PublishedFiles:
    """Find all files of a published model.

    Args:
        model_dir: a `SoulX-FlashTalk-14B` folder, a `Wan2.1-I2V-14B` folder that is combined with
            InfiniteTalk's audio weights, or an export of either.
        wav2vec_dir: folder of the speech encoder; None searches `chinese-wav2vec2-base` in and beside the
            model's folder.
        infinitetalk: InfiniteTalk's `.safetensors` file or its folder; None searches beside the model's
            folder if the transformer has no audio weights.

    Raises:
        WeightsError: files are missing; the message names all of them.
    """
    if not model_dir.is_dir():
        raise WeightsError(f"weights {model_dir}: no such folder")
    if (model_dir / CONFIG_NAME).is_file() and "format_version" in read_json(model_dir / CONFIG_NAME):
        return _find_exported(model_dir, wav2vec_dir or infinitetalk)
    problems: list[str] = []

    def require(name: str) -> Path:
        path = model_dir / name
        if not path.is_file():
            problems.append(f"{name} is missing")
        return path

    dit = _dit_file(model_dir)
    if dit is None:
        problems.append(_describe_absence(model_dir))
    config = require(CONFIG_NAME)
    vae, text_encoder = require(VAE_NAME), require(TEXT_ENCODER_NAME)
    image_encoder = require(IMAGE_ENCODER_NAME)
    tokenizer = model_dir / TOKENIZER_NAME
    if not any((tokenizer / name).is_file() for name in _TOKENIZER_FILES):
        problems.append(f"{TOKENIZER_NAME} has no {' or '.join(_TOKENIZER_FILES)}")
    speech = _speech_file(model_dir, wav2vec_dir, problems)
    overlays = () if dit is None else _find_overlays(model_dir, dit, infinitetalk, problems)
    if problems or dit is None or speech is None:
        raise WeightsError(f"weights {model_dir}: {'; '.join(problems)}; {_DOWNLOAD_HINT}")
    audio_config = speech.parent / CONFIG_NAME
    return PublishedFiles(
        model_dir=model_dir,
        config=config,
        dit=dit,
        dit_overlays=overlays,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        image_encoder=image_encoder,
        audio_encoder=speech,
        audio_config=audio_config if audio_config.is_file() else None,
    )


def _find_exported(model_dir: Path, given: Path | None) -> PublishedFiles:
    if given is not None:
        raise WeightsError(f"weights {model_dir}: is a complete export, {given} cannot be added to it")
    manifest = read_manifest(model_dir)
    verify_sizes(model_dir, manifest)

    def weights(part: str) -> Path:
        single = f"{part}.safetensors"
        if single not in manifest.files and single + INDEX_SUFFIX not in manifest.files:
            raise WeightsError(f"weights {model_dir / CONFIG_NAME}: does not list {single}")
        return model_dir / (single if single in manifest.files else single + INDEX_SUFFIX)

    return PublishedFiles(
        model_dir=model_dir,
        config=model_dir / CONFIG_NAME,
        dit=weights("dit"),
        vae=weights("vae"),
        text_encoder=weights("text_encoder"),
        tokenizer=model_dir / EXPORTED_TOKENIZER,
        image_encoder=weights("image_encoder"),
        audio_encoder=weights("audio_encoder"),
        audio_config=None,
        manifest=manifest,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that contains one JSON object; `WeightsError` for anything else."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except UNSUITABLE_CONTENT as error:
        kind = recognise_file(path) or f"cannot be read as JSON ({error})"
        raise WeightsError(f"weights {path}: {kind}") from error
    if not isinstance(fields, dict):
        raise WeightsError(f"weights {path}: must contain one JSON object")
    return fields


def _dit_file(model_dir: Path) -> Path | None:
    """Return the index of the transformer's shards, or its only file."""
    for name in (_DIT_FILE + INDEX_SUFFIX, _DIT_FILE):
        if (model_dir / name).is_file():
            return model_dir / name
    return None


def _describe_absence(model_dir: Path) -> str:
    """Return why no transformer was found; shards without their index are there all the same."""
    shards = list(model_dir.glob(f"{DIT_STEM}-*.safetensors"))
    if shards:
        return f"{len(shards)} shards of the transformer are there, but {_DIT_FILE}{INDEX_SUFFIX} is missing"
    return f"{_DIT_FILE} and {_DIT_FILE}{INDEX_SUFFIX} are missing"


def _speech_file(model_dir: Path, wav2vec_dir: Path | None, problems: list[str]) -> Path | None:
    if wav2vec_dir is not None:
        folders = [wav2vec_dir]
    else:
        parent = model_dir.resolve().parent
        folders = [
            model_dir / SPEECH_ENCODER_DIR,
            parent / SPEECH_ENCODER_DIR,
            # Registries store models in folders named after their authors.
            parent.parent / "TencentGameMate" / SPEECH_ENCODER_DIR,
        ]
    for folder in folders:
        for name in _SPEECH_FILES:
            if (folder / name).is_file():
                return folder / name
    where = f"in {wav2vec_dir}" if wav2vec_dir is not None else f"for {SPEECH_ENCODER_DIR} in or beside it"
    problems.append(f"there is no {' or '.join(_SPEECH_FILES)} {where}")
    return None


def _find_overlays(
    model_dir: Path, dit: Path, infinitetalk: Path | None, problems: list[str]
) -> tuple[Path, ...]:
    """Return InfiniteTalk's file if it was requested or if the transformer has no audio weights."""
    if infinitetalk is not None:
        candidates = [infinitetalk] if infinitetalk.suffix else _infinitetalk_files(infinitetalk)
        complaint = f"there is no {candidates[0]}"
    elif _has_audio_weights(dit, problems):
        return ()
    else:
        candidates = [folder / INFINITETALK_NAME for folder in (model_dir, model_dir.resolve().parent)]
        complaint = f"its transformer has no audio weights, and no {INFINITETALK_NAME} lies beside it"
    for path in candidates:
        if path.is_file():
            return (path,)
    problems.append(complaint)
    return ()


def _has_audio_weights(dit: Path, problems: list[str]) -> bool:
    """Return whether a transformer has audio weights; if that cannot be said, add it to the problems."""
    try:
        names = list(index_tensors(dit).entries)
    except WeightsError as error:
        problems.append(str(error).removeprefix("weights "))
        return True
    if not any(name.startswith(_BLOCK_PREFIX) for name in names):
        problems.append(f"{dit.name} holds no published transformer; its keys are like {names[0]}")
        return True
    return any(name.startswith(_AUDIO_PREFIX) for name in names)


def _infinitetalk_files(folder: Path) -> list[Path]:
    """Return the possible paths of InfiniteTalk's file in a folder that the user named for it."""
    name = Path(INFINITETALK_NAME)
    return [folder / Path(*name.parts[start:]) for start in (1, 0, 2)]
