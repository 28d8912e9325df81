"""Encoded training windows of the transformer: latents, references, speech features, loss weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from livetalk.datasets.augment import augment_clips
from livetalk.datasets.boxes import box_weights, mirror_boxes
from livetalk.datasets.clips import ClipMemory
from livetalk.datasets.looks import deform_clips, degrade_clips, restyle_clips
from livetalk.device import mixed_precision
from livetalk.models.audio_encoder import MELS_PER_FRAME, SpeechEncoder, cut_log_mel
from livetalk.models.reference_decoder import DecoderReference
from livetalk.models.vae import CausalVideoVAE
from livetalk.streaming.conditioning import encode_grey_reference
from livetalk.streaming.settings import ReferenceLayout, StreamSettings
from livetalk.synthetic.clips import ClipSpec

SILENCE_DECADES = -10.0
"""Log-mel power of digital silence, in decades."""

PARTS_JOINED = 64
"""Encoded clips that are collected before they are joined with the windows in use."""


class LogMelSource(Protocol):
    """Log-mel spectrograms of the speech clips."""

    def num_variants(self, clip: int) -> int:
        """Return the number of recordings (voices, noises) of a clip; all have the same timing."""

    def log_mel(self, clip: int, variant: int) -> Tensor:
        """Return decades of mel power before level normalisation, [M, bins], float32, 100 Hz."""


@dataclass(frozen=True, slots=True)
class WindowBank:
    """Encoded windows; the windows of one clip are consecutive.

    Attributes:
        motion: [N, z, M, h, w], float16: the first latents, or the result of decoding and encoding them as
            the live path does.
        references: [N, z, R, h, w], float16: reference latents of the window's first frame, in the layout of
            the model, see `build_condition`.
        features: [N, variants, frames + context, blocks, channels], float16, speech features of the frames.
    """

    latents: Tensor  # [N, z, T, h, w], float16, normalised
    motion: Tensor
    references: Tensor
    features: Tensor
    first: Tensor  # [N], index of the first window of the same clip
    count: Tensor
    weights: Tensor  # [N, 1, h, w], float16, loss weights, mean 1

    def __len__(self) -> int:
        return int(self.latents.shape[0])

    def current(self) -> "WindowBank":
        """Return the windows themselves; see `WindowSource`."""
        return self


class WindowSource(Protocol):
    """Source of the windows of an optimizer step."""

    def current(self) -> WindowBank:
        """Return the current windows; later calls may return more."""


def join_banks(parts: Sequence[WindowBank]) -> WindowBank:
    """Concatenate banks and shift the window indices accordingly."""
    shifted = []
    total = 0
    for part in parts:
        shifted.append(replace(part, first=part.first + total))
        total += len(part)
    return WindowBank(
        *(
            torch.cat([getattr(part, name) for part in shifted])
            for name in ("latents", "motion", "references", "features", "first", "count", "weights")
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BankConfig:
    """How clips become training windows."""

    window_stride: int = 7  # frames between the starts of consecutive windows
    lookahead_frames: tuple[int, ...] = (0, 2, 5, 8)  # audio look-aheads to draw from, per variant
    variants: int = 2  # audio variants (voice, noise, look-ahead) per window
    reencode_share: float = 0.35  # share of clips whose motion latents are decoded and encoded again
    views: int = 1  # draws of augmentation per clip, each encoded to windows of its own
    restyled: bool = False  # whether views also change geometry and look strongly, see `datasets.looks`
    face_weight: float = 1.0
    mouth_weight: float = 3.0


class BankBuilder:
    """Encodes clips into a `WindowBank`."""

    def __init__(
        self,
        vae: CausalVideoVAE,
        speech_encoder: SpeechEncoder,
        settings: StreamSettings,
        config: BankConfig,
    ) -> None:
        """Use frozen encoders and the settings of the model; `vae` must have its latent statistics."""
        self._vae = vae
        self._speech_encoder = speech_encoder
        self._settings = settings
        self._geometry = settings.geometry
        self._config = config

    @torch.no_grad()
    def build(
        self,
        memory: ClipMemory,
        source: LogMelSource,
        seed: int,
        progress: Callable[[int], None] = lambda clip: None,
    ) -> WindowBank:
        """Encode every clip of `memory`, once per view.

        `source` has the spectrograms of the corpus that the clips were rendered from. `seed` determines
        augmentation, variants and look-aheads. `progress` is called with the number of encoded clips.
        """
        parts: list[WindowBank] = []
        for clip in range(len(memory)):
            # A generator per clip makes its augmentation independent of the order of rendering.
            rng = torch.Generator().manual_seed(seed * 1_000_003 + memory.records[clip].spec.index)
            for _ in range(self._config.views):
                parts.append(self._encode_clip(memory, clip, source, rng))
            progress(clip + 1)
        return join_banks(parts)

    def _encode_clip(
        self, memory: ClipMemory, clip: int, source: LogMelSource, rng: torch.Generator
    ) -> WindowBank:
        device = memory.frames[clip].device
        video, weights = self._augment(memory, clip, rng)
        window = self._geometry.window_frames
        starts = list(range(0, video.shape[0] - window + 1, self._config.window_stride))
        # Encoders return channels-last memory, for which a compiled training step would be compiled again.
        latents = self._encode_windows(video, starts).contiguous()
        reencode = bool(torch.rand((), generator=rng) < self._config.reencode_share)
        known = latents[:, :, : self._num_motion].clone()
        motion = self._motion_latents(video, latents, known, starts, rng) if reencode else known
        features = self._features(source, memory.records[clip].spec, starts, rng, device)
        cells = F.avg_pool2d(weights, weights.shape[-1] // latents.shape[-1])
        count = len(starts)
        return WindowBank(
            latents=latents.half(),
            motion=motion.half(),
            references=self._references(video, latents, starts).half(),
            features=features.half(),
            first=torch.zeros(count, dtype=torch.long, device=device),
            count=torch.full((count,), count, dtype=torch.long, device=device),
            weights=cells.half().expand(count, -1, -1, -1),
        )

    def _augment(self, memory: ClipMemory, clip: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw one view of a clip: frames [F, 3, H, W], -1..1, and loss weights [1, 1, H, W]."""
        frames = memory.frames[clip]
        device = frames.device
        device_rng = torch.Generator(device).manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
        mirrored = bool(torch.rand((), generator=rng) < 0.5)
        video = augment_clips(frames.permute(0, 3, 1, 2)[None].float() / 255.0, device_rng)
        video = video.flip(-1) if mirrored else video
        flags = torch.tensor([mirrored], device=device)
        face, mouth = (mirror_boxes(box, flags) for box in memory.boxes([clip]))
        config = self._config
        weights = box_weights(face, mouth, video.shape[-1], config.face_weight, 0.0, config.mouth_weight)
        if config.restyled:
            video, weights = deform_clips(video, weights, device_rng)
            video = degrade_clips(restyle_clips(video, device_rng), device_rng)
        return video[0] * 2 - 1, weights

    def _encode_windows(self, video: Tensor, starts: Sequence[int]) -> Tensor:
        window = self._geometry.window_frames
        out = []
        for at in range(0, len(starts), 10):
            batch = torch.stack([video[s : s + window] for s in starts[at : at + 10]]).transpose(1, 2)
            with mixed_precision(video.device):
                out.append(self._vae.encode(batch)[0].float())
        return torch.cat(out)

    @property
    def _num_motion(self) -> int:
        return self._geometry.num_latents(self._geometry.motion_frames)

    def _references(self, video: Tensor, latents: Tensor, starts: Sequence[int]) -> Tensor:
        """Return reference latents of the first frame of each window."""
        if self._settings.reference_layout is ReferenceLayout.BROADCAST:
            # The encoder is causal: the first latent of a window depends on its first frame alone.
            return latents[:, :, :1].clone()
        with mixed_precision(video.device):
            frames = [video[start][None, :, None] for start in starts]
            return torch.cat([encode_grey_reference(self._vae, frame, self._geometry) for frame in frames])

    def _motion_latents(
        self, video: Tensor, latents: Tensor, motion: Tensor, starts: Sequence[int], rng: torch.Generator
    ) -> Tensor:
        """Replace `motion` by what the live path would produce, where the previous window exists."""
        chunk, keep = self._geometry.chunk_frames, self._geometry.motion_frames
        position = {start: row for row, start in enumerate(starts)}
        rows = [
            (row, position[start - chunk]) for start, row in position.items() if start - chunk in position
        ]
        for at in range(0, len(rows), 10):
            some = rows[at : at + 10]
            with mixed_precision(latents.device):
                reference = self._decoder_reference(video, len(some), rng)
                before = latents[[row for _, row in some]]
                decoded = self._vae.decode(before, reference=reference)[0]
                motion[[row for row, _ in some]] = self._vae.encode(decoded[:, :, -keep:])[0].float()
        return motion

    def _decoder_reference(self, video: Tensor, count: int, rng: torch.Generator) -> DecoderReference | None:
        """Encode random frames of `video` as the references of a decoder that warps one."""
        if self._vae.config.reference is None:
            return None
        moments = torch.randint(video.shape[0], (count,), generator=rng).to(video.device)
        return self._vae.encode_reference(video[moments])

    def _features(
        self,
        source: LogMelSource,
        spec: ClipSpec,
        starts: Sequence[int],
        rng: torch.Generator,
        device: torch.device,
    ) -> Tensor:
        """Return speech features of each window and variant, as in `WindowBank`."""
        window, audio = self._geometry.window_frames, self._settings.audio
        cached, context = audio.buffer_seconds * self._geometry.fps, audio.context_frames
        per_variant = []
        for _ in range(self._config.variants):
            variant = int(torch.randint(source.num_variants(spec.corpus_clip), (1,), generator=rng))
            choice = int(torch.randint(len(self._config.lookahead_frames), (1,), generator=rng))
            lookahead = self._config.lookahead_frames[choice]
            mel = pad_silence(source.log_mel(spec.corpus_clip, variant).to(device), cached)
            cuts = []
            for start in starts:
                end = spec.start_frame + start + window + lookahead + cached
                cuts.append(
                    cut_log_mel(mel[None], (end - cached) * MELS_PER_FRAME, cached * MELS_PER_FRAME)[0]
                )
            encoded = self._speech_encoder.encode_log_mel(torch.stack(cuts))
            first = cached - lookahead - window - context
            index = torch.arange(first, first + window + 2 * context, device=device)
            per_variant.append(encoded[:, index.clamp(0, cached - 1)])
        return torch.stack(per_variant, 1)


class GrowingBank:
    """Windows of the clips rendered so far; each step may add a clip while the renderer is still running."""

    def __init__(self, builder: BankBuilder, memory: ClipMemory, source: LogMelSource, seed: int) -> None:
        """Start empty; the clips come from `memory`, which drops each after it is encoded."""
        self._builder = builder
        self._memory = memory
        self._source = source
        self._seed = seed
        self._joined: WindowBank | None = None
        self._waiting: list[WindowBank] = []
        self.num_clips = 0

    def refresh(self, limit: int) -> int:
        """Encode at most `limit` more finished clips and return how many were encoded."""
        count = self._memory.refresh(limit)
        if count:
            self._waiting.append(self._builder.build(self._memory, self._source, self._seed))
            self._memory.clear()
            self.num_clips += count
        return count

    def current(self) -> WindowBank:
        """Encode one more clip, if there is one, and return all joined windows; `ValueError` without any.

        New clips appear in the result in groups of `PARTS_JOINED`.
        """
        self.refresh(1)
        # Joining copies all windows, so it is done rarely.
        if self._joined is None or len(self._waiting) >= PARTS_JOINED:
            before = [] if self._joined is None else [self._joined]
            if not before and not self._waiting:
                raise ValueError("no clip has been encoded yet")
            self._joined, self._waiting = join_banks([*before, *self._waiting]), []
        return self._joined


def pad_silence(log_mel: Tensor, num_frames: int) -> Tensor:
    """Add `num_frames` video frames of digital silence before and after a spectrogram [M, bins]."""
    quiet = log_mel.new_full((num_frames * MELS_PER_FRAME, log_mel.shape[1]), SILENCE_DECADES)
    return torch.cat([quiet, log_mel, quiet])
