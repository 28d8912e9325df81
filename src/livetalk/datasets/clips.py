"""Rendered clips in device memory; clips are added while the renderer is still running."""

from dataclasses import dataclass

import torch
from torch import Tensor

from livetalk.datasets.boxes import mirror_boxes
from livetalk.synthetic.clips import ClipRecord, ClipStore


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows cut from clips.

    Attributes:
        video: [B, F, 3, H, W], float32, 0..1; the last frame may be a reference, see `ClipMemory.sample`.
    """

    video: Tensor
    face_box: Tensor  # [B, 4], shares of the frame
    mouth_box: Tensor  # [B, 4], shares of the frame


class ClipMemory:
    """Frames of finished clips of a store as uint8 tensors on one device."""

    def __init__(self, store: ClipStore, device: torch.device, max_clips: int = 1_000_000) -> None:
        """Start empty; `refresh` loads clips of the store, at most `max_clips` in total."""
        self._store = store
        self._max_clips = max_clips
        self._device = device
        self._known: set[int] = set()
        self._waiting: list[int] = []
        self.frames: list[Tensor] = []
        self.records: list[ClipRecord] = []

    def __len__(self) -> int:
        return len(self.frames)

    def refresh(self, limit: int) -> int:
        """Load at most `limit` more finished clips and return how many were loaded."""
        limit = min(limit, self._max_clips - len(self._known))
        if limit > 0 and not self._waiting:
            self._waiting = [index for index in self._store.indices() if index not in self._known]
        batch, self._waiting = self._waiting[: max(0, limit)], self._waiting[max(0, limit) :]
        for index in batch:
            self._known.add(index)
            self.frames.append(torch.from_numpy(self._store.frames(index)).to(self._device))
            self.records.append(self._store.record(index))
        return len(batch)

    def clear(self) -> None:
        """Drop the loaded frames and records; their clips are not loaded again."""
        self.frames.clear()
        self.records.clear()

    def boxes(self, clips: list[int]) -> tuple[Tensor, Tensor]:
        """Return face and mouth boxes of clips, each [B, 4]."""
        face = torch.tensor([self.records[clip].face_box for clip in clips], device=self._device)
        mouth = torch.tensor([self.records[clip].mouth_box for clip in clips], device=self._device)
        return face, mouth

    def sample(
        self, batch_size: int, num_frames: int, rng: torch.Generator, *, reference: bool = False
    ) -> WindowBatch:
        """Cut random windows of `num_frames` frames, half of them mirrored; `rng` is on the CPU.

        `reference` appends to each window a random frame of the same clip.
        """
        clips = torch.randint(len(self.frames), (batch_size,), generator=rng).tolist()
        mirrored = (torch.rand(batch_size, generator=rng) < 0.5).tolist()
        windows = []
        for clip, mirror in zip(clips, mirrored, strict=True):
            frames = self.frames[clip]
            start = int(torch.randint(frames.shape[0] - num_frames + 1, (1,), generator=rng))
            window = frames[start : start + num_frames]
            if reference:
                moment = int(torch.randint(frames.shape[0], (1,), generator=rng))
                window = torch.cat([window, frames[moment : moment + 1]])
            windows.append(window.flip(2) if mirror else window)
        video = torch.stack(windows).permute(0, 1, 4, 2, 3).float() / 255.0
        face, mouth = self.boxes(clips)
        flags = torch.tensor(mirrored, device=self._device)
        return WindowBatch(video, mirror_boxes(face, flags), mirror_boxes(mouth, flags))
