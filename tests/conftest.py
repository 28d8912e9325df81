"""Settings for every test: the number of threads, and float32 that is float32."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's own functions read it when they are first imported, by whichever test that is.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    """Use the threads asked for, or one, so that a busy second core cannot stall anything."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(autouse=True)
def _full_float32() -> None:
    """Multiply float32 as float32, whatever an earlier test has allowed.

    Convolutions on a GPU run in TF32 unless told otherwise. With its 11 bits they are 4,000 times less exact
    than the float32 whose rounding the tests allow, and a mistake of that size would be let through.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
