"""`convworks receptive-field` and `convworks design rf`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convworks.anatomy import Row
from convworks.cli.receptive_field import Ends, _verdict, asked
from tests.cli.helpers import run


def test_shares_of_the_input(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "receptive-field", "lenet5_modern").out
    assert [line.split()[-1] for line in text.splitlines()[1:]] == ["5/28", "6/28", "14/28", "16/28"]


def test_the_gradient_agrees(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "receptive-field", "tutorial_cnn", "--measured")
    assert "4 of 4 layers agree" in ran.out
    found = json.loads(run(capsys, "receptive-field", "tutorial_cnn", "--measured", "--json").out)
    assert [layer["verdict"] for layer in found["layers"]] == ["agrees"] * 4
    assert found["layers"][3]["field"] == [16, 16]
    ends = found["layers"][3]["measured"]
    assert [last - first + 1 for first, last in ends] == [16, 16]


def test_deep_networks_are_measured_stage_by_stage(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "receptive-field", "resnet18", "--size", "40", "--measured")
    assert "the last layer of each stage" in ran.err
    assert "5 of 5 layers agree" in ran.out


def test_one_layer_or_one_stage(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "receptive-field", "vgg_d", "--layer", "conv5").out
    assert [line.split()[-1] for line in text.splitlines()[1:]] == [
        "132/224",
        "164/224",
        "196/224",
        "212/224",
    ]
    text = run(capsys, "receptive-field", "lenet5", "--layer", "f6.linear").out
    assert text.splitlines()[1].endswith("whole image")
    ran = run(capsys, "receptive-field", "vgg_d", "--layer", "conv55")
    assert "error[U185]" in ran.err
    assert "did you mean 'conv5'" in ran.err


def test_fifteen_pixels_cannot_be_had_behind_2x2_pooling(capsys: pytest.CaptureFixture[str]) -> None:
    """11/28 and 21/28 are fields of odd kernels; 15/28 at the second pooling is 16 (parity)."""
    text = " ".join(run(capsys, "receptive-field", "tutorial_cnn", "--pixels", "15").out.split())
    assert "conv2.pool is the first layer that sees 15 pixels, and it sees 16" in text
    assert "every field is even" in text
    assert "sees 5 pixels" in run(capsys, "receptive-field", "tutorial_cnn", "--pixels", "5").out
    assert (
        "no layer sees 99 pixels; the most is 16"
        in run(capsys, "receptive-field", "tutorial_cnn", "--pixels", "99").out
    )


def test_fifteen_pixels_with_3x3_pooling() -> None:
    from torch import nn

    from convworks.anatomy import trace

    conv, pool = nn.Conv2d, nn.MaxPool2d
    net = nn.Sequential(conv(1, 1, 3), conv(1, 1, 3), pool(3, 2), conv(1, 1, 3), pool(3, 2))
    assert asked(15, trace(net, (1, 28, 28))) == "4 is the first layer that sees 15 pixels"


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        (((2, 6), (2, 6)), "agrees"),
        (((2, 6), (3, 6)), "inside the 5: some paths were closed"),
        (((0, -1), (0, -1)), "DIFFERS from 5"),
        (((1, 6), (2, 6)), "DIFFERS from 5"),
    ],
)
def test_verdicts(ends: Ends, verdict: str) -> None:
    row = Row(name="c", kind="Conv2d", output=(1, 9, 9), field=(5, 5), jump=(1.0, 1.0), centre=(0.0, 0.0))
    assert _verdict(row, (1, 9, 9), ends) == verdict


def test_the_network_of_a_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "whole image" in run(capsys, "receptive-field", "runs/photos-mlp128-01").out


def test_the_solver(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in run(capsys, "design", "rf", "--pixels", "500").out.splitlines()[2:]]
    assert {line[0]: (line[1], line[2], line[3]) for line in lines} == {
        "plain": ("250", "501", "499"),
        "dilated": ("8", "511", "255"),
        "strided": ("8", "511", "255"),
        "pooled": ("8", "766", "382"),
    }
    found = json.loads(run(capsys, "design", "rf", "--pixels", "1920", "--json").out)
    assert [(way["way"], way["layers"]) for way in found["ways"]][:2] == [("plain", 960), ("dilated", 10)]
    assert "error[U003]" in run(capsys, "design", "rf", "--kernel", "1").err
