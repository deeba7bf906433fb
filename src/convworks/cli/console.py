"""Where text goes: the answer to stdout, narration to stderr, JSON alone to stdout when it was asked for.

Colour and the one live line exist only on a terminal. Elsewhere there are plain lines without control
characters, in whatever encoding the stream has.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any, TextIO

from convworks.environment import wants_colour
from convworks.errors import ConvworksError

# For streams that are not Unicode: a near sign instead of an escape.
ASCII = str.maketrans({"·": "-", "×": "x", "±": "+-", "–": "-", "…": "...", "’": "'", "→": "->"})
REORDERING = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
MAXIMUM_WIDTH = 120


def clean(text: str, encoding: str = "utf-8") -> str:
    """One line: control characters and what the encoding lacks are written as backslash escapes."""
    if not encoding.lower().replace("-", "").startswith("utf"):
        text = text.translate(ASCII)
    escaped = "".join(_escape(c) if _is_control(c) else c for c in text)
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def _is_control(character: str) -> bool:
    """Control characters, stray bytes, line separators, and the marks that reorder what a terminal shows."""
    if unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"}:
        return True
    return unicodedata.bidirectional(character) in REORDERING


def _escape(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:  # a byte of a file name that is no UTF-8 (PEP 383)
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses as objects, paths as strings, not-a-number as null."""
    match value:
        case None | str() | bool() | int():
            return value
        case float():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(inner) for inner in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


class Console:
    """The two streams of one command.

    A stream whose reader went away is silently closed (`convworks list models | head -1`); any other failure
    to write stdout is kept in `failure` for the end, because training must not die of it.
    """

    def __init__(
        self,
        *,
        json_output: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self.json_output, self.quiet, self.verbose = json_output, quiet, verbose
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self._gone: set[int] = set()
        self._documented = False
        self._live = 0  # characters of the live line that stand on the terminal
        self._rich: dict[int, Any] = {}
        self.failure: OSError | None = None

    @property
    def reader_gone(self) -> bool:
        """Whether nobody reads stdout any more."""
        return id(self._out) in self._gone

    @property
    def live_output(self) -> bool:
        return not self.quiet and _is_terminal(self._err)

    @property
    def answer_width(self) -> int | None:
        """Columns for the answer; None where it goes to a file or a program."""
        return self.width if _is_terminal(self._out) else None

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 where there is none."""
        return min(MAXIMUM_WIDTH, shutil.get_terminal_size((80, 24)).columns)

    def say(self, text: str = "", *, style: str = "") -> None:
        """Narration, for people."""
        if not self.quiet:
            self._lines(self._err, text, style)

    def detail(self, text: str) -> None:
        """Narration that only --verbose asks for."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        self._lines(self._err, f"warning: {text}", "yellow")

    def answer(self, text: str = "", *, style: str = "") -> None:
        """What the command was called for. With --json it becomes narration, and `document` the answer."""
        if self.json_output:
            self.say(text, style=style)
        else:
            self._lines(self._out, text, style)

    def raw(self, text: str) -> None:
        """A line of data on stdout, for programs: CSV."""
        self._write(self._out, text.encode(self._out.encoding or "utf-8", "backslashreplace").decode() + "\n")

    def document(self, value: Any) -> None:
        """One JSON document on stdout, only with --json."""
        if self.json_output:
            self._write(self._out, json.dumps(plain(value), indent=2, allow_nan=False) + "\n")
            self._documented = True

    def record(self, kind: str, value: Any) -> None:
        """One line of JSON on stdout, only with --json."""
        if self.json_output:
            self._write(self._out, json.dumps({"event": kind, **plain(value)}, allow_nan=False) + "\n")

    def error(self, problem: ConvworksError) -> None:
        """The four lines; with --json the same on stdout, unless a document stands there already."""
        self.clear()
        parts = {"where": problem.where, "why": problem.why, "try": problem.try_}
        self._lines(self._err, f"error[{problem.code}]: {clean(problem.what)}", "bold red")
        for name, text in parts.items():
            for number, line in enumerate(text.splitlines()):
                self._lines(self._err, f"  {name + ':' if number == 0 else '':<7}{line}")
        if self.json_output and not self._documented:
            fields = {"code": problem.code, "what": problem.what, **parts, "exit": problem.exit_status}
            self.record("error", fields)

    def live(self, text: str) -> None:
        """Replace the live line; nothing where there is no terminal."""
        if self.live_output:
            line = clean(text, self._err.encoding or "utf-8")[: self.width - 1]
            self._write(self._err, "\r" + line.ljust(self._live))
            self._live = len(line)

    def clear(self) -> None:
        """Take the live line away."""
        if self._live:
            self._write(self._err, "\r" + " " * self._live + "\r")
            self._live = 0

    def _lines(self, stream: TextIO, text: str, style: str = "") -> None:
        self.clear()
        for line in text.split("\n"):
            shown = clean(line, stream.encoding or "utf-8").rstrip()
            if style and _is_terminal(stream) and wants_colour():
                self._paint(stream, shown, style)
            else:
                self._write(stream, shown + "\n")

    def _paint(self, stream: TextIO, text: str, style: str) -> None:
        from rich.console import Console as RichConsole  # here: a pipe has no use for it
        from rich.text import Text

        if id(stream) not in self._rich:
            self._rich[id(stream)] = RichConsole(file=stream, highlight=False)
        try:
            self._rich[id(stream)].print(Text(text, style=style), soft_wrap=True)
        except OSError as problem:
            self._lost(stream, problem)

    def _write(self, stream: TextIO, text: str) -> None:
        if id(stream) in self._gone:
            return
        try:
            stream.write(text)
            stream.flush()
        except OSError as problem:
            self._lost(stream, problem)

    def _lost(self, stream: TextIO, problem: OSError) -> None:
        """Never write there again; what its buffer still holds goes to the null device at exit."""
        self._gone.add(id(stream))
        if stream is self._out and problem.errno != errno.EPIPE:
            self.failure = problem
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        except (OSError, ValueError):
            return


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()
