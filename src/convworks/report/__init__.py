"""The report of a run: one HTML file that needs nothing but itself, and the same verdict in sentences.

The page's libraries are loaded when it is written, so that the sentences alone cost nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from convworks.report.text import verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convworks.report.pictures import Augmented, Thumbnail

__all__ = ["verdict", "write_report"]


def write_report(
    run: Path,
    *,
    thumbnail: Thumbnail | None = None,
    augmented: Sequence[Augmented] = (),
    human_error: float | None = None,
) -> Path:
    """Write `report.html` into a run folder; see `convworks.report.page.write_report`."""
    from convworks.report import page

    return page.write_report(run, thumbnail=thumbnail, augmented=augmented, human_error=human_error)
