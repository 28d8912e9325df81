"""Optimizers, the slice schedule and averaged weights."""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from livetalk.training.config import OptimizerConfig


def build_optimizers(
    model: nn.Module, config: OptimizerConfig, matrix_prefixes: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Build the optimizers of a network.

    Args:
        model: network whose parameters are trained (those that require gradients).
        config: optimizer settings.
        matrix_prefixes: parameter-name prefixes whose 2-D weights go to Muon when `config.use_muon`.

    Returns:
        One AdamW, and a Muon before it where matrices qualify.
    """
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.use_muon and parameter.ndim == 2 and name.startswith(matrix_prefixes):
            matrices.append(parameter)
        elif parameter.ndim >= 2:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    fused = any(p.is_cuda for p in decayed + plain)
    adam = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused)
    if not matrices:
        return [adam]
    muon = torch.optim.Muon(
        matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adam]


def rate_factor(step: int, progress: float, config: OptimizerConfig) -> float:
    """Return the learning rate over its peak.

    Args:
        step: steps done in this slice.
        progress: share of the slice's budget that is used, 0..1.
        config: optimizer settings.

    Returns:
        Factor in 0..1: linear warm-up, plateau, linear decay to `final_factor`.
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if progress <= config.decay_from:
        return warmup
    tail = (progress - config.decay_from) / max(1e-9, 1.0 - config.decay_from)
    return warmup * (1.0 - (1.0 - config.final_factor) * min(1.0, tail))


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set one learning rate on every parameter group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


class WeightAverage:
    """Exponential moving average of a network's weights, with a short memory at the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Start from a copy of the weights of `model`."""
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`; buffers are copied."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
