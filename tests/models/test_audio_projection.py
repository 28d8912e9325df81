"""Which speech frames reach which latent frame."""

from dataclasses import replace

import pytest
import torch

from livetalk.models.audio_projection import AudioProjection, AudioProjectionConfig
from tiny import AUDIO, randomize


def read_positions(frame: int, position: int) -> list[int]:
    """Say which latent frames change when one window position of one video frame does."""
    projection = AudioProjection(AUDIO)
    randomize(projection)
    context = torch.zeros(1, 9, AUDIO.window, AUDIO.num_blocks, AUDIO.channels)
    changed = context.clone()
    changed[0, frame, position] = 1
    with torch.no_grad():
        difference = (projection(changed) - projection(context)).abs().amax(dim=(0, 2, 3))
    return [int(frame) for frame in difference.nonzero().flatten()]


def test_first_frame_reads_its_whole_window() -> None:
    assert [read_positions(0, position) for position in range(5)] == [[0]] * 5


def test_groups_read_past_centres_and_future() -> None:
    assert [read_positions(1, p) for p in range(5)] == [[1], [1], [1], [], []]
    assert [read_positions(2, p) for p in range(5)] == [[], [], [1], [], []]
    assert [read_positions(3, p) for p in range(5)] == [[], [], [1], [], []]
    assert [read_positions(4, p) for p in range(5)] == [[], [], [1], [1], [1]]
    assert read_positions(5, 0) == [2]


def test_published_widths() -> None:
    config = AudioProjectionConfig()
    assert config.group_window * config.num_blocks * config.channels == 73_728
    assert replace(config, window=7).group_window == 10


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="window"):
        AudioProjectionConfig(window=4)
    with pytest.raises(ValueError, match="latent_stride"):
        AudioProjectionConfig(latent_stride=1)
    projection = AudioProjection(AUDIO)
    for shape in ((1, 8, 5, 1, 6), (1, 9, 4, 1, 6), (1, 9, 5, 2, 6)):
        with pytest.raises(ValueError, match="audio_context"):
            projection(torch.zeros(shape))
