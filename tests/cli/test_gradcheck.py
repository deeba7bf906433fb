"""`convworks gradcheck`: a line for each layer, exit 6 with the first wrong entry, names and folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.models.mlp import mlp128
from tests.cli.helpers import run

RUN = "runs/photos-mlp128-01"


@pytest.mark.parametrize("name", ["lenet5", "fastnet", "mlp128", "tutorial_cnn"])
def test_a_registered_network_passes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "gradcheck", name, "--samples", "2", "--batch", "2")
    assert ran.status == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0].split() == ["layer", "kind", "entries", "kinks", "worst", "error"]
    assert all(line.endswith("  ok") for line in lines[1:-2])
    assert lines[-3].startswith("(whole network)")
    assert lines[-1].startswith(f"Every gradient agrees with finite differences: {len(lines) - 4} layers and")


class Wrong(torch.autograd.Function):
    """A ReLU whose gradient is two per cent too large."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 1.02 * dy * (x > 0)


class WrongReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Wrong.apply(x)


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """mlp128 with a wrong backward pass in its ReLU."""
    row = models.info("mlp128")

    def build(**options: Any) -> nn.Module:
        net = mlp128(**options)
        net.fc1.relu = WrongReLU()
        return net

    changed = models.ModelInfo(**{f: getattr(row, f) for f in row.__slots__} | {"build": build})
    monkeypatch.setitem(models.registry._REGISTRY, "mlp128", changed)


def test_a_planted_bug_is_found_in_its_layer(planted: None, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "gradcheck", "mlp128")
    assert ran.status == 6
    verdicts = {line.split()[0]: line for line in ran.out.splitlines()}
    assert "FAILED at input[" in verdicts["fc1.relu"]
    assert verdicts["fc1.linear"].endswith("ok")
    assert verdicts["fc2"].endswith("ok")
    assert "error[N630]: the gradient of input is wrong at [" in ran.err
    assert "where: fc1.relu, WrongReLU, for inputs of 4 x 1 x 28 x 28" in ran.err
    assert "Every gradient" not in ran.out


def test_json(planted: None, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "gradcheck", "mlp128", "--json", "--size", "6", "--classes", "3")
    assert ran.status == 6
    found = json.loads(ran.out)
    assert found["ok"] is False
    assert found["input"] == [4, 1, 6, 6]
    layers = {layer["name"]: layer for layer in found["layers"]}
    assert [name for name, layer in layers.items() if not layer["ok"]] == ["fc1.relu", "(whole network)"]
    wrong = layers["fc1.relu"]["tensors"][0]["first_wrong"]
    assert wrong["analytic"] == pytest.approx(1.02 * wrong["numeric"], rel=1e-6)
    assert layers["fc2"]["checked"] == 8 + 3 + 8


def test_the_model_of_a_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "gradcheck", RUN, "--samples", "2")
    assert ran.status == 0, ran.err
    assert "fc1.linear" in ran.out
    refused = run(capsys, "gradcheck", RUN, "--size", "16")
    assert refused.status == 2
    assert "error[U151]: --size cannot be given for a trained model" in refused.err


def test_names_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "gradcheck", "lenet")
    assert ran.status == 2
    assert "error[U101]: there is no model called 'lenet'" in ran.err
    assert "convworks gradcheck lenet5" in ran.err
    assert run(capsys, "gradcheck", "runs/nothing").status == 4


def test_the_generator_of_torch_is_left_alone_and_the_seed_decides(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = torch.get_rng_state()
    one, three = (
        run(capsys, "gradcheck", "mlp128", "--size", "4", "--seed", seed).out for seed in ("1", "2")
    )
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        two = run(capsys, "gradcheck", "mlp128", "--size", "4", "--seed", "1").out
    assert one == two != three
