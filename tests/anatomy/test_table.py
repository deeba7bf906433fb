"""The four forms of the table."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from torch import nn

from convworks import models
from convworks.anatomy import (
    Columns,
    Row,
    format_csv,
    format_markdown,
    format_table,
    stages,
    summary,
    to_records,
    trace,
)

ROWS = [
    Row(
        name="conv1",
        kind="Conv2d",
        kernel=(7, 7),
        stride=(2, 2),
        padding=(3, 3),
        output=(64, 112, 112),
        parameters=9408,
        macs=118013952,
    ),
    Row(name="pool", kind="MaxPool2d", kernel=(3, 2), stride=(2, 1), padding=(1, 0), output=(64, 56, 56)),
    Row(name="head", kind="RBFOutput", output=(10,), fixed=840, macs=840),
    Row(name="aux", kind="Linear", parameters=5),
]


def test_lenet_as_text() -> None:
    columns = Columns(image=(1, 32, 32))
    assert format_table(stages(trace(models.lenet5(), (1, 32, 32))), columns=columns) == (
        "layer   kind                   kernel  output        parameters  field     MACs\n"
        "c1      Conv2d                 5x5     6 x 28 x 28          156      5  117,600\n"
        "s2      Subsampling            2x2/2   6 x 14 x 14           12      6    4,704\n"
        "c3      ConnectionTableConv2d  5x5     16 x 10 x 10       1,516     14  150,000\n"
        "s4      Subsampling            2x2/2   16 x 5 x 5            32     16    1,600\n"
        "c5      Conv2d                 5x5     120 x 1 x 1       48,120  whole   48,000\n"
        "f6      Linear                         84                10,164  whole   10,080\n"
        "output  RBFOutput                      10             840 fixed  whole      840\n"
        "60,000 trainable parameters, 840 fixed\n"
        "332,824 MACs (665,648 FLOPs) per image"
    )


def test_kernels_strides_and_padding_in_words() -> None:
    assert format_table(ROWS).splitlines()[1:-2] == [
        "conv1  Conv2d     7x7/2 p3      64 x 112 x 112       9,408         118,013,952",
        "pool   MaxPool2d  3x2/2x1 p1x0  64 x 56 x 56",
        "head   RBFOutput                10               840 fixed                 840",
        "aux    Linear                   not called               5",
    ]


def test_a_field_larger_than_the_image_stays_a_number_where_units_have_places() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 7, padding=3), nn.Conv2d(1, 1, 7, padding=3), nn.AdaptiveAvgPool2d(1))
    lines = format_table(trace(net, (1, 8, 8)), columns=Columns(image=(1, 8, 8))).splitlines()
    assert [line.split()[-2 if "Conv" in line else -1] for line in lines[1:4]] == ["7", "13", "whole"]


def test_k_of_1024_and_weights_without_biases() -> None:
    """The second row of GoogLeNet's table, 112K: 64 x 64 + 64 x 192 x 9 = 114,688 = 112 x 1024."""
    net = nn.Sequential(nn.Conv2d(64, 64, 1), nn.Conv2d(64, 192, 3, padding=1))
    rows = [Row(name="conv2", kind="2 layers", parameters=114_688 + 256, biases=256, output=(192, 56, 56))]
    assert sum(row.parameters for row in trace(net, (64, 56, 56))) == rows[0].parameters
    assert "112.0K" in format_table(rows, columns=Columns(kilo=1024, weights=True))
    assert "weights" in format_table(rows, columns=Columns(weights=True)).splitlines()[0]
    assert "114.9K" in format_table(rows, columns=Columns(kilo=1000))
    assert "112.0K |" in format_markdown(rows, columns=Columns(kilo=1024, weights=True)).splitlines()[-1]


@pytest.mark.parametrize("name", ["fastnet", "lenet5_modern", "resnet50", "googlenet", "inception_v4"])
def test_no_line_passes_80_columns(name: str) -> None:
    row = models.info(name)
    with torch.device("meta"):
        network = models.create(name, num_classes=row.num_classes)
    rows = trace(network, (row.in_channels, *row.input_size))
    for shown in (rows, stages(rows)):
        assert max(map(len, format_table(shown).splitlines()[:-2])) <= 80


def test_long_names_are_cut_at_their_beginning() -> None:
    deep = Row(name="inception_4a." * 6 + "conv", kind="AVeryLongNameOfALayerClass", output=(1024, 112, 112))
    lines = format_table([deep, *ROWS]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("…")  # the end of a path says more than its beginning
    assert "conv  AVery" in lines[1]


def test_markdown() -> None:
    assert format_markdown(ROWS) == (
        "| layer | kind | kernel | output | parameters | field | MACs |\n"
        "| --- | --- | --- | --- | ---: | ---: | ---: |\n"
        "| conv1 | Conv2d | 7x7/2 p3 | 64 x 112 x 112 | 9,408 |  | 118,013,952 |\n"
        "| pool | MaxPool2d | 3x2/2x1 p1x0 | 64 x 56 x 56 |  |  |  |\n"
        "| head | RBFOutput |  | 10 | 840 fixed |  | 840 |\n"
        "| aux | Linear |  | not called | 5 |  |  |\n"
        "| **total** |  |  |  | 9,413 |  | 118,014,792 |"
    )


def test_records_are_plain_data() -> None:
    records = to_records(ROWS)
    assert json.loads(json.dumps(records)) == records
    assert records[0] == {
        "name": "conv1",
        "kind": "Conv2d",
        "kernel": [7, 7],
        "stride": [2, 2],
        "padding": [3, 3],
        "output": [64, 112, 112],
        "parameters": 9408,
        "fixed": 0,
        "macs": 118013952,
        "dilation": [],
        "biases": 0,
        "field": [],
        "jump": [],
        "centre": [],
        "sources": [],
        "weights": 9408,
        "share": 9408 / 9413,
        "neurons": 64 * 112 * 112,
        "flops": 2 * 118013952,
        "activation_bytes": 4 * 64 * 112 * 112,
    }


def test_csv_has_every_column_of_the_records() -> None:
    rows = list(csv.DictReader(io.StringIO(format_csv(ROWS))))
    assert [row["name"] for row in rows] == ["conv1", "pool", "head", "aux"]
    assert (rows[0]["kernel"], rows[0]["output"], rows[1]["stride"]) == ("7x7", "64x112x112", "2x1")
    assert list(rows[0]) == list(to_records(ROWS)[0])
    assert format_csv([]) == "name\n"


def test_summary_counts_both_ways() -> None:
    assert summary(ROWS) == (
        "9,413 trainable parameters, 840 fixed, 5 of them for training only; "
        "118,014,792 MACs (236,029,584 FLOPs) per image"
    )
    assert "fixed" not in summary(ROWS[:2])
