"""Key maps between published checkpoints and ours: round trips and refusals."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from livetalk.checkpoints.adapters import StateDictAdapter, dit_adapter, published_dit_config, vae_adapter
from livetalk.errors import WeightsError
from livetalk.models.dit import DiT
from livetalk.models.vae import CausalVideoVAE
from tiny import DIT, DIT_WITH_PROMPT, VAE, tiny_dit, tiny_vae

Pair = tuple[nn.Module, nn.Module, StateDictAdapter]


def dit_pair() -> Pair:
    return tiny_dit(DIT_WITH_PROMPT), DiT(DIT_WITH_PROMPT), dit_adapter(DIT_WITH_PROMPT)


def vae_pair() -> Pair:
    config = replace(VAE, temporal_downsample=(False, True), num_res_blocks=2)
    return tiny_vae(config), CausalVideoVAE(config), vae_adapter(config)


@pytest.mark.parametrize("build", [dit_pair, vae_pair])
def test_round_trip(build: Callable[[], Pair]) -> None:
    network, other, adapter = build()
    published = adapter.export_weights(network)
    other.load_state_dict(adapter.import_weights(other, published), strict=True)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key])
        assert adapter.to_ours(adapter.to_published(key)) == key
    assert all(not key.startswith("blocks.layers") for key in published)


@pytest.mark.parametrize("build", [dit_pair, vae_pair])
def test_every_fault_is_named(build: Callable[[], Pair]) -> None:
    network, _, adapter = build()
    published = adapter.export_weights(network)
    victim = sorted(published)[len(published) // 2]

    def refuse(weights: dict[str, Tensor], words: str) -> None:
        with pytest.raises(WeightsError, match=words):
            adapter.import_weights(network, weights)

    refuse({k: v for k, v in published.items() if k != victim}, f"missing {victim}")
    refuse({**published, "stranger.weight": torch.zeros(1)}, "unexpected stranger.weight")
    refuse({**published, victim: torch.zeros(2, 2)}, f"'{victim}' has shape \\[2, 2\\], expected")
    refuse({}, "and [0-9]+ more")


def test_shapes_of_equal_size_are_told_apart() -> None:
    adapter, dit = dit_adapter(DIT), tiny_dit(DIT)
    published = adapter.export_weights(dit)
    key = "patch_embedding.weight"
    assert tuple(published[key].shape) == (DIT.dim, DIT.in_channels, *DIT.patch_size)
    with pytest.raises(WeightsError, match=key):
        adapter.import_weights(dit, {**published, key: published[key].flatten(1)})


def test_unknown_keys_are_refused() -> None:
    adapter = dit_adapter(DIT)
    with pytest.raises(WeightsError, match="does not exist in this network"):
        adapter.to_ours("blocks.0.self_attn.query.weight")
    with pytest.raises(WeightsError, match="no published name"):
        adapter.to_published("blocks.layers.0.memory.weight")


def test_published_size() -> None:
    with torch.device("meta"):
        dit = DiT(published_dit_config())
    assert sum(p.numel() for p in dit.parameters()) == 18_882_046_784
