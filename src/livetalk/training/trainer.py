"""Training loop of every stage, with schedule, weight averaging, logging, validation and checkpoints."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from livetalk.interruption import handling_requests
from livetalk.training.checkpoint import load_training_state, save_training_state
from livetalk.training.config import Budget, OptimizerConfig
from livetalk.training.metrics import MetricsLog, Throughput
from livetalk.training.optim import WeightAverage, build_optimizers, rate_factor, set_learning_rate

LossFunction = Callable[[int], dict[str, Tensor]]
"""Maps the step to named scalars; "loss" is minimised, the others are logged."""

SAVE_SECONDS = 200.0
"""Interval of checkpoints within a slice."""


@dataclass(slots=True)
class Stage:
    """A network with its optimizer settings; `name` is used in logs and names the checkpoint folder."""

    name: str
    model: nn.Module
    config: OptimizerConfig
    matrix_prefixes: tuple[str, ...] = ()


class Trainer:
    """Trains one stage for one slice and saves a checkpoint that the next slice continues.

    SIGINT (Ctrl-C), SIGTERM or SIGHUP ends the slice after the current step and saves the checkpoint.
    """

    def __init__(self, stage: Stage, directory: Path, log: MetricsLog) -> None:
        """Build optimizers and averages; resume where `directory`/`stage.name` holds a checkpoint."""
        self.stage = stage
        self.directory = directory / stage.name
        self.average = WeightAverage(stage.model, stage.config.ema_decay)
        self.optimizers = build_optimizers(stage.model, stage.config, stage.matrix_prefixes)
        self.step = load_training_state(self.directory, stage.model, self.average, self.optimizers)
        self._log = log
        self._stop = False

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended the last slice before its budget was used."""
        return self._stop

    def run(
        self,
        loss_function: LossFunction,
        budget: Budget,
        validate: Callable[[nn.Module], dict[str, float]] | None = None,
        log_every: int = 100,
        validate_every: int = 1000,
    ) -> None:
        """Train until the budget is used or a signal arrives; save every `SAVE_SECONDS` and at the end."""
        clock = Throughput(budget.minutes, budget.max_steps)
        done = 0
        next_save = SAVE_SECONDS
        with self._interruptible():
            while not self._stop and clock.progress(done) < 1.0:
                factor = rate_factor(done, clock.progress(done), self.stage.config)
                set_learning_rate(self.optimizers, self.stage.config.learning_rate * factor)
                values = self._update(loss_function)
                done += 1
                if done % log_every == 0 or done == 1:
                    # Read at intervals only, because each item waits for the GPU.
                    scalars = {name: value.item() for name, value in values.items()}
                    self._log.write(self.stage.name, {"step": self.step} | scalars | clock.summary(done))
                if validate is not None and done % validate_every == 0:
                    self._log_validation(validate)
                if clock.elapsed_seconds() > next_save:
                    self.save()
                    next_save = clock.elapsed_seconds() + SAVE_SECONDS
        if validate is not None:
            self._log_validation(validate)
        self.save()

    def _log_validation(self, validate: Callable[[nn.Module], dict[str, float]]) -> None:
        self._log.write(self.stage.name, {"step": float(self.step)} | validate(self.average.model))

    def _update(self, loss_function: LossFunction) -> dict[str, Tensor]:
        values = loss_function(self.step)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        values["loss"].backward()  # type: ignore[no-untyped-call]
        parameters = list(self.stage.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.stage.config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update(self.stage.model)
        self.step += 1
        return {name: value.detach() for name, value in values.items()} | {"gradient_norm": norm.detach()}

    def save(self) -> None:
        """Write the checkpoint."""
        save_training_state(self.directory, self.step, self.stage.model, self.average, self.optimizers)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        # The handler only sets a flag, so that no step ends half-way.
        def stop(number: int, frame: FrameType | None) -> None:
            self._stop = True

        with handling_requests(stop):
            yield
