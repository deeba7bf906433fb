"""The table of errata in the manual is that of the ledger, and its figures are those of an audit."""

from __future__ import annotations

from pathlib import Path

from convworks.ledger.errata import ERRATA
from convworks.ledger.findings import Audit

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"


def errata_table() -> str:
    """The rows in the form of the page."""
    head = "| id | group | printed | remark | basis |\n|---|---|---|---|---|\n"
    rows = (
        f"| {name} | {row.group} | {row.says.replace('|', chr(92) + '|')} | {row.remark} | {row.basis} |\n"
        for name, row in ERRATA.items()
    )
    return head + "".join(rows)


def test_the_errata_of_the_page_are_those_of_the_ledger() -> None:
    assert PAGE.read_text(encoding="utf-8").endswith(errata_table())


def test_the_findings_of_the_page_are_computed(everything: Audit) -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = {key: each.shown for key, each in everything.findings.items()}
    assert shown["googlenet/table/2-sep.-conv./ops"] == "34.02M"
    assert shown["googlenet/budget"] == "1.499B"
    assert shown["googlenet/budget/standard"] == "1.583B"
    assert shown["resnet/macs/resnet34"] == "3.664G"
    assert shown["resnet/macs/resnet34_a"] == "3.644G"
    for figure in ("34.02M", "1.499 G", "1.583 G", "3.664 G", "3.644 G"):
        assert figure in page
