"""The windows that the DiT trains on, encoded once: latents, speech features, loss weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from livetalk.models.audio_encoder import MELS_PER_FRAME, SpeechEncoder, cut_log_mel
from livetalk.models.vae import CausalVideoVAE
from livetalk.streaming.geometry import ChunkGeometry
from livetalk.synthetic.clips import ClipSpec
from livetalk.training.augment import augment_clips
from livetalk.training.config import BankConfig, SFTConfig
from livetalk.training.losses import box_weights
from livetalk.training.memory import ClipMemory, mirror_boxes
from livetalk.training.precision import mixed_precision

CACHE_FRAMES = 200
"""Video frames in the rolling audio window (8 s at 25 fps), the same as the live path's."""

CONTEXT_FRAMES = 2
"""Speech features read on either side of a video frame."""

SILENCE_DECADES = -10.0

PARTS_JOINED = 64
"""Encoded clips that wait until they join the windows in use."""


class LogMelSource(Protocol):
    """Log-mel spectrograms of the speech clips."""

    def num_variants(self, clip: int) -> int:
        """Number of recordings (voices, noises) of one clip; all share their timing."""

    def log_mel(self, clip: int, variant: int) -> Tensor:
        """Decades of mel power before level normalisation, [M, bins], float32, 100 Hz."""


@dataclass(frozen=True, slots=True)
class WindowBank:
    """Encoded windows; the windows of one clip are neighbours.

    Attributes:
        latents: [N, z, T, h, w], float16, normalised.
        motion: [N, z, 2, h, w], float16: the first two latents, after decode and encode where made.
        features: [N, variants, frames + 4, channels], float16, speech features around the window's frames.
        first: [N], index of the first window of the same clip.
        count: [N], number of windows of that clip.
        weights: [N, 1, h, w], float16, loss weights, mean 1.
    """

    latents: Tensor
    motion: Tensor
    features: Tensor
    first: Tensor
    count: Tensor
    weights: Tensor

    def __len__(self) -> int:
        """Number of windows."""
        return int(self.latents.shape[0])

    def current(self) -> "WindowBank":
        """Return the windows as they are; see `WindowSource`."""
        return self


class WindowSource(Protocol):
    """Where a step draws its windows from."""

    def current(self) -> WindowBank:
        """Return the windows of now; there may be more at the next step."""


def join_banks(parts: Sequence[WindowBank]) -> WindowBank:
    """Concatenate banks; window indices are shifted accordingly."""
    shifted = []
    total = 0
    for part in parts:
        shifted.append(replace(part, first=part.first + total))
        total += len(part)
    return WindowBank(
        *(
            torch.cat([getattr(part, name) for part in shifted])
            for name in ("latents", "motion", "features", "first", "count", "weights")
        )
    )


@torch.no_grad()
def measure_latents(vae: CausalVideoVAE, memory: ClipMemory, num_clips: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of raw latents per channel, each [z], over the first 33 frames of clips."""
    samples = []
    for clip in range(min(num_clips, len(memory))):
        frames = memory.frames[clip][:33].permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        with mixed_precision(frames.device):
            mean, _ = vae.encode_moments(frames)
        samples.append(mean[0].float().flatten(1))
    joined = torch.cat(samples, 1)
    return joined.mean(1), joined.std(1)


class BankBuilder:
    """Encodes clips into a `WindowBank`."""

    def __init__(
        self,
        vae: CausalVideoVAE,
        speech_encoder: SpeechEncoder,
        geometry: ChunkGeometry,
        config: BankConfig,
        sft: SFTConfig,
    ) -> None:
        """Use frozen encoders; `vae` must carry its latent statistics."""
        self._vae = vae
        self._speech_encoder = speech_encoder
        self._geometry = geometry
        self._config = config
        self._sft = sft

    @torch.no_grad()
    def build(
        self,
        memory: ClipMemory,
        source: LogMelSource,
        seed: int,
        progress: Callable[[int], None] = lambda clip: None,
    ) -> WindowBank:
        """Encode every clip of `memory`, each once, with one draw of augmentation per clip.

        Args:
            memory: rendered clips.
            source: speech spectrograms of the corpus that the clips were rendered from.
            seed: draws of augmentation, variants and look-ahead.
            progress: called with the number of clips done.
        """
        parts: list[WindowBank] = []
        for clip in range(len(memory)):
            rng = torch.Generator().manual_seed(seed * 1_000_003 + memory.records[clip].spec.index)
            parts.append(self._encode_clip(memory, clip, source, rng))
            progress(clip + 1)
        return join_banks(parts)

    def _encode_clip(
        self, memory: ClipMemory, clip: int, source: LogMelSource, rng: torch.Generator
    ) -> WindowBank:
        frames = memory.frames[clip]
        device = frames.device
        video = frames.permute(0, 3, 1, 2)[None].float() / 255.0
        video = augment_clips(
            video, torch.Generator(device).manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
        )
        mirrored = bool(torch.rand((), generator=rng) < 0.5)
        video = (video.flip(-1) if mirrored else video)[0] * 2 - 1
        window = self._geometry.window_frames
        starts = list(range(0, frames.shape[0] - window + 1, self._config.window_stride))
        # Encoders return channels-last memory; a compiled step would be compiled again for it.
        latents = self._encode_windows(video, starts).contiguous()
        reencode = bool(torch.rand((), generator=rng) < self._config.reencode_share)
        motion = self._motion_latents(latents, starts) if reencode else latents[:, :, :2].clone()
        features = self._features(source, memory.records[clip].spec, starts, rng, device)
        face, mouth = memory.boxes([clip])
        flags = torch.tensor([mirrored], device=device)
        cells = box_weights(
            mirror_boxes(face, flags),
            mirror_boxes(mouth, flags),
            latents.shape[-1],
            self._sft.face_weight,
            0.0,
            self._sft.mouth_weight,
        )
        count = len(starts)
        return WindowBank(
            latents=latents.half(),
            motion=motion.half(),
            features=features.half(),
            first=torch.zeros(count, dtype=torch.long, device=device),
            count=torch.full((count,), count, dtype=torch.long, device=device),
            weights=cells.half().expand(count, -1, -1, -1),
        )

    def _encode_windows(self, video: Tensor, starts: Sequence[int]) -> Tensor:
        window = self._geometry.window_frames
        out = []
        for at in range(0, len(starts), 10):
            batch = torch.stack([video[s : s + window] for s in starts[at : at + 10]]).transpose(1, 2)
            with mixed_precision(video.device):
                out.append(self._vae.encode(batch)[0].float())
        return torch.cat(out)

    def _motion_latents(self, latents: Tensor, starts: Sequence[int]) -> Tensor:
        """First two latents of each window as the live path gets them, where the window before it exists."""
        motion = latents[:, :, :2].clone()
        chunk, keep = self._geometry.chunk_frames, self._geometry.motion_frames
        position = {start: row for row, start in enumerate(starts)}
        rows = [
            (row, position[start - chunk]) for start, row in position.items() if start - chunk in position
        ]
        for at in range(0, len(rows), 10):
            some = rows[at : at + 10]
            with mixed_precision(latents.device):
                decoded = self._vae.decode(latents[[before for _, before in some]])[0]
                motion[[row for row, _ in some]] = self._vae.encode(decoded[:, :, -keep:])[0].float()
        return motion

    def _features(
        self,
        source: LogMelSource,
        spec: ClipSpec,
        starts: Sequence[int],
        rng: torch.Generator,
        device: torch.device,
    ) -> Tensor:
        """Speech features of each window and variant, [windows, variants, frames + 4, channels]."""
        window = self._geometry.window_frames
        per_variant = []
        for _ in range(self._config.variants):
            variant = int(torch.randint(source.num_variants(spec.corpus_clip), (1,), generator=rng))
            choice = int(torch.randint(len(self._config.lookahead_frames), (1,), generator=rng))
            lookahead = self._config.lookahead_frames[choice]
            mel = pad_silence(source.log_mel(spec.corpus_clip, variant).to(device), CACHE_FRAMES)
            cuts = []
            for start in starts:
                end = spec.start_frame + start + window + lookahead + CACHE_FRAMES
                cuts.append(
                    cut_log_mel(
                        mel[None], (end - CACHE_FRAMES) * MELS_PER_FRAME, CACHE_FRAMES * MELS_PER_FRAME
                    )[0]
                )
            encoded = self._speech_encoder.encode_log_mel(torch.stack(cuts)).flatten(2)
            first = CACHE_FRAMES - lookahead - window - CONTEXT_FRAMES
            index = torch.arange(first, first + window + 2 * CONTEXT_FRAMES, device=device)
            per_variant.append(encoded[:, index.clamp(0, CACHE_FRAMES - 1)])
        return torch.stack(per_variant, 1)


class GrowingBank:
    """Windows of the clips rendered so far: every step may add a clip while the renderer is still at work."""

    def __init__(self, builder: BankBuilder, memory: ClipMemory, source: LogMelSource, seed: int) -> None:
        """Start empty; the clips come from `memory`, which forgets each after it is encoded."""
        self._builder = builder
        self._memory = memory
        self._source = source
        self._seed = seed
        self._joined: WindowBank | None = None
        self._waiting: list[WindowBank] = []
        self.num_clips = 0

    def refresh(self, limit: int) -> int:
        """Encode at most `limit` more finished clips; return how many were."""
        count = self._memory.refresh(limit)
        if count:
            self._waiting.append(self._builder.build(self._memory, self._source, self._seed))
            self._memory.clear()
            self.num_clips += count
        return count

    def current(self) -> WindowBank:
        """Add one clip if there is one, and return the windows, the latest few clips' left out.

        Raises:
            ValueError: nothing has been encoded yet.
        """
        self.refresh(1)
        # Joining copies everything: only now and then.
        if self._joined is None or len(self._waiting) >= PARTS_JOINED:
            before = [] if self._joined is None else [self._joined]
            if not before and not self._waiting:
                raise ValueError("no clip has been encoded yet")
            self._joined, self._waiting = join_banks([*before, *self._waiting]), []
        return self._joined


def pad_silence(log_mel: Tensor, num_frames: int) -> Tensor:
    """Put `num_frames` video frames of digital silence before and after a spectrogram [M, bins]."""
    quiet = log_mel.new_full((num_frames * MELS_PER_FRAME, log_mel.shape[1]), SILENCE_DECADES)
    return torch.cat([quiet, log_mel, quiet])
