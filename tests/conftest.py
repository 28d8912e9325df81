"""Settings for every test: one thread, so that a busy second core cannot stall anything."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
