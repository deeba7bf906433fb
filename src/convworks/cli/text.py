"""Numbers and names as the terminal shows them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from convworks.cli.console import clean

LABEL = 11  # columns of the first word of a block: "I found    "


def count(number: int, noun: str) -> str:
    """'1,195 images', '1 image'."""
    many = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def magnitude(number: int) -> str:
    """'11.2 M', '269.7 k', '840'."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def duration(seconds: float) -> str:
    """About how long: '0.4 s', '48 s', '25 min', '3 h 10 min'."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes < 48 * 60 else f"{minutes // 1440} days"


def clock(seconds: float) -> str:
    """'0:48', '12:05', '1:02:03'."""
    whole = round(max(0.0, seconds))
    hours, rest = divmod(whole, 3600)
    if hours:
        return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{rest // 60}:{rest % 60:02d}"


def fraction(value: float | None) -> str:
    """Three digits, or a dash where there is no number."""
    return "-" if value is None else f"{value:.3f}"


def folder(path: Path) -> str:
    """A path as the user would type it: relative where it lies below the current folder."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def block(label: str, text: str, *, width: int = 100) -> list[str]:
    """'I found    1,195 images ...', with further lines under the text."""
    lines: list[str] = []
    for part in text.split("\n"):
        lines += textwrap.wrap(part, width - LABEL, break_long_words=False, break_on_hyphens=False) or [""]
    return [f"{label if number == 0 else '':<{LABEL}}{line}" for number, line in enumerate(lines)]


FOLDED = 36  # characters of a column that is wrapped


def table(
    rows: Sequence[Sequence[Any]],
    *,
    right: Iterable[int] = (),
    width: int | None = None,
    fold: Iterable[int] = (),
) -> list[str]:
    """Columns of equal width, two spaces between them; the columns in `right` are set flush right.

    With a width, the last column is wrapped into what is left of it. Columns in `fold`, the last
    excepted, are wrapped at FOLDED.
    """
    folded = set(fold)
    texts = [
        [_wrapped(clean(str(cell)), FOLDED if at in folded else None) for at, cell in enumerate(row)]
        for row in rows
    ]
    if not texts:
        return []
    last = len(texts[0]) - 1
    widths = [max(len(line) for row in texts for line in row[column]) for column in range(last + 1)]
    left = sum(widths[:-1]) + 2 * last
    room = max(20, width - left) if width is not None else None
    flush = set(right)
    lines = []
    for row in texts:
        *cells, ending = row
        for each in zip_longest(*cells, _wrapped(ending[0], room), fillvalue=""):
            aligned = [
                text.rjust(widths[at]) if at in flush else text.ljust(widths[at])
                for at, text in enumerate(each)
            ]
            lines.append("  ".join(aligned).rstrip())
    return lines


def _wrapped(text: str, room: int | None) -> list[str]:
    """The text in lines of so many characters; as it is where it fits."""
    return [text] if room is None or len(text) <= room else textwrap.wrap(text, room)
