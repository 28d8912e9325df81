import argparse
import json

import pytest

from livetalk.cli import doctor
from livetalk.cli.main import main


def run(*options: str) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    return doctor.run(parser.parse_args(["doctor", *options]))


def test_the_embedded_model_runs_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--device", "cpu") == 0
    text = capsys.readouterr().out
    for word in ("PyTorch", "CPU", "FFmpeg", "attention", "chosen", "decode", "yes: embedded fits"):
        assert word in text


def test_what_does_not_fit_ends_with_one_and_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", "flashtalk-14b", "--gpu-memory", "40", "--size", "720x416") == 1
    text = capsys.readouterr().out
    assert "no: a GPU must have" in text
    assert "would fit here: --size 720x416 --precision bfloat16 --weights float8" in text


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--model", "flashtalk-14b", "--gpu-memory", "80", "--size", "720x416", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["fits"] is True and answer["plan"]["size"] == "720x416"
    plan = answer["plan"]
    assert plan["gpu_bytes"] > plan["allocated_bytes"] > sum(plan["weights"].values())
    assert answer["environment"]["torch"] and answer["attention"]


def test_several_gpus_are_called_a_forecast(capsys: pytest.CaptureFixture[str]) -> None:
    run("--model", "flashtalk-14b", "--gpu-memory", "80", "--gpus", "2")
    assert "2 GPUs (a forecast" in capsys.readouterr().out


@pytest.mark.parametrize("size", ["nan", "inf", "-5", "0"])
def test_a_gpu_without_memory_is_refused_in_one_line(size: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--model", "tiny", f"--gpu-memory={size}"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("livetalk: error: gpu memory") and printed.err.count("\n") == 1
    assert printed.out == ""
