"""The picture: well-formed, whole, alone, and without boxes on top of each other."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from convworks import models
from convworks.anatomy import Drawing, diagram, totals, trace_graph
from convworks.anatomy.graph import boxes
from tests.anatomy.networks import Bridge, Fork, residual

SVG = "{http://www.w3.org/2000/svg}"


def drawing(network: nn.Module, *shape: int, title: str = "net", caption: str = "") -> Drawing:
    return Drawing(title, caption, trace_graph(network, shape), shape)


def named(name: str) -> Drawing:
    info = models.info(name)
    with torch.device("meta"):
        network = models.create(name, num_classes=info.num_classes)
    made = drawing(network, info.in_channels, *info.input_size, title=name)
    return Drawing(name, f"{totals(made.graph.rows).macs / 1e9:.2f} G multiply-adds", made.graph, made.image)


def forked() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 1), Fork(), nn.Conv2d(11, 1, 1))


CASES = {
    "residual": lambda: [drawing(residual(), 3, 32, 32)],
    "branches": lambda: [drawing(forked(), 1, 8, 8)],
    "not nested": lambda: [drawing(Bridge(), 1, 8, 8)],
    "one layer": lambda: [drawing(nn.Linear(3, 2), 3)],
    "googlenet": lambda: [named("googlenet")],
    "inception_v3": lambda: [named("inception_v3")],
    "deep": lambda: [named("preact_resnet164_cifar")],
    "three": lambda: [named(name) for name in ("vgg_e", "plain34", "resnet34")],
    "two of different sizes": lambda: [drawing(residual(), 3, 32, 32), drawing(forked(), 1, 8, 8)],
}


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_well_formed_and_no_box_lies_on_another(case: str) -> None:
    drawings = CASES[case]()
    text = diagram(drawings)
    root = ElementTree.fromstring(text)
    width, tall = float(root.attrib["width"]), float(root.attrib["height"])
    places = []
    for shape in root.iter(f"{SVG}rect"):
        if shape.attrib.get("class", "").startswith("box"):
            places.append(tuple(float(shape.attrib[key]) for key in ("x", "y", "width", "height")))
    for circle in root.iter(f"{SVG}circle"):
        x, y, r = (float(circle.attrib[key]) for key in ("cx", "cy", "r"))
        places.append((x - r, y - r, 2 * r, 2 * r))
    assert len(places) == sum(len(boxes(each.graph, each.image)) for each in drawings)
    for number, (x, y, w, h) in enumerate(places):
        assert x >= 0
        assert x + w <= width
        assert y + h <= tall
        for a, b, c, d in places[:number]:
            assert x + w <= a or a + c <= x or y + h <= b or b + d <= y
    words = {"".join(each.itertext()) for each in root.iter(f"{SVG}text")}
    for each in drawings:
        stages = {row.name.split(".")[0] for row in each.graph.rows if row.output and row.macs}
        assert stages <= words
        assert each.title in words


@pytest.mark.parametrize("case", ["residual", "three"])
def test_every_edge_begins_and_ends_at_a_box(case: str) -> None:
    drawings = CASES[case]()
    edges = len(ElementTree.fromstring(diagram(drawings)).findall(f".//{SVG}path"))
    assert edges == sum(len(box.parents) for each in drawings for box in boxes(each.graph, each.image))


def test_nothing_outside_is_asked_for() -> None:
    text = diagram([named("googlenet")])
    assert re.findall(r"href|url\(|@import|<script|<image|<foreignObject|\bon\w+=", text) == []
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert "prefers-color-scheme: dark" in text


def test_names_are_escaped() -> None:
    net = nn.Sequential()
    net.add_module("<b>&\"'", nn.Conv2d(1, 1, 1))
    text = diagram([drawing(net, 1, 4, 4, title="</title><script>", caption="a & b\x07")])
    root = ElementTree.fromstring(text)
    assert "<script" not in text
    words = {"".join(each.itertext()) for each in root.iter(f"{SVG}text")}
    assert {"<b>&\"'", "</title><script>", "a & b?"} <= words


def test_the_figure_of_the_resnet_paper() -> None:
    """VGG-19 beside 34 plain and 34 residual layers: 19.6 and 3.6 billion multiply-adds, figure 3."""
    text = diagram(CASES["three"]())
    assert "19.63 G multiply-adds" in text
    assert "3.64 G multiply-adds" in text
    assert "3.66 G multiply-adds" in text
    root = ElementTree.fromstring(text)
    assert len(list(root.iter(f"{SVG}circle"))) == 16  # shortcuts of 34 layers
    sizes = [each.text for each in root.iter(f"{SVG}text") if each.attrib.get("class") == "size"]
    assert sizes[:6] == [f"maps {n}x{n}" for n in (224, 112, 56, 28, 14, 7)]


def test_equal_map_sizes_stand_at_equal_heights() -> None:
    root = ElementTree.fromstring(diagram(CASES["three"]()))
    tops: dict[str, list[float]] = {}
    for group in root.iter(f"{SVG}g"):
        about = (group.findtext(f"{SVG}title") or "").splitlines()
        shape = group.find(f"{SVG}rect")
        if shape is not None and about[1].count(" x ") == 2:
            tops.setdefault(about[1].split(" x ")[1], []).append(float(shape.attrib["y"]))
    starts = [min(tops[size]) for size in ("224", "112", "56", "28", "14", "7")]
    assert starts == sorted(starts)
    for size, below in zip(("224", "112", "56", "28", "14"), ("112", "56", "28", "14", "7"), strict=True):
        assert max(tops[size]) < min(tops[below])


def test_the_picture_of_the_manual_is_what_the_command_draws(capsys: pytest.CaptureFixture[str]) -> None:
    from convworks.cli import main

    page = Path(__file__).parents[2] / "docs" / "vgg-plain-residual.svg"
    names = ["vgg_e", "plain34", "resnet34"]
    with tempfile.TemporaryDirectory() as folder:
        assert main(["compare-models", *names, "--write", f"{folder}/three.svg"]) == 0
        assert (Path(folder) / "three.svg").read_text() == page.read_text()


def test_a_shortcut_that_changes_the_shape_is_dashed() -> None:
    """Option A: three stages of the 34-layer network begin with one; B has projections in their place."""
    assert diagram([named("resnet34_a")]).count('class="edge fitted"') == 3
    assert diagram([named("resnet34")]).count('class="edge fitted"') == 0
