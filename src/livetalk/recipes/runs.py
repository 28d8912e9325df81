"""Complete configurations of a run, for machines that it was measured on and for small ones."""

from livetalk.accelerate.apply import AccelerationConfig
from livetalk.assembly.run import RunConfig
from livetalk.placement.apply import PlacementConfig


def laptop() -> RunConfig:
    """Return the run of the embedded model on a processor, in the precision that every processor has."""
    return RunConfig(device="cpu", precision="float32")


def serve_h200() -> RunConfig:
    """Return the fastest measured run of the published graph on one GPU of the Hopper generation."""
    return RunConfig(
        device="cuda",
        precision="bfloat16",
        acceleration=AccelerationConfig(float8=True, attention="fa3-fp8"),
    )


def serve_h200_x2() -> RunConfig:
    """Return the same on two GPUs: faster than real time at 720x416, see docs/performance.md."""
    return RunConfig(
        device="cuda",
        precision="bfloat16",
        gpus=2,
        acceleration=AccelerationConfig(float8=True, attention="fa3-fp8"),
    )


def serve_h200_exact() -> RunConfig:
    """Return the run of one Hopper GPU whose fast forms change numbers by rounding only."""
    return RunConfig(
        device="cuda",
        precision="bfloat16",
        acceleration=AccelerationConfig(fast=True, attention="fa3"),
    )


def small_gpu(resident_blocks: int) -> RunConfig:
    """Return the run of the published model on a GPU that cannot hold its blocks, see `livetalk doctor`.

    Args:
        resident_blocks: blocks of the transformer that stay on the GPU, see `PlacementConfig`.
    """
    return RunConfig(
        device="cuda",
        precision="bfloat16",
        placement=PlacementConfig(weights="float8", resident_blocks=resident_blocks),
    )
