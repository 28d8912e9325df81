"""Lanes: nothing on a CPU; on a GPU, work that overtakes the main work and still meets it where it must."""

from collections.abc import Callable

import pytest
import torch

from livetalk.ops.lanes import Lane

BUSY_CYCLES = 200_000_000
"""About a tenth of a second."""


@pytest.mark.parametrize("device", [None, torch.device("cpu"), torch.device("meta")])
def test_there_is_one_thing_at_a_time_without_a_gpu(device: torch.device | None) -> None:
    lane = Lane(device)
    x = torch.ones(3)
    lane.follow()
    with lane.beside():
        y = x + 1
    lane.join(lane.mark(), y)
    lane.keep(x)
    assert torch.equal(y, torch.full((3,), 2.0))


def test_an_error_on_the_lane_is_told() -> None:
    with pytest.raises(RuntimeError, match="broken"), Lane().beside():
        raise RuntimeError("broken")


def keep_busy() -> torch.cuda.Event:
    """Give the main stream something long to do, and return what marks its end."""
    torch.cuda.synchronize()
    torch.cuda._sleep(BUSY_CYCLES)
    return torch.cuda.current_stream().record_event()


def overtake(lane: Lane) -> tuple[bool, list[float]]:
    """Add on the lane; tell whether the main stream was still busy, and the sum."""
    busy = keep_busy()
    with lane.beside():
        y = torch.ones(1 << 20, device="cuda") + 1
    mark = lane.mark()
    assert mark is not None
    mark.synchronize()
    overtaken = not busy.query()
    lane.join(mark, y)
    return overtaken, y.unique().tolist()


def take_turns(lane: Lane) -> tuple[bool, list[float]]:
    """Add here, there and here again, everywhere late."""
    busy = keep_busy()
    x = torch.ones(1 << 20, device="cuda")
    lane.follow()
    with lane.beside():
        torch.cuda._sleep(BUSY_CYCLES)
        y = x + 1
    lane.keep(x)
    del x
    torch.full((1 << 20,), 7.0, device="cuda")  # in the memory of x, if it were free
    lane.join(lane.mark(), y)
    z = y * 2
    return not busy.query(), z.unique().tolist()


def hand_over(lane: Lane) -> tuple[bool, list[float]]:
    """Read late what the lane made, while the lane goes on."""
    with lane.beside():
        y = torch.ones(1 << 20, device="cuda")
    lane.join(lane.mark(), y)
    busy = keep_busy()
    z = y + 1
    del y
    with lane.beside():
        torch.full((1 << 20,), 7.0, device="cuda")  # in the memory of y, if it were free
    return not busy.query(), z.unique().tolist()


def join_the_past_only(lane: Lane) -> tuple[bool, list[float]]:
    """Join what stands before a mark, with more work behind it."""
    torch.cuda.synchronize()
    with lane.beside():
        y = torch.ones(1 << 20, device="cuda") + 1
    mark = lane.mark()
    with lane.beside():
        torch.cuda._sleep(BUSY_CYCLES)
    later = lane.mark()
    assert later is not None
    lane.join(mark, y)
    z = y + 1
    torch.cuda.current_stream().synchronize()
    return not later.query(), z.unique().tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("scene", "expected"), [(overtake, 2.0), (take_turns, 4.0), (hand_over, 2.0), (join_the_past_only, 3.0)]
)
def test_a_lane_of_a_gpu(scene: Callable[[Lane], tuple[bool, list[float]]], expected: float) -> None:
    lane = Lane(torch.device("cuda"))
    # The first time, kernels are loaded and memory is taken, for which the driver waits.
    assert scene(lane)[1] == [expected]
    assert scene(lane) == (True, [expected])
