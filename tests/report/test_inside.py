"""What is read from a real bundle: sums of the anatomy, filters, batch norm, dead units."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convworks import models
from convworks.bundle import save_bundle
from convworks.data.preprocess import Geometry, Preprocess
from convworks.report.inside import BINS, TALL, bars, first_filters, inside, model_of
from convworks.report.page import write_report
from convworks.report.read import read_run
from convworks.report.sureness import sureness
from tests.report.helpers import FLOWERS, fake_run


def with_model(
    run: Path,
    *,
    classes: Sequence[str] = FLOWERS,
    model: str = "fastnet",
    channels: Literal[1, 3] = 3,
    side: int = 32,
    stored: int | None = None,
) -> nn.Module:
    """A small untrained network as the run's model, one of its units dead where it has batch norm."""
    (run / "model" / "weights.safetensors").unlink()
    (run / "model").rmdir()
    torch.manual_seed(0)
    network = models.create(model, num_classes=len(classes), in_channels=channels, input_size=(side, side))
    for norm in [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)][:1]:
        with torch.no_grad():
            norm.weight[0], norm.bias[0] = 0.0, -1.0
    whole = stored or side
    geometry = Geometry(
        height=side, width=side, channels=channels, fit="crop", stored_height=whole, stored_width=whole
    )
    pixels = torch.randint(0, 256, (4, whole, whole, channels), dtype=torch.uint8)
    preprocess = Preprocess.fit(pixels, np.arange(4), geometry=geometry, normalize="per-channel")
    stored = {"temperature": 1.5, "n": 131, "split": "val", "loss_before": 1.0, "loss_after": 0.9}
    facts = {"calibration": {**stored, "ece_before": 0.1, "ece_after": 0.05}, "parameters": 7}
    save_bundle(
        run / "model",
        weights=network.state_dict(),
        preprocess=preprocess,
        model=model,
        options={},
        classes=tuple(classes),
        facts=facts,
    )
    return network.eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = fake_run(tmp_path_factory.mktemp("runs"))
    with_model(path)
    return path


def pixels(path: str) -> np.ndarray:
    return np.random.default_rng(len(path)).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_the_numbers_are_those_of_the_network(run: Path) -> None:
    record = read_run(run)
    found = inside(model_of(record), record, record.evaluations[0], thumbnail=pixels)
    assert found is not None
    network = models.create("fastnet", num_classes=10, in_channels=3, input_size=(32, 32))
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert sum(row.parameters for row in found.layers) == found.parameters
    assert found.images == 32
    assert found.dead[0].dead >= 1
    assert found.norms[0].off == 1
    assert found.norms[0].gamma[0] == 0.0
    assert found.weights[0].low < found.weights[0].mean < found.weights[0].high
    assert found.filters is not None
    assert inside(model_of(record), record, record.evaluations[0], thumbnail=None).dead == ()  # type: ignore[union-attr]


def test_the_page_has_all_ten_sections_and_the_same_bytes(run: Path) -> None:
    first = write_report(run, thumbnail=pixels).read_bytes()
    assert first == write_report(run, thumbnail=pixels).read_bytes()
    text = first.decode()
    assert re.findall(r'<h2 id="(\w+)-title"><span class="no">(\d+)</span>', text) == [
        (name, str(n))
        for n, name in enumerate(
            [
                "verdict",
                "data",
                "curves",
                "errors",
                "suspects",
                "slices",
                "calibration",
                "inside",
                "recipe",
                "reproduce",
            ],
            1,
        )
    ]
    assert "At the stored temperature 1.500" in text
    assert "http:" not in text


def test_the_temperature_is_judged_on_its_images(run: Path) -> None:
    record = read_run(run)
    found = sureness(record, record.evaluations[0])
    assert found is not None
    assert found.same_images
    assert found.ece == pytest.approx(record.evaluations[0].metrics.ece)
    assert found.ece_calibrated is not None
    assert [row["wanted"] for row in found.thresholds][-1] == 0.01


def test_a_damaged_model_leaves_the_section_out(tmp_path: Path) -> None:
    path = fake_run(tmp_path)
    record = read_run(path)
    assert inside(model_of(record), record, None, thumbnail=None) is None


def test_filters_are_scaled_about_grey() -> None:
    layer = nn.Conv2d(1, 2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[[2.0, -2.0], [0.0, 1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]]))
    picture, words = first_filters(nn.Sequential(layer))
    assert picture is not None
    image = Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2])))
    levels = np.asarray(image)[..., 0][::12, ::12]
    assert levels[1:3, 1:3].tolist() == [[255, 0], [128, 191]]
    assert levels[1:3, 4:6].tolist() == [[128, 128], [128, 128]]
    assert words == "The 2 filters of 0, 2×2, in grey; middle grey is 0"
    assert first_filters(nn.Sequential(nn.Conv2d(4, 2, 3)))[0] is None
    assert first_filters(nn.Sequential(nn.Linear(4, 2)))[0] is None


def test_bars_are_a_histogram() -> None:
    values = np.array([-1.0, -1.0, 1.0, 0.01])
    heights = [float(each) for each in re.findall(r"v-([\d.]+)h", bars(values))]
    assert heights == [TALL, TALL / 2, TALL / 2]
    assert bars(np.zeros(5)).count("M") == 1
    assert BINS % 2 == 0


def test_the_record_says_which_protocol(run: Path, tmp_path: Path) -> None:
    tree = json.loads((run / "evaluation" / "val.json").read_text())
    more = {**tree, "protocol": "10-crop", "definition": "ten views", "split": "val, 10-crop"}
    (run / "evaluation" / "val-10-crop.json").write_text(json.dumps(more))
    try:
        record = read_run(run)
        text = write_report(run).read_text()
    finally:
        (run / "evaluation" / "val-10-crop.json").unlink()
    assert [each.protocol for each in record.evaluations] == ["centre", "10-crop"]
    assert "<td>10-crop<br><small>ten views</small></td>" in text
    assert "accuracy on 131 validation images" in text
