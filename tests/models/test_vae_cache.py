"""The cache as a value, apart from any network."""

import torch

from livetalk.models.vae_cache import CachePass, VAECache


def test_a_pass_changes_only_what_it_keeps() -> None:
    cache = VAECache.create(2)
    step = CachePass(cache)
    assert not step.started and step.history(0) is None
    frames = torch.arange(24.0).view(1, 1, 6, 2, 2)
    step.keep(0, frames[:, :, -2:])
    following = step.finish()
    frames.zero_()
    assert cache == VAECache.create(2)
    assert following.started and following.histories[1] is None
    assert following.histories[0] is not None
    assert following.histories[0].flatten().tolist() == list(range(16, 24))
    assert following.num_bytes == 32 and cache.num_bytes == 0


def test_histories_of_an_untouched_slot_survive() -> None:
    step = CachePass(VAECache((torch.ones(1), None), started=True))
    step.keep(1, torch.zeros(2))
    kept = step.finish()
    assert kept.histories[0] is not None and torch.equal(kept.histories[0], torch.ones(1))
    assert kept.reset() == VAECache.create(2)
