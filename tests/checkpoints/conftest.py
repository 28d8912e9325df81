"""Synthetic checkpoints, made once and copied for every test that damages one."""

import shutil
from pathlib import Path

import pytest

from synthetic_checkpoint import SyntheticCheckpoint, make_synthetic_checkpoint


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> SyntheticCheckpoint:
    """A model as published, not to be changed."""
    return make_synthetic_checkpoint(tmp_path_factory.mktemp("pristine"))


@pytest.fixture(scope="session")
def pristine_infinitetalk(tmp_path_factory: pytest.TempPathFactory) -> SyntheticCheckpoint:
    """A base model with InfiniteTalk's weights beside it and the older speech format, not to be changed."""
    directory = tmp_path_factory.mktemp("infinitetalk")
    return make_synthetic_checkpoint(directory, layout="infinitetalk", speech_format="bin")


@pytest.fixture
def model_dir(pristine: SyntheticCheckpoint, tmp_path: Path) -> Path:
    """A copy of the model as published, with its speech encoder beside it."""
    for folder in (pristine.model_dir, pristine.wav2vec_dir):
        shutil.copytree(folder, tmp_path / folder.name)
    return tmp_path / pristine.model_dir.name
