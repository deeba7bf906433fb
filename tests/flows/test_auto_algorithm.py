"""A network whose convolutions choose their algorithm keeps its choices, and its bits, when it is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn

from convworks.layers import Conv2d
from convworks.models import registry
from convworks.ops import autotune
from convworks.ops.autotune import Choices
from convworks.runs import Run
from tests.flows.helpers import fingerprint, resume_all, train_all, train_until, write_images


def auto_net(
    *, num_classes: int = 3, in_channels: int = 3, input_size: tuple[int, int] = (28, 28)
) -> nn.Sequential:
    return nn.Sequential(
        Conv2d(in_channels, 4, 5, algorithm="auto"), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, num_classes),
    )  # fmt: skip


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    registry.register(auto_net, source="this test", summary="a convolution with algorithm='auto'")
    monkeypatch.setattr(autotune, "CHOICES", Choices())
    monkeypatch.setattr(autotune, "confirmed", lambda *_: True)


@pytest.mark.usefixtures("known")
def test_resuming_uses_the_choices_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_images(tmp_path / "data")

    def measure(part: str, *_: object) -> dict[str, float]:  # direct and the library round differently
        return {"library": 1.0, "direct": 0.5}

    monkeypatch.setattr(autotune, "measure", measure)
    train_all(tmp_path / "whole", data, model="auto_net")
    whole = Run(tmp_path / "whole" / "runs" / "run")
    choices = json.loads((whole.path / "convolutions.json").read_text())["choices"]
    assert choices
    assert {name for row in choices.values() for name in row.values()} == {"direct"}

    train_until(tmp_path / "stopped", data, 8, model="auto_net")  # in epoch 2, every shape was met
    monkeypatch.setattr(autotune, "CHOICES", Choices())  # another process
    monkeypatch.setattr(autotune, "measure", lambda *_: {"library": 1.0})  # that would choose otherwise
    resume_all(tmp_path / "stopped")
    assert fingerprint(tmp_path / "stopped") == fingerprint(tmp_path / "whole")
