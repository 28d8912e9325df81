"""Tokens of a window by attention head and by latent frame.

Shapes: B batch · T latent frames · L video tokens · P tokens per latent frame · N heads · E head width ·
D model width.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor


class FrameRun(NamedTuple):
    """Consecutive latent frames with equally many tokens."""

    first_frame: int
    num_frames: int
    start: int  # index of the first token
    stop: int  # index after the last token

    def split(self, x_BLD: Tensor) -> Tensor:
        """Return the tokens of these frames, `[B, T, P, ...]`, from `[B, L, ...]`."""
        x = x_BLD[:, self.start : self.stop]
        return x.reshape(x.shape[0], self.num_frames, -1, *x.shape[2:])


class TokenFrames(NamedTuple):
    """The latent frame of each token."""

    ids: Tensor  # `[L]` integers
    runs: tuple[FrameRun, ...] | None  # the same as runs; None if the tokens per frame are unknown


def frame_runs(frame_lengths: tuple[int, ...] | None, num_tokens: int) -> tuple[FrameRun, ...] | None:
    """Group latent frames of equal length; None if the lengths do not add up to `num_tokens`.

    `frame_lengths` counts the tokens of each frame, 0 for frames on other ranks.
    """
    if frame_lengths is None or sum(frame_lengths) != num_tokens:
        return None
    # One batched product per run: a rank's shard may begin and end within a frame.
    runs, frame, token = [], 0, 0
    for length, group in groupby(frame_lengths):
        count = len(list(group))
        if length:
            runs.append(FrameRun(frame, count, token, token + count * length))
        frame, token = frame + count, token + count * length
    return tuple(runs)


def join_runs(parts: Sequence[Tensor]) -> Tensor:
    # A single run, the usual case, needs no copy.
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=1)


def split_heads(x_BLD: Tensor, num_heads: int) -> Tensor:
    """View `[..., D]` as `[..., N, E]`."""
    return x_BLD.reshape(*x_BLD.shape[:-1], num_heads, -1)
