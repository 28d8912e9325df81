"""Placement of a model's weights: storage format, device of the encoders, offloaded transformer blocks."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from livetalk.errors import InputError
from livetalk.models.dit import DiT
from livetalk.placement.linear import quantize_linears
from livetalk.placement.offload import BlockOffload, PackedBlock, open_copy_stream, pack_block

WeightForm = Literal["full", "float8", "int8"]
WEIGHT_FORMS: tuple[WeightForm, ...] = get_args(WeightForm)

EncoderPlacement = Literal["resident", "cpu-after-use", "cpu"]
ENCODER_PLACEMENTS: tuple[EncoderPlacement, ...] = get_args(EncoderPlacement)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementConfig:
    """Placement of a model on a device and its host.

    Attributes:
        weights: format of the transformer blocks: "full" is the compute precision; "float8" and "int8" take
            one byte per entry and a scale per output channel, see `livetalk.placement.linear`.
        encoders: placement of the text and image encoders: "resident" on the device, "cpu-after-use" on the
            host between uses, "cpu" always on the host.
        resident_blocks: transformer blocks that stay on the device, None for all; the others are prefetched
            from host memory while the preceding block computes.
    """

    weights: WeightForm = "full"
    encoders: EncoderPlacement = "cpu-after-use"
    resident_blocks: int | None = None

    def __post_init__(self) -> None:
        if self.resident_blocks is not None and self.resident_blocks < 0:
            raise InputError(f"resident blocks {self.resident_blocks}: at least 0 is needed")

    def offloaded_blocks(self, num_layers: int) -> tuple[int, ...]:
        """Return the indices of offloaded blocks, with resident blocks evenly between them."""
        # Even spacing gives every copy the computation of resident blocks to overlap with.
        num_resident = num_layers if self.resident_blocks is None else min(self.resident_blocks, num_layers)
        resident = {(2 * index + 1) * num_layers // (2 * num_resident) for index in range(num_resident)}
        return tuple(index for index in range(num_layers) if index not in resident)


class DiTPlacement:
    """Places a transformer block by block, so that loading never holds all weights twice."""

    def __init__(self, dit: DiT, placement: PlacementConfig, device: torch.device) -> None:
        """Plan the placement of `dit`, in its final precision; its weights may be on the meta device."""
        self._dit = dit
        self._placement = placement
        self._device = device
        self._offloaded = frozenset(placement.offloaded_blocks(dit.config.num_layers))
        self._packed: dict[int, tuple[nn.Module, PackedBlock]] = {}

    def place_block(self, index: int) -> None:
        """Convert one block, on any device, to its format and move it."""
        block = self._dit.blocks.layers[index]
        if self._placement.weights != "full":
            # Offloaded blocks are also quantised on the device, which is faster.
            block.to(self._device)
            quantize_linears(block, self._placement.weights)
        if index in self._offloaded:
            packed = pack_block(block, pin=self._device.type == "cuda")
            # Frees the block's device memory before the next block.
            packed.view_from(packed.data)
            self._packed[index] = block, packed
        else:
            block.to(self._device)

    def finish(self) -> frozenset[int]:
        """Move all other modules and start prefetching; returns the indices of the offloaded blocks."""
        for name, child in self._dit.named_children():
            if name != "blocks":
                child.to(self._device)
        if self._packed:
            # The hooks on the blocks keep the object alive.
            BlockOffload(self._packed, self._device, open_copy_stream(self._device))
        return frozenset(self._packed)


def apply_placement(dit: DiT, placement: PlacementConfig, device: torch.device) -> frozenset[int]:
    """Place a loaded transformer in place; return the indices of offloaded blocks for the `ExecutionPlan`.

    With offloaded blocks the state dict no longer contains all weights, and `to` must not be called.
    """
    placer = DiTPlacement(dit, placement, device)
    for index in range(dit.config.num_layers):
        placer.place_block(index)
    return placer.finish()
