"""Stage 1: flow matching of the DiT on 33-frame windows with clean motion latents (paper section 2)."""

import torch
from torch import Tensor, nn

from livetalk.diffusion.flow import add_noise
from livetalk.diffusion.schedule import shift_sigmas
from livetalk.models.dit import DiTConfig
from livetalk.training.bank import CONTEXT_FRAMES, WindowBank, WindowSource
from livetalk.training.config import SFTConfig
from livetalk.training.precision import mixed_precision

MASK_CHANNELS = 4
"""Channels of the reference mask: one per pixel frame of a latent frame."""


class SFTObjective(nn.Module):
    """Velocity error of one batch; one module, so that it compiles as one graph."""

    def __init__(self, dit: nn.Module) -> None:
        """Wrap `dit`, whose parameters are trained."""
        super().__init__()
        self.dit = dit

    def forward(
        self,
        noisy: Tensor,
        sigma: Tensor,
        condition: Tensor,
        audio_context: Tensor,
        target: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Return the weighted mean squared velocity error per sample, [B].

        Args:
            noisy: [B, z, T, h, w], latents at level `sigma`, clean at motion positions.
            sigma: [B], noise level.
            condition: [B, 4 + z, T, h, w], mask and reference latents.
            audio_context: [B, F, 5, blocks, channels].
            target: [B, z, T, h, w], noise - x0.
            weights: [B, 1, T, h, w], loss weights, zero at motion positions.
        """
        velocity = self.dit(noisy, sigma * 1000.0, condition, audio_context)
        error = (velocity.float() - target).square().mean(1, keepdim=True) * weights
        weighted: Tensor = error.sum((1, 2, 3, 4)) / weights.sum((1, 2, 3, 4))
        return weighted


def draw_inputs(
    model: DiTConfig, batch_size: int, grid: tuple[int, int, int], num_frames: int, device: torch.device
) -> tuple[Tensor, ...]:
    """Draw noise in the form of the arguments of `SFTObjective`, to compile a step before there is data.

    Args:
        model: sizes of the transformer.
        batch_size: B.
        grid: T, h, w of the latents.
        num_frames: F.
        device: of the tensors.
    """
    # No two of them may be one tensor: the compiler notices, and compiles again for data.
    shape = (batch_size, model.out_channels, *grid)
    audio = model.audio
    return (
        torch.randn(shape, device=device),
        torch.rand(batch_size, device=device),
        torch.randn(batch_size, model.in_channels - model.out_channels, *grid, device=device),
        torch.randn(batch_size, num_frames, audio.window, audio.num_blocks, audio.channels, device=device),
        torch.randn(shape, device=device),
        torch.ones(batch_size, 1, *grid, device=device),
    )


class SFTLoss:
    """Draws batches from a bank of windows and returns the objective's scalars."""

    def __init__(self, objective: nn.Module, config: SFTConfig, source: WindowSource, seed: int) -> None:
        """Use `objective`, an `SFTObjective` or its compiled form."""
        self._objective = objective
        self._config = config
        self._source = source
        self._seed = seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Loss of one step; draws depend on the seed and the step only (and on the windows there are)."""
        bank = self._source.current()
        device = bank.latents.device
        rng = torch.Generator(device).manual_seed(self._seed * 1_000_003 + step)
        index = torch.randint(len(bank), (self._config.batch_size,), generator=rng, device=device)
        sigma = sample_sigma(self._config, rng, device)
        errors = window_errors(self._objective, bank, index, sigma, self._config, rng)
        return {"loss": errors.mean()}


def sample_sigma(config: SFTConfig, rng: torch.Generator, device: torch.device) -> Tensor:
    """Draw noise levels [B]: logit-normal, warped by the sampler's shift."""
    uniform = torch.sigmoid(torch.randn(config.batch_size, generator=rng, device=device))
    return shift_sigmas(uniform, config.shift)


def window_errors(
    objective: nn.Module,
    bank: WindowBank,
    index: Tensor,
    sigma: Tensor,
    config: SFTConfig,
    rng: torch.Generator,
) -> Tensor:
    """Velocity errors of chosen windows at chosen noise levels.

    Args:
        objective: an `SFTObjective`.
        bank: encoded windows.
        index: [B], which windows.
        sigma: [B], noise levels.
        config: stage settings.
        rng: random source on the bank's device.

    Returns:
        [B], weighted mean squared velocity errors.
    """
    batch = index.shape[0]
    device = index.device

    def chance(probability: float) -> Tensor:
        return torch.rand(batch, generator=rng, device=device) < probability

    x0 = bank.latents[index].float()
    single = chance(config.single_motion_probability)
    reference = _reference_latents(bank, index, single & chance(config.own_reference_probability), rng)
    reencoded = chance(config.reencoded_probability)[:, None, None, None, None]
    motion = torch.where(reencoded, bank.motion[index].float(), x0[:, :, :2])
    level = torch.rand(batch, generator=rng, device=device) * config.motion_noise
    motion = add_noise(motion, torch.randn(motion.shape, generator=rng, device=device), level)
    noise = torch.randn(x0.shape, generator=rng, device=device)
    clean = _motion_mask(single, x0.shape[2])
    pinned = torch.zeros_like(x0)
    pinned[:, :, :2] = motion
    noisy = torch.where(clean, pinned, add_noise(x0, noise, sigma))
    weights = bank.weights[index].float()[:, :, None] * (~clean).float()
    features = _audio_context(bank, index, rng)
    with mixed_precision(device):
        errors: Tensor = objective(noisy, sigma, reference, features, noise - x0, weights)
    return errors


def _motion_mask(single: Tensor, latent_frames: int) -> Tensor:
    """True at clean latent frames: one where `single`, else two. [B, 1, T, 1, 1]."""
    counts = torch.where(single, 1, 2)
    frames = torch.arange(latent_frames, device=single.device)
    return (frames[None] < counts[:, None])[:, None, :, None, None]


def _reference_latents(bank: WindowBank, index: Tensor, own: Tensor, rng: torch.Generator) -> Tensor:
    """Mask and reference latents: the first latent of another window of the clip, or of this one where `own`.

    Returns:
        [B, 4 + z, T, h, w]: mask of ones on latent frame 0; the reference repeated over all latent frames.
    """
    draw = torch.rand(index.shape[0], generator=rng, device=index.device)
    other = bank.first[index] + (draw * bank.count[index]).long()
    picked = bank.latents[torch.where(own, index, other)][:, :, :1].float()
    latent_frames = bank.latents.shape[2]
    repeated = picked.expand(-1, -1, latent_frames, -1, -1)
    mask = torch.zeros_like(repeated[:, :MASK_CHANNELS])
    mask[:, :, 0] = 1.0
    return torch.cat([mask, repeated], 1)


def _audio_context(bank: WindowBank, index: Tensor, rng: torch.Generator) -> Tensor:
    """Feature windows of a random variant, [B, F, 5, 1, channels]."""
    variant = torch.randint(bank.features.shape[1], index.shape, generator=rng, device=index.device)
    features = bank.features[index, variant].float()
    frames = features.shape[1] - 2 * CONTEXT_FRAMES
    reach = 2 * CONTEXT_FRAMES + 1
    rows = torch.arange(frames, device=index.device)[:, None] + torch.arange(reach, device=index.device)
    return features[:, rows][:, :, :, None]


@torch.no_grad()
def validation_errors(
    objective: nn.Module, bank: WindowBank, config: SFTConfig, limit: int = 256
) -> dict[str, float]:
    """Velocity errors on held-out windows at three noise levels, with the right and with foreign audio.

    Returns:
        "error_020", "error_050", "error_080" and "foreign_050": audio taken from other windows. A model that
        listens has a larger foreign error.
    """
    device = bank.latents.device
    index = torch.linspace(0, len(bank) - 1, min(limit, len(bank)), device=device).long()
    shuffled = bank.features.roll(len(bank) // 2, 0)
    foreign = WindowBank(bank.latents, bank.motion, shuffled, bank.first, bank.count, bank.weights)
    values = {}
    for name, level, source in (
        ("error_020", 0.2, bank),
        ("error_050", 0.5, bank),
        ("error_080", 0.8, bank),
        ("foreign_050", 0.5, foreign),
    ):
        rng = torch.Generator(device).manual_seed(7)
        sigma = torch.full(index.shape, level, device=device)
        values[name] = window_errors(objective, source, index, sigma, config, rng).mean().item()
    return values
