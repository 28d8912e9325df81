"""Where the weights of a model are and in what form, decided from outside; the networks do not know.

The steps are separate and each can be left out: bytes instead of words, encoders off the device when they
are not needed, transformer blocks that wait in host memory.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn

from livetalk.errors import InputError
from livetalk.models.dit import DiT
from livetalk.placement.linear import quantize_linears
from livetalk.placement.offload import BlockOffload, PackedBlock, open_lane, pack_block

WeightForm = Literal["full", "float8", "int8"]
WEIGHT_FORMS: tuple[WeightForm, ...] = get_args(WeightForm)

EncoderPlace = Literal["resident", "cpu-after-use", "cpu"]
ENCODER_PLACES: tuple[EncoderPlace, ...] = get_args(EncoderPlace)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementConfig:
    """How a model is spread over its device and the host.

    Attributes:
        weights: of the transformer's blocks: "full" in the precision of the computation, "float8" or "int8"
            one byte each with a scale per output channel, see `livetalk.placement.linear`.
        encoders: of text and image: "resident" stay on the device, "cpu-after-use" leave it between
            sessions, "cpu" never come to it.
        resident_blocks: transformer blocks that stay on the device; the others wait in host memory and are
            copied over while the one before them computes. None keeps all.
    """

    weights: WeightForm = "full"
    encoders: EncoderPlace = "cpu-after-use"
    resident_blocks: int | None = None

    def __post_init__(self) -> None:
        """Refuse a negative number of blocks."""
        if self.resident_blocks is not None and self.resident_blocks < 0:
            raise InputError(f"resident blocks {self.resident_blocks}: at least 0 is needed")

    def offloaded_blocks(self, num_layers: int) -> tuple[int, ...]:
        """Return which of `num_layers` blocks wait in host memory: spread evenly, so that every copy has
        the computation of resident blocks to hide behind.
        """
        num_resident = num_layers if self.resident_blocks is None else min(self.resident_blocks, num_layers)
        resident = {(2 * index + 1) * num_layers // (2 * num_resident) for index in range(num_resident)}
        return tuple(index for index in range(num_layers) if index not in resident)


class DiTPlacement:
    """Places a transformer block by block, so that loading never holds it twice."""

    def __init__(self, dit: DiT, placement: PlacementConfig, device: torch.device) -> None:
        """Decide where each block of `dit` goes; nothing is moved yet.

        Args:
            dit: in its final precision; its weights may still be on the meta device.
            placement: where to and in what form.
            device: that computes.
        """
        self._dit = dit
        self._placement = placement
        self._device = device
        self._offloaded = frozenset(placement.offloaded_blocks(dit.config.num_layers))
        self._packed: dict[int, tuple[nn.Module, PackedBlock]] = {}

    def place_block(self, index: int) -> None:
        """Bring one block, wherever its weights are, to its form and place."""
        block = self._dit.blocks.layers[index]
        if self._placement.weights != "full":
            # Offloaded blocks too are quantised on the device, which is faster at it.
            block.to(self._device)
            quantize_linears(block, self._placement.weights)
        if index in self._offloaded:
            packed = pack_block(block, pin=self._device.type == "cuda")
            # Its device memory is free for the next block from here on.
            packed.view_from(packed.data)
            self._packed[index] = block, packed
        else:
            block.to(self._device)

    def finish(self) -> frozenset[int]:
        """Bring everything outside the blocks to the device and start the copies, if any block waits.

        Returns:
            Places in the stack of the blocks that wait in host memory, for the `ExecutionPlan`.
        """
        for name, child in self._dit.named_children():
            if name != "blocks":
                child.to(self._device)
        if self._packed:
            # The blocks' hooks keep it.
            BlockOffload(self._packed, self._device, open_lane(self._device))
        return frozenset(self._packed)


def apply_placement(dit: DiT, placement: PlacementConfig, device: torch.device) -> frozenset[int]:
    """Bring a loaded transformer to its form and place.

    Args:
        dit: in its final precision, on any device; changed in place. With blocks in host memory its state
            dict no longer holds its weights, and its `to` must not be called.
        placement: where to and in what form.
        device: that computes.

    Returns:
        Places in the stack of the blocks that wait in host memory, for the `ExecutionPlan`.
    """
    work = DiTPlacement(dit, placement, device)
    for index in range(dit.config.num_layers):
        work.place_block(index)
    return work.finish()
