"""Weights are converted one by one as they arrive; each is let go before the next is read."""

import weakref
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from livetalk.checkpoints.layouts import find_published
from livetalk.checkpoints.published import open_dit
from synthetic_checkpoint import SyntheticCheckpoint

CPU = torch.device("cpu")


class Int8Linear(nn.Module):
    """Linear layer that stores its weight as integers and a scale."""

    def __init__(self, layer: nn.Linear) -> None:
        """Take the place of `layer`."""
        super().__init__()
        self.register_buffer("weight", torch.empty(layer.weight.shape, dtype=torch.int8, device="meta"))
        self.register_buffer("weight_scale", torch.empty(layer.weight.shape[0], 1, device="meta"))
        self.bias = layer.bias


class Int8Transform:
    """Stores the feed-forward layers as integers and remembers what it was given."""

    def __init__(self) -> None:
        """Start with no memory."""
        self.seen: list[str] = []
        self.alive_at_most = 0
        self._sources: list[weakref.ref[Tensor]] = []

    def prepare(self, network: nn.Module) -> None:
        """Replace the feed-forward layers."""
        for name, module in list(network.named_modules()):
            if ".ffn." in name and isinstance(module, nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(network.get_submodule(parent), child, Int8Linear(module))

    def convert(self, name: str, weight: Tensor) -> Mapping[str, Tensor]:
        """Convert the weights of feed-forward layers; count which others are still held."""
        self.seen.append(name)
        if ".ffn." not in name or not name.endswith(".weight"):
            return {name: weight}
        self.alive_at_most = max(self.alive_at_most, sum(source() is not None for source in self._sources))
        self._sources.append(weakref.ref(weight))
        scale = weight.abs().amax(1, keepdim=True) / 127
        return {name: (weight / scale).round().to(torch.int8), name + "_scale": scale}


def test_a_transform_acts_while_the_weights_arrive(pristine: SyntheticCheckpoint) -> None:
    published = open_dit(find_published(pristine.model_dir))
    plain = published.load(device=CPU, dtype=torch.float32)
    transform = Int8Transform()
    dit = published.load(device=CPU, dtype=torch.float32, transform=transform)
    assert sorted(transform.seen) == sorted(plain.state_dict())
    converted = dict(dit.named_modules())["blocks.layers.0.ffn.0"]
    assert isinstance(converted, Int8Linear)
    restored = converted.get_buffer("weight") * converted.get_buffer("weight_scale")
    wanted = plain.get_parameter("blocks.layers.0.ffn.0.weight")
    assert (restored - wanted).abs().max() <= wanted.abs().max() / 127
    assert torch.equal(dit.get_parameter("head.linear.bias"), plain.get_parameter("head.linear.bias"))


def test_no_two_weights_are_held_before_conversion(pristine: SyntheticCheckpoint) -> None:
    transform = Int8Transform()
    open_dit(find_published(pristine.model_dir)).load(device=CPU, dtype=torch.float32, transform=transform)
    assert len(transform.seen) > 20
    assert transform.alive_at_most == 0
