"""Every cell of the chosen groups computed from the networks, with its verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import ModuleType
from typing import Any

from convworks.errors import ConvworksError
from convworks.ledger import alexnet, googlenet, lectures, mobilenet, resnet, vgg
from convworks.ledger.cell import UNEXPLAINED, VERDICTS, Cell, Value, show, verdict
from convworks.ledger.errata import notes
from convworks.ledger.networks import Networks
from convworks.ledger.sheet import Sheet

_MODULES: tuple[tuple[str, ModuleType], ...] = (
    ("alexnet", alexnet),
    ("vgg", vgg),
    ("googlenet", googlenet),
    ("resnet", resnet),
    ("mobilenet", mobilenet),
    ("lectures", lectures),
)
GROUPS: Mapping[str, tuple[Sheet, ...]] = {name: module.SHEETS for name, module in _MODULES}


@dataclass(frozen=True, slots=True)
class Finding:
    """A cell, the value that the network gave, and the verdict on the pair."""

    group: str
    sheet: Sheet
    cell: Cell
    value: Value
    verdict: str
    shown: str  # the value in the printed unit

    @property
    def source(self) -> str:
        return self.cell.source or self.sheet.source


@dataclass(frozen=True, slots=True)
class Audit:
    """All findings, group by group in the order of the sheets."""

    groups: tuple[str, ...]
    sheets: tuple[tuple[str, Sheet], ...]  # (group, sheet)
    findings: Mapping[str, Finding]  # by the id of the cell

    def counts(self, group: str = "") -> dict[str, int]:
        """How many cells of each verdict, of one group or of all; only those that occur."""
        found = Counter(each.verdict for each in self.findings.values() if group in ("", each.group))
        return {name: found[name] for name in VERDICTS if found[name]}

    @property
    def unexplained(self) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings.values() if each.verdict == UNEXPLAINED)


def audit(groups: Sequence[str] = (), *, tables: Mapping[str, tuple[Sheet, ...]] = GROUPS) -> Audit:
    """Compute every cell of these groups, of all where none is named. Raises ValueError for other groups."""
    chosen = tuple(dict.fromkeys(groups)) or tuple(tables)
    if not set(chosen) <= set(tables):
        raise ValueError(f"there are {', '.join(tables)}, not {', '.join(set(chosen) - set(tables))}")
    net = Networks()
    findings: dict[str, Finding] = {}
    sheets = tuple((group, sheet) for group in chosen for sheet in tables[group])
    for group, sheet in sheets:
        for cell in sheet.cells():
            if cell.id in findings:
                raise ValueError(f"two cells are called {cell.id}")
            value = cell.compute(net)
            findings[cell.id] = Finding(group, sheet, cell, value, verdict(cell, value), show(cell, value))
    return Audit(chosen, sheets, findings)


def unexplained(result: Audit) -> ConvworksError:
    """N631: printed numbers that the networks contradict, and no erratum says why."""
    first, *others = result.unexplained
    what = f"{first.cell.id} is printed as {first.cell.printed} and computed as {first.shown}"
    more = f" (and {len(others)} more)" if others else ""
    return ConvworksError(
        "N631",
        f"{what}, without an explanation{more}",
        where=first.source,
        why="either the network is not the published one, or the ledger lacks an erratum",
        try_=f"convworks audit {first.group} --json",
    )


def records(result: Audit) -> list[dict[str, Any]]:
    """One dict for each cell, of strings, numbers and lists: ready for JSON and CSV."""
    return [
        {
            "id": each.cell.id,
            "group": each.group,
            "table": each.sheet.title,
            "what": each.cell.what,
            "unit": each.cell.unit,
            "printed": each.cell.printed,
            "computed": each.shown,
            "value": _plain(each.value),
            "verdict": each.verdict,
            "erratum": each.cell.erratum,
            "explanation": each.cell.why,
            "source": each.source,
        }
        for each in result.findings.values()
    ]


def _plain(value: Value) -> int | float | str | list[int]:
    if isinstance(value, Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return list(value) if isinstance(value, tuple) else value


def document(result: Audit) -> dict[str, Any]:
    """The whole audit as one JSON object."""
    return {
        "groups": list(result.groups),
        "counts": result.counts(),
        "cells": records(result),
        "notes": [
            {
                "id": name,
                "group": group,
                "where": row.where,
                "says": row.says,
                "remark": row.remark,
                "basis": row.basis,
            }
            for group in result.groups
            for name, row in notes(group).items()
        ],
    }
