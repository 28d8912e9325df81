"""Start a stage from exported weights, such as those of a shipped model."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from livetalk.checkpoints.native import Checkpoint, load_checkpoint
from livetalk.errors import WeightsError
from livetalk.models.dit import DiT, DiTConfig
from livetalk.models.vae import CausalVideoVAE, VAEConfig


def start_vae(weights: Path, config: VAEConfig) -> CausalVideoVAE:
    """Build a VAE of `config` with the weights and the latent statistics of an exported model.

    Raises:
        WeightsError: the folder is damaged or its VAE has other sizes.
    """
    checkpoint = load_checkpoint(weights)
    stored = checkpoint.config("vae", VAEConfig)
    sized = dataclasses.replace(config, latents_mean=stored.latents_mean, latents_std=stored.latents_std)
    vae = CausalVideoVAE(sized)
    _load(vae, checkpoint, "vae")
    return vae


def start_dit(weights: Path, config: DiTConfig) -> DiT:
    """Build a DiT of `config` with the weights of an exported model.

    Feed-forward layers may be narrower than the exported ones: `narrow_feed_forward` prunes their units.

    Raises:
        WeightsError: the folder is damaged or its DiT has other sizes.
    """
    checkpoint = load_checkpoint(weights)
    dit = DiT(config)
    _load(dit, checkpoint, "dit")
    return dit


def _load(network: nn.Module, checkpoint: Checkpoint, part: str) -> None:
    state = checkpoint.state_dict(part)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    for name in list(state):
        if name in shapes and state[name].shape != shapes[name] and name.endswith("ffn.0.weight"):
            narrow_feed_forward(state, name.removesuffix("0.weight"), shapes[name][0])
    wrong = [name for name in shapes.keys() | state.keys() if shapes.get(name) != _shape(state, name)]
    if wrong:
        raise WeightsError(
            f"weights {checkpoint.directory}: {part} has other sizes than this run, "
            f"such as {sorted(wrong)[0]}; start without --from"
        )
    network.load_state_dict(state)


def _shape(state: dict[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def narrow_feed_forward(state: dict[str, Tensor], prefix: str, width: int) -> None:
    """Prune a feed-forward layer, `<prefix>0` and `<prefix>2`, in place to `width` hidden units."""
    widen, narrow = state[prefix + "0.weight"], state[prefix + "2.weight"]
    # The product of a unit's input and output norms estimates how much it contributes.
    reach = widen.norm(dim=1) * narrow.norm(dim=0)
    kept = reach.topk(width).indices.sort().values
    state[prefix + "0.weight"] = widen[kept]
    state[prefix + "0.bias"] = state[prefix + "0.bias"][kept]
    state[prefix + "2.weight"] = narrow[:, kept]
