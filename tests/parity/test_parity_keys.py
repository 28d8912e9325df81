"""The full-size published state dicts: every key, shape and parameter count, on the meta device."""

import gzip
import json
from typing import Any

import pytest
import torch
from parity_case import parity_dir
from parity_networks import dit_config, vae_config
from torch import nn

from livetalk.checkpoints.adapters import StateDictAdapter, dit_adapter, vae_adapter
from livetalk.models.dit import DiT
from livetalk.models.vae import CausalVideoVAE


def read(name: str) -> dict[str, Any]:
    """Read a key manifest, or skip the test loudly."""
    path = parity_dir() / f"keys_{name}.json.gz"
    if not path.is_file():
        pytest.skip(f"PARITY NOT CHECKED: {path} is absent; set LIVETALK_PARITY_DIR to the reference numbers")
    manifest: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return manifest


def check(network: nn.Module, adapter: StateDictAdapter, manifest: dict[str, Any]) -> None:
    """Compare our translated keys and shapes with the manifest, and import its keys strictly."""
    expected = {key: tuple(entry["shape"]) for key, entry in manifest["keys"].items()}
    assert {key: tuple(t.shape) for key, t in adapter.export_weights(network).items()} == expected
    assert {adapter.to_ours(key) for key in expected} == set(network.state_dict())
    published = {key: torch.empty(shape, device="meta") for key, shape in expected.items()}
    network.load_state_dict(adapter.import_weights(network, published), strict=True, assign=True)


def count_groups(network: nn.Module, adapter: StateDictAdapter) -> dict[str, int]:
    """Add up parameters by the first part of their published key."""
    groups: dict[str, int] = {}
    for key, tensor in adapter.export_weights(network).items():
        group = key.split(".")[0]
        groups[group] = groups.get(group, 0) + tensor.numel()
    return groups


def counts(name: str) -> dict[str, Any]:
    """Read the parameter counts of a network."""
    every: dict[str, Any] = json.loads((parity_dir() / "counts_parameters.json").read_text())
    entry: dict[str, Any] = every[name]
    return entry


def test_parity_dit_keys() -> None:
    manifest = read("dit_14b")
    shapes = {k: torch.empty(v["shape"], device="meta") for k, v in manifest["keys"].items()}
    config = dit_config(manifest["config"], shapes)
    with torch.device("meta"):
        dit = DiT(config)
    check(dit, dit_adapter(config), manifest)
    assert count_groups(dit, dit_adapter(config)) == counts("dit_14b")["groups"]
    assert sum(p.numel() for p in dit.parameters()) == counts("dit_14b")["parameters"]


def test_parity_vae_keys() -> None:
    manifest = read("vae")
    config = vae_config(manifest["config"])
    with torch.device("meta"):
        vae = CausalVideoVAE(config)
    check(vae, vae_adapter(config), manifest)
    assert count_groups(vae, vae_adapter(config)) == counts("vae")["groups"]
    assert sum(p.numel() for p in vae.parameters()) == counts("vae")["parameters"]
