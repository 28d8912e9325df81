"""Stage 0: train the video VAE on rendered clips."""

import torch
from torch import Tensor, nn

from livetalk.datasets.augment import augment_clips
from livetalk.datasets.boxes import box_weights
from livetalk.datasets.clips import ClipMemory, WindowBatch
from livetalk.device import mixed_precision
from livetalk.models.vae import CausalVideoVAE
from livetalk.models.vae_blocks import ResidualBlock
from livetalk.training.config import VAETrainConfig
from livetalk.training.losses import (
    color_loss,
    kl_divergence,
    reconstruction_loss,
    weighted_psnr,
)

RESIDUAL_SCALE = 0.1
LOG_VARIANCE_START = -4.0


@torch.no_grad()
def prepare_vae(vae: CausalVideoVAE) -> None:
    """Scale fresh weights so that reconstruction improves from the first steps."""
    for module in vae.modules():
        if isinstance(module, ResidualBlock):
            module.conv2.weight.mul_(RESIDUAL_SCALE)
            nn.init.zeros_(module.conv2.bias)  # type: ignore[arg-type]
    bias = vae.moments_conv.bias
    assert bias is not None
    # With unit variance, noise dominates the latents for hundreds of steps.
    bias[vae.config.latent_channels :] += LOG_VARIANCE_START


class VAEObjective(nn.Module):
    """Computes reconstruction and rate losses of a batch, in one module that compiles as one graph."""

    def __init__(self, vae: CausalVideoVAE, config: VAETrainConfig) -> None:
        super().__init__()
        self.vae = vae
        self.config = config

    def forward(self, video: Tensor, weights: Tensor, noise: Tensor, frames: Tensor) -> dict[str, Tensor]:
        """Return the scalars "loss" and its unweighted parts "reconstruction", "color", "round_trip", "kl".

        Args:
            video: [B, 3, F, H, W], -1..1.
            weights: [B, 1, H, W], mean 1.
            noise: [B, z, T, h, w], standard normal.
            frames: [K], indices of the frames that are decoded; the last ones are a stream's motion frames.
        """
        mean, log_variance = self.vae.encode_moments(video)
        latents = mean + noise * torch.exp(0.5 * log_variance)
        decoded = self.vae.decode_raw(self.vae.normalize(latents), frames)
        output, target = _frames(decoded.float()), _frames(video[:, :, frames])
        config = self.config
        parts = {
            "reconstruction": reconstruction_loss(
                output, target, weights.repeat_interleave(len(frames), 0), config.gradient_weight
            ),
            "color": color_loss(output, target),
            "round_trip": self._round_trip(decoded, video),
            "kl": kl_divergence(mean.float(), log_variance.float()),
        }
        loss = parts["reconstruction"] + config.color_weight * parts["color"]
        loss = loss + config.round_trip_weight * parts["round_trip"] + config.kl_weight * parts["kl"]
        return {"loss": loss, **parts}

    def _round_trip(self, decoded: Tensor, video: Tensor) -> Tensor:
        """Mean squared distance between latents of the last decoded frames and of the same real ones.

        A stream encodes its last frames as the next window's motion latents, so this error is visible as a
        seam. The unit is the latents' variance over the batch.
        """
        count = self.config.motion_frames
        # One call for both, so that the compiled graph contains the encoder once less.
        tails = torch.cat([video[:, :, -count:], decoded[:, :, -count:].clamp(-1, 1).to(video.dtype)])
        wanted, found = self.vae.encode_moments(tails)[0].float().chunk(2)
        wanted = wanted.detach()
        scale = wanted.var((0, 2, 3, 4), keepdim=True) + 1e-6
        return ((found - wanted).square() / scale).mean()


def _frames(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(0, 1)


class VAELoss:
    """Draws batches from a `ClipMemory` and computes the stage's losses."""

    def __init__(self, objective: nn.Module, config: VAETrainConfig, memory: ClipMemory, seed: int) -> None:
        """Use a `VAEObjective` or its compiled form."""
        self._objective = objective
        self._config = config
        self._memory = memory
        self._seed = seed

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Return the losses of one step; random draws depend on seed, step and loaded clips only."""
        config = self._config
        self._memory.refresh(limit=1)
        rng = torch.Generator().manual_seed(self._seed * 1_000_003 + step)
        batch = self._memory.sample(config.batch_size, config.num_frames, rng)
        device = batch.video.device
        device_rng = torch.Generator(device).manual_seed(self._seed * 1_000_003 + step)
        video = augment_clips(batch.video, device_rng) * 2 - 1
        video, weights = self._crop(video, face_weights(batch, config), rng)
        noise = torch.randn(self._latent_shape(video), generator=device_rng, device=device)
        frames = choose_frames(config, rng).to(device)
        # A fixed memory layout: the augmentation returns several, and each would be compiled anew.
        video = video.transpose(1, 2).contiguous()
        with mixed_precision(device):
            scalars: dict[str, Tensor] = self._objective(video, weights, noise, frames)
        return scalars

    def _crop(self, video: Tensor, weights: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Crop one random square from all windows, aligned to the latent grid."""
        size, crop, stride = video.shape[-1], self._config.crop, self._vae().config.spatial_stride
        if crop >= size:
            return video, weights
        top, left = (torch.randint((size - crop) // stride + 1, (2,), generator=rng) * stride).tolist()
        rows, columns = slice(top, top + crop), slice(left, left + crop)
        return video[..., rows, columns], weights[..., rows, columns]

    def _vae(self) -> CausalVideoVAE:
        vae = self._objective.vae
        assert isinstance(vae, CausalVideoVAE)
        return vae

    def _latent_shape(self, video: Tensor) -> tuple[int, ...]:
        batch, frames, _, height, width = video.shape
        vae = self._vae()
        stride = vae.config.spatial_stride
        latent_frames = 1 + (frames - 1) // vae.config.temporal_stride
        return batch, vae.config.latent_channels, latent_frames, height // stride, width // stride


def choose_frames(config: VAETrainConfig, rng: torch.Generator) -> Tensor:
    """Draw indices [judged_frames] of the frames that a step decodes, ascending, motion frames last."""
    others = config.num_frames - config.motion_frames
    drawn = torch.randperm(others, generator=rng)[: config.judged_frames - config.motion_frames]
    return torch.cat([drawn.sort().values, torch.arange(others, config.num_frames)])


def face_weights(batch: WindowBatch, config: VAETrainConfig) -> Tensor:
    """Return the pixel weights of a batch, [B, 1, H, W], mean 1."""
    return box_weights(
        batch.face_box,
        batch.mouth_box,
        batch.video.shape[-1],
        config.face_weight,
        config.eye_weight,
        config.mouth_weight,
    )


@torch.no_grad()
def reconstruction_psnr(vae: CausalVideoVAE, memory: ClipMemory, num_frames: int = 33) -> dict[str, float]:
    """Measure the PSNR in dB of reconstructions from posterior means of the first window of every clip.

    Returns "psnr" over the frame, "face_psnr" inside face boxes and "mouth_psnr" inside mouth boxes.
    """
    rows: list[Tensor] = []
    for clip in range(len(memory)):
        frames = memory.frames[clip][:num_frames].permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with mixed_precision(frames.device):
            output = vae.decode_raw(vae.encode(frames)[0])
        flat_output, flat_target = (x.float().transpose(1, 2).flatten(0, 1) for x in (output, frames))
        masks = clip_masks(memory, clip)
        rows.append(torch.stack([weighted_psnr(flat_output, flat_target, mask).mean() for mask in masks]))
    whole, face, mouth = torch.stack(rows).mean(0).tolist()
    return {"psnr": whole, "face_psnr": face, "mouth_psnr": mouth}


def clip_masks(memory: ClipMemory, clip: int) -> list[Tensor]:
    """Return masks of the whole frame, the face box and the mouth box of a clip, each [1, 1, H, W]."""
    size = memory.frames[clip].shape[2]
    whole = torch.ones(1, 1, size, size, device=memory.frames[clip].device)
    return [whole, *(box_mask(box, size) for box in memory.boxes([clip]))]


def box_mask(box: Tensor, size: int) -> Tensor:
    """Return masks [B, 1, size, size] of boxes [B, 4], float32 of zeros and ones."""
    grid = (torch.arange(size, device=box.device) + 0.5) / size
    left, top, right, bottom = (edge[:, None] for edge in box.unbind(1))
    across = (grid >= left) & (grid <= right)
    down = (grid >= top) & (grid <= bottom)
    return (down[:, :, None] & across[:, None, :])[:, None].float()


@torch.no_grad()
def measure_latents(vae: CausalVideoVAE, memory: ClipMemory, num_clips: int) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation [z] of raw latents per channel over the first windows of clips.

    The deviation includes the posterior's, so that normalisation does not amplify channels without content.
    """
    samples, variances = [], []
    for clip in range(min(num_clips, len(memory))):
        frames = memory.frames[clip][:33].permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with mixed_precision(frames.device):
            mean, log_variance = vae.encode_moments(frames)
        samples.append(mean[0].float().flatten(1))
        variances.append(log_variance[0].float().exp().flatten(1))
    joined = torch.cat(samples, 1)
    return joined.mean(1), (joined.var(1) + torch.cat(variances, 1).mean(1)).sqrt()
