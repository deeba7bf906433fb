"""The tables behind the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convworks.report.read import read_run
from convworks.report.tables import (
    MOST_CELLS,
    MOST_CLASSES,
    class_rows,
    command_line,
    confused_pairs,
    confusion_cells,
    data_table,
    duration,
    facts,
    literal,
    plan_table,
    settings,
    size,
)
from tests.report.helpers import FLOWERS, SIZES, fake_manifest, fake_run, write_recipe
from tests.report.test_text import from_confusion


def test_images_are_counted_by_class_and_split() -> None:
    table = data_table(fake_manifest())
    assert table.splits == ("train", "val")
    assert [(row.name, *row.counts, row.total) for row in table.rows] == [
        (name, n, n // 4, n + n // 4) for name, n in zip(FLOWERS, SIZES, strict=True)
    ]
    assert table.totals == (sum(SIZES), sum(n // 4 for n in SIZES))
    assert table.images == sum(table.totals)
    np.testing.assert_allclose(
        [row.percent for row in table.rows], [row.total for row in table.rows]
    )  # of 100


def test_what_was_left_out_and_converted() -> None:
    table = data_table(fake_manifest())
    assert (table.left_out_count, dict(table.reasons)["cut off"]) == (3, 1)
    assert ("bluebell/b.png", "empty file") in table.left_out
    assert dict(table.conversions)["CMYK, converted to RGB"] == 11
    assert table.sizes == "318×240 to 320×240 pixels, in the middle 319×240"
    assert table.sha256 == fake_manifest().sha256


def test_one_size_is_said_once() -> None:
    manifest = fake_manifest()
    same = replace(manifest, samples=tuple(s._replace(height=28, width=28) for s in manifest.samples))
    assert data_table(same).sizes == "all 28×28 pixels"
    assert data_table(replace(manifest, samples=())).sizes == ""


def test_very_many_classes_are_cut() -> None:
    names = [f"c{i}" for i in range(MOST_CLASSES + 7)]
    table = data_table(fake_manifest(names, sizes=[1] * len(names)))
    assert (len(table.rows), table.unlisted) == (MOST_CLASSES, 7)


def test_cells_are_shaded_by_the_share_of_their_row() -> None:
    cells = confusion_cells(from_confusion([[95, 5, 0], [0, 50, 50], [1, 0, 0]]), anchors={"cell-0-1"})
    assert [[cell.count for cell in row] for row in cells] == [[95, 5, 0], [0, 50, 50], [1, 0, 0]]
    assert [[cell.shade for cell in row] for row in cells] == [
        ["r6", "w1", ""],
        ["", "r5", "w5"],
        ["w6", "", ""],
    ]
    assert [cell.anchor for row in cells for cell in row if cell.anchor] == ["cell-0-1"]


def test_too_many_classes_have_pairs_but_no_matrix() -> None:
    k = MOST_CELLS + 1
    counts = np.eye(k, dtype=int) * 3
    counts[2, 5] = 2
    metrics = from_confusion(counts.tolist(), tuple(f"c{i}" for i in range(k)))
    assert confusion_cells(metrics, anchors=()) == []
    assert [(p.true, p.answer, p.count) for p in confused_pairs(metrics, anchors=())] == [("c2", "c5", 2)]


def test_the_most_frequent_mistakes_come_first() -> None:
    pairs = confused_pairs(from_confusion([[90, 4, 1], [4, 10, 0], [0, 5, 5]]), anchors={"cell-2-1"})
    assert [(p.true, p.answer, p.count, p.anchor) for p in pairs] == [
        ("tulip", "rose", 5, "cell-2-1"),
        ("rose", "daisy", 4, ""),
        ("daisy", "rose", 4, ""),
        ("daisy", "tulip", 1, ""),
    ]
    np.testing.assert_allclose([p.share for p in pairs], [5 / 10, 4 / 14, 4 / 95, 1 / 95])


def test_of_very_many_classes_the_weakest_are_listed() -> None:
    k = MOST_CLASSES + 10
    counts = np.eye(k, dtype=int) * 4
    counts[k - 1, 0], counts[k - 1, k - 1] = 3, 1
    rows = class_rows(from_confusion(counts.tolist(), tuple(f"c{i}" for i in range(k))))
    assert len(rows) == MOST_CLASSES
    assert (rows[0][0].name, rows[0][1]) == (f"c{k - 1}", ("c0", 3))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs"))


def test_settings_have_value_source_and_meaning(run: Path) -> None:
    rows = {row.key: row for row in settings(read_run(run))}
    assert (rows["epochs"].value, rows["epochs"].source, rows["epochs"].chosen) == ("20", "flag", True)
    assert rows["epochs"].help == "Passes over the training images."
    assert (rows["augment.flip"].value, rows["augment.flip"].source) == ("true", "recipe photos")
    assert (rows["clip_norm"].value, rows["clip_norm"].chosen) == ("not set", False)
    assert next(iter(rows)) == "model"


def test_the_source_of_a_group_holds_for_its_parts(run: Path, tmp_path: Path) -> None:
    tree = {"optimizer": {"lr": 0.1}, "unknown": {"deep": [1, "é"]}, "model_options": {"output": "rbf"}}
    folder = tmp_path / "a"
    folder.mkdir()
    write_recipe(folder, recipe=tree, provenance={"optimizer": "config a.toml", "unknown": "default"})
    rows = [(row.key, row.value, row.source, row.chosen) for row in settings(read_run(folder))]
    assert rows == [
        ("model_options", '{"output": "rbf"}', "", False),
        ("optimizer.lr", "0.1", "config a.toml", True),
        ("unknown.deep", '[1, "é"]', "default", False),
    ]


def test_the_plan_and_its_reasons(run: Path) -> None:
    table = plan_table(read_run(run).plan)
    assert table is not None
    assert ("memory format", "channels_last") in table.rows
    assert ("images per second", "74.2") in table.rows
    assert table.measured[0][0] == "bf16 channels_last 2 threads"
    assert table.reasons[0].startswith("bf16 trains 3.31x")
    assert plan_table({}) is None
    odd = plan_table({"reasons": "no list", "measured": 5, "a": None})
    assert odd is not None
    assert (odd.rows, odd.reasons, odd.measured) == ([("a", "not set")], [], [])


@pytest.mark.parametrize("way", ["winograd", "amx"])
def test_layers_that_train_by_kernels_of_ours_are_named(way: str) -> None:
    for layers, text in (([], "no layer"), (["a"], "1 layer: a"), (["a.0", "b"], "2 layers: a.0, b")):
        table = plan_table({"fused": True, way: layers})
        assert table is not None
        assert table.rows == [("fused", "true"), (way, text)]


def test_facts_identify_the_run(run: Path) -> None:
    found = dict(facts(read_run(run)))
    assert found["seed"] == "0"
    assert found["data, sha256 of the manifest"] == fake_manifest().sha256
    assert len(found["model, sha256 of weights.safetensors"]) == 64
    assert found["size of the model"] == "7.0 kB"
    assert found["wall clock of the training"] == "3 min 24 s in 2 sessions"


def test_the_command_can_be_pasted(run: Path) -> None:
    assert (
        command_line(read_run(run)) == "convworks train flowers/ --model resnet18 --epochs 20 --name 'my run'"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0.0 s"),
        (9.94, "9.9 s"),
        (48.2, "48 s"),
        (59.7, "1 min 00 s"),
        (1452, "24 min 12 s"),
        (11_100, "3 h 05 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("n", "text"), [(1, "1 byte"), (812, "812 bytes"), (7000, "7.0 kB"), (44_700_000, "44.7 MB")]
)
def test_sizes(n: int, text: str) -> None:
    assert size(n) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not set"),
        ({}, "not set"),
        (True, "true"),
        ("auto", "auto"),
        ([0.5], "[0.5]"),
        (1e-4, "0.0001"),
    ],
)
def test_values_are_written_as_in_set(value: object, text: str) -> None:
    assert literal(value) == text
