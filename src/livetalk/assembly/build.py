"""Build a model that is ready to run: load it, place its weights, install fast forms, compile."""

from dataclasses import replace
from importlib import resources
from pathlib import Path

from livetalk.accelerate.apply import AccelerationConfig, accelerate, raise_absorb_budget
from livetalk.accelerate.compile import compile_transformer
from livetalk.assembly.model import AvatarModel
from livetalk.assembly.native import load_native, read_native_spec
from livetalk.assembly.published import load_published, read_published_spec
from livetalk.assembly.random_model import RANDOM_MODELS, build_random_model, random_spec
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.assembly.spec import ModelSpec
from livetalk.checkpoints.layouts import Layout, find_published, recognise_layout
from livetalk.checkpoints.streaming_load import LoadProgress
from livetalk.device import choose_device, choose_dtype, set_threads
from livetalk.errors import WeightsError
from livetalk.log import get_logger

_SHIPPED_MODELS = ("embedded",)

_log = get_logger(__name__)


def build_model(
    source: ModelSource, run: RunConfig | None = None, *, progress: LoadProgress | None = None
) -> AvatarModel:
    """Load a model and prepare it to run on one device; with several GPUs, each rank does so on its own.

    `progress` is called with the bytes of a published transformer that were read, and the total.

    Raises:
        WeightsError: the checkpoint is missing, damaged or does not fit.
        InputError: this machine or this kind of model cannot run what `source` and `run` name.
    """
    run = run or RunConfig()
    return finish_model(load_model(source, run, progress=progress), run)


def load_model(
    source: ModelSource, run: RunConfig, *, seed: int = 0, progress: LoadProgress | None = None
) -> AvatarModel:
    """Load a model or draw its random weights, without fast forms; raises as `build_model` does."""
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
    return load_native(folder, source, device=device, dtype=dtype, placement=run.placement)


def finish_model(model: AvatarModel, run: RunConfig, *, allow_reference: bool = False) -> AvatarModel:
    """Install the fast forms that `run` names, and compile if it says so; networks change in place.

    `InputError` if a fast form cannot run on the model's device.
    """
    model = accelerate_model(model, run.acceleration, allow_reference=allow_reference)
    if run.compile:
        # Last, so that the compiler traces the fast forms.
        compile_transformer(model.executor.networks.dit, run.compile_cache)
    return model


def accelerate_model(
    model: AvatarModel, config: AccelerationConfig, *, allow_reference: bool = False
) -> AvatarModel:
    """Install fast forms in the networks and log which; `allow_reference` is that of `accelerate`.

    The model must be neither compiled nor parallelized, and no stream prepared.
    """
    if config.plain:
        return model
    executor, networks = model.executor, model.executor.networks
    acceleration = accelerate(
        networks.dit, networks.vae, networks.device, config, allow_reference=allow_reference
    )
    _log.info("%s: %s", model.name, acceleration)
    plan = executor.plan
    # After the fast forms are installed: the budget is a share of the memory that is free then.
    if config.fused and plan is not None:
        plan = raise_absorb_budget(plan, networks.device, networks.dit.config.num_layers)
    executor = replace(executor, match_color=acceleration.match_color, plan=plan)
    return replace(model, executor=executor, acceleration=acceleration)


def read_spec(source: ModelSource) -> ModelSpec:
    """Read the specification of a model; no weight is read.

    `source.model` may also name one of `RANDOM_MODELS`, which need no files.

    Raises:
        WeightsError: the model does not exist, or a file cannot be read.
        InputError: the graph does not exist.
    """
    if source.random_weights is not None:
        return random_spec(source.random_weights)
    if source.model in RANDOM_MODELS:
        return random_spec(str(source.model))
    folder = find_checkpoint(source.model)
    if recognise_layout(folder) is Layout.NATIVE:
        return read_native_spec(folder)
    files = find_published(folder, wav2vec_dir=source.wav2vec_dir, infinitetalk=source.infinitetalk)
    return read_published_spec(files)


def find_checkpoint(model: str | Path) -> Path:
    """Return the folder of a shipped model, or `model` if it is a folder; otherwise `WeightsError`."""
    if model in _SHIPPED_MODELS:
        return Path(str(resources.files("livetalk"))) / "weights" / str(model)
    folder = Path(model)
    if not folder.is_dir():
        raise WeightsError(
            f"weights {model}: no such folder, nor a shipped model ({', '.join(_SHIPPED_MODELS)})"
        )
    return folder
