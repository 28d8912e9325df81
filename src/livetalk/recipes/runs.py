"""Complete run configurations for the measured machines and for small ones."""

from livetalk.accelerate.apply import AccelerationConfig
from livetalk.assembly.run import RunConfig
from livetalk.placement.apply import PlacementConfig


def laptop() -> RunConfig:
    """Return the run of the embedded model on a CPU, in float32, which every CPU computes natively."""
    return RunConfig(device="cpu", precision="float32")


def serve_h200() -> RunConfig:
    """Return the fastest measured run of the published graph on one Hopper GPU."""
    return RunConfig(
        device="cuda",
        precision="bfloat16",
        acceleration=AccelerationConfig(float8=True, attention="fa3-fp8"),
    )


def serve_h200_x2() -> RunConfig:
    """Return the run of `serve_h200` on two GPUs: live at 720x416, see docs/performance.md."""
    return RunConfig(
        device="cuda",
        precision="bfloat16",
        gpus=2,
        acceleration=AccelerationConfig(float8=True, attention="fa3-fp8"),
    )


def serve_h200_exact() -> RunConfig:
    """Return a run on one Hopper GPU whose fast forms change results by rounding only."""
    return RunConfig(
        device="cuda",
        precision="bfloat16",
        acceleration=AccelerationConfig(fast=True, attention="fa3"),
    )


def small_gpu(resident_blocks: int) -> RunConfig:
    """Return a run of the published model on a GPU that holds only `resident_blocks` of its blocks."""
    return RunConfig(
        device="cuda",
        precision="bfloat16",
        placement=PlacementConfig(weights="float8", resident_blocks=resident_blocks),
    )
