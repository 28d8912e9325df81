"""From a model's name to networks ready to run: load, place, compile, warm up, each step visible."""

from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path

import torch

from livetalk.accelerate.apply import AccelerationConfig, accelerate, keep_more_speech
from livetalk.accelerate.compile import compile_transformer
from livetalk.accelerate.fused_color import select_color
from livetalk.assembly.model import AvatarModel, PortraitConfig
from livetalk.assembly.published import load_published
from livetalk.checkpoints.layouts import Layout, recognise_layout
from livetalk.checkpoints.load import load_module
from livetalk.checkpoints.native import Checkpoint, Part, Storage, load_checkpoint, save_checkpoint
from livetalk.checkpoints.streaming_load import LoadProgress
from livetalk.device import Precision, choose_device, choose_dtype
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How a model is put to work.

    Attributes:
        model: name of a shipped model, or a checkpoint folder.
        device: "auto", or what `torch.device` takes, such as "cpu" or "cuda:1".
        precision: of the transformer and the VAE; "auto" takes bfloat16 where the device computes it
            natively and float32 elsewhere.
        compile: compile the transformer; the first chunk then takes minutes, the others less time.
        compile_cache: folder that compiled code is kept in, see `compile_transformer`.
        placement: how the transformer's weights are stored and spread, and where text and image encoder live.
        acceleration: fast forms to put in place; None leaves every operation plain.
        wav2vec_dir: speech encoder of a published model; None looks for it beside the model.
        infinitetalk: audio weights to lay over a published model; None looks for them where they are needed.
    """

    model: str | Path = "embedded"
    device: str = "auto"
    precision: Precision = "auto"
    compile: bool = False
    compile_cache: Path | None = None
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    acceleration: AccelerationConfig | None = None
    wav2vec_dir: Path | None = None
    infinitetalk: Path | None = None

    def __post_init__(self) -> None:
        """Refuse fast forms of weights that are placed where they cannot be."""
        check_acceleration(self.acceleration, self.placement)


def build_avatar(config: BuildConfig, progress: LoadProgress | None = None) -> AvatarModel:
    """Load a model and make it ready.

    Args:
        config: which model, and how it shall run.
        progress: is told the bytes of a published transformer read so far and the bytes to read.

    Raises:
        WeightsError: the checkpoint is missing, damaged or does not fit.
        InputError: there is no such device, or an option that this kind of model does not have.
    """
    device = choose_device(config.device)
    dtype = choose_dtype(config.precision, device)
    folder = find_checkpoint(config.model)
    if recognise_layout(folder) is Layout.PUBLISHED:
        model = load_published(
            folder,
            device=device,
            dtype=dtype,
            placement=config.placement,
            wav2vec_dir=config.wav2vec_dir,
            infinitetalk=config.infinitetalk,
            progress=progress,
        )
    else:
        model = _load_native(folder, config, device, dtype)
    model = accelerate_model(model, config.acceleration)
    if config.compile:
        compile_transformer(model.executor.networks.dit, config.compile_cache)
    return model


def check_acceleration(acceleration: AccelerationConfig | None, placement: PlacementConfig) -> None:
    """Refuse, before anything is loaded, fast forms of weights that are placed where they cannot be.

    Raises:
        InputError: blocks wait in host memory, or FP8 products are wanted of int8 weights.
    """
    if acceleration is None:
        return
    if placement.resident_blocks is not None:
        raise InputError("fast and float8: need all blocks on the device; leave resident-blocks out")
    if acceleration.float8 and placement.weights == "int8":
        raise InputError("float8: multiplies weights that are full or stored as float8, not as int8")


def accelerate_model(model: AvatarModel, config: AccelerationConfig | None) -> AvatarModel:
    """Put fast forms in place, and say which.

    Args:
        model: its networks are changed in place; not compiled or spread yet, no session prepared.
        config: what to put in place; None for nothing.

    Raises:
        InputError: something that was asked for cannot run on the model's device.
    """
    if config is None:
        return model
    executor, networks = model.executor, model.executor.networks
    acceleration = accelerate(networks.dit, networks.vae, networks.device, config)
    _log.info("%s: %s", model.name, acceleration)
    plan = executor.plan
    if plan is not None:
        plan = keep_more_speech(plan, networks.device, networks.dit.config.num_layers)
    executor = replace(executor, match_color=select_color(acceleration.kernels), plan=plan)
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
    """Write a checkpoint folder that `build_avatar` loads; the speech encoder's file must already be there.

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


def _load_native(folder: Path, config: BuildConfig, device: torch.device, dtype: torch.dtype) -> AvatarModel:
    """Load a checkpoint of our own format."""
    checkpoint = load_checkpoint(folder)
    manifest = checkpoint.manifest
    for option, value in (("wav2vec-dir", config.wav2vec_dir), ("infinitetalk", config.infinitetalk)):
        if value is not None:
            raise InputError(
                f"{option} {value}: the model {manifest.name} brings all its parts; leave it out"
            )
    return AvatarModel(
        name=manifest.name,
        version=manifest.version,
        executor=_load_executor(checkpoint, device, dtype, config.placement),
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
