"""Every printed number against the networks: none unexplained, every erratum counted, wrong ones caught."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from importlib import import_module

import pytest

from convworks.ledger.cell import ERRATUM, EXACT, NOT_PRINTED, TRUNCATED, UNEXPLAINED, Cell, Value, verdict
from convworks.ledger.errata import ERRATA, notes
from convworks.ledger.findings import GROUPS, Audit, audit, document, records, unexplained
from convworks.ledger.networks import Networks
from convworks.ledger.sheet import Sheet, listed

googlenet = import_module("convworks.models.googlenet")  # the package has a function of that name
vgg = import_module("convworks.models.vgg")


def test_nothing_is_unexplained(everything: Audit) -> None:
    assert [(f.cell.id, f.cell.printed, f.shown) for f in everything.unexplained] == []
    assert list(everything.groups) == list(GROUPS)


# Counted by hand from the pages: how many cells of each verdict a group has.
COUNTS = {
    "alexnet": {"exact": 59, "rounded": 2, "truncated": 6, "erratum": 6},
    "vgg": {"exact": 166, "rounded": 8, "erratum": 2},
    "googlenet": {"exact": 118, "rounded": 13, "truncated": 3, "erratum": 18},
    "resnet": {"exact": 41, "rounded": 6, "truncated": 3},
    "mobilenet": {"exact": 10, "rounded": 21, "truncated": 1, "erratum": 6},
    "lectures": {"exact": 23, "erratum": 2},
}


@pytest.mark.parametrize("group", GROUPS)
def test_the_verdicts_of_a_group(group: str, everything: Audit) -> None:
    found = everything.counts(group)
    found.pop(NOT_PRINTED, None)
    assert found == COUNTS[group]


# Every number that is neither exact nor rounded, with what should stand there.
WRONG = {
    "alexnet/second-list/conv2": ("D11", "[27x27x26]", (27, 27, 256)),
    "alexnet/figure/conv1.pool": ("D11", "2x2sub", "3x3sub"),
    "alexnet/figure/conv2.conv": ("D11", "11x11, 256fm", "5x5, 256fm"),
    "alexnet/figure/conv2.pool": ("D11", "2x2sub", "3x3sub"),
    "alexnet/without/34": ("D13", "~1 million", 2_507_520),
    "alexnet/neurons/conv1": ("D36", "253,440", 290_400),
    "vgg/channels/1": ("D21", "4096", 64),
    "vgg/channels/3": ("D21", "1000", 128),
    "googlenet/table/1-convolution/params": ("D1", "2.7K", 9_408),
    "googlenet/table/1-convolution/ops": ("D1", "34M", 118_013_952),
    "googlenet/table/9-inception-4a/params": ("D2", "364K", 375_552),
    "googlenet/table/10-inception-4b/params": ("D2", "437K", 448_512),
    "googlenet/table/11-inception-4c/params": ("D2", "463K", 509_440),
    "googlenet/table/12-inception-4d/params": ("D2", "580K", 604_672),
    "googlenet/table/13-inception-4e/params": ("D2", "840K", 867_328),
    "googlenet/table/15-inception-5a/params": ("D2", "1072K", 1_042_432),
    "googlenet/table/15-inception-5a/ops": ("D3", "54M", 51_079_168),
    "googlenet/table/16-inception-5b/params": ("D2", "1388K", 1_442_816),
    "googlenet/table/total/params": ("D2", "6797.7K", 6_990_272),
    "googlenet/table/total/ops": ("D1", "1502M", 1_582_671_872),
    "googlenet/table/total-separable/params": ("D2", "6797.7K", 6_983_576),
    "googlenet/table/total-separable/ops": ("D3", "1502M", 1_498_677_248),
    "googlenet/parameters": ("D6", "16,063,912", 13_378_280),
    "googlenet/dense": ("D6", "45%", Fraction(100 * 7_271_352, 13_378_280)),
    "googlenet/fewer": ("D7", "12x", Fraction(60_965_224, 6_998_552)),
    "googlenet/ladder/7x144/compared": ("D5", "-3.45%", Fraction("-3.40")),
    "mobilenet/downloads/075/224": ("", "317M", 325_400_448),
    "mobilenet/downloads/075/192": ("", "233M", 239_273_472),
    "mobilenet/downloads/075/160": ("", "162M", 166_396_800),
    "mobilenet/downloads/075/128": ("", "104M", 106_770_432),
    "mobilenet/downloads/050/224": ("", "150M", 149_497_088),
    "mobilenet/downloads/025/192": ("", "34M", 30_212_608),
    "lectures/frame": ("D31", "2.5", 2),
    "lectures/field/pooled": ("D16", "15/28", (16, 28)),
}
CUT = {
    "alexnet/parameters": 60_965_224,
    "alexnet/parameters/second": 60_965_224,
    "alexnet/neurons": 659_272,
    "alexnet/neurons/second": 659_272,
    "alexnet/without/7": 16_781_312,
    "alexnet/without/34/two": 1_696_512,
    "googlenet/table/6-inception-3a/params": 163_328,
    "googlenet/table/9-inception-4a/ops": 73_608_192,
    "googlenet/budget/standard": 1_582_671_872,
    "resnet/flops/34": 3_663_761_408,
    "resnet/flops/50": 3_857_973_248,
    "resnet/figure/resnet34": 3_663_761_408,
    "mobilenet/resolution/160/macs": 290_675_200,
}


def test_these_are_the_errata(everything: Audit) -> None:
    found = {
        key: (each.cell.erratum, each.cell.printed, each.value)
        for key, each in everything.findings.items()
        if each.verdict == ERRATUM
    }
    assert found == WRONG


def test_these_are_truncated(everything: Audit) -> None:
    cut = {key: each.value for key, each in everything.findings.items() if each.verdict == TRUNCATED}
    assert cut == CUT


# Numbers that no lecture prints, and those that agree; the third column of what was to be shown.
VALUES: dict[str, Value] = {
    "alexnet/parameters/one": 62_378_344,
    "alexnet/conv1": 34_848,
    "alexnet/macs": 724_406_816,
    "alexnet/macs/one": 1_135_256_096,
    "alexnet/without/67": 49_414_144,
    "alexnet/field": 195,
    "vgg/table/parameters/vgg_a": 132_863_336,
    "vgg/table/parameters/vgg_a_lrn": 132_863_336,
    "vgg/table/parameters/vgg_b": 133_047_848,
    "vgg/table/parameters/vgg_c": 133_638_952,
    "vgg/table/parameters/vgg_d": 138_357_544,
    "vgg/table/parameters/vgg_e": 143_667_240,
    "vgg/table/multiply-adds/vgg_e": 19_632_062_464,
    "vgg/19/dense": Fraction(100 * 123_642_856, 143_667_240),
    "vgg/field": 212,
    "vgg/stack/more": Fraction(100 * 22, 27),
    "googlenet/table/2-sep.-conv./ops": 34_019_328,
    "googlenet/table/2-sep.-conv./params": 2_712 + 64,
    "googlenet/table/4-convolution/params": 114_688,
    "googlenet/inference-parameters": 6_998_552,
    "googlenet/inference-dense": Fraction(100 * 1_025_000, 6_998_552),
    "googlenet/inference-layers": 58,
    "googlenet/all-layers": 64,
    "googlenet/field": 715,
    "resnet/flops/18": 1_814_073_344,
    "resnet/flops/101": 7_570_194_432,
    "resnet/flops/152": 11_282_415_616,
    "resnet/macs/resnet50_v1_5": 4_089_184_256,
    "resnet/macs/resnet101_v1_5": 7_801_405_440,
    "resnet/macs/resnet152_v1_5": 11_513_626_624,
    "resnet/macs/resnet34_a": 3_644_493_824,
    "resnet/operations/resnet50": 2 * 3_857_973_248,
    "resnet/parameters/resnet18": 11_689_512,
    "resnet/parameters/resnet34": 21_797_672,
    "resnet/parameters/resnet50": 25_557_032,
    "resnet/parameters/resnet101": 44_549_160,
    "resnet/parameters/resnet152": 60_192_808,
    "mobilenet/width/100/parameters": 4_231_976,
    "mobilenet/width/075/parameters": 2_585_560,
    "mobilenet/width/050/parameters": 1_331_592,
    "mobilenet/width/025/parameters": 470_072,
    "lectures/sparse/edges": 13,
    "lectures/sparse/dense": 25,
    "lectures/max-pool": (9, 7, 9, 8),
    "lectures/free": 2_700,
    "lectures/free/dense": 3_000_000,
    "lectures/keras": (10, 24, 24, 8),
    "lectures/keras/parameters": 224,
    "lectures/mlp/parameters": 101_770,
    "lectures/field/plain": (11, 28),
    "lectures/field/strided": (21, 28),
    "lectures/field/dilated": 63,
    "lectures/field/250": 250,
    "lectures/field/8": 8,
    "lectures/field/8-strides": 8,
    "lectures/field/1920": 10,
    "lectures/exercises/32@64x64-with-64@5x5/valid/multiply-adds": 184_320_000,
    "lectures/exercises/32@64x64-with-64@5x5/same/multiply-adds": 209_715_200,
    "lectures/exercises/32@64x64-with-64@3x3/valid/multiply-adds": 70_852_608,
    "lectures/exercises/32@64x64-with-64@3x3-and-64@3x3/valid/multiply-adds": 203_563_008,
    "lectures/exercises/32@64x64-with-64@3x3-and-64@3x3/same/multiply-adds": 226_492_416,
    "lectures/exercises/volume/maps": (32, 32, 10),
    "lectures/exercises/volume/parameters": 760,
    "lectures/trap/valid": Fraction(203_563_008, 184_320_000),
    "lectures/fits": 0,
}


def test_the_computed_values(everything: Audit) -> None:
    assert {key: everything.findings[key].value for key in VALUES} == VALUES


def test_every_erratum_is_a_number_of_the_ledger_or_a_note(everything: Audit) -> None:
    assert list(ERRATA) == [f"D{n}" for n in range(1, 37)]
    cited = {f.cell.erratum for f in everything.findings.values() if f.cell.erratum}
    assert cited == {name for name, row in ERRATA.items() if row.numbers}
    noted = [name for group in GROUPS for name in notes(group)]
    assert sorted([*cited, *noted], key=lambda d: int(d[1:])) == list(ERRATA)
    for finding in everything.findings.values():
        if finding.cell.erratum:
            assert finding.cell.why, finding.cell.id
            assert ERRATA[finding.cell.erratum].group == finding.group


def test_every_cell_says_what_it_is_and_where_it_stands(everything: Audit) -> None:
    for each in everything.findings.values():
        assert each.cell.what
        assert each.source
        assert each.cell.id.startswith(f"{each.group}/")
        assert not re.search(r"\.txt|\d{3}_[0-9a-f]{8}", each.source)


def spoiled(printed: str) -> str:
    """The same text with another first digit, by more than any rounding."""
    at = re.search(r"\d", printed)
    if at is None:
        return f"{printed} x"
    return printed[: at.start()] + str((int(at[0]) + 5) % 10 or 9) + printed[at.end() :]


def test_a_wrong_printed_number_is_caught_in_every_cell(everything: Audit) -> None:
    tried = 0
    for each in everything.findings.values():
        if each.cell.printed:
            planted = replace(each.cell, printed=spoiled(each.cell.printed), corrected="")
            assert verdict(planted, each.value) == UNEXPLAINED, planted.id
            tried += 1
    assert tried == sum(sum(counts.values()) for counts in COUNTS.values())


def test_a_network_that_changes_is_caught_in_every_erratum(everything: Audit) -> None:
    for key in WRONG:
        each = everything.findings[key]
        value = each.value
        drifted: Value
        if isinstance(value, tuple):
            drifted = tuple(n + 1 for n in value)
        else:
            drifted = value + "x" if isinstance(value, str) else Fraction(value) * 2
        assert verdict(each.cell, drifted) == UNEXPLAINED, key


def test_the_network_of_libraries_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 5x5 branch with 3x3 kernels, and a VGG without one of its convolutions."""
    paper = googlenet.CONFIGS["googlenet"]
    monkeypatch.setitem(googlenet.CONFIGS, "googlenet", replace(paper, kernel_5x5=3))
    monkeypatch.setitem(vgg.CONFIGS, "vgg_e", ("33", "33", "3333", "3333", "333"))
    found = {f.cell.id for f in audit(["googlenet", "vgg"]).unexplained}
    assert {f"googlenet/table/{line}/params" for line in ("6-inception-3a", "16-inception-5b")} <= found
    assert {"googlenet/parameters", "googlenet/table/15-inception-5a/ops"} <= found
    assert {"vgg/19/layers", "vgg/19/parameters", "vgg/table/conv5.4/vgg_e"} <= found
    assert not any("vgg_d" in key for key in found)


def one(printed: str, **more: str) -> Sheet:
    made = Cell(
        id="lectures/planted",
        what="parameters of mlp128",
        printed=printed,
        compute=lambda net: net.parameters("mlp128"),
        **more,  # type: ignore[arg-type]
    )
    return listed("lectures/planted", "Planted", "a page", (made,))


def test_an_unexplained_number_is_an_error_of_its_own() -> None:
    result = audit(tables={"lectures": (one("101,771"),)})
    assert [f.cell.id for f in result.unexplained] == ["lectures/planted"]
    problem = unexplained(result)
    assert problem.code == "N631"
    assert problem.exit_status == 6
    assert (
        problem.what
        == "lectures/planted is printed as 101,771 and computed as 101,770, without an explanation"
    )
    assert problem.where == "a page"
    assert audit(tables={"lectures": (one("101,770"),)}).counts() == {EXACT: 1}
    explained = one("101,771", corrected="101,770", explanation="a misprint")
    assert audit(tables={"lectures": (explained,)}).counts() == {ERRATUM: 1}


def test_groups_are_chosen_by_name() -> None:
    found = audit(["lectures", "lectures"])
    assert found.groups == ("lectures",)
    assert {f.group for f in found.findings.values()} == {"lectures"}
    with pytest.raises(ValueError, match="not lenet"):
        audit(["lenet"])
    with pytest.raises(ValueError, match="two cells are called lectures/planted"):
        audit(tables={"lectures": (one("1"), one("1"))})


def test_records_are_plain_data(everything: Audit) -> None:
    rows = {row["id"]: row for row in records(everything)}
    assert len(rows) == len(everything.findings)
    found = rows["googlenet/table/11-inception-4c/params"]
    assert found["printed"] == "463K"
    assert found["computed"] == "497.5K"
    assert found["value"] == 509_440
    assert found["verdict"] == "erratum"
    assert found["erratum"] == "D2"
    assert rows["alexnet/list/conv2/volume"]["value"] == [27, 27, 256]
    whole = document(everything)
    assert {note["id"] for note in whole["notes"]} == {n for n, row in ERRATA.items() if not row.numbers}
    assert whole["counts"] == everything.counts()


def test_networks_are_built_without_weights() -> None:
    net = Networks()
    assert {p.device.type for p in net.module("vgg_a").parameters()} == {"meta"}
    assert net.rows("vgg_a") is net.rows("vgg_a")
    assert net.input("alexnet") == (227, 227, 3)
