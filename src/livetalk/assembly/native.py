"""Read, load and save models in the native checkpoint format."""

import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open

from livetalk.assembly.model import AvatarModel
from livetalk.assembly.source import ModelSource
from livetalk.assembly.spec import ModelSpec, PortraitConfig
from livetalk.checkpoints.config_json import config_from_json
from livetalk.checkpoints.file_kinds import recognise_file
from livetalk.checkpoints.load import load_module
from livetalk.checkpoints.manifest import MANIFEST_NAME, Manifest, read_manifest
from livetalk.checkpoints.native import Checkpoint, Part, Storage, load_checkpoint, save_checkpoint
from livetalk.errors import InputError, WeightsError
from livetalk.models.audio_encoder import SpeechEncoderConfig, load_speech_encoder
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.placement.apply import PlacementConfig, apply_placement
from livetalk.streaming.executor import Executor
from livetalk.streaming.networks import Networks
from livetalk.streaming.settings import StreamSettings

SPEECH_ENCODER_FILE = "speech_encoder.safetensors"

ConfigT = TypeVar("ConfigT")


def read_native_spec(folder: Path) -> ModelSpec:
    """Read the specification of a checkpoint folder; no weight is read.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    return _spec_of(folder, read_manifest(folder))


def load_native(
    folder: Path,
    source: ModelSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    placement: PlacementConfig,
) -> AvatarModel:
    """Load a native checkpoint; `dtype` is the precision of the transformer and the VAE.

    Raises:
        WeightsError: the checkpoint is damaged.
        InputError: `source` names files of a published model, which a native checkpoint does not use.
    """
    checkpoint = load_checkpoint(folder)
    spec = _spec_of(folder, checkpoint.manifest)
    for option, value in (("wav2vec-dir", source.wav2vec_dir), ("infinitetalk", source.infinitetalk)):
        if value is not None:
            raise InputError(f"{option} {value}: the model {spec.name} includes every network; leave it out")
    return AvatarModel(
        spec=spec,
        version=checkpoint.manifest.version,
        executor=_load_executor(checkpoint, spec, device, dtype, placement),
        dtype=dtype,
    )


def save_model(
    directory: Path,
    *,
    spec: ModelSpec,
    version: str,
    dit: DiT,
    vae: CausalVideoVAE,
    storage: tuple[Storage, Storage] = ("int8", "float16"),
) -> None:
    """Write a checkpoint that `build_model` loads into a folder that already holds `SPEECH_ENCODER_FILE`.

    `storage` gives the storage form of the transformer's and of the VAE's weights, in this order.

    Raises:
        WeightsError: the speech encoder's file is missing.
    """
    if not (directory / SPEECH_ENCODER_FILE).is_file():
        raise WeightsError(f"weights {directory / SPEECH_ENCODER_FILE}: no such file; put it there first")
    save_checkpoint(
        directory,
        name=spec.name,
        version=version,
        configs={"dit": spec.dit, "vae": spec.vae, "stream": spec.settings, "portrait": spec.portrait},
        parts={"dit": Part(dit.state_dict(), storage[0]), "vae": Part(vae.state_dict(), storage[1])},
        extra_files=(SPEECH_ENCODER_FILE,),
    )


def _spec_of(folder: Path, manifest: Manifest) -> ModelSpec:
    def read(name: str, kind: type[ConfigT]) -> ConfigT:
        if name not in manifest.configs:
            raise WeightsError(f"weights {folder / MANIFEST_NAME}: has no configuration {name!r}")
        return config_from_json(kind, manifest.configs[name], f"weights {folder / MANIFEST_NAME}: {name}")

    return ModelSpec(
        name=manifest.name,
        dit=read("dit", DiTConfig),
        vae=read("vae", VAEConfig),
        speech=_read_speech_sizes(folder / SPEECH_ENCODER_FILE),
        settings=read("stream", StreamSettings),
        portrait=read("portrait", PortraitConfig),
    )


def _read_speech_sizes(path: Path) -> SpeechEncoderConfig:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return SpeechEncoderConfig(**json.loads(metadata["config"]))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        kind = recognise_file(path) or f"does not hold a speech encoder ({error})"
        raise WeightsError(f"weights {path}: {kind}") from error


def _load_executor(
    checkpoint: Checkpoint,
    spec: ModelSpec,
    device: torch.device,
    dtype: torch.dtype,
    placement: PlacementConfig,
) -> Executor:
    # On the CPU first: placement decides block by block what the device must hold.
    dit = load_module(
        lambda: DiT(spec.dit),
        checkpoint.state_dict("dit"),
        device=torch.device("cpu"),
        dtype=dtype,
        name="transformer",
    )
    offloaded = apply_placement(dit, placement, device)
    vae = load_module(
        lambda: CausalVideoVAE(spec.vae),
        checkpoint.state_dict("vae"),
        device=device,
        dtype=dtype,
        name="VAE",
    )
    vae.use_channels_last()
    speech_encoder = load_speech_encoder(checkpoint.file(SPEECH_ENCODER_FILE)).to(device)
    return Executor(
        networks=Networks(dit=dit, vae=vae, audio_encoder=speech_encoder),
        plan=ExecutionPlan(offloaded=offloaded),
    )
