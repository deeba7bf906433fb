"""What the sessions of a run warned of, from warnings.jsonl: each once, with how often it was said."""

from __future__ import annotations

from dataclasses import dataclass

from convworks.report.read import RunRecord, records
from convworks.runs import Run

SHOWN = 50
FEW = 8  # that are shown without being asked for


@dataclass(frozen=True, slots=True)
class Warned:
    source: str  # "data" or "training"
    level: str  # "warning", or "error" for what ended a session
    code: str
    text: str
    times: int


@dataclass(frozen=True, slots=True)
class WarningLog:
    """`shown` in the order first said; empty where nothing was warned of."""

    shown: tuple[Warned, ...]
    unlisted: int

    @property
    def total(self) -> int:
        return len(self.shown) + self.unlisted

    @property
    def short(self) -> bool:
        return len(self.shown) <= FEW


def warned(run: RunRecord) -> WarningLog | None:
    """None for a run that kept no log. Raises A401 and A462 for a damaged one."""
    file = Run(run.path).warnings_file
    if not file.is_file():
        return None
    times: dict[tuple[str, str, str, str], int] = {}
    for line in records(file):
        key = (line.text("from"), line.text("level"), line.text("code"), line.text("text"))
        times[key] = times.get(key, 0) + 1
    found = [Warned(*key, times=n) for key, n in times.items()]
    return WarningLog(tuple(found[:SHOWN]), max(0, len(found) - SHOWN))
