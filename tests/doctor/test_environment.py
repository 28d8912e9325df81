import importlib.metadata
import platform

import pytest
import torch

from livetalk import __version__
from livetalk.doctor.environment import WANTED_CPU_FEATURES, find_missing_packages, inspect_environment


def test_this_machine_is_described() -> None:
    environment = inspect_environment()
    assert (environment.livetalk, environment.python) == (__version__, platform.python_version())
    assert environment.torch == torch.__version__
    assert len(environment.gpus) == torch.cuda.device_count()
    assert set(environment.cpu_features) <= set(WANTED_CPU_FEATURES)
    assert environment.video_encoders == ("libx264", "aac"), "without these no video can be written"
    assert environment.host_bytes is None or environment.host_bytes > 2**26
    assert "dev" in environment.missing_packages


def test_missing_packages_are_named_by_extra() -> None:
    requirements = [
        "torch>=2.11",
        "pytest>=8; extra == 'dev'",
        "no-such_package.x==1.0 ; extra == 'dev'",
        'also-not-there[fast]<2; python_version >= "3.9" and extra == "eval"',
        "numpy; extra == 'data'",
    ]
    found = find_missing_packages(requirements)
    assert found["dev"] == ("no-such_package.x",)
    assert found["data"] == ()
    assert found["eval"] == ("also-not-there",)


def test_a_source_that_is_not_installed_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert inspect_environment().missing_packages == {}
