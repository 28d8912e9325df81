"""Loading a state dict into a network that was built on the meta device."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from livetalk.errors import WeightsError

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def load_module(
    build: Callable[[], ModuleT],
    state: Mapping[str, Tensor],
    *,
    device: torch.device,
    dtype: torch.dtype,
    name: str,
) -> ModuleT:
    """Build a network on the meta device and give it the weights of a state dict.

    All tensors of the network must be in its state dict. `dtype` applies to floating-point tensors; `name` is
    used in messages. The network is in evaluation mode, without gradients.

    Raises:
        WeightsError: a weight is missing, unknown or has another shape.
    """
    with torch.device("meta"):
        module = build()
    _check_keys(module, state, name)
    placed = {
        key: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype)
        for key, tensor in state.items()
    }
    # Assigned instead of copied, since a tensor on the meta device has no memory.
    module.load_state_dict(placed, strict=True, assign=True)
    left = [key for key, tensor in (*module.named_parameters(), *module.named_buffers()) if tensor.is_meta]
    if left:
        raise WeightsError(f"{name}: {_some(left)} cannot be filled from a checkpoint")
    return module.requires_grad_(False).eval()


def _check_keys(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    expected = module.state_dict()
    if missing := expected.keys() - state.keys():
        raise WeightsError(f"{name}: the weights lack {_some(missing)}")
    if unknown := state.keys() - expected.keys():
        raise WeightsError(f"{name}: the weights hold unknown {_some(unknown)}")
    wrong = [
        f"{key} {list(state[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in expected.items()
        if state[key].shape != tensor.shape
    ]
    if wrong:
        raise WeightsError(f"{name}: the weights have other shapes: {_some(wrong)}")


def _some(names: "list[str] | set[str]") -> str:
    """Join the first few names, so that a message remains one line."""
    shown = sorted(names)[:3]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")
