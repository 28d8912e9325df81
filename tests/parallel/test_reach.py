"""Which GPUs reach each other is asked of the driver, by UUID, whatever each process may see."""

import pytest
import torch

from livetalk.parallel import reach
from livetalk.parallel.reach import RankDevice, find_unreachable_pair, first_unreachable
from parallel.gloo_ranks import run_ranks

FOUR = [RankDevice(f"GPU-{index}", index) for index in range(4)]


def see(monkeypatch: pytest.MonkeyPatch, uuids: list[str], apart: str = "") -> None:
    """Pretend that this process sees GPUs; one of them reaches no other's memory."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(reach, "device_uuid", lambda device: uuids[device.index])
    monkeypatch.setattr(torch.cuda, "can_device_access_peer", lambda a, b: apart not in (uuids[a], uuids[b]))


def test_gpus_of_one_host_reach_each_other_unless_the_driver_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    uuids = [device.uuid for device in FOUR]
    see(monkeypatch, uuids)
    assert [first_unreachable(FOUR, rank) for rank in range(4)] == [None] * 4
    see(monkeypatch, uuids, apart="GPU-3")
    assert [first_unreachable(FOUR, rank) for rank in range(4)] == [3, 3, 3, 0]


def test_a_gpu_is_known_by_its_uuid_not_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    # This process numbers the GPUs the other way round; only GPU-0 reaches none.
    see(monkeypatch, ["GPU-3", "GPU-2", "GPU-1", "GPU-0"], apart="GPU-0")
    devices = [RankDevice("GPU-2", 1), RankDevice("GPU-1", 2), RankDevice("GPU-0", 3)]
    assert first_unreachable(devices[:2], 0) is None
    assert first_unreachable(devices, 0) == 2


def test_a_gpu_that_is_not_visible_counts_as_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, ["GPU-1"])
    assert first_unreachable([RankDevice("GPU-0", 0), RankDevice("GPU-1", 0)], 1) == 0


def test_two_gpus_of_the_same_number_count_as_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, ["GPU-0", "GPU-1"])
    assert first_unreachable([RankDevice("GPU-0", 0), RankDevice("GPU-1", 0)], 0) == 1


def pretend_and_ask(apart: str) -> tuple[int, int] | None:
    """Be a rank that sees both GPUs, and take part in the question."""
    with pytest.MonkeyPatch.context() as patch:
        see(patch, ["GPU-0", "GPU-1"], apart)
        return find_unreachable_pair(torch.device("cuda", torch.distributed.get_rank()))


@pytest.mark.parametrize(("apart", "expected"), [("", None), ("GPU-1", (0, 1))])
def test_all_ranks_have_the_same_answer(apart: str, expected: tuple[int, int] | None) -> None:
    assert run_ranks(pretend_and_ask, 2, apart) == [expected, expected]


def test_ranks_on_cpus_are_not_asked() -> None:
    assert run_ranks(find_unreachable_pair, 2, torch.device("cpu")) == [None, None]
