"""The tables that must regenerate, and independent oracles: receptive fields and sums by plain loops."""

from __future__ import annotations

import csv
import io
import re

import pytest

from convworks.ledger.findings import Audit
from convworks.ledger.googlenet import TABLE_1, TOTALS
from convworks.ledger.render import markdown, table_csv, text
from convworks.ledger.sheet import Sheet


def sheet(everything: Audit, key: str) -> Sheet:
    return next(each for _, each in everything.sheets if each.id == key)


def values(everything: Audit, key: str) -> list[list[object]]:
    """The computed values of a grid, line by line; None where a line has no cell."""
    return [
        [
            None if cell is None or isinstance(cell, str) else everything.findings[cell.id].value
            for cell in line
        ]
        for _, line in sheet(everything, key).lines
    ]


def test_the_list_of_alexnet_has_14_lines(everything: Audit) -> None:
    lines = sheet(everything, "alexnet/list").lines
    assert [name for name, _ in lines] == [
        *("INPUT", "CONV1", "MAX POOL1", "NORM1", "CONV2", "MAX POOL2", "NORM2"),
        *("CONV3", "CONV4", "CONV5", "MAX POOL3", "FC6", "FC7", "FC8"),
    ]
    table = values(everything, "alexnet/list")
    assert [line[0] for line in table] == [
        *((227, 227, 3), (55, 55, 96), (27, 27, 96), (27, 27, 96), (27, 27, 256), (13, 13, 256)),
        *((13, 13, 256), (13, 13, 384), (13, 13, 384), (13, 13, 256), (6, 6, 256)),
        *((4096,), (4096,), (1000,)),
    ]
    assert [line[4] for line in table if line[4] is not None] == [11, 19, 51, 67, 99, 131, 163, 195]
    assert sum(line[2] for line in table if isinstance(line[2], int)) == 62_378_344


# Table 1 of the paper again, for arithmetic that needs no network: input maps, side, six widths.
INCEPTION = {
    "3a": (192, 28, (64, 96, 128, 16, 32, 32)),
    "3b": (256, 28, (128, 128, 192, 32, 96, 64)),
    "4a": (480, 14, (192, 96, 208, 16, 48, 64)),
    "4b": (512, 14, (160, 112, 224, 24, 64, 64)),
    "4c": (512, 14, (128, 128, 256, 24, 64, 64)),
    "4d": (512, 14, (112, 144, 288, 32, 64, 64)),
    "4e": (528, 14, (256, 160, 320, 32, 128, 128)),
    "5a": (832, 7, (256, 160, 320, 32, 128, 128)),
    "5b": (832, 7, (384, 192, 384, 48, 128, 128)),
}


def test_the_table_of_googlenet_has_22_rows_and_agrees_with_its_channels(everything: Audit) -> None:
    table = values(everything, "googlenet/table")
    names = [name for name, _ in sheet(everything, "googlenet/table").lines]
    assert len(names) == 22
    by_name = dict(zip(names, table, strict=True))
    for place, (maps, side, (c1, r3, c3, r5, c5, proj)) in INCEPTION.items():
        row = by_name[f"inception {place}"]
        weights = maps * (c1 + r3 + r5 + proj) + 9 * r3 * c3 + 25 * r5 * c5
        biases = c1 + r3 + c3 + r5 + c5 + proj
        assert row[1] == (side, side, c1 + c3 + c5 + proj)
        assert row[2] == 2
        assert row[3:9] == [c1, r3, c3, r5, c5, proj]
        assert row[9] == weights + (biases if place == "3b" else 0)
        assert row[10] == weights * side * side
    assert sum(int(line.depth) for line in TABLE_1 if line.depth) == 22


def test_the_totals_of_googlenet_are_the_sums_of_the_printed_columns() -> None:
    lines = [line for line in TABLE_1 if line.type != "sep. conv."]
    params = sum(float(line.params.rstrip("K")) for line in lines if line.params)
    ops = sum(int(line.ops.rstrip("M")) for line in lines if line.ops)
    assert params == pytest.approx(6797.7)
    assert ops == 1502
    assert {(row[2], row[4]) for row in TOTALS} == {("6797.7K", "1502M")}


def test_the_flops_row_of_resnet(everything: Audit) -> None:
    lines = dict(sheet(everything, "resnet/flops").lines)
    cells = [cell for cell in lines["FLOPs"] if cell is not None and not isinstance(cell, str)]
    shown = [everything.findings[cell.id] for cell in cells]
    assert [f.cell.printed for f in shown] == ["1.8x10^9", "3.6x10^9", "3.8x10^9", "7.6x10^9", "11.3x10^9"]
    assert [f.verdict for f in shown] == ["rounded", "truncated", "truncated", "rounded", "rounded"]
    assert [f.shown.partition("x")[0] for f in shown] == ["1.814", "3.664", "3.858", "7.570", "11.28"]
    assert "multiply-adds" in shown[1].cell.why
    assert "multiply-adds" in shown[2].cell.why


# --- receptive fields by the recurrence, from kernels and strides written down here ---


def recurrence(layers: list[tuple[int, int]]) -> int:
    """r += (k - 1) j, j *= s."""
    field, jump = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * jump
        jump *= stride
    return field


def bottlenecks(depths: tuple[int, ...], *, stride_on_3x3: bool) -> list[tuple[int, int]]:
    layers = [(7, 2), (3, 2)]
    for stage, depth in enumerate(depths):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            layers += [(1, 1), (3, stride), (1, 1)] if stride_on_3x3 else [(1, stride), (3, 1), (1, 1)]
    return layers


VGG = {"vgg_a": (1, 1, 2, 2, 2), "vgg_b": (2, 2, 2, 2, 2), "vgg_d": (2, 2, 3, 3, 3), "vgg_e": (2, 2, 4, 4, 4)}
ORACLES = {
    "alexnet/field": (
        195,
        [(11, 4), (3, 2), (5, 1), (3, 2), (3, 1), (3, 1), (3, 1), (3, 2)],
    ),
    **{
        f"vgg/table/field/{name}": (field, [c for n in stages for c in [(3, 1)] * n + [(2, 2)]])
        for (name, stages), field in zip(VGG.items(), (150, 156, 212, 268), strict=True)
    },
    **{
        f"resnet/field/{name}{suffix}": (fields[later], bottlenecks(depths, stride_on_3x3=bool(later)))
        for name, depths, fields in (
            ("resnet50", (3, 4, 6, 3), (483, 427)),
            ("resnet101", (3, 4, 23, 3), (1027, 971)),
            ("resnet152", (3, 8, 36, 3), (1507, 1451)),
        )
        for later, suffix in enumerate(("", "_v1_5"))
    },
    "mobilenet/field": (
        315,
        [(3, 2)] + [(3, s) for s in (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)],
    ),
}


@pytest.mark.parametrize("key", ORACLES)
def test_receptive_fields_by_the_recurrence(key: str, everything: Audit) -> None:
    expected, layers = ORACLES[key]
    assert recurrence(layers) == expected
    assert everything.findings[key].value == expected


# --- forms ---


def test_the_terminal_has_every_table_in_80_columns(everything: Audit) -> None:
    lines = text(everything, width=80)
    assert max(map(len, lines)) <= 80
    joined = "\n".join(lines)
    assert all(each.title in joined for _, each in everything.sheets)
    assert re.search(
        r"^inception 4c +14x14x512 +2 +128 +128 +256 +24 +64 +64 +497.5K! 99.85M~$", joined, re.M
    )
    assert re.search(r"^learned parameters +16,063,912 +13,378,280 +erratum D6$", joined, re.M)
    assert re.search(r"^CONV2 +\[27x27x256\] +256 5x5, stride 1, pad 2 +614,656", joined, re.M)
    assert re.search(
        r"^FLOPs +1.814x10\^9~ 3.664x10\^9< 3.858x10\^9< 7.570x10\^9~ 11.28x10\^9~$", joined, re.M
    )
    assert lines[-1] == "marks: ~ rounded, < truncated, ! erratum, ? unexplained"
    total = sum(everything.counts().values())
    assert f"all: {total} cells" in joined


def test_notes_stand_below_their_group(everything: Audit) -> None:
    joined = " ".join(" ".join(text(everything)).split())
    assert joined.index("resnet: ") < joined.index("note D10") < joined.index("MobileNet V1")
    assert "note D10 weight decay of 0.001 for ResNet: 0.0001 in the paper (memory)" in joined


def test_markdown_has_a_table_for_each_sheet_with_equal_columns(everything: Audit) -> None:
    page = markdown(everything)
    tables = re.findall(r"(?:^\|.*\|\n)+", page, re.M)
    assert len(tables) == len(everything.sheets)
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table.splitlines()[0]
    assert "463K -> 497.5K (erratum D2)" in page
    assert (
        "| inception 3a |  | 28x28x256 | 2 | 64 | 96 | 128 | 16 | 32 | 32 | 159K -> 159.5K (truncated) |"
        in page
    )
    assert "- D6: 13,378,280 with the auxiliary heads" in page
    assert "- D8: 1.5B multiply-adds at training time" in page
    assert not re.search(r"(?<!\\)~", page)


def test_csv_has_a_line_for_each_cell(everything: Audit) -> None:
    rows = list(csv.DictReader(io.StringIO(table_csv(everything))))
    assert [row["id"] for row in rows] == list(everything.findings)
    found = {row["id"]: row for row in rows}
    assert found["alexnet/list/conv2/volume"]["value"] == "27x27x256"
    assert found["googlenet/parameters"]["erratum"] == "D6"
    assert found["googlenet/parameters"]["value"] == "13378280"
