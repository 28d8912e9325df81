"""The loop: resuming continues exactly, schedules follow the budget, checkpoints are checked."""

import io
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from livetalk.errors import WeightsError
from livetalk.training.checkpoint import PART_BYTES, copy_average, load_training_state
from livetalk.training.config import Budget, OptimizerConfig
from livetalk.training.metrics import MetricsLog
from livetalk.training.optim import (
    ConvolutionMuon,
    WeightAverage,
    build_optimizers,
    orthogonalize,
    rate_factor,
)
from livetalk.training.trainer import Stage, Trainer
from tolerance import assert_near, rounding, unit_roundoff

CONFIG = OptimizerConfig(learning_rate=0.02, warmup_steps=1, decay_from=1.0, ema_decay=0.9)


class Regression:
    """Least squares on draws that depend on the step only."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, step: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(step)
        x = torch.randn(16, 8, generator=rng)
        return {"loss": (self.model(x) - x.sum(1, keepdim=True)).square().mean()}


def build_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def run_steps(directory: Path, *slices: int) -> nn.Module:
    for steps in slices:
        model = build_model()
        log = MetricsLog(directory / "metrics.jsonl", io.StringIO())
        trainer = Trainer(Stage("toy", model, CONFIG), directory, log)
        trainer.run(Regression(model), Budget(minutes=10, max_steps=steps), log_every=10)
        log.close()
    return model


def test_two_slices_equal_one(tmp_path: Path) -> None:
    whole = run_steps(tmp_path / "whole", 30)
    parts = run_steps(tmp_path / "parts", 12, 18)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        # Thirty steps, each of which changes a weight by a sum over a batch.
        assert_near(b, a, rounding(30 * 16))


def test_training_reduces_the_loss(tmp_path: Path) -> None:
    before = Regression(build_model())(999)["loss"]
    after = Regression(run_steps(tmp_path, 200))(999)["loss"]
    assert after < 0.5 * before


def test_light_checkpoint_restores_averaged_weights(tmp_path: Path) -> None:
    model = build_model()
    log = MetricsLog(tmp_path / "metrics.jsonl", io.StringIO())
    trainer = Trainer(Stage("toy", model, CONFIG), tmp_path, log)
    trainer.run(Regression(model), Budget(minutes=10, max_steps=5))
    log.close()
    assert copy_average(tmp_path / "toy", tmp_path / "light") == 5
    fresh = build_model()
    assert load_training_state(tmp_path / "light", fresh) == 5
    assert folder_bytes(tmp_path / "light") < 0.5 * folder_bytes(tmp_path / "toy")
    for a, b in zip(trainer.average.model.parameters(), fresh.parameters(), strict=True):
        assert_near(b, a, unit_roundoff(torch.float16))


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_there_is_nothing_light_before_the_first_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="none yet"):
        copy_average(tmp_path / "toy", tmp_path / "light")
    assert not (tmp_path / "light").exists()


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_steps(tmp_path, 3)
    read_text, stale = Path.read_text, (tmp_path / "toy" / "state.json").read_text()
    run_steps(tmp_path, 2)
    answers = [stale]

    def once_stale(path: Path, encoding: str) -> str:
        return answers.pop() if answers else read_text(path, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", once_stale)
    assert copy_average(tmp_path / "toy", tmp_path / "light") == 5


def test_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    run_steps(tmp_path, 3)
    (part,) = (tmp_path / "toy").glob("state-*.part0")
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(WeightsError, match="sha256"):
        load_training_state(tmp_path / "toy", build_model())
    part.unlink()
    with pytest.raises(WeightsError, match=r"part0.* is missing"):
        load_training_state(tmp_path / "toy", build_model())


def test_a_save_that_fails_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_steps(tmp_path, 3)
    model = build_model()
    log = MetricsLog(tmp_path / "metrics.jsonl", io.StringIO())
    trainer = Trainer(Stage("toy", model, CONFIG), tmp_path, log)
    trainer.step = 99

    def full_disk(path: Path, data: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="no space"):
        trainer.save()
    monkeypatch.undo()
    log.close()
    assert load_training_state(tmp_path / "toy", build_model()) == 3


def test_large_checkpoints_are_split(tmp_path: Path) -> None:
    model = nn.Linear(1024, 4096)
    log = MetricsLog(tmp_path / "metrics.jsonl", io.StringIO())
    trainer = Trainer(Stage("wide", model, CONFIG), tmp_path, log)
    trainer.save()
    log.close()
    parts = sorted((tmp_path / "wide").glob("state-*.part*"))
    assert len(parts) == 2
    assert all(part.stat().st_size <= PART_BYTES for part in parts)


def test_rate_warms_up_holds_and_falls() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, decay_from=0.5, final_factor=0.1)
    assert rate_factor(0, 0.0, config) == pytest.approx(0.1)
    assert rate_factor(50, 0.5, config) == 1.0
    assert rate_factor(50, 0.75, config) == pytest.approx(0.55)
    assert rate_factor(50, 1.0, config) == pytest.approx(0.1)


def test_muon_takes_block_matrices_only() -> None:
    model = nn.ModuleDict({"blocks": nn.Linear(4, 4), "head": nn.Linear(4, 2)})
    config = OptimizerConfig(learning_rate=1e-3, use_muon=True)
    muon, adam = build_optimizers(model, config, ("blocks.",))
    assert [p.shape for p in muon.param_groups[0]["params"]] == [torch.Size([4, 4])]
    assert sum(len(group["params"]) for group in adam.param_groups) == 3


def test_muon_takes_block_kernels_too() -> None:
    model = nn.ModuleDict({"blocks": nn.Conv2d(3, 8, 3), "head": nn.Conv2d(8, 2, 3)})
    config = OptimizerConfig(learning_rate=1e-3, use_muon=True)
    muon, _ = build_optimizers(model, config, ("blocks.",))
    assert isinstance(muon, ConvolutionMuon)
    assert [p.shape for p in muon.param_groups[0]["params"]] == [torch.Size([8, 3, 3, 3])]


@pytest.mark.parametrize("shape", [(2, 6, 20), (3, 20, 6)])
def test_orthogonalised_matrices_have_like_singular_values(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape, generator=generator)))
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4


def test_kernel_updates_have_the_stated_size_and_lower_the_loss() -> None:
    torch.manual_seed(0)
    layer, wanted = nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3)
    optimizer = ConvolutionMuon([layer.weight], lr=0.05)
    pictures = torch.randn(16, 4, 8, 8)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (layer(pictures) - wanted(pictures).detach()).square().mean()
        loss.backward()
        before = layer.weight.detach().clone()
        optimizer.step()
        change = (layer.weight.detach() - before).square().mean().sqrt()
        assert float(change) == pytest.approx(0.2 * 0.05, rel=0.3)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_average_follows_the_weights() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(1.0)
    for _ in range(60):
        average.update(model)
    assert_near(average.model.weight, model.weight, rounding(2))
