"""Both stages on tiny networks: windows are cut and aligned rightly, losses fall, everything resumes."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from livetalk.datasets.clips import ClipMemory
from livetalk.datasets.windows import BankBuilder, BankConfig, GrowingBank, WindowBank
from livetalk.device import mixed_precision
from livetalk.diffusion.flow import x0_from_velocity
from livetalk.models.audio_encoder import SpeechEncoder, SpeechEncoderConfig
from livetalk.models.audio_projection import AudioProjectionConfig
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.reference_decoder import ReferenceDecoderConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.streaming.settings import ReferenceLayout, StreamSettings
from livetalk.streaming.window import WindowInputs
from livetalk.synthetic.clips import ClipRecord, ClipSpec, ClipStore, clip_specs
from livetalk.training.config import Budget, OptimizerConfig, SFTConfig, VAETrainConfig
from livetalk.training.metrics import MetricsLog
from livetalk.training.sft import SFTLoss, SFTObjective, draw_inputs, validation_errors, window_errors
from livetalk.training.trainer import Stage, Trainer
from livetalk.training.vae import (
    VAELoss,
    VAEObjective,
    choose_frames,
    measure_latents,
    prepare_vae,
    reconstruction_psnr,
)
from tolerance import assert_near, rounding, unit_roundoff

CPU = torch.device("cpu")
VAE = VAEConfig(
    base_dim=8,
    latent_channels=4,
    dim_multipliers=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    patch_size=2,
    temporal_kernels=(1, 1, 3),
)
DIT = DiTConfig(
    dim=32,
    ffn_dim=64,
    num_heads=2,
    num_layers=2,
    in_channels=12,
    out_channels=4,
    audio=AudioProjectionConfig(num_blocks=1, channels=32, hidden_dim=16, context_tokens=4, output_dim=16),
)
OPTIMIZER = OptimizerConfig(learning_rate=3e-3, warmup_steps=5, use_muon=True)
SFT = SFTConfig(optimizer=OPTIMIZER, batch_size=8)
SETTINGS = StreamSettings(reference_layout=ReferenceLayout.BROADCAST)


class RampSource:
    """Log-mel whose value tells the video frame: decades = -9 + 0.01 * frame."""

    def num_variants(self, clip: int) -> int:
        return 1

    def log_mel(self, clip: int, variant: int) -> Tensor:
        frames = torch.arange(120 * 4) // 4
        return (-9 + 0.01 * frames).float()[:, None].expand(-1, 80).contiguous()


class TellTale(SpeechEncoder):
    """An encoder whose feature is the mean decade of the video frame: alignment becomes visible."""

    def encode_log_mel(self, log_mel: Tensor) -> Tensor:
        frames = log_mel.mean(2).unflatten(1, (-1, 4)).mean(2)
        return frames[:, :, None, None].expand(-1, -1, 1, 32)


@pytest.fixture
def store(tmp_path: Path) -> ClipStore:
    store = ClipStore(tmp_path / "clips")
    rng = np.random.default_rng(0)
    for index in range(3):
        colour = rng.integers(40, 200, 3)
        frames = np.broadcast_to(colour, (69, 32, 32, 3)).astype(np.uint8).copy()
        for at in range(69):
            frames[at, 16:22, 10 : 12 + at % 8] = 255 - colour
        spec = ClipSpec(index, index, index, 0, 10 * index, 69)
        box = (0.3, 0.4, 0.7, 0.8)
        store.write(ClipRecord(spec, (0.1, 0.1, 0.9, 0.9), box, (0.0,) * 69), frames)
    return store


@pytest.fixture
def bank(store: ClipStore) -> WindowBank:
    torch.manual_seed(0)
    memory = ClipMemory(store, CPU)
    memory.refresh(limit=10)
    encoder = TellTale(SpeechEncoderConfig(num_layers=1, width=16, num_heads=2))
    config = BankConfig(window_stride=4, lookahead_frames=(3,), variants=1, reencode_share=1.0)
    return BankBuilder(CausalVideoVAE(VAE), encoder, SETTINGS, config).build(memory, RampSource(), 0)


def test_a_growing_bank_ends_as_the_whole_one(
    store: ClipStore, bank: WindowBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("livetalk.datasets.windows.PARTS_JOINED", 1)
    torch.manual_seed(0)
    encoder = TellTale(SpeechEncoderConfig(num_layers=1, width=16, num_heads=2))
    config = BankConfig(window_stride=4, lookahead_frames=(3,), variants=1, reencode_share=1.0)
    builder = BankBuilder(CausalVideoVAE(VAE), encoder, SETTINGS, config)
    growing = GrowingBank(builder, ClipMemory(store, CPU), RampSource(), 0)
    sizes = [len(growing.current()) for _ in range(4)]
    assert sizes == [10, 20, 30, 30]
    assert growing.num_clips == 3
    for name in ("latents", "motion", "references", "features", "first", "count", "weights"):
        assert torch.equal(getattr(growing.current(), name), getattr(bank, name))


def test_views_of_a_clip_differ_and_keep_their_windows_apart(store: ClipStore, bank: WindowBank) -> None:
    reference = ReferenceDecoderConfig(feature_channels=4, width=8, fine_width=4, reference_width=8)
    torch.manual_seed(0)
    encoder = TellTale(SpeechEncoderConfig(num_layers=1, width=16, num_heads=2))
    config = BankConfig(
        window_stride=4, lookahead_frames=(3,), variants=1, reencode_share=1.0, views=2, restyled=True
    )
    memory = ClipMemory(store, CPU)
    memory.refresh(limit=10)
    vae = CausalVideoVAE(replace(VAE, reference=reference))
    views = BankBuilder(vae, encoder, SETTINGS, config).build(memory, RampSource(), 0)
    assert len(views) == 2 * len(bank)
    assert views.first.tolist() == [10 * view for view in range(6) for _ in range(10)]
    assert torch.equal(views.features[:10], views.features[10:20])
    assert (views.latents[:10] - views.latents[10:20]).abs().max() > 0.01
    # The window 28 frames later starts with motion latents that were decoded by warping a frame.
    assert not torch.equal(views.motion[7], views.latents[7, :, : views.motion.shape[2]])


def test_a_growing_bank_without_clips_says_so(tmp_path: Path) -> None:
    encoder = TellTale(SpeechEncoderConfig(num_layers=1, width=16, num_heads=2))
    builder = BankBuilder(CausalVideoVAE(VAE), encoder, SETTINGS, BankConfig())
    growing = GrowingBank(builder, ClipMemory(ClipStore(tmp_path / "none"), CPU), RampSource(), 0)
    with pytest.raises(ValueError, match="no clip"):
        growing.current()


def test_store_hands_over_finished_clips_only(store: ClipStore) -> None:
    (store.directory / "clip_000009.npy").write_bytes(b"half")
    assert store.indices() == [0, 1, 2]
    assert store.record(1).spec.start_frame == 10
    assert store.frames(1).shape == (69, 32, 32, 3)


def test_specs_never_repeat_an_identity() -> None:
    specs = clip_specs(3, corpus_clips=5, corpus_frames=200, num_frames=77)
    some = [next(specs) for _ in range(40)]
    assert len({spec.identity_seed for spec in some}) == 40
    assert {spec.corpus_clip for spec in some[:5]} == set(range(5))
    assert all(0 <= spec.start_frame <= 123 for spec in some)


def test_memory_respects_its_bound(store: ClipStore) -> None:
    memory = ClipMemory(store, CPU, max_clips=2)
    assert memory.refresh(limit=5) == 2
    assert memory.refresh(limit=5) == 0
    batch = memory.sample(4, 9, torch.Generator().manual_seed(0))
    assert batch.video.shape == (4, 9, 3, 32, 32)
    assert float(batch.video.max()) <= 1


def test_bank_windows_carry_the_speech_of_their_frames(bank: WindowBank) -> None:
    assert len(bank) == 30
    assert bank.latents.shape == (30, 4, 9, 4, 4)
    assert bank.first.tolist() == [0] * 10 + [10] * 10 + [20] * 10
    starts = torch.arange(10) * 4
    frames = torch.arange(-2, 35)
    for clip in range(3):
        expected = -9 + 0.01 * (10 * clip + starts[:, None] + frames)
        known = (10 * clip + starts[:, None] + frames >= 0) & (10 * clip + starts[:, None] + frames < 119)
        got = bank.features[clip * 10 : clip * 10 + 10, 0, :, 0, 0].float()
        # Speech is kept in float16.
        assert_near(got[known], expected[known], unit_roundoff(torch.float16))


def test_reencoded_motion_exists_where_a_window_precedes(bank: WindowBank) -> None:
    changed = (bank.motion != bank.latents[:, :, :2]).flatten(1).any(1)
    assert changed.tolist() == ([False] * 7 + [True] * 3) * 3


def test_vae_learns_and_reports_psnr(store: ClipStore, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = CausalVideoVAE(VAE)
    prepare_vae(vae)
    config = VAETrainConfig(optimizer=OptimizerConfig(learning_rate=3e-3), batch_size=4, num_frames=5)
    memory = ClipMemory(store, CPU)
    memory.refresh(limit=10)
    log = MetricsLog(tmp_path / "metrics.jsonl", io.StringIO())
    trainer = Trainer(Stage("vae", vae, config.optimizer), tmp_path, log)
    before = reconstruction_psnr(vae, memory)
    loss = VAELoss(VAEObjective(vae, config), config, memory, seed=0)
    trainer.run(loss, Budget(minutes=5, max_steps=120), log_every=40)
    log.close()
    after = reconstruction_psnr(vae, memory)
    assert after["psnr"] > before["psnr"] + 1
    assert set(after) == {"psnr", "face_psnr", "mouth_psnr"}
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 40, 80, 120]
    assert records[-1]["reconstruction"] < 0.8 * records[0]["reconstruction"]
    mean, std = measure_latents(vae, memory, num_clips=2)
    assert mean.shape == std.shape == (4,)
    assert (std > 0).all()


def test_judged_frames_always_hold_the_motion_frames() -> None:
    config = VAETrainConfig(optimizer=OPTIMIZER, batch_size=1, num_frames=33, judged_frames=9)
    drawn = [choose_frames(config, torch.Generator().manual_seed(seed)) for seed in range(60)]
    for frames in drawn:
        assert frames.shape == (9,)
        assert frames[-5:].tolist() == [28, 29, 30, 31, 32]
        assert frames.diff().min() > 0
    assert set(torch.cat(drawn).tolist()) == set(range(33))


def test_sft_learns(bank: WindowBank, tmp_path: Path) -> None:
    torch.manual_seed(0)
    dit = DiT(DIT)
    log = MetricsLog(tmp_path / "metrics.jsonl", io.StringIO())
    trainer = Trainer(Stage("dit", dit, OPTIMIZER, ("blocks.",)), tmp_path, log)
    before = validation_errors(SFTObjective(dit), bank, SFT, SETTINGS)
    trainer.run(SFTLoss(SFTObjective(dit), SFT, SETTINGS, bank, seed=0), Budget(minutes=5, max_steps=80))
    log.close()
    averaged = trainer.average.model
    assert isinstance(averaged, DiT)
    after = validation_errors(SFTObjective(averaged), bank, SFT, SETTINGS)
    assert after["error_080"] < 0.8 * before["error_080"]


def test_what_is_compiled_before_there_is_data_serves_the_data(bank: WindowBank) -> None:
    graphs = []

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    objective = torch.compile(SFTObjective(DiT(DIT)), backend=count, dynamic=False)
    with mixed_precision(CPU):
        objective(*draw_inputs(DIT, SETTINGS, 4, (4, 4), CPU)).mean().backward()
    compiled = len(graphs)
    index = torch.arange(4)
    rng = torch.Generator().manual_seed(0)
    window_errors(objective, bank, index, torch.rand(4), SFT, SETTINGS, rng).mean().backward()
    assert len(graphs) == compiled > 0


class Recorder(torch.nn.Module):
    """Stands in for the objective and keeps what it was given."""

    def forward(
        self, noisy: Tensor, sigma: Tensor, window: WindowInputs, target: Tensor, weights: Tensor
    ) -> Tensor:
        self.noisy, self.window, self.target, self.weights = noisy, window, target, weights
        return torch.zeros(noisy.shape[0])


def test_some_windows_lack_their_speech_and_some_their_reference(bank: WindowBank) -> None:
    config = SFTConfig(
        optimizer=OPTIMIZER, batch_size=64, motion_noise=0.0, speech_dropout=0.3, reference_dropout=0.5
    )
    recorder = Recorder()
    index = torch.arange(30).repeat(20)
    rng = torch.Generator().manual_seed(0)
    window_errors(recorder, bank, index, torch.full(index.shape, 0.9), config, SETTINGS, rng)
    silent = (recorder.window.audio_context == 0).flatten(1).all(1)
    bare = (recorder.window.condition == 0).flatten(1).all(1)
    assert silent.float().mean() == pytest.approx(0.3, abs=0.06)
    assert bare.float().mean() == pytest.approx(0.5, abs=0.06)
    # The two are independent: guidance by speech alone needs windows with a reference.
    assert (silent & ~bare).any() and (bare & ~silent).any()


def test_motion_latents_are_clean_and_not_in_the_loss(bank: WindowBank) -> None:
    config = SFTConfig(
        optimizer=OPTIMIZER,
        batch_size=64,
        motion_noise=0.0,
        reencoded_probability=0.0,
        speech_dropout=0.0,
        reference_dropout=0.0,
    )
    recorder = Recorder()
    index = torch.arange(20, 30).repeat(6)
    sigma = torch.full(index.shape, 0.9)
    window_errors(recorder, bank, index, sigma, config, SETTINGS, torch.Generator().manual_seed(0))
    noisy, weights = recorder.noisy, recorder.weights
    condition, context = recorder.window.condition, recorder.window.audio_context
    counted = weights[:, 0, :, 0, 0] > 0
    clean = bank.latents[index].float()
    kept = (~counted)[:, None, :, None, None].expand_as(noisy)
    assert torch.equal(noisy[kept], clean[kept])
    # The velocity leads from the noisy latents back to the clean ones.
    restored = x0_from_velocity(noisy, recorder.target, sigma)
    assert_near(restored[~kept], clean[~kept], rounding(8))
    assert set((~counted).sum(1).tolist()) == {1, 2}
    assert context.shape == (60, 33, 5, 1, 32)
    assert torch.equal(condition[:, :4, 0], torch.ones_like(condition[:, :4, 0]))
    assert not condition[:, :4, 1:].any()
    assert torch.equal(condition[:, 4:], condition[:, 4:, :1].expand(-1, -1, 9, -1, -1))
