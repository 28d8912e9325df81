"""The job's processes one after the other on tiny networks: each leaves what the next one needs."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from livetalk.assembly.build import build_model
from livetalk.assembly.native import SPEECH_ENCODER_FILE
from livetalk.assembly.run import RunConfig
from livetalk.assembly.source import ModelSource
from livetalk.assembly.spec import PortraitConfig
from livetalk.checkpoints.native import Part, save_checkpoint
from livetalk.datasets.windows import BankConfig
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.dit import DiTConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.recipes.embedded import embedded_spec, embedded_vae
from livetalk.streaming.settings import ReferenceLayout, StreamSettings
from livetalk.synthetic.clips import ClipRecord, ClipSpec, ClipStore
from livetalk.training.config import Budget, OptimizerConfig, SFTConfig, VAETrainConfig
from livetalk.training.job import (
    DiTJob,
    JobPaths,
    VAEJob,
    finished_vae,
    load_trained_vae,
    train_dit,
    train_vae,
    tune_decoder,
)
from livetalk.training.processes import run_processes

WEIGHTS = Path(__file__).parents[2] / "src" / "livetalk" / "weights" / "embedded"
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=2)
VAE = VAEConfig(
    base_dim=8,
    latent_channels=4,
    dim_multipliers=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    patch_size=2,
)
AUDIO = AudioProjectionConfig(num_blocks=1, channels=768, hidden_dim=8, context_tokens=2, output_dim=8)
DIT = DiTConfig(dim=32, ffn_dim=64, num_heads=2, num_layers=1, in_channels=12, out_channels=4, audio=AUDIO)


class Quiet:
    """A corpus of near-silence."""

    def num_variants(self, clip: int) -> int:
        return 1

    def log_mel(self, clip: int, variant: int) -> Tensor:
        return torch.full((200 * 4, 80), -5.0)


def write_clips(store: ClipStore, count: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(count):
        frames = np.broadcast_to(rng.integers(40, 200, (1, 1, 1, 3)), (37, 32, 32, 3)).astype(np.uint8)
        spec = ClipSpec(index, index, index, 0, 50, 37)
        store.write(ClipRecord(spec, (0.2, 0.1, 0.8, 0.9), (0.4, 0.6, 0.6, 0.7), (0.0,) * 37), frames)


@pytest.fixture
def paths(tmp_path: Path) -> JobPaths:
    write_clips(ClipStore(tmp_path / "clips"), 4)
    write_clips(ClipStore(tmp_path / "heldout"), 1)
    return JobPaths(
        clips=tmp_path / "clips",
        heldout=tmp_path / "heldout",
        run=tmp_path / "run",
        speech_encoder=WEIGHTS / SPEECH_ENCODER_FILE,
    )


def vae_job(paths: JobPaths, **changes: int) -> VAEJob:
    training = dataclasses.replace(VAETrainConfig(optimizer=OPTIMIZER, batch_size=2, num_frames=5), **changes)
    return VAEJob(
        paths=paths,
        model=VAE,
        training=training,
        budget=Budget(minutes=5, max_steps=3),
        device=torch.device("cpu"),
        seed=0,
        min_clips=2,
        max_clips=4,
    )


def test_stages_hand_over(paths: JobPaths) -> None:
    train_vae(vae_job(paths))
    first = load_trained_vae(paths.run, VAE)
    assert len(first.config.latents_std) == 4

    tune_decoder(vae_job(paths, crop=16))
    tuned = load_trained_vae(paths.run, VAE)
    changed = [
        name
        for name, tensor in tuned.state_dict().items()
        if not torch.equal(tensor, first.state_dict()[name])
    ]
    assert changed
    assert all(name.startswith("decoder.") for name in changed)

    train_dit(dit_job(paths), Quiet())
    assert (paths.run / "dit" / "state.json").exists()
    assert "encoded_clips" in (paths.run / "metrics_dit.jsonl").read_text()


def dit_job(paths: JobPaths) -> DiTJob:
    return DiTJob(
        paths=paths,
        vae=VAE,
        model=DIT,
        settings=StreamSettings(reference_layout=ReferenceLayout.BROADCAST),
        portrait=PortraitConfig(height=32, width=32),
        training=SFTConfig(optimizer=OPTIMIZER, batch_size=4),
        bank=BankConfig(variants=1),
        budget=Budget(minutes=5, max_steps=3),
        device=torch.device("cpu"),
        seed=0,
        min_clips=2,
        max_clips=4,
    )


def test_a_given_vae_is_taken_as_it_is(paths: JobPaths, tmp_path: Path) -> None:
    config = dataclasses.replace(VAE, latents_mean=(0.5,) * 4, latents_std=(2.0,) * 4)
    given = tmp_path / "given"
    weights = CausalVideoVAE(config).state_dict()
    save_checkpoint(given, name="vae", version="1", configs={"vae": config}, parts={"vae": Part(weights)})
    paths = dataclasses.replace(paths, vae=given)
    train_dit(dit_job(paths), Quiet())
    assert (paths.run / "dit" / "state.json").exists()
    assert not (paths.run / "vae").exists()
    taken = finished_vae(paths, VAE)
    assert taken.config == config
    assert all(torch.equal(tensor, weights[name]) for name, tensor in taken.state_dict().items())


def test_shipped_weights_fit_the_recipe() -> None:

    model = build_model(ModelSource(), RunConfig(device="cpu"))
    statistics = {"latents_mean": (), "latents_std": ()}
    untrained = dataclasses.replace(model.spec.vae, **statistics)
    assert dataclasses.replace(model.spec, vae=untrained) == embedded_spec(embedded_vae())
    assert model.executor.networks.dit.config == model.spec.dit
    assert model.executor.networks.vae.config == model.spec.vae


def test_a_failing_process_stops_the_others() -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert run_processes([sleeper, [sys.executable, "-c", "raise SystemExit(3)"]]) == 3
    assert run_processes([[sys.executable, "-c", "pass"]]) == 0
