"""Training of a decoder that warps a reference, on frozen latents or together with the encoder."""

import dataclasses

import torch
from torch import Tensor, nn

from livetalk.datasets.augment import augment_clips
from livetalk.datasets.boxes import box_weights
from livetalk.datasets.clips import ClipMemory
from livetalk.datasets.looks import deform_clips, degrade_clips, restyle_clips
from livetalk.device import mixed_precision
from livetalk.models.reference_decoder import ReferenceDecoder, WarpedFrames
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.models.vae_blocks import ResidualBlock
from livetalk.training.config import Budget, MotionLatentsConfig, ReferenceTrainConfig
from livetalk.training.critic import PatchCritic, critic_loss, critic_opinion
from livetalk.training.losses import (
    kl_divergence,
    laplacian_variance,
    reconstruction_loss,
    weighted_psnr,
)
from livetalk.training.metrics import Throughput
from livetalk.training.vae import RESIDUAL_SCALE, clip_masks

TRUNK = ("conv_in.", "middle.", "levels.")
"""Prefixes of the layers that the plain decoder has, too."""

STAGE_MATRICES = tuple(
    f"decoder.{name}" for name in ("middle.", "levels.", "reference.blocks.", "fused.", "fine.")
)
"""Prefixes of the kernels inside blocks, which Muon trains."""

MOTION_MATRICES = (
    "vae.encoder.middle.",
    "vae.encoder.levels.",
    *(f"vae.{name}" for name in STAGE_MATRICES),
)
"""The same for the stage that trains the encoder, too."""


class ReferenceStage(nn.Module):
    """The networks that the stage trains and saves: a decoder and its critic."""

    def __init__(self, decoder: ReferenceDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.critic = PatchCritic()


class MotionStage(nn.Module):
    """The networks of the stage that trains encoder and decoder together: the whole VAE and its critic."""

    def __init__(self, vae: CausalVideoVAE, critic: PatchCritic) -> None:
        """Combine the networks; all of `vae` is trained."""
        super().__init__()
        self.vae = vae.requires_grad_(True)
        self.critic = critic


def with_reference_decoder(vae: CausalVideoVAE, config: VAEConfig) -> CausalVideoVAE:
    """Build a VAE with the encoder of the finished `vae` and an untrained decoder that warps a reference.

    The decoder's coarse layers and the latent statistics are those of `vae`; only the decoder has gradients.
    `config` has the sizes of `vae` apart from the decoder.
    """
    sized = dataclasses.replace(
        config, latents_mean=vae.config.latents_mean, latents_std=vae.config.latents_std
    )
    made = CausalVideoVAE(sized).requires_grad_(False)
    state = vae.state_dict()
    own = made.state_dict()
    taken = {
        name: tensor
        for name, tensor in state.items()
        if name in own and (not name.startswith("decoder.") or name.startswith(_in_decoder(TRUNK)))
    }
    made.load_state_dict(own | taken)
    with torch.no_grad():
        for name, module in made.decoder.named_modules():
            if isinstance(module, ResidualBlock) and not name.startswith(TRUNK):
                # New residual branches start small, as in `prepare_vae`.
                module.conv2.weight.mul_(RESIDUAL_SCALE)
                module.conv2.bias.zero_()  # type: ignore[union-attr]
    made.decoder.requires_grad_(True)
    return made


def _in_decoder(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"decoder.{name}" for name in names)


class ReferenceObjective(nn.Module):
    """Decodes a batch and computes all losses but the critic's, in one module that compiles as one graph."""

    def __init__(self, vae: CausalVideoVAE, config: ReferenceTrainConfig) -> None:
        super().__init__()
        self.vae = vae
        self.config = config

    def forward(
        self,
        seen: Tensor,
        shown: Tensor,
        weights: Tensor,
        noise: Tensor,
        frames: Tensor,
        warped_weight: Tensor,
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Encode windows, decode them with a reference and compare the frames with the real ones.

        Args:
            seen: [B, 3, F + 1, H, W], -1..1; what the encoder gets. The last frame is not used.
            shown: the same clips, possibly in another look: the target frames, then the reference.
            weights: [B, 1, H, W], mean 1.
            noise: [B, C, T, h, w]: added to frozen latents, or standard normal noise of the posterior.
            frames: [K], indices of the frames that are decoded; with `motion_latents` the last ones are a
                stream's motion frames.
            warped_weight: scalar.

        Returns:
            The scalars "loss", its unweighted parts "blend", "painted", "warped" and "flow", and "mask", the
            mean of the mask; with `motion_latents` also "kl" and "round_trip"; then the decoded and the real
            frames, each [B * K, 3, H, W].
        """
        config = self.config
        latents, moments = self._encode(seen[:, :, :-1], noise)
        parts = self.vae.decode_parts(latents, self.vae.encode_reference(shown[:, :, -1]), frames)
        target, output = _flat(shown[:, :, frames]), _flat(parts.video)
        weights = weights.repeat_interleave(len(frames), 0)
        scalars = {
            "blend": reconstruction_loss(output, target, weights, config.gradient_weight),
            "painted": reconstruction_loss(_flat(parts.painted), target, weights, config.gradient_weight),
            "warped": reconstruction_loss(
                _flat(parts.warped), target, weights, config.warped_gradient_weight
            ),
            "flow": _roughness(parts),
            "mask": parts.mask.mean(),
        }
        loss = scalars["blend"] + config.painted_weight * scalars["painted"]
        loss = loss + warped_weight * scalars["warped"] + config.flow_weight * scalars["flow"]
        if config.motion_latents is not None:
            assert moments is not None
            scalars["kl"] = kl_divergence(*moments)
            scalars["round_trip"] = self._round_trip(config.motion_latents, seen, parts.video, moments)
            loss = loss + config.motion_latents.kl_weight * scalars["kl"]
            loss = loss + config.motion_latents.round_trip_weight * scalars["round_trip"]
        return {"loss": loss, **scalars}, output, target

    def _encode(self, video: Tensor, noise: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return normalised latents with noise and, if the encoder is trained, their raw moments."""
        if self.config.motion_latents is None:
            with torch.no_grad():
                mean, _ = self.vae.encode_moments(video)
                return self.vae.normalize(mean) + noise, None
        mean, log_variance = (moment.float() for moment in self.vae.encode_moments(video))
        return self.vae.normalize(mean + noise * torch.exp(0.5 * log_variance)), (mean, log_variance)

    def _round_trip(
        self, config: MotionLatentsConfig, seen: Tensor, decoded: Tensor, moments: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Mean squared distance between latents of the last frames as seen, and as decoded in the other look.

        The unit is the variance of each channel over the batch, including the posterior's.
        """
        count = config.motion_frames
        tails = torch.cat([seen[:, :, -1 - count : -1], decoded[:, :, -count:].clamp(-1, 1).to(seen.dtype)])
        # One call for both, so that the compiled graph contains the encoder once less.
        wanted, found = self.vae.encode_moments(tails)[0].float().chunk(2)
        mean, log_variance = (moment.detach() for moment in moments)
        scale = mean.var((0, 2, 3, 4), keepdim=True) + log_variance.exp().mean((0, 2, 3, 4), keepdim=True)
        return ((found - wanted.detach()).square() / scale).mean()


def _flat(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(0, 1)


def _roughness(parts: WarpedFrames) -> Tensor:
    """Mean change of the flow between neighbouring cells, in half widths of the frame."""
    return parts.flow.diff(dim=3).abs().mean() + parts.flow.diff(dim=4).abs().mean()


class ReferenceLoss:
    """Draws batches from a `ClipMemory` and computes the stage's losses."""

    def __init__(
        self,
        objective: nn.Module,
        critic: PatchCritic,
        config: ReferenceTrainConfig,
        memory: ClipMemory,
        budget: Budget,
        first_step: int,
        seed: int,
    ) -> None:
        """Begin a slice with a `ReferenceObjective` or its compiled form.

        Clips in `memory` have at least one frame more than a window. `first_step` counts the steps of earlier
        slices.
        """
        self._objective = objective
        self._critic = critic
        self._config = config
        self._memory = memory
        self._clock = Throughput(budget.minutes, budget.max_steps)
        self._first_step = first_step
        self._seed = seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return the losses of one step; random draws depend on seed, step and loaded clips only."""
        config = self._config
        self._memory.refresh(limit=1)
        rng = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        batch = self._memory.sample(config.batch_size, config.num_frames, rng, reference=True)
        device = batch.video.device
        device_rng = torch.Generator(device).manual_seed(self._seed * 1_000_003 + step)
        # A static texture over a moving head would teach the decoder not to warp.
        video = augment_clips(batch.video, device_rng, texture=False)
        weights = box_weights(
            batch.face_box,
            batch.mouth_box,
            video.shape[-1],
            config.face_weight,
            config.eye_weight,
            config.mouth_weight,
        )
        if config.motion_latents is None:
            seen = shown = _as_input(video)
        else:
            video, weights = deform_clips(video, weights, device_rng)
            seen, shown = draw_looks(video, config.motion_latents.restyled_share, device_rng)
        frames = choose_judged(config, rng).to(device)
        noise = self._draw_noise(shown, device_rng)
        progress = self._clock.progress(step - self._first_step)
        with mixed_precision(device):
            scalars, output, target = self._objective(
                seen, shown, weights, noise, frames, self._warped_weight(progress, device)
            )
            return self._with_critic(scalars, output, target, self._critic_share(progress))

    def _draw_noise(self, video: Tensor, rng: torch.Generator) -> Tensor:
        """Draw noise for the latents of `video`: of the posterior, or scaled by 0..`latent_noise`."""
        vae = self._objective.vae
        assert isinstance(vae, CausalVideoVAE)
        batch, _, frames, height, width = video.shape
        side, stride = vae.config.spatial_stride, vae.config.temporal_stride
        shape = (batch, vae.config.latent_channels, 1 + (frames - 2) // stride, height // side, width // side)
        noise = torch.randn(shape, generator=rng, device=video.device)
        if self._config.motion_latents is not None:
            return noise
        level = torch.rand(batch, 1, 1, 1, 1, generator=rng, device=video.device)
        return noise * level * self._config.latent_noise

    def _warped_weight(self, progress: float, device: torch.device) -> Tensor:
        late = self._first_step > 0 or progress >= self._config.late_from
        return torch.tensor(
            self._config.late_warped_weight if late else self._config.warped_weight, device=device
        )

    def _critic_share(self, progress: float) -> float:
        """Return the critic's current weight as a share of its full weight, 0..1."""
        # Delayed in the first slice: the critic would tell blurred early frames from real ones trivially.
        begin = 0.0 if self._first_step > 0 else self._config.critic_from
        return min(1.0, max(0.0, (progress - begin) / self._config.critic_ramp))

    def _with_critic(
        self, scalars: dict[str, Tensor], output: Tensor, target: Tensor, share: float
    ) -> dict[str, Tensor]:
        if share == 0.0:
            return scalars
        config = self._config
        adversarial, features = critic_opinion(self._critic, output, target)
        own = critic_loss(self._critic, output, target)
        opinion = config.adversarial_weight * adversarial + config.feature_weight * features
        loss = scalars["loss"] + share * opinion + config.critic_weight * own
        return {**scalars, "loss": loss, "adversarial": adversarial, "features": features, "critic": own}


def draw_looks(video: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw two looks of clips `[B, F, 3, H, W]`, 0..1, which differ for a share of them.

    Returns the clips as the encoder sees them and as they are shown, each `[B, 3, F, H, W]`, -1..1.
    """
    draw = torch.rand(len(video), generator=rng, device=video.device)
    chosen = (draw < share)[:, None, None, None, None]
    shown = torch.where(chosen, restyle_clips(video, rng), video)
    seen = torch.where(chosen, degrade_clips(restyle_clips(video, rng), rng), video)
    return _as_input(seen), _as_input(shown)


def choose_judged(config: ReferenceTrainConfig, rng: torch.Generator) -> Tensor:
    """Draw ascending indices [judged_frames] of the frames that a step decodes; `motion_frames` come last."""
    last = 0 if config.motion_latents is None else config.motion_latents.motion_frames
    others = config.num_frames - last
    drawn = torch.randperm(others, generator=rng)[: config.judged_frames - last]
    return torch.cat([drawn.sort().values, torch.arange(others, config.num_frames)])


def _as_input(video: Tensor) -> Tensor:
    # A fixed memory layout: augmentation returns several, and each would be compiled anew.
    return (video * 2 - 1).transpose(1, 2).contiguous()


@torch.no_grad()
def measure_decoding(
    vae: CausalVideoVAE, memory: ClipMemory, num_frames: int = 33, *, restyled: bool = False
) -> dict[str, float]:
    """Measure either decoder on the first window of every clip; the clip's last frame is the reference.

    `restyled` encodes the windows in another look than that of the reference and of the real frames.

    Returns "psnr", "face_psnr" and "mouth_psnr" in dB, and "face_sharpness" and "mouth_sharpness", the
    variance of the Laplacian over that of the real frames.
    """
    rows: list[Tensor] = []
    for clip in range(len(memory)):
        frames = memory.frames[clip].permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        window = frames[:, :, :num_frames].contiguous()
        seen = _restyle(window, seed=clip) if restyled else window
        with mixed_precision(frames.device):
            warps = vae.config.reference is not None
            reference = vae.encode_reference(frames[:, :, -1].contiguous()) if warps else None
            output, _ = vae.decode(vae.encode(seen)[0], reference=reference)
        output, target = _flat(output.float()), _flat(window)
        masks = clip_masks(memory, clip)
        psnr = [weighted_psnr(output, target, mask).mean() for mask in masks]
        sharp = [laplacian_variance(output, m) / laplacian_variance(target, m) for m in masks[1:]]
        rows.append(torch.stack([*psnr, *sharp]))
    names = ("psnr", "face_psnr", "mouth_psnr", "face_sharpness", "mouth_sharpness")
    return dict(zip(names, torch.stack(rows).mean(0).tolist(), strict=True))


def _restyle(window: Tensor, seed: int) -> Tensor:
    rng = torch.Generator(window.device).manual_seed(seed)
    return _as_input(restyle_clips((window.transpose(1, 2) + 1) / 2, rng))
