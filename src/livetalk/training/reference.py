"""Training stage of the decoder that warps a reference, with frozen latents of a finished VAE."""

import dataclasses

import torch
from torch import Tensor, nn

from livetalk.datasets.augment import augment_clips
from livetalk.datasets.boxes import box_weights
from livetalk.datasets.clips import ClipMemory
from livetalk.device import mixed_precision
from livetalk.models.reference_decoder import ReferenceDecoder, WarpedFrames
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from livetalk.models.vae_blocks import ResidualBlock
from livetalk.training.config import Budget, ReferenceTrainConfig
from livetalk.training.critic import PatchCritic, critic_loss, critic_opinion
from livetalk.training.losses import laplacian_variance, reconstruction_loss, weighted_psnr
from livetalk.training.metrics import Throughput
from livetalk.training.vae import RESIDUAL_SCALE, clip_masks

TRUNK = ("conv_in.", "middle.", "levels.")
"""Prefixes of the layers that the plain decoder has, too."""

STAGE_MATRICES = tuple(
    f"decoder.{name}" for name in ("middle.", "levels.", "reference.blocks.", "fused.", "fine.")
)
"""Prefixes of the kernels inside blocks, which Muon trains."""


class ReferenceStage(nn.Module):
    """The networks that the stage trains and saves: a decoder and its critic."""

    def __init__(self, decoder: ReferenceDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        self.critic = PatchCritic()


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
        self, video: Tensor, weights: Tensor, noise: Tensor, frames: Tensor, warped_weight: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Decode the latents of windows and compare the frames with the real ones.

        Args:
            video: [B, 3, F + 1, H, W], -1..1; the last frame is the reference.
            weights: [B, 1, H, W], mean 1.
            noise: [B, C, T, h, w], added to the latents.
            frames: [K], indices of the frames that are decoded.
            warped_weight: scalar.

        Returns:
            The scalars "loss", its unweighted parts "blend", "painted", "warped" and "flow", and "mask", the
            mean of the mask; then the decoded and the real frames, each [B * K, 3, H, W].
        """
        config = self.config
        with torch.no_grad():
            mean, _ = self.vae.encode_moments(video[:, :, :-1])
            latents = self.vae.normalize(mean) + noise
        parts = self.vae.decode_parts(latents, self.vae.encode_reference(video[:, :, -1]), frames)
        target, output = _flat(video[:, :, frames]), _flat(parts.video)
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
        return {"loss": loss, **scalars}, output, target


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
        video = augment_clips(batch.video, device_rng, texture=False) * 2 - 1
        frames = torch.randperm(config.num_frames, generator=rng)[: config.judged_frames].sort().values
        weights = box_weights(
            batch.face_box,
            batch.mouth_box,
            video.shape[-1],
            config.face_weight,
            config.eye_weight,
            config.mouth_weight,
        )
        # A fixed memory layout: the augmentation returns several, and each would be compiled anew.
        video = video.transpose(1, 2).contiguous()
        noise = self._draw_noise(video, device_rng)
        progress = self._clock.progress(step - self._first_step)
        with mixed_precision(device):
            scalars, output, target = self._objective(
                video, weights, noise, frames.to(device), self._warped_weight(progress, device)
            )
            return self._with_critic(scalars, output, target, self._critic_share(progress))

    def _draw_noise(self, video: Tensor, rng: torch.Generator) -> Tensor:
        """Draw noise for the latents of `video`, with a level in 0..`latent_noise` per sample."""
        vae = self._objective.vae
        assert isinstance(vae, CausalVideoVAE)
        batch, _, frames, height, width = video.shape
        side, stride = vae.config.spatial_stride, vae.config.temporal_stride
        shape = (batch, vae.config.latent_channels, 1 + (frames - 2) // stride, height // side, width // side)
        noise = torch.randn(shape, generator=rng, device=video.device)
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


@torch.no_grad()
def measure_decoding(vae: CausalVideoVAE, memory: ClipMemory, num_frames: int = 33) -> dict[str, float]:
    """Measure either decoder on the first window of every clip; the clip's last frame is the reference.

    Returns "psnr", "face_psnr" and "mouth_psnr" in dB, and "face_sharpness" and "mouth_sharpness", the
    variance of the Laplacian over that of the real frames.
    """
    rows: list[Tensor] = []
    for clip in range(len(memory)):
        frames = memory.frames[clip].permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        window = frames[:, :, :num_frames].contiguous()
        with mixed_precision(frames.device):
            warps = vae.config.reference is not None
            reference = vae.encode_reference(frames[:, :, -1].contiguous()) if warps else None
            output, _ = vae.decode(vae.encode(window)[0], reference=reference)
        output, target = _flat(output.float()), _flat(window)
        masks = clip_masks(memory, clip)
        psnr = [weighted_psnr(output, target, mask).mean() for mask in masks]
        sharp = [laplacian_variance(output, m) / laplacian_variance(target, m) for m in masks[1:]]
        rows.append(torch.stack([*psnr, *sharp]))
    names = ("psnr", "face_psnr", "mouth_psnr", "face_sharpness", "mouth_sharpness")
    return dict(zip(names, torch.stack(rows).mean(0).tolist(), strict=True))
