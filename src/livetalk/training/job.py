"""Training job of rendering, VAE and DiT in three processes on one GPU; each resumes from its checkpoint.

All three start together, so that compilation overlaps with rendering. The DiT process waits for a finished
VAE, encodes every clip once and trains on the latents.
"""

import copy
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from livetalk.assembly.spec import PortraitConfig
from livetalk.datasets.clips import ClipMemory
from livetalk.datasets.windows import BankBuilder, BankConfig, GrowingBank, LogMelSource, WindowBank
from livetalk.device import mixed_precision
from livetalk.disk import write_durably
from livetalk.errors import WeightsError
from livetalk.models.audio_encoder import load_speech_encoder
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.reference_decoder import ReferenceDecoder
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.streaming.settings import StreamSettings
from livetalk.synthetic.clips import ClipStore
from livetalk.training.checkpoint import load_training_state
from livetalk.training.config import Budget, ReferenceTrainConfig, SFTConfig, VAETrainConfig
from livetalk.training.critic import PatchCritic
from livetalk.training.metrics import MetricsLog
from livetalk.training.optim import WeightAverage
from livetalk.training.reference import (
    MOTION_MATRICES,
    STAGE_MATRICES,
    MotionStage,
    ReferenceLoss,
    ReferenceObjective,
    ReferenceStage,
    measure_decoding,
    with_reference_decoder,
)
from livetalk.training.sft import SFTLoss, SFTObjective, draw_inputs, validation_errors
from livetalk.training.start import start_dit, start_vae
from livetalk.training.trainer import Stage, Trainer
from livetalk.training.vae import VAELoss, VAEObjective, measure_latents, prepare_vae, reconstruction_psnr
from livetalk.training.waiting import RENDER_ADVICE, announced, open_clips, wait_for, wait_for_clips

VAE_FINISHED = "vae_finished.json"
REFERENCE_STAGE = "reference"
MOTION_STAGE = "motion"
VAE_MATRICES = ("encoder.middle.", "encoder.levels.", "decoder.middle.", "decoder.levels.")
"""Prefixes of the layers that Muon trains: all but the first and the last ones."""

CLIPS_PER_PART = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPaths:
    """Folders and files of one run."""

    clips: Path  # rendered clips, which are large and no result of the run
    heldout: Path  # rendered clips of identities and sentences excluded from training
    run: Path  # checkpoints and metrics
    speech_encoder: Path
    start: Path | None = None  # exported weights from which the networks start; None for fresh ones
    vae: Path | None = None  # exported VAE that later stages use; None for the one that the run trains


@dataclass(frozen=True, slots=True, kw_only=True)
class VAEJob:
    """Arguments of the VAE process."""

    paths: JobPaths
    model: VAEConfig
    training: VAETrainConfig
    budget: Budget
    device: torch.device
    seed: int
    min_clips: int
    max_clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceJob:
    """Arguments of the process that trains a decoder with a reference, which `model` must have."""

    paths: JobPaths
    model: VAEConfig
    training: ReferenceTrainConfig
    budget: Budget
    device: torch.device
    seed: int
    min_clips: int
    max_clips: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DiTJob:
    """Arguments of the DiT process."""

    paths: JobPaths
    vae: VAEConfig
    model: DiTConfig
    settings: StreamSettings
    portrait: PortraitConfig
    training: SFTConfig
    bank: BankConfig
    budget: Budget
    device: torch.device
    seed: int
    min_clips: int
    max_clips: int


def train_vae(job: VAEJob) -> None:
    """Train the VAE for one slice; unless interrupted, measure latent statistics and mark it as finished."""
    memory = open_clips(job.paths.clips, job.device, job.max_clips)
    with announced(job.paths.run, "vae"):
        _train_vae(job, memory)


def _train_vae(job: VAEJob, memory: ClipMemory) -> None:
    finished = job.paths.run / VAE_FINISHED
    finished.unlink(missing_ok=True)
    log = MetricsLog(job.paths.run / "metrics_vae.jsonl", sys.stderr)
    torch.manual_seed(job.seed)
    vae = _first_vae(job).to(job.device)
    trainer = Trainer(Stage("vae", vae, job.training.optimizer, VAE_MATRICES), job.paths.run, log)
    heldout = ClipMemory(ClipStore(job.paths.heldout), job.device)
    wait_for_clips(memory, job.min_clips, job.paths.clips)
    objective = _compiled(VAEObjective(vae, job.training), job.device)
    loss = VAELoss(objective, job.training, memory, job.seed)
    log.write("vae", {"parameters": sum(p.numel() for p in vae.parameters()), "clips": len(memory)})

    def validate(model: nn.Module) -> dict[str, float]:
        heldout.refresh(limit=64)
        assert isinstance(model, CausalVideoVAE)
        return reconstruction_psnr(model, heldout) | {"clips": float(len(memory))}

    trainer.run(loss, job.budget, validate, validate_every=500)
    # An interrupted stage stays unfinished: the DiT must not start on latents that change later.
    if not trainer.interrupted:
        averaged = trainer.average.model
        assert isinstance(averaged, CausalVideoVAE)
        _finish_vae(finished, averaged, memory)
    log.close()


def _finish_vae(finished: Path, vae: CausalVideoVAE, memory: ClipMemory) -> None:
    """Measure the latent statistics; their file marks the VAE as finished."""
    mean, std = measure_latents(vae, memory, num_clips=200)
    statistics = {"latents_mean": mean.tolist(), "latents_std": std.tolist()}
    write_durably(finished, json.dumps(statistics).encode())


def _first_vae(job: VAEJob) -> CausalVideoVAE:
    if job.paths.start is not None:
        return start_vae(job.paths.start, job.model)
    vae = CausalVideoVAE(job.model)
    prepare_vae(vae)
    return vae


def _compiled(module: nn.Module, device: torch.device) -> nn.Module:
    if device.type != "cuda":
        return module
    torch.set_float32_matmul_precision("high")
    # Shapes are constant within a stage, so each convolution's algorithm is chosen once.
    torch.backends.cudnn.benchmark = True
    compiled: nn.Module = torch.compile(module, dynamic=False)  # type: ignore[assignment]
    return compiled


def tune_decoder(job: VAEJob) -> None:
    """Continue training the decoder of a finished VAE on whole windows with a frozen encoder."""
    memory = open_clips(job.paths.clips, job.device, job.max_clips)
    log = MetricsLog(job.paths.run / "metrics_decoder.jsonl", sys.stderr)
    vae = load_trained_vae(job.paths.run, job.model).to(job.device)
    decoder = vae.decoder.requires_grad_(True)
    trainer = Trainer(Stage("decoder", decoder, job.training.optimizer), job.paths.run, log)
    heldout = ClipMemory(ClipStore(job.paths.heldout), job.device)
    heldout.refresh(limit=8)
    wait_for_clips(memory, job.min_clips, job.paths.clips)
    objective = _compiled(VAEObjective(vae, job.training), job.device)

    def validate(model: nn.Module) -> dict[str, float]:
        trial = copy.deepcopy(vae)
        trial.decoder.load_state_dict(model.state_dict())
        return reconstruction_psnr(trial, heldout) | {"clips": float(len(memory))}

    log.write("decoder", {"step": 0.0} | validate(decoder))
    loss = VAELoss(objective, job.training, memory, job.seed)
    trainer.run(loss, job.budget, validate, log_every=20, validate_every=100)
    log.close()


def train_reference(job: ReferenceJob) -> None:
    """Train a decoder that warps a reference for one slice on latents of the finished VAE."""
    memory = open_clips(job.paths.clips, job.device, job.max_clips)
    log = MetricsLog(job.paths.run / "metrics_reference.jsonl", sys.stderr)
    torch.manual_seed(job.seed)
    finished = finished_vae(job.paths, dataclasses.replace(job.model, reference=None))
    vae = with_reference_decoder(finished, job.model).to(job.device)
    stage = _reference_stage(vae).to(job.device)
    trainer = Trainer(
        Stage(REFERENCE_STAGE, stage, job.training.optimizer, STAGE_MATRICES), job.paths.run, log
    )
    heldout = ClipMemory(ClipStore(job.paths.heldout), job.device)
    wait_for_clips(memory, job.min_clips, job.paths.clips)
    heldout.refresh(limit=64)
    objective = _compiled(ReferenceObjective(vae, job.training), job.device)
    trial = copy.deepcopy(vae)

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, ReferenceStage)
        trial.decoder.load_state_dict(model.decoder.state_dict())
        return measure_decoding(trial, heldout) | {"clips": float(len(memory))}

    # The baseline: the plain decoder of the VAE on the same clips.
    plain = measure_decoding(finished.to(job.device), heldout)
    log.write(REFERENCE_STAGE, {f"plain_{name}": value for name, value in plain.items()})
    loss = ReferenceLoss(
        objective, stage.critic, job.training, memory, job.budget, first_step=trainer.step, seed=job.seed
    )
    trainer.run(loss, job.budget, validate, validate_every=1000)
    log.close()


def train_motion(job: ReferenceJob) -> None:
    """Train encoder and decoder for one slice so that latents carry motion; start from the reference stage.

    Unless interrupted, measure the latent statistics and mark the VAE as finished.

    Raises:
        WeightsError: the reference stage has no checkpoint.
    """
    memory = open_clips(job.paths.clips, job.device, job.max_clips)
    with announced(job.paths.run, "vae"):
        _train_motion(job, memory)


def _train_motion(job: ReferenceJob, memory: ClipMemory) -> None:
    finished = job.paths.run / VAE_FINISHED
    finished.unlink(missing_ok=True)
    torch.manual_seed(job.seed)
    stage = MotionStage(*_trained_reference(job.paths, job.model)).to(job.device)
    log = MetricsLog(job.paths.run / "metrics_motion.jsonl", sys.stderr)
    trainer = Trainer(Stage(MOTION_STAGE, stage, job.training.optimizer, MOTION_MATRICES), job.paths.run, log)
    heldout = ClipMemory(ClipStore(job.paths.heldout), job.device)
    wait_for_clips(memory, job.min_clips, job.paths.clips)
    heldout.refresh(limit=64)
    objective = _compiled(ReferenceObjective(stage.vae, job.training), job.device)

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, MotionStage)
        plain = measure_decoding(model.vae, heldout)
        other = measure_decoding(model.vae, heldout, restyled=True)
        return plain | {f"restyled_{name}": value for name, value in other.items()}

    log.write(MOTION_STAGE, {"clips": float(len(memory))} | validate(stage))
    loss = ReferenceLoss(
        objective, stage.critic, job.training, memory, job.budget, first_step=trainer.step, seed=job.seed
    )
    trainer.run(loss, job.budget, validate, validate_every=1000)
    if not trainer.interrupted:
        averaged = trainer.average.model
        assert isinstance(averaged, MotionStage)
        _finish_vae(finished, averaged.vae, memory)
    log.close()


def _reference_stage(vae: CausalVideoVAE) -> ReferenceStage:
    assert isinstance(vae.decoder, ReferenceDecoder)
    return ReferenceStage(vae.decoder)


def trained_reference_vae(paths: JobPaths, config: VAEConfig) -> CausalVideoVAE:
    """Build the finished VAE of a run with its averaged decoder that warps a reference.

    Raises:
        WeightsError: there is no checkpoint of the decoder, or files are damaged or have other sizes.
    """
    vae, _ = _trained_reference(paths, config)
    return vae.eval().requires_grad_(False)


def _trained_reference(paths: JobPaths, config: VAEConfig) -> tuple[CausalVideoVAE, PatchCritic]:
    """Build the VAE of the reference stage and its critic, both averaged."""
    vae = with_reference_decoder(finished_vae(paths, dataclasses.replace(config, reference=None)), config)
    stage, directory = _reference_stage(vae), paths.run / REFERENCE_STAGE
    if not load_average(directory, stage):
        raise WeightsError(f"training checkpoint {directory}: there is none yet")
    return vae, stage.critic


def load_trained_vae(run: Path, config: VAEConfig) -> CausalVideoVAE:
    """Build the averaged VAE of a finished stage, with its latent statistics and tuned decoder, if any."""
    path = run / VAE_FINISHED
    try:
        statistics = json.loads(path.read_text(encoding="utf-8"))
        mean, std = (tuple(map(float, statistics[name])) for name in ("latents_mean", "latents_std"))
    except FileNotFoundError as error:
        raise WeightsError(f"training run {run}: has no finished VAE yet; run livetalk train vae") from error
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"training run {path}: is damaged ({error}); train the VAE again") from error
    vae = CausalVideoVAE(dataclasses.replace(config, latents_mean=mean, latents_std=std))
    if config.reference is None:
        load_average(run / "vae", vae)
        load_average(run / "decoder", vae.decoder)
    else:
        load_average(run / MOTION_STAGE, MotionStage(vae, PatchCritic()))
    return vae.eval().requires_grad_(False)


def load_average(directory: Path, stage: nn.Module) -> int:
    """Load a stage's averaged weights; return its steps, 0 without a checkpoint, which changes nothing."""
    average = WeightAverage(stage, decay=0.0)
    steps = load_training_state(directory, stage, average)
    if steps:
        stage.load_state_dict(average.model.state_dict())
    return steps


def finished_vae(paths: JobPaths, config: VAEConfig) -> CausalVideoVAE:
    """Return the VAE whose latents the DiT of a run learns: `paths.vae` or the one that the run trained.

    Raises:
        WeightsError: its files are damaged or have other sizes.
    """
    if paths.vae is None:
        return load_trained_vae(paths.run, config)
    return start_vae(paths.vae, config).eval().requires_grad_(False)


def train_dit(job: DiTJob, source: LogMelSource) -> None:
    """Train the DiT for one slice on windows encoded with the finished VAE."""
    clips = open_clips(job.paths.clips, job.device, job.max_clips)
    log = MetricsLog(job.paths.run / "metrics_dit.jsonl", sys.stderr)
    torch.manual_seed(job.seed)
    start = job.paths.start
    dit = (DiT(job.model) if start is None else start_dit(start, job.model)).to(job.device)
    trainer = Trainer(Stage("dit", dit, job.training.optimizer, ("blocks.",)), job.paths.run, log)
    objective = _compiled(SFTObjective(dit), job.device)
    log.write("dit", {"parameters": sum(p.numel() for p in dit.parameters())})
    # Before the VAE is finished, so that compilation costs no time of the slice.
    _warm_up(objective, job)
    _wait_for_vae(job.paths)
    bank, heldout = _open_banks(job, clips, source, log)
    loss = SFTLoss(objective, job.training, job.settings, bank, job.seed)

    def validate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, DiT)
        errors = validation_errors(SFTObjective(model), heldout, job.training, job.settings)
        return errors | {"clips": float(bank.num_clips)}

    trainer.run(loss, job.budget, validate, validate_every=500)
    log.close()


def _wait_for_vae(paths: JobPaths) -> None:
    finished = paths.run / VAE_FINISHED
    if paths.vae is None:
        advice = "run livetalk train vae with the same --out, or name a finished VAE with --vae"
        wait_for(paths.run, finished.exists, lambda: "the VAE is not finished", advice)


def _warm_up(objective: nn.Module, job: DiTJob) -> None:
    """Compile forward and backward on random inputs."""
    if job.device.type != "cuda":
        return
    stride = job.vae.spatial_stride
    sides = job.portrait.height // stride, job.portrait.width // stride
    inputs = draw_inputs(job.model, job.settings, job.training.batch_size, sides, job.device)
    with mixed_precision(job.device):
        errors = objective(*inputs)
    errors.mean().backward()
    objective.zero_grad(set_to_none=True)
    del inputs, errors
    torch.cuda.empty_cache()


def _open_banks(
    job: DiTJob, clips: ClipMemory, source: LogMelSource, log: MetricsLog
) -> tuple[GrowingBank, WindowBank]:
    """Encode the rendered clips, at least `min_clips`; the training bank grows during training."""
    vae = finished_vae(job.paths, job.vae).to(job.device)
    vae.use_channels_last()
    speech_encoder = load_speech_encoder(job.paths.speech_encoder).to(job.device)
    builder = BankBuilder(vae, speech_encoder, job.settings, job.bank)
    bank = GrowingBank(builder, clips, source, job.seed)

    def encode() -> bool:
        while bank.refresh(CLIPS_PER_PART):
            if bank.num_clips % (20 * CLIPS_PER_PART) == 0:
                log.write("dit", {"encoded_clips": bank.num_clips})
        return bank.num_clips >= job.min_clips

    wait_for(job.paths.clips, encode, lambda: f"{bank.num_clips} of {job.min_clips} clips", RENDER_ADVICE)
    heldout = ClipMemory(ClipStore(job.paths.heldout), job.device)
    heldout.refresh(limit=64)
    bank_heldout = builder.build(heldout, source, job.seed)
    log.write("dit", {"encoded_clips": bank.num_clips, "heldout_windows": len(bank_heldout)})
    return bank, bank_heldout
