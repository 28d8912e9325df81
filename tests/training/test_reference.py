"""The stage of the decoder with a reference: what it trains, the critic, resuming, packing."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from livetalk.cli.main import main
from livetalk.datasets.clips import ClipMemory
from livetalk.errors import WeightsError
from livetalk.models.reference_decoder import ReferenceDecoder, ReferenceDecoderConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.synthetic.clips import ClipRecord, ClipSpec, ClipStore
from livetalk.training.config import Budget, MotionLatentsConfig, OptimizerConfig, ReferenceTrainConfig
from livetalk.training.critic import PatchCritic, critic_loss, critic_opinion
from livetalk.training.job import (
    JobPaths,
    ReferenceJob,
    finished_vae,
    train_motion,
    train_reference,
    trained_reference_vae,
)
from livetalk.training.metrics import MetricsLog
from livetalk.training.reference import (
    MotionStage,
    ReferenceLoss,
    ReferenceObjective,
    ReferenceStage,
    draw_looks,
    measure_decoding,
    with_reference_decoder,
)
from livetalk.training.trainer import Stage, Trainer
from livetalk.training.vae import prepare_vae

CPU = torch.device("cpu")
CLIP_FRAMES = 37
VAE = VAEConfig(
    base_dim=8,
    latent_channels=4,
    dim_multipliers=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    patch_size=2,
    temporal_kernels=(1, 1, 3),
)
WARPING = dataclasses.replace(
    VAE, reference=ReferenceDecoderConfig(feature_channels=4, width=8, fine_width=4, reference_width=8)
)
TRAINING = ReferenceTrainConfig(
    optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=5),
    batch_size=2,
    num_frames=9,
    judged_frames=4,
)
LONG = Budget(minutes=60, max_steps=100)


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    """Smooth pictures that swing from side to side by a few pixels."""
    store = ClipStore(tmp_path / "clips")
    rng = np.random.default_rng(0)
    for index in range(3):
        coarse = torch.from_numpy(rng.uniform(30, 220, (1, 3, 6, 6)))
        texture = torch.nn.functional.interpolate(coarse, size=36, mode="bicubic").clamp(0, 255)
        shifts = [2 + round(2 * np.sin(at / 3)) for at in range(CLIP_FRAMES)]
        pictures = [texture[0, :, :32, shift : shift + 32].permute(1, 2, 0) for shift in shifts]
        frames = torch.stack(pictures).to(torch.uint8).numpy()
        spec = ClipSpec(index, index, index, 0, 0, CLIP_FRAMES)
        record = ClipRecord(spec, (0.1, 0.1, 0.9, 0.9), (0.3, 0.6, 0.7, 0.8), (0.0,) * CLIP_FRAMES)
        store.write(record, frames)
    return store


def load(store: ClipStore) -> ClipMemory:
    memory = ClipMemory(store, CPU)
    memory.refresh(limit=10)
    return memory


@torch.no_grad()
def errors_of_warping(vae: CausalVideoVAE, memory: ClipMemory) -> tuple[float, float]:
    """Mean error of the reference left where it is, and of the warped one, over the first windows."""
    errors = []
    for frames in memory.frames:
        video = frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        window, picture = video[:, :, :9], video[:, :, -1]
        parts = vae.decode_parts(vae.encode(window)[0], vae.encode_reference(picture))
        errors.append([(other - window).abs().mean().item() for other in (picture[:, :, None], parts.warped)])
    still, warped = torch.tensor(errors).mean(0).tolist()
    return still, warped


def make_vae() -> CausalVideoVAE:
    torch.manual_seed(0)
    plain = CausalVideoVAE(dataclasses.replace(VAE, latents_mean=(0.1,) * 4, latents_std=(0.5,) * 4))
    prepare_vae(plain)
    return plain


def make_stage(vae: CausalVideoVAE) -> ReferenceStage:
    assert isinstance(vae.decoder, ReferenceDecoder)
    return ReferenceStage(vae.decoder)


def test_a_window_may_carry_a_frame_of_another_moment(store: ClipStore) -> None:
    memory = load(store)
    plain = memory.sample(4, 9, torch.Generator().manual_seed(3))
    batch = memory.sample(4, 9, torch.Generator().manual_seed(3), reference=True)
    assert plain.video.shape == (4, 9, 3, 32, 32)
    assert batch.video.shape == (4, 10, 3, 32, 32)
    moments = set()
    for window in batch.video:
        levels = (window[-1].permute(1, 2, 0) * 255).round().to(torch.uint8)
        found = [
            at
            for clip in memory.frames
            for at in range(CLIP_FRAMES)
            if torch.equal(levels, clip[at]) or torch.equal(levels, clip[at].flip(1))
        ]
        assert found, "the reference is a frame of a clip, mirrored like its window or not"
        moments.add(found[0])
    assert len(moments) > 1


def test_the_new_decoder_begins_with_the_layers_of_the_old_one() -> None:
    plain = make_vae()
    vae = with_reference_decoder(plain, WARPING)
    old, new = plain.state_dict(), vae.state_dict()
    assert vae.config.latents_std == (0.5,) * 4
    assert vae.config.reference == WARPING.reference
    own = ("decoder.norm_out.", "decoder.conv_out.")
    shared = [name for name in new if name in old and not name.startswith(own)]
    assert any(name.startswith("decoder.levels.1.") for name in shared)
    assert all(torch.equal(new[name], old[name]) for name in shared)
    trained = {name for name, parameter in vae.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in new if name.startswith("decoder.")}


def test_it_learns_to_warp_without_forgetting_to_paint(store: ClipStore, tmp_path: Path) -> None:
    vae = with_reference_decoder(make_vae(), WARPING)
    stage, memory = make_stage(vae), load(store)
    log = MetricsLog(tmp_path / "metrics.jsonl", io.StringIO())
    trainer = Trainer(Stage("reference", stage, TRAINING.optimizer, ("decoder.middle.",)), tmp_path, log)
    loss = ReferenceLoss(
        ReferenceObjective(vae, TRAINING), stage.critic, TRAINING, memory, LONG, first_step=0, seed=0
    )
    before = measure_decoding(vae, memory, num_frames=9)
    trainer.run(loss, LONG, log_every=10)
    log.close()
    after = measure_decoding(vae, memory, num_frames=9)
    assert after["psnr"] > before["psnr"] + 3
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Below one half, so that most of the first gradient reaches the painting layers.
    assert 0 < records[0]["mask"] < 0.5
    assert records[-1]["painted"] < 0.7 * records[0]["painted"]
    still, warped = errors_of_warping(vae, memory)
    assert warped < 0.95 * still
    assert "critic" not in records[2] and records[-1]["critic"] > 0


def test_a_frozen_critic_passes_gradients_on_and_takes_none() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(width=4)
    frames, target = torch.rand(2, 3, 32, 32, requires_grad=True), torch.rand(2, 3, 32, 32)
    adversarial, features = critic_opinion(critic, frames, target)
    torch.autograd.backward(adversarial + features)
    assert frames.grad is not None and frames.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in critic.parameters())
    frames.grad = None
    torch.autograd.backward(critic_loss(critic, frames, target))
    assert frames.grad is None
    weights = [layer.weight for layer in (*critic.layers, critic.verdict)]
    assert all(weight.grad is not None and weight.grad.abs().max() > 0 for weight in weights)


def test_a_critic_learns_to_tell_frames_apart() -> None:
    torch.manual_seed(0)
    critic = PatchCritic(width=8)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    real = torch.rand(8, 3, 32, 32) * 2 - 1
    smooth = torch.nn.functional.avg_pool2d(real, 3, 1, 1)
    first = last = 0.0
    for step in range(60):
        optimizer.zero_grad()
        loss = critic_loss(critic, smooth, real)
        torch.autograd.backward(loss)
        optimizer.step()
        first, last = (loss.item() if step == 0 else first), loss.item()
    assert last < 0.5 * first


@pytest.mark.parametrize(("first_step", "joined"), [(0, False), (10, True)])
def test_the_critic_joins_late_in_the_first_slice_only(
    store: ClipStore, first_step: int, joined: bool
) -> None:
    vae = with_reference_decoder(make_vae(), WARPING)
    loss = ReferenceLoss(
        ReferenceObjective(vae, TRAINING),
        PatchCritic(width=4),
        TRAINING,
        load(store),
        LONG,
        first_step=first_step,
        seed=0,
    )
    early, late = loss(first_step + 5), loss(first_step + 70)
    assert ("critic" in early) is joined
    assert "critic" in late


MOTION = dataclasses.replace(
    TRAINING,
    judged_frames=6,
    motion_latents=MotionLatentsConfig(restyled_share=1.0, kl_weight=1e-4),
)


def test_latents_lose_the_look_of_the_frames(store: ClipStore, tmp_path: Path) -> None:
    vae = with_reference_decoder(make_vae(), WARPING)
    stage, memory = MotionStage(vae, PatchCritic()), load(store)
    before = measure_decoding(vae, memory, num_frames=9, restyled=True)
    log = MetricsLog(tmp_path / "metrics.jsonl", io.StringIO())
    trainer = Trainer(Stage("motion", stage, MOTION.optimizer, ("vae.encoder.middle.",)), tmp_path, log)
    start = vae.encoder.conv_in.weight.detach().clone()
    budget = Budget(minutes=60, max_steps=100)
    objective = ReferenceObjective(vae, MOTION)
    trainer.run(ReferenceLoss(objective, stage.critic, MOTION, memory, budget, 0, seed=0), budget)
    log.close()
    assert not torch.equal(vae.encoder.conv_in.weight, start)
    after = measure_decoding(vae, memory, num_frames=9, restyled=True)
    assert after["psnr"] > before["psnr"] + 3


def test_looks_differ_for_a_share_of_the_clips(store: ClipStore) -> None:
    video = load(store).sample(40, 5, torch.Generator().manual_seed(0)).video
    seen, shown = draw_looks(video, 0.5, torch.Generator().manual_seed(1))
    plain = (video * 2 - 1).transpose(1, 2)
    kept = [(look == plain).flatten(1).all(1) for look in (seen, shown)]
    assert torch.equal(*kept)
    assert kept[0].float().mean() == pytest.approx(0.5, abs=0.25)
    assert ((seen - shown).abs().flatten(1).mean(1) > 0.01)[~kept[0]].all()


def write_job(tmp_path: Path, store: ClipStore) -> ReferenceJob:
    ClipStore(tmp_path / "heldout").write(store.record(0), store.frames(0))
    return ReferenceJob(
        paths=JobPaths(
            clips=store.directory,
            heldout=tmp_path / "heldout",
            run=tmp_path / "run",
            speech_encoder=tmp_path / "none",
            vae=tmp_path / "vae",
        ),
        model=WARPING,
        training=TRAINING,
        budget=Budget(minutes=60, max_steps=4),
        device=CPU,
        seed=0,
        min_clips=2,
        max_clips=3,
    )


def save_vae(folder: Path) -> dict[str, Tensor]:
    from livetalk.checkpoints.native import Part, save_checkpoint  # noqa: PLC0415  only these tests pay for it

    vae = make_vae()
    parts = {"vae": Part(vae.state_dict())}
    save_checkpoint(folder, name="vae", version="1", configs={"vae": vae.config}, parts=parts)
    return vae.state_dict()


def test_the_motion_stage_continues_the_reference_stage(tmp_path: Path, store: ClipStore) -> None:
    save_vae(tmp_path / "vae")
    job = dataclasses.replace(write_job(tmp_path, store), training=MOTION)
    with pytest.raises(WeightsError, match="none yet"):
        train_motion(job)
    train_reference(dataclasses.replace(job, training=TRAINING))
    train_motion(job)
    own = dataclasses.replace(job.paths, vae=None)
    trained = finished_vae(own, WARPING)
    start = trained_reference_vae(job.paths, WARPING)
    assert trained.config.reference == WARPING.reference
    assert trained.config.latents_std != start.config.latents_std
    assert not torch.equal(trained.encoder.conv_in.weight, start.encoder.conv_in.weight)


def test_a_run_resumes_packs_and_gives_its_decoder(
    tmp_path: Path, store: ClipStore, capsys: pytest.CaptureFixture[str]
) -> None:
    state = save_vae(tmp_path / "vae")
    job = write_job(tmp_path, store)
    with pytest.raises(WeightsError, match="none yet"):
        trained_reference_vae(job.paths, WARPING)
    train_reference(job)
    train_reference(job)
    places = [f"--{name}={tmp_path / name}" for name in ("corpus", "work")]
    assert main(["train", "pack", *places, f"--out={job.paths.run}", f"--to={tmp_path / 'home'}"]) == 0
    assert "reference: 8 steps" in capsys.readouterr().out

    home = dataclasses.replace(job.paths, run=tmp_path / "home")
    trained = trained_reference_vae(job.paths, WARPING)
    packed = trained_reference_vae(home, WARPING)
    fresh = with_reference_decoder(make_vae(), WARPING)
    for name, tensor in trained.state_dict().items():
        # Both read the averaged weights, which a checkpoint stores in float16.
        assert torch.equal(packed.state_dict()[name], tensor)
        if not name.startswith("decoder."):
            assert torch.equal(tensor, state[name])
    changed = [name for name, p in trained.named_parameters() if not torch.equal(p, fresh.state_dict()[name])]
    assert "decoder.flow.weight" in changed and "decoder.conv_out.weight" in changed

    lines = (tmp_path / "home" / "metrics_reference.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert "plain_mouth_psnr" in records[0]
    assert records[-1]["step"] == 8
    assert "mouth_sharpness" in records[-1]
