import torch

from livetalk.assembly.build import read_spec
from livetalk.assembly.source import ModelSource
from livetalk.assembly.spec import PortraitConfig
from livetalk.doctor.dry_run import dry_run, weight_bytes

STAGES = {"prompt", "reference", "speech", "transformer", "decode"}


def test_every_model_has_a_dry_run_in_every_form() -> None:
    for name in ("tiny",):
        spec = read_spec(ModelSource(model=name))
        full = dry_run(spec, spec.portrait, torch.float32, "full")
        half = dry_run(spec, spec.portrait, torch.bfloat16, "full")
        assert full.keys() == half.keys() == STAGES
        assert 0 < half["decode"] < full["decode"]


def test_the_decode_grows_with_the_picture() -> None:
    spec = read_spec(ModelSource(model="tiny"))
    small, large = (
        dry_run(spec, PortraitConfig(height=side, width=side), torch.bfloat16, "full")["decode"]
        for side in (64, 128)
    )
    assert 3.5 < large / small < 4.5


def test_the_published_graph_weighs_what_it_weighs() -> None:
    spec = read_spec(ModelSource(model="flashtalk-14b"))
    parts = weight_bytes(spec, torch.bfloat16, "full")
    assert 40 * parts["block"] + parts["transformer, other"] == 2 * 18_882_046_784
    assert parts["VAE"] == 2 * 126_892_531
    assert parts["text encoder"] == 2 * 5_680_910_336
    small = weight_bytes(spec, torch.bfloat16, "float8")
    assert 0.5 < small["block"] / parts["block"] < 0.505, "scales, norms and modulation are little"
    assert small["transformer, other"] == parts["transformer, other"]
