"""Peer access is queried from the driver by UUID, whichever GPUs each process sees."""

import pytest
import torch

from livetalk.parallel import reach
from livetalk.parallel.reach import RankDevice, find_non_peer_pair, first_non_peer
from parallel.gloo_ranks import run_ranks

FOUR = [RankDevice(f"GPU-{index}", index) for index in range(4)]


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, uuids: list[str], non_peer: str = "") -> None:
    """Pretend that this process sees GPUs, one of which (`non_peer`) is a peer of no other."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(uuids))
    monkeypatch.setattr(reach, "device_uuid", lambda device: uuids[device.index])
    monkeypatch.setattr(
        torch.cuda, "can_device_access_peer", lambda a, b: non_peer not in (uuids[a], uuids[b])
    )


def test_gpus_of_one_host_are_peers_unless_the_driver_denies_it(monkeypatch: pytest.MonkeyPatch) -> None:
    uuids = [device.uuid for device in FOUR]
    pretend_gpus(monkeypatch, uuids)
    assert [first_non_peer(FOUR, rank) for rank in range(4)] == [None] * 4
    pretend_gpus(monkeypatch, uuids, non_peer="GPU-3")
    assert [first_non_peer(FOUR, rank) for rank in range(4)] == [3, 3, 3, 0]


def test_a_gpu_is_known_by_its_uuid_not_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    # This process numbers the GPUs in reverse; only GPU-0 has no peer.
    pretend_gpus(monkeypatch, ["GPU-3", "GPU-2", "GPU-1", "GPU-0"], non_peer="GPU-0")
    devices = [RankDevice("GPU-2", 1), RankDevice("GPU-1", 2), RankDevice("GPU-0", 3)]
    assert first_non_peer(devices[:2], 0) is None
    assert first_non_peer(devices, 0) == 2


def test_a_gpu_that_is_not_visible_counts_as_a_non_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, ["GPU-1"])
    assert first_non_peer([RankDevice("GPU-0", 0), RankDevice("GPU-1", 0)], 1) == 0


def test_two_gpus_of_the_same_number_count_as_non_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpus(monkeypatch, ["GPU-0", "GPU-1"])
    assert first_non_peer([RankDevice("GPU-0", 0), RankDevice("GPU-1", 0)], 0) == 1


def query_pretended_gpus(non_peer: str) -> tuple[int, int] | None:
    """Query on a rank that sees both GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        pretend_gpus(patch, ["GPU-0", "GPU-1"], non_peer)
        return find_non_peer_pair(torch.device("cuda", torch.distributed.get_rank()))


@pytest.mark.parametrize(("non_peer", "expected"), [("", None), ("GPU-1", (0, 1))])
def test_all_ranks_get_the_same_result(non_peer: str, expected: tuple[int, int] | None) -> None:
    assert run_ranks(query_pretended_gpus, 2, non_peer) == [expected, expected]


def test_ranks_on_cpus_have_no_pair() -> None:
    assert run_ranks(find_non_peer_pair, 2, torch.device("cpu")) == [None, None]
