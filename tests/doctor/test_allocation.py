from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from livetalk.doctor.allocation import GRANULE, AllocationTracker, FusedKernels
from livetalk.models.dit import DiT
from livetalk.models.vae import CausalVideoVAE, VAEConfig
from tiny import DIT_WITH_PROMPT, dit_inputs, tiny_dit, tiny_vae

META = torch.device("meta")
KIB = 1024

# Convolutions over one frame at a time: those over several take work space of their own on a CPU.
SMALL_VAE = VAEConfig(
    base_dim=8,
    latent_channels=4,
    dim_multipliers=(2, 1, 1),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    temporal_kernels=(1, 1, 3),
)


def measured_peak(profiler: profile) -> int:
    """Add up what PyTorch's allocator reported: the highest number of bytes in use."""
    untyped: Any = profiler
    results = untyped.profiler.kineto_results
    memory = [event for event in results.events() if event.name() == "[memory]"]
    events = sorted(memory, key=lambda event: event.start_ns())
    live = peak = 0
    for event in events:
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def test_tensors_count_while_they_live() -> None:
    with AllocationTracker() as tracker:
        first = torch.empty(KIB, device=META)
        assert tracker.live_bytes == 4 * KIB
        second = first + 1
        view = second[:10]
        assert tracker.live_bytes == tracker.peak_bytes == 8 * KIB, "views are free"
        del second
        assert tracker.live_bytes == 8 * KIB, "a view keeps its base"
        del view
        first.mul_(2)
        assert (tracker.live_bytes, tracker.peak_bytes) == (4 * KIB, 8 * KIB)
        small = torch.empty(1, device=META)
        assert tracker.live_bytes == 4 * KIB + GRANULE
    assert first.is_meta and small.is_meta


def test_stages_note_their_peaks_and_what_lives_before_them() -> None:
    peaks: dict[str, int] = {}
    with AllocationTracker() as tracker:
        kept = torch.empty(KIB, device=META)
        for size in (2, 1):
            with tracker.stage(peaks, "work"):
                torch.empty(size * KIB, device=META).add(1)
        with tracker.stage(peaks, "rest"):
            kept.add_(1)
    assert peaks == {"work": 4 * KIB + 2 * 8 * KIB, "rest": 4 * KIB}


def test_what_was_there_before_is_left_out() -> None:
    with META:
        layer = torch.nn.Linear(256, 256)
    x = torch.empty(2, 256, device=META)
    with AllocationTracker() as tracker, torch.no_grad():
        layer(x.view(2, 256)).relu_()
    assert tracker.peak_bytes == 2 * 256 * 4


def test_attention_needs_no_scores_and_the_norm_no_squares() -> None:
    q = torch.empty(1, 4, 1000, 64, device=META)
    with AllocationTracker() as tracker:
        F.scaled_dot_product_attention(q, q, q)
        F.rms_norm(q, (64,))
    assert tracker.peak_bytes <= 2 * q.nbytes


@pytest.mark.parametrize("name", ["decode", "encode"])
def test_the_vae_takes_what_the_allocator_measures(name: str) -> None:
    """An independent witness: the profiler's record of every allocation of a real pass on the CPU."""
    x = torch.randn(1, 4, 3, 16, 16) if name == "decode" else torch.randn(1, 3, 9, 64, 64)
    vae = tiny_vae(SMALL_VAE).requires_grad_(False)
    with META:
        shapes = CausalVideoVAE(SMALL_VAE).requires_grad_(False)
    shapes.use_channels_last()
    with torch.no_grad():
        getattr(vae, name)(x)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            getattr(vae, name)(x)
        x = x.to(META)
        with AllocationTracker() as tracker:
            getattr(shapes, name)(x)
    assert tracker.peak_bytes == pytest.approx(measured_peak(profiler), rel=0.01)


def test_the_transformer_takes_what_the_allocator_measures() -> None:
    latents, timesteps, condition, *context = dit_inputs(DIT_WITH_PROMPT)
    # 48 times as many tokens, so that tensors are larger than the granule.
    large = [None if x is None else x.repeat(1, 1, 1, 8, 6) for x in (latents, condition)]
    inputs = [large[0], timesteps, large[1], *context]
    dit = tiny_dit(DIT_WITH_PROMPT).requires_grad_(False)
    with META:
        shapes = DiT(DIT_WITH_PROMPT).requires_grad_(False)
    with torch.no_grad():
        # The CPU has neither kernel in one piece; without numbers, its pass allocates as a GPU's would.
        with FusedKernels(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            dit(*inputs)
        on_meta = [None if x is None else x.to(META) for x in inputs]
        with AllocationTracker() as tracker:
            shapes(*on_meta)
    assert tracker.peak_bytes == pytest.approx(measured_peak(profiler), rel=0.03)
