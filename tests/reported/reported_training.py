"""The memory and cores of a process, waiting for other processes, and state that survives a power cut."""

import io
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from process_inputs import run_in_process
from torch import nn

from livetalk import disk
from livetalk.disk import write_durably
from livetalk.errors import InputError, WeightsError
from livetalk.limits import available_cores, available_memory
from livetalk.synthetic.clips import ClipStore
from livetalk.synthetic.speech.corpus import load_corpus
from livetalk.training import waiting
from livetalk.training.checkpoint import load_training_state, save_training_state
from livetalk.training.job import load_trained_vae
from livetalk.training.optim import WeightAverage
from livetalk.training.waiting import announced, wait_for
from reported import Case
from tiny import VAE

MIB = 1 << 20
_STAGE = ("--corpus", "corpus", "--out", "out", "--device", "cpu")


def _machine(root: Path, memberships: str, mounts: str, **files: str) -> Path:
    """Write the files in which the system tells the limits of a process with plenty of memory."""
    status = {
        "proc/meminfo": "MemTotal: 64000000 kB\nMemAvailable: 32000000 kB\n",
        "proc/self/status": "VmSize: 1024 kB\nVmData: 512 kB\n",
        "proc/self/cgroup": memberships,
        "proc/self/mountinfo": mounts,
        **files,
    }
    for name, text in status.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


_V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
_V1_MOUNTS = (
    "31 23 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 23 0:28 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def _group_of_version_2(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _machine(
        folder,
        "0::/user/run\n",
        _V2_MOUNT,
        **{
            "sys/fs/cgroup/user/run/memory.max": "max\n",
            "sys/fs/cgroup/user/run/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user/memory.max": f"{350 * MIB}\n",
            "sys/fs/cgroup/user/memory.current": f"{100 * MIB}\n",
            "sys/fs/cgroup/user/memory.stat": f"anon 5\ninactive_file {50 * MIB}\n",
            "sys/fs/cgroup/user/cpu.max": "150000 100000\n",
        },
    )
    assert available_memory(root) == 300 * MIB, "the group around is the one that limits"
    assert available_cores(64, root) <= 2


def _group_of_version_1(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _machine(
        folder,
        "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n",
        _V1_MOUNTS,
        **{
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{200 * MIB}\n",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{150 * MIB}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert available_memory(root) == 50 * MIB
    assert available_cores(64, root) == 1


def _no_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = _machine(folder, "0::/\n", _V2_MOUNT)
    assert available_memory(root) == 32_000_000 * 1024
    unlimited = {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}
    other = _machine(folder / "v1", "5:memory:/\n", _V1_MOUNTS, **unlimited)
    assert available_memory(other) == 32_000_000 * 1024
    assert available_memory(folder / "nothing") is None
    assert available_cores(0, folder / "nothing") >= 1


def _own_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = "from livetalk.limits import *; print(available_memory(), available_cores(64))"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (700 * MIB, 700 * MIB))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    command = [sys.executable, "-c", program]
    told = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=limit).stdout
    memory, cores = map(int, told.split())
    assert memory < 700 * MIB and cores == 1


def _mistyped_work(stage: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        (folder / "out").mkdir()
        (folder / "out" / "vae_finished.json").write_text("precious")
        lines: list[str] = []
        monkeypatch.setattr(sys.stderr, "write", lines.append)
        assert run_in_process(["train", stage, "--work", "mistyped", *_STAGE]) == 2
        assert "work folder mistyped: has no folder of clips; check --work" in "".join(lines)
        assert (folder / "out" / "vae_finished.json").read_text() == "precious"
        assert not (folder / "mistyped").exists()

    return Case("waiting", f"train {stage} with a mistyped --work", check)


def _nobody_delivers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.6)
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    with pytest.raises(InputError, match=r"3 of 16 clips, and no process makes more \(waited 1 s\); render"):
        wait_for(folder, lambda: False, lambda: "3 of 16 clips", "render some")
    assert said.getvalue().count("\n") == 1 and "3 of 16 clips; gives up" in said.getvalue()


def _somebody_delivers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_SECONDS", 0.2)
    arrival = time.monotonic() + 1.2
    with announced(folder, "render-0"):
        with (
            pytest.raises(InputError, match="another process runs render-0 there"),
            announced(folder, "render-0"),
        ):
            pass
        wait_for(folder, lambda: time.monotonic() > arrival, lambda: "none", "render some")
    assert not waiting.is_anyone_at_work(folder)


def _train_a_step(folder: Path) -> nn.Module:
    model = nn.Linear(2, 2)
    save_training_state(folder, 7, model, WeightAverage(model, decay=0.0), [])
    return model


def _damaged_state(name: str, content: bytes) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = _train_a_step(folder)
        (folder / "state.json").write_bytes(content)
        with pytest.raises(WeightsError, match=r"state\.json: is damaged .* begin this stage anew") as caught:
            load_training_state(folder, model)
        assert "\n" not in str(caught.value)

    return Case("state", f"state.json {name}", check)


def _diverged_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    save_training_state(folder, 7, model, WeightAverage(model, decay=0.0), [])
    with pytest.raises(WeightsError, match="weight holds NaN"):
        load_training_state(folder, nn.Linear(2, 2))


def _other_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _train_a_step(folder)
    with pytest.raises(WeightsError, match="is of another network"):
        load_training_state(folder, nn.Linear(3, 2))


def _flushed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    flush, replace = disk.flush_file, Path.replace
    monkeypatch.setattr(disk, "flush_file", lambda path: (steps.append(f"flush {path.name}"), flush(path))[1])
    monkeypatch.setattr(
        Path, "replace", lambda path, target: (steps.append(f"rename {path.name}"), replace(path, target))[1]
    )
    write_durably(folder / "state.json", b"{}")
    assert steps == ["flush state.json.partial", "rename state.json.partial", f"flush {folder.name}"]


def _finished_vae(content: str, message: str) -> Case:
    def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if content:
            (folder / "vae_finished.json").write_text(content)
        with pytest.raises(WeightsError, match=message):
            load_trained_vae(folder, VAE)

    return Case("state", f"vae_finished.json: {content or 'missing'}", check)


def _damaged_clip(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "clip_000003.json").write_text("")
    (folder / "clip_000003.npy").write_bytes(b"\x93NUMPY")
    store = ClipStore(folder)
    for read in (store.record, store.frames):
        with pytest.raises(InputError, match=r"clip_000003.* is damaged"):
            read(3)


def _damaged_corpus(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for content in ("", "[]", '{"version": 1}'):
        (folder / "index.json").write_text(content)
        with pytest.raises(InputError, match="make it anew"):
            load_corpus(folder)


CASES = (
    Case("limits", "a control group of version 2 around this one", _group_of_version_2),
    Case("limits", "control groups of version 1 in a container", _group_of_version_1),
    Case("limits", "no limits, and nothing that tells them", _no_group),
    Case("limits", "RLIMIT_AS and one core", _own_limits),
    _mistyped_work("vae"),
    _mistyped_work("decoder"),
    Case("waiting", "nobody delivers", _nobody_delivers),
    Case("waiting", "a slow process delivers", _somebody_delivers),
    _damaged_state("is empty", b""),
    _damaged_state("is cut", b'{"parts": ["sta'),
    _damaged_state("holds zeros", bytes(20)),
    _damaged_state("holds something else", b"[1, 2]"),
    Case("state", "a checkpoint of a run that diverged", _diverged_state),
    Case("state", "a checkpoint of another network", _other_network),
    Case("state", "flushed before it is renamed", _flushed),
    _finished_vae("", "has no finished VAE yet"),
    _finished_vae("{", "is damaged"),
    _finished_vae('{"latents_mean": 3}', "is damaged"),
    Case("state", "a clip after a power cut", _damaged_clip),
    Case("state", "a corpus after a power cut", _damaged_corpus),
)
