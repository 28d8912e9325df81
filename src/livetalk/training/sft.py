"""Stage 1: flow matching of the DiT on 33-frame windows with clean motion latents (paper section 2)."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from livetalk.datasets.windows import WindowBank, WindowSource
from livetalk.device import mixed_precision
from livetalk.diffusion.flow import add_noise, velocity_from
from livetalk.diffusion.schedule import shift_sigmas
from livetalk.models.dit import DiT, DiTConfig
from livetalk.streaming.audio import audio_context
from livetalk.streaming.settings import StreamSettings
from livetalk.streaming.window import WindowInputs, build_condition
from livetalk.training.config import SFTConfig


class SFTObjective(nn.Module):
    """Computes the velocity error of a batch, in one module that compiles as one graph."""

    def __init__(self, dit: DiT) -> None:
        super().__init__()
        self.dit = dit

    def forward(
        self, noisy: Tensor, sigma: Tensor, window: WindowInputs, target: Tensor, weights: Tensor
    ) -> Tensor:
        """Return the weighted mean squared velocity error per sample, [B].

        `noisy` [B, z, T, h, w] are latents at the levels `sigma` [B], clean at motion positions; `target` is
        the velocity in the same shape; `weights` [B, 1, T, h, w] are zero at motion positions.
        """
        velocity = window.predict_velocity(self.dit, noisy, sigma)
        error = (velocity.float() - target).square().mean(1, keepdim=True) * weights
        weighted: Tensor = error.sum((1, 2, 3, 4)) / weights.sum((1, 2, 3, 4))
        return weighted


def draw_inputs(
    model: DiTConfig,
    settings: StreamSettings,
    batch_size: int,
    side: tuple[int, int],
    device: torch.device,
) -> tuple[Tensor, Tensor, WindowInputs, Tensor, Tensor]:
    """Draw random arguments of `SFTObjective` for latents of `side`, to compile a step before data exist."""
    # All tensors must be distinct: the compiler specializes on aliases and would compile again for data.
    geometry, audio = settings.geometry, model.audio
    grid = (geometry.window_latents, *side)
    shape = (batch_size, model.out_channels, *grid)
    motion_latents = geometry.num_latents(geometry.motion_frames)
    window = WindowInputs(
        motion_latents=torch.randn(batch_size, model.out_channels, motion_latents, *side, device=device),
        condition=torch.randn(batch_size, model.in_channels - model.out_channels, *grid, device=device),
        audio_context=torch.randn(
            batch_size, geometry.window_frames, audio.window, audio.num_blocks, audio.channels, device=device
        ),
        num_motion=torch.ones(batch_size, dtype=torch.int64, device=device),
    )
    return (
        torch.randn(shape, device=device),
        torch.rand(batch_size, device=device),
        window,
        torch.randn(shape, device=device),
        torch.ones(batch_size, 1, *grid, device=device),
    )


class SFTLoss:
    """Draws batches from a bank of windows and computes the stage's loss."""

    def __init__(
        self,
        objective: nn.Module,
        config: SFTConfig,
        settings: StreamSettings,
        source: WindowSource,
        seed: int,
    ) -> None:
        """Use an `SFTObjective` or its compiled form, with the model's stream settings."""
        self._objective = objective
        self._config = config
        self._settings = settings
        self._source = source
        self._seed = seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return the loss of one step; random draws depend on seed, step and encoded windows only."""
        bank = self._source.current()
        device = bank.latents.device
        rng = torch.Generator(device).manual_seed(self._seed * 1_000_003 + step)
        index = torch.randint(len(bank), (self._config.batch_size,), generator=rng, device=device)
        sigma = sample_sigma(self._config, rng, device)
        errors = window_errors(self._objective, bank, index, sigma, self._config, self._settings, rng)
        return {"loss": errors.mean()}


def sample_sigma(config: SFTConfig, rng: torch.Generator, device: torch.device) -> Tensor:
    """Draw noise levels [B], logit-normal and warped by the sampler's shift."""
    # Logit-normal, as in Stable Diffusion 3: middle levels, where the velocity is hardest, are drawn most.
    uniform = torch.sigmoid(torch.randn(config.batch_size, generator=rng, device=device))
    return shift_sigmas(uniform, config.shift)


def window_errors(
    objective: nn.Module,
    bank: WindowBank,
    index: Tensor,
    sigma: Tensor,
    config: SFTConfig,
    settings: StreamSettings,
    rng: torch.Generator,
) -> Tensor:
    """Return weighted mean squared velocity errors [B] of windows `index` [B] at noise levels `sigma` [B].

    `objective` is an `SFTObjective` or its compiled form; `rng` is on the bank's device.
    """
    window, noise = draw_window(bank, index, config, settings, rng)
    x0 = bank.latents[index].float()
    noisy = window.pin(add_noise(x0, noise, sigma))
    weights = bank.weights[index].float()[:, :, None] * (~window.is_motion).float()
    with mixed_precision(index.device):
        errors: Tensor = objective(noisy, sigma, window, velocity_from(x0, noise), weights)
    return errors


def draw_window(
    bank: WindowBank, index: Tensor, config: SFTConfig, settings: StreamSettings, rng: torch.Generator
) -> tuple[WindowInputs, Tensor]:
    """Draw inputs of the transformer for windows `index` [B], and standard normal noise [B, z, T, h, w].

    The reference is the first frame of another window of the clip or of the window itself. Windows have one
    motion latent or all of them, with a little noise, from the video or decoded and re-encoded. `rng` is on
    the bank's device.
    """
    batch, device = index.shape[0], index.device

    def chance(probability: float) -> Tensor:
        return torch.rand(batch, generator=rng, device=device) < probability

    single = chance(config.single_motion_probability)
    condition = _draw_condition(bank, index, single & chance(config.own_reference_probability), settings, rng)
    reencoded = chance(config.reencoded_probability)[:, None, None, None, None]
    num_motion = bank.motion.shape[2]
    latents = bank.latents[index].float()
    motion = torch.where(reencoded, bank.motion[index].float(), latents[:, :, :num_motion])
    level = torch.rand(batch, generator=rng, device=device) * config.motion_noise
    motion = add_noise(motion, torch.randn(motion.shape, generator=rng, device=device), level)
    noise = torch.randn(latents.shape, generator=rng, device=device)
    audio_context = _draw_audio_context(bank, index, settings, rng)
    window = WindowInputs(
        motion_latents=motion,
        condition=_drop(condition, chance(config.reference_dropout)),
        audio_context=_drop(audio_context, chance(config.speech_dropout)),
        num_motion=torch.where(single, 1, num_motion),
    )
    return window, noise


def _drop(values: Tensor, dropped: Tensor) -> Tensor:
    """Return `values` with zeros where `dropped` [B] is true."""
    return torch.where(dropped.view(-1, *(1,) * (values.ndim - 1)), 0.0, values)


def _draw_condition(
    bank: WindowBank, index: Tensor, own: Tensor, settings: StreamSettings, rng: torch.Generator
) -> Tensor:
    """Build the condition from the reference of a random window of the clip, or its own where `own` [B]."""
    draw = torch.rand(index.shape[0], generator=rng, device=index.device)
    other = bank.first[index] + (draw * bank.count[index]).long()
    reference = bank.references[torch.where(own, index, other)].float()
    return build_condition(reference, settings.reference_layout, settings.geometry)


def _draw_audio_context(
    bank: WindowBank, index: Tensor, settings: StreamSettings, rng: torch.Generator
) -> Tensor:
    """Return the features around each frame, [B, F, context, blocks, channels], of a random audio variant."""
    variant = torch.randint(bank.features.shape[1], index.shape, generator=rng, device=index.device)
    features = bank.features[index, variant].float()
    context_frames = settings.audio.context_frames
    return audio_context(features, context_frames, settings.geometry.window_frames, context_frames)


@torch.no_grad()
def validation_errors(
    objective: nn.Module,
    bank: WindowBank,
    config: SFTConfig,
    settings: StreamSettings,
    limit: int = 256,
) -> dict[str, float]:
    """Measure velocity errors on at most `limit` held-out windows at sigma 0.2, 0.5 and 0.8.

    Returns "error_020", "error_050", "error_080", and "foreign_050" with the audio of other windows, which is
    larger if the model uses the audio.
    """
    device = bank.latents.device
    config = replace(config, speech_dropout=0.0, reference_dropout=0.0)
    index = torch.linspace(0, len(bank) - 1, min(limit, len(bank)), device=device).long()
    foreign = replace(bank, features=bank.features.roll(len(bank) // 2, 0))
    values = {}
    for name, level, source in (
        ("error_020", 0.2, bank),
        ("error_050", 0.5, bank),
        ("error_080", 0.8, bank),
        ("foreign_050", 0.5, foreign),
    ):
        # One seed for all levels and slices, so that errors differ by level and by weights alone.
        rng = torch.Generator(device).manual_seed(7)
        sigma = torch.full(index.shape, level, device=device)
        values[name] = window_errors(objective, source, index, sigma, config, settings, rng).mean().item()
    return values
