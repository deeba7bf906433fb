"""What the page of a check says beside the diagnosis; apart from the page, so that its libraries can wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the page says beside the diagnosis.

    `suspects` are (entry, reason), `no_split` is why training would stop.
    """

    name: str
    location: str
    layout: str
    split_rule: str
    seconds: float
    ignored: Sequence[tuple[str, str]] = ()
    warnings: Sequence[str] = ()
    suspects: Sequence[tuple[int, str]] = ()
    label_notes: Sequence[str] = ()
    no_split: str = ""
