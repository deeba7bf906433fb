"""What a training warned of, kept in the run: warnings.jsonl, a line for each warning, in the order printed.

    {"at": seconds, "from": "data", "level": "warning", "code": "", "text": "two labels for ..."}

"from" is data or training, "level" warning or error, "code" that of an error behind it, or empty.

The file is there from the first session on, so an empty one says that nothing was warned of. A resumed run
adds to it; so it is among the files that a run with a stop does not share with one without.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Generator, Iterator

from convworks.errors import ConvworksError
from convworks.flows.events import Event, Found, Note
from convworks.runs import Run

MOST = 200  # warnings of the data in one session; the manifest has them all
LONGEST = 4000  # characters of one


def logged(run: Run, events: Generator[Event]) -> Iterator[Event]:
    """The same events; each warning, and the error that ends them, is written down before it is passed on."""
    _write(run, [])
    with contextlib.closing(events):
        try:
            for event in events:
                _write(run, [_record(*each) for each in _warnings(event)])
                yield event
        except ConvworksError as problem:
            _write(run, [_record("training", "error", problem.code, problem.what)])
            raise


def _warnings(event: Event) -> list[tuple[str, str, str, str]]:
    """(from, level, code, text) of what an event warns of."""
    if isinstance(event, Note) and event.level == "warning":
        return [("training", "warning", event.code, event.text)]
    if isinstance(event, Found):
        found = [("data", "warning", "", text) for text in event.warnings[:MOST]]
        left = len(event.warnings) - MOST
        return [*found, ("data", "warning", "", f"and {left:,} more")] if left > 0 else found
    return []


def _record(source: str, level: str, code: str, text: str) -> dict[str, object]:
    return {
        "at": round(time.time(), 3),
        "from": source,
        "level": level,
        "code": code,
        "text": text[:LONGEST],
    }


def _write(run: Run, records: list[dict[str, object]]) -> None:
    """Add lines; a disk that is full only loses them."""
    with contextlib.suppress(OSError), run.warnings_file.open("a", encoding="ascii") as file:
        file.write("".join(json.dumps(each, sort_keys=True) + "\n" for each in records))
