"""Optimizers, the learning-rate schedule of a slice, and averaged weights."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from livetalk.training.config import OptimizerConfig


def build_optimizers(
    model: nn.Module, config: OptimizerConfig, matrix_prefixes: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Build an AdamW and, with `config.use_muon`, a Muon and a ConvolutionMuon for weights inside blocks.

    Names that begin with one of `matrix_prefixes` go to Muon if they are matrices and to `ConvolutionMuon` if
    they are kernels. Parameters without gradients are left out.
    """
    matrices: list[nn.Parameter] = []
    kernels: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.use_muon and parameter.ndim >= 2 and name.startswith(matrix_prefixes):
            (matrices if parameter.ndim == 2 else kernels).append(parameter)
        elif parameter.ndim >= 2:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    # One kernel updates many parameters, instead of several kernels each.
    fused = any(p.is_cuda for p in decayed + plain)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        rate, decay = config.learning_rate, config.weight_decay
        optimizers.append(
            torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
        )
    if kernels:
        optimizers.append(ConvolutionMuon(kernels, lr=config.learning_rate))
    return [
        *optimizers,
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=fused),
    ]


class ConvolutionMuon(torch.optim.Optimizer):
    """Muon for convolution kernels as matrices [out, in * kernel]; PyTorch's Muon accepts 2-D weights only.

    The update's root mean square is 0.2 * lr, about that of AdamW, so that both use one learning rate.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every kernel that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.flatten(1).shape, []).append(parameter)
            # Kernels of one shape share a batch, which saves kernel launches.
            for shape, parameters in by_shape.items():
                directions = orthogonalize(torch.stack([self._momentum(p, group) for p in parameters]))
                # An orthogonal matrix has the RMS 1 / sqrt(larger side); this scales it to 0.2, as in
                # PyTorch's Muon.
                size = 0.2 * max(shape) ** 0.5
                for parameter, direction in zip(parameters, directions, strict=True):
                    parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * size)

    def _momentum(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        assert parameter.grad is not None
        state, gradient = self.state[parameter], parameter.grad.flatten(1)
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        nesterov: Tensor = torch.lerp(gradient, state["momentum"], group["momentum"])
        return nesterov


def orthogonalize(matrices: Tensor, num_iterations: int = 5) -> Tensor:
    """Move the singular values of matrices [N, rows, columns] to about 0.7..1.2 by Newton-Schulz iteration.

    The polynomial is the quintic of Jordan et al. (Muon, 2024), which trades accuracy for fast convergence.
    """
    a, b, c = 3.4445, -4.775, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.bfloat16()
    # The Gram matrix is square in the number of rows, so the smaller side comes first.
    x = x.mT if tall else x
    # The Frobenius norm bounds the largest singular value, below 1 of which the iteration converges.
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(num_iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


def rate_factor(step: int, progress: float, config: OptimizerConfig) -> float:
    """Return the learning rate over its peak, 0..1: linear warm-up, plateau, linear decay to `final_factor`.

    `step` counts the steps of this slice; `progress` is the used share of its budget, 0..1.
    """
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if progress <= config.decay_from:
        return warmup
    tail = (progress - config.decay_from) / max(1e-9, 1.0 - config.decay_from)
    return warmup * (1.0 - (1.0 - config.final_factor) * min(1.0, tail))


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of every parameter group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


class WeightAverage:
    """Exponential moving average of a network's weights, with a smaller decay during the first updates."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`; buffers are copied."""
        self._updates += 1
        # A constant decay would keep the initial weights in the average for hundreds of steps.
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), 1.0 - decay)
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
