"""A record that could have been measured."""

from livetalk.bench.record import BenchRecord
from livetalk.bench.spans import StageTiming

RECORD = BenchRecord(
    model="embedded",
    random_weights=False,
    gpu="a processor",
    num_gpus=0,
    num_workers=1,
    threads=2,
    size="256x256",
    precision="float32",
    weights="full",
    attention="flash",
    options=("--device", "cpu"),
    steps=4,
    window_frames=33,
    chunk_frames=28,
    chunks=20,
    warm_up=3,
    fps=50.0,
    real_time_factor=0.5,
    chunk_ms_median=560.0,
    chunk_ms_p95=570.0,
    first_frame_ms=565.0,
    first_frame_progressive_ms=401.5,
    stages={"transformer": StageTiming(median_ms=80.0, p95_ms=90.0, per_chunk=4)},
    peak_memory_gb=0.5,
    peak_reserved_gb=None,
    memory_growth_gb=None,
    load_seconds=1.0,
    system={"torch": "2"},
    commit="0" * 40,
    date="2026-11-23T12:00:00+00:00",
)
