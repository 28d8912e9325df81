"""Settings for every test: one thread, so that a busy second core cannot stall anything."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's own functions read it when they are first imported, by whichever test that is.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
