"""The text encoder against the published one: position bias, all rows, and the rows that are used."""

import torch
from parity_case import Reference
from parity_networks import load_umt5

from livetalk.models.umt5 import UMT5Block, distance_buckets

NAME = "umt5_tiny"


def test_parity_umt5() -> None:
    reference = Reference.load(NAME)
    encoder = load_umt5(reference)
    config = encoder.config
    for name in reference.meta["cases"]:
        case = reference.case(name)
        ids, mask = case["in.ids"].long(), case["in.mask"]
        block = encoder.blocks[0]
        assert isinstance(block, UMT5Block)
        buckets = distance_buckets(ids.shape[1], config.num_buckets, config.max_distance)
        with torch.no_grad():
            embeds = encoder(ids, mask)
            got = {
                "full": encoder.encode_padded(ids, mask),
                "pos_bias_block0": block.bias_by_distance(buckets),
            }
        for row, length in enumerate(mask.sum(dim=1).tolist()):
            got[f"context_{row}"] = embeds[row, :length]
            assert embeds[row, length:].count_nonzero() == 0
        assert set(got) == reference.expected(name)
        reference.check(name, got)
