"""From a model's name to networks ready to run: load, place, compile, warm up, each step visible."""

from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import torch

from livetalk.accelerate.apply import AccelerationConfig, accelerate, keep_more_speech
from livetalk.accelerate.compile import compile_transformer
from livetalk.assembly.model import AvatarModel, PortraitConfig
from livetalk.assembly.published import load_published
from livetalk.assembly.random_model import build_random_model
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.checkpoints.layouts import Layout, recognise_layout
from livetalk.checkpoints.load import load_module
from livetalk.checkpoints.native import Checkpoint, Part, Storage, load_checkpoint, save_checkpoint
from livetalk.checkpoints.streaming_load import LoadProgress
from livetalk.device import choose_device, choose_dtype, set_threads
from livetalk.errors import InputError, WeightsError
from livetalk.log import get_logger
from livetalk.models.audio_encoder import load_speech_encoder
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.dit_plan import ExecutionPlan
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.placement.apply import PlacementConfig, apply_placement
from livetalk.streaming.executor import Executor
from livetalk.streaming.networks import Networks
from livetalk.streaming.settings import StreamSettings

SPEECH_ENCODER_FILE = "speech_encoder.safetensors"
_SHIPPED_MODELS = ("embedded",)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Everything that a model is, besides its weights.

    Attributes:
        dit: sizes of the transformer.
        vae: sizes of the VAE.
        stream: timeline, audio window, sampler and reference layout.
        portrait: picture size.
    """

    dit: DiTConfig
    vae: VAEConfig
    stream: StreamSettings
    portrait: PortraitConfig


def build_model(
    source: ModelSource, run: RunConfig | None = None, *, progress: LoadProgress | None = None
) -> AvatarModel:
    """Load a model and make it ready to run.

    Args:
        source: which model.
        run: how it runs; None is `RunConfig()`. The model is not spread over several GPUs here: each of their
            processes builds it on its own device.
        progress: is told the bytes of a published transformer read so far and the bytes to read.

    Raises:
        WeightsError: the checkpoint is missing, damaged or does not fit.
        InputError: there is no such device or graph, a fast form cannot run here, or an option that this kind
            of model does not have.
    """
    run = run or RunConfig()
    return finish_model(load_model(source, run, progress=progress), run)


def load_model(
    source: ModelSource, run: RunConfig, *, seed: int = 0, progress: LoadProgress | None = None
) -> AvatarModel:
    """Load a model, or draw random weights for it, and place its weights; every operation is plain.

    Sets the number of CPU threads of the process.

    Args:
        source: as for `build_model`.
        run: as for `build_model`; its fast forms are not put in place.
        seed: of random weights.
        progress: as for `build_model`.

    Raises:
        WeightsError: as for `build_model`.
        InputError: as for `build_model`.
    """
    set_threads(run.threads)
    device = choose_device(run.device)
    dtype = choose_dtype(run.precision, device)
    if source.random_weights is not None:
        return build_random_model(
            source.random_weights, device=device, dtype=dtype, seed=seed, placement=run.placement
        )
    folder = find_checkpoint(source.model)
    if recognise_layout(folder) is Layout.PUBLISHED:
        return load_published(
            folder,
            device=device,
            dtype=dtype,
            placement=run.placement,
            wav2vec_dir=source.wav2vec_dir,
            infinitetalk=source.infinitetalk,
            progress=progress,
        )
    return _load_native(folder, source, run.placement, device, dtype)


def finish_model(model: AvatarModel, run: RunConfig, *, allow_reference: bool = False) -> AvatarModel:
    """Put the fast forms of a configuration in place, and compile if it says so.

    Args:
        model: from `load_model`; its networks are changed in place.
        run: how it runs.
        allow_reference: see `accelerate`.

    Raises:
        InputError: something that was asked for cannot run on the model's device.
    """
    model = accelerate_model(model, run.acceleration, allow_reference=allow_reference)
    if run.compile:
        compile_transformer(model.executor.networks.dit, run.compile_cache)
    return model


def accelerate_model(
    model: AvatarModel, config: AccelerationConfig, *, allow_reference: bool = False
) -> AvatarModel:
    """Put fast forms in place, and log which.

    Args:
        model: its networks are changed in place; not compiled or spread yet, no session prepared.
        config: what to put in place.
        allow_reference: see `accelerate`.

    Raises:
        InputError: something that was asked for cannot run on the model's device.
    """
    if config.plain:
        return model
    executor, networks = model.executor, model.executor.networks
    acceleration = accelerate(
        networks.dit, networks.vae, networks.device, config, allow_reference=allow_reference
    )
    _log.info("%s: %s", model.name, acceleration)
    plan = executor.plan
    if config.fused and plan is not None:
        plan = keep_more_speech(plan, networks.device, networks.dit.config.num_layers)
    executor = replace(executor, match_color=acceleration.match_color, plan=plan)
    return replace(model, executor=executor, acceleration=acceleration)


def save_model(
    directory: Path,
    *,
    name: str,
    version: str,
    config: ModelConfig,
    dit: DiT,
    vae: CausalVideoVAE,
    storage: tuple[Storage, Storage] = ("int8", "float16"),
) -> None:
    """Write a checkpoint folder that `build_model` loads; the speech encoder's file must already be there.

    Args:
        directory: where to.
        name: of the model.
        version: of the weights.
        config: of the model.
        dit: the trained transformer.
        vae: the trained VAE.
        storage: how the weights of the transformer and of the VAE are stored.

    Raises:
        WeightsError: the speech encoder's file is missing.
    """
    if not (directory / SPEECH_ENCODER_FILE).is_file():
        raise WeightsError(f"weights {directory / SPEECH_ENCODER_FILE}: no such file; put it there first")
    save_checkpoint(
        directory,
        name=name,
        version=version,
        configs={
            "dit": config.dit,
            "vae": config.vae,
            "stream": config.stream,
            "portrait": config.portrait,
        },
        parts={"dit": Part(dit.state_dict(), storage[0]), "vae": Part(vae.state_dict(), storage[1])},
        extra_files=(SPEECH_ENCODER_FILE,),
    )


def find_checkpoint(model: str | Path) -> Path:
    """Return the folder of a shipped model, or the folder given.

    Raises:
        WeightsError: there is neither.
    """
    if model in _SHIPPED_MODELS:
        return Path(str(resources.files("livetalk"))) / "weights" / str(model)
    folder = Path(model)
    if not folder.is_dir():
        raise WeightsError(
            f"weights {model}: no such folder, nor a shipped model ({', '.join(_SHIPPED_MODELS)})"
        )
    return folder


def _load_native(
    folder: Path,
    source: ModelSource,
    placement: PlacementConfig,
    device: torch.device,
    dtype: torch.dtype,
) -> AvatarModel:
    """Load a checkpoint of our own format."""
    checkpoint = load_checkpoint(folder)
    manifest = checkpoint.manifest
    for option, value in (("wav2vec-dir", source.wav2vec_dir), ("infinitetalk", source.infinitetalk)):
        if value is not None:
            raise InputError(
                f"{option} {value}: the model {manifest.name} brings all its parts; leave it out"
            )
    return AvatarModel(
        name=manifest.name,
        version=manifest.version,
        executor=_load_executor(checkpoint, device, dtype, placement),
        settings=checkpoint.config("stream", StreamSettings),
        portrait=checkpoint.config("portrait", PortraitConfig),
        dtype=dtype,
    )


def _load_executor(
    checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype, placement: PlacementConfig
) -> Executor:
    dit_config = checkpoint.config("dit", DiTConfig)
    vae_config = checkpoint.config("vae", VAEConfig)
    dit = load_module(
        lambda: DiT(dit_config),
        checkpoint.state_dict("dit"),
        device=torch.device("cpu"),
        dtype=dtype,
        name="transformer",
    )
    offloaded = apply_placement(dit, placement, device)
    vae = load_module(
        lambda: CausalVideoVAE(vae_config),
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
