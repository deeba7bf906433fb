"""The three forms of the table."""

from __future__ import annotations

import json

from convworks import models
from convworks.anatomy import Row, format_markdown, format_table, stages, summary, to_records, trace

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
    assert format_table(stages(trace(models.lenet5(), (1, 32, 32)))) == (
        "layer   kind                   kernel  output        parameters     MACs\n"
        "c1      Conv2d                 5x5     6 x 28 x 28          156  117,600\n"
        "s2      Subsampling            2x2/2   6 x 14 x 14           12    4,704\n"
        "c3      ConnectionTableConv2d  5x5     16 x 10 x 10       1,516  150,000\n"
        "s4      Subsampling            2x2/2   16 x 5 x 5            32    1,600\n"
        "c5      Conv2d                 5x5     120 x 1 x 1       48,120   48,000\n"
        "f6      Linear                         84                10,164   10,080\n"
        "output  RBFOutput                      10             840 fixed      840\n"
        "60,000 trainable parameters, 840 fixed\n"
        "332,824 MACs (665,648 FLOPs) per image"
    )


def test_kernels_strides_and_padding_in_words() -> None:
    assert format_table(ROWS).splitlines()[1:-2] == [
        "conv1  Conv2d     7x7/2 p3      64 x 112 x 112       9,408  118,013,952",
        "pool   MaxPool2d  3x2/2x1 p1x0  64 x 56 x 56",
        "head   RBFOutput                10               840 fixed          840",
        "aux    Linear                   not called               5",
    ]


def test_no_line_passes_80_columns() -> None:
    for name in models.names():
        row = models.info(name)
        rows = trace(
            models.create(name, num_classes=1000, **_linear(name)), (row.in_channels, *row.input_size)
        )
        assert max(map(len, format_table(rows).splitlines())) <= 80
    deep = Row(name="inception_4a." * 6 + "conv", kind="AVeryLongNameOfALayerClass", output=(1024, 112, 112))
    lines = format_table([deep, *ROWS]).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].startswith("…")  # the end of a path says more than its beginning
    assert "conv  AVery" in lines[1]


def _linear(name: str) -> dict[str, str]:
    return {"output": "linear"} if name == "lenet5" else {}


def test_markdown() -> None:
    assert format_markdown(ROWS) == (
        "| layer | kind | kernel | output | parameters | MACs |\n"
        "| --- | --- | --- | --- | ---: | ---: |\n"
        "| conv1 | Conv2d | 7x7/2 p3 | 64 x 112 x 112 | 9,408 | 118,013,952 |\n"
        "| pool | MaxPool2d | 3x2/2x1 p1x0 | 64 x 56 x 56 |  |  |\n"
        "| head | RBFOutput |  | 10 | 840 fixed | 840 |\n"
        "| aux | Linear |  | not called | 5 |  |\n"
        "| **total** |  |  |  | 9,413 | 118,014,792 |"
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
    }


def test_summary_counts_both_ways() -> None:
    assert summary(ROWS) == (
        "9,413 trainable parameters, 840 fixed; 118,014,792 MACs (236,029,584 FLOPs) per image"
    )
    assert "fixed" not in summary(ROWS[:2])
