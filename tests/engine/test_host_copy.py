import numpy as np
import pytest
import torch

from livetalk.engine.host_copy import HostCopy
from livetalk.types import VideoChunk


def random_chunk(device: str, seed: int = 0) -> VideoChunk:
    pixels = torch.rand(3, 5, 32, 48, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return VideoChunk(pixels=pixels.to(device), first_frame=28 * seed)


def test_frames_arrive_as_they_are_shown() -> None:
    chunk = random_chunk("cpu", seed=2)
    pending = HostCopy(torch.device("cpu")).start(chunk)
    frames = pending.wait()
    assert (pending.first_frame, pending.num_frames) == (56, 5)
    assert frames.shape == (5, 32, 48, 3) and frames.dtype == np.uint8
    assert np.array_equal(frames, chunk.to_uint8().numpy())
    assert np.array_equal(pending.wait(), frames)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_chunks_made_one_after_the_other_arrive_whole() -> None:
    copy = HostCopy(torch.device("cuda"))
    expected = [random_chunk("cpu", seed).to_uint8().numpy() for seed in range(8)]
    pending = []
    for seed in range(8):
        pending.append(copy.start(random_chunk("cuda", seed)))
        # Work that would be given the frames' memory if nothing kept it.
        torch.full((3, 5, 32, 48), 7.0, device="cuda")
    for frames, wanted in zip(pending, expected, strict=True):
        arrived = frames.wait()
        # The GPU rounds the scaling of a level like the CPU does, or one level apart where it fuses.
        assert np.abs(arrived.astype(int) - wanted.astype(int)).max() <= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_starting_a_copy_does_not_wait_for_the_gpu() -> None:
    copy = HostCopy(torch.device("cuda"))
    copy.start(random_chunk("cuda")).wait()
    chunk = random_chunk("cuda")
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    after = torch.cuda.Event()
    after.record()
    pending = copy.start(chunk)
    assert not after.query(), "the sleep of a second had ended: something waited for it"
    assert pending.wait().any()
