"""A machine without a GPU, as the doctor describes it."""

from livetalk.doctor.environment import Environment
from livetalk.doctor.memory import GIB

HOST = Environment(
    livetalk="0",
    python="3",
    system="test",
    torch="2",
    cuda=None,
    cudnn=None,
    driver=None,
    gpus=(),
    cpu="test",
    cpu_cores=2,
    cpu_features=(),
    host_bytes=64 * GIB,
    ffmpeg="0",
    video_encoders=(),
    missing_packages={},
)
