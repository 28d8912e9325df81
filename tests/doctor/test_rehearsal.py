import torch

from livetalk.assembly.model import PortraitConfig
from livetalk.assembly.model_sizes import read_model_sizes
from livetalk.assembly.source import ModelSource
from livetalk.doctor.rehearsal import rehearse, weight_bytes

STAGES = {"prompt", "reference", "speech", "transformer", "decode"}


def test_every_model_can_be_rehearsed_in_every_form() -> None:
    for name in ("tiny",):
        sizes = read_model_sizes(ModelSource(model=name))
        full = rehearse(sizes, sizes.portrait, torch.float32, "full")
        half = rehearse(sizes, sizes.portrait, torch.bfloat16, "full")
        assert full.keys() == half.keys() == STAGES
        assert 0 < half["decode"] < full["decode"]


def test_the_decode_grows_with_the_picture() -> None:
    sizes = read_model_sizes(ModelSource(model="tiny"))
    small, large = (
        rehearse(sizes, PortraitConfig(height=side, width=side), torch.bfloat16, "full")["decode"]
        for side in (64, 128)
    )
    assert 3.5 < large / small < 4.5


def test_the_published_graph_weighs_what_it_weighs() -> None:
    sizes = read_model_sizes(ModelSource(model="flashtalk-14b"))
    parts = weight_bytes(sizes, torch.bfloat16, "full")
    assert 40 * parts["block"] + parts["transformer, other"] == 2 * 18_882_046_784
    assert parts["VAE"] == 2 * 126_892_531
    assert parts["text encoder"] == 2 * 5_680_910_336
    small = weight_bytes(sizes, torch.bfloat16, "float8")
    assert 0.5 < small["block"] / parts["block"] < 0.505, "scales, norms and modulation are little"
    assert small["transformer, other"] == parts["transformer, other"]
