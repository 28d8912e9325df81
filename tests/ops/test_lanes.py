"""Lanes: nothing on a CPU; on a GPU, work that overtakes the main work and still meets it where it must."""

import pytest
import torch

from livetalk.ops.lanes import Lane

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LONG_CYCLES = 200_000_000
"""About a tenth of a second."""


@pytest.mark.parametrize("device", [None, torch.device("cpu"), torch.device("meta")])
def test_there_is_one_thing_at_a_time_without_a_gpu(device: torch.device | None) -> None:
    lane = Lane(device)
    x = torch.ones(3)
    lane.follow()
    with lane.beside():
        y = x + 1
    lane.join(y)
    lane.keep(x)
    assert torch.equal(y, torch.full((3,), 2.0))


def test_an_error_on_the_lane_is_told() -> None:
    with pytest.raises(RuntimeError, match="broken"), Lane().beside():
        raise RuntimeError("broken")


@pytest.fixture
def busy() -> torch.cuda.Event:
    """Give the main stream something long to do, and return what marks its end."""
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG_CYCLES)
    end = torch.cuda.Event()  # type: ignore[no-untyped-call]
    end.record()
    return end


class TestOnAGPU:
    pytestmark = GPU

    def test_work_on_the_lane_overtakes(self, busy: torch.cuda.Event) -> None:
        lane = Lane(torch.device("cuda"))
        with lane.beside():
            y = torch.ones(3, device="cuda") + 1
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        done.synchronize()
        assert not busy.query()
        lane.join(y)
        assert y.tolist() == [2, 2, 2]

    def test_the_lane_follows_and_the_main_work_joins(self, busy: torch.cuda.Event) -> None:
        lane = Lane(torch.device("cuda"))
        x = torch.ones(1 << 20, device="cuda")
        lane.follow()
        with lane.beside():
            y = x + 1
            torch.cuda._sleep(LONG_CYCLES)
            y += 1
        lane.keep(x)
        del x
        torch.zeros(1 << 20, device="cuda").fill_(7)  # in the memory of x, if it were free
        lane.join(y)
        z = y * 2
        assert busy.query() is False
        assert z.unique().tolist() == [6]

    def test_what_was_handed_over_is_not_written_over_by_the_lane(self) -> None:
        lane = Lane(torch.device("cuda"))
        with lane.beside():
            y = torch.ones(1 << 20, device="cuda")
        lane.join(y)
        torch.cuda._sleep(LONG_CYCLES)
        z = y + 1
        del y
        with lane.beside():
            torch.zeros(1 << 20, device="cuda").fill_(7)
        assert z.unique().tolist() == [2]
