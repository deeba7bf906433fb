"""The other process: loads a student's file, calls one function case by case, writes what came back.

Reads one JSON object on stdin: file, function, cases (lists of arguments) and the path of the answers. The
answers are lines of JSON, flushed one by one, so that after a crash or an endless loop the last one says
where it was. What the student prints is counted and thrown away.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np

MEMORY = 8 * 2**30  # bytes of address space that a student's file may take
MOST_NUMBERS = 10_000


class UnusableError(Exception):
    """What a student's function returned is no row of numbers, or the file no Python file."""


class Counting(io.TextIOBase):
    """A stream that keeps the first line and the number of lines."""

    def __init__(self) -> None:
        self.lines, self.first = 0, ""

    def write(self, text: str) -> int:
        if self.lines == 0 and len(self.first) < 200:
            self.first += text[:200].partition("\n")[0]
        self.lines += text.count("\n")
        return len(text)


def main() -> None:
    """Answer one request; every way in which a student's code can end gives a line."""
    request = json.loads(sys.stdin.read())  # to its end: a student's input() does not wait
    _limit_memory()
    printed = Counting()
    with (
        open(request["answers"], "w", encoding="utf-8") as answers,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        _answer(request, answers, printed)
    os._exit(0)  # no atexit, no thread of the student's keeps this process


def _answer(request: dict[str, Any], answers: TextIO, printed: Counting) -> None:
    file = Path(request["file"])

    def tell(**line: Any) -> None:
        answers.write(json.dumps({**line, "printed": printed.lines, "first": printed.first}) + "\n")
        answers.flush()

    module, problem = _guarded(file, lambda: _load(file))
    if module is None:
        tell(refused=problem)
        return
    function = getattr(module, request["function"], None)
    if not callable(function):
        tell(refused=f"there is no function '{request['function']}'")
        return
    tell(convention=str(getattr(module, "CONVENTION", "")))
    for number, arguments in enumerate(request["cases"]):
        tell(begin=number)
        given = [np.array(part) if isinstance(part, list) else part for part in arguments]
        value, problem = _guarded(file, lambda given=given: _numbers(function(*given)))  # type: ignore[misc]
        tell(case=number, value=value, problem=problem)


def _guarded(file: Path, action: Callable[[], Any]) -> tuple[Any, str]:
    """What an action returns, or in words why it did not."""
    try:
        with np.errstate(all="ignore"):
            return action(), ""
    except NotImplementedError:
        return None, "it is not filled in yet"
    except SyntaxError as problem:
        return None, f"line {problem.lineno}: {problem.msg}"
    except UnusableError as problem:
        return None, str(problem)
    except SystemExit:
        return None, f"it ends the program{_line(file)}"
    except BaseException as problem:
        words = " ".join(str(problem).split())[:200]
        return None, f"{type(problem).__name__}{': ' if words else ''}{words}{_line(file)}"


def _line(file: Path) -> str:
    """Where in the student's file the error being handled came up."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    lines = [frame.lineno for frame in frames if Path(frame.filename) == file]
    return f" (line {lines[-1]})" if lines else ""


def _load(file: Path) -> ModuleType:
    sys.path.append(str(file.parent))  # behind everything else: a numpy.py beside it harms nobody
    spec = importlib.util.spec_from_file_location("student", file)
    if spec is None or spec.loader is None:
        raise UnusableError("its name does not end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _numbers(value: Any) -> dict[str, Any]:
    """A returned array as JSON: its shape and numbers. Raises UnusableError for anything else."""
    if value is None:
        raise UnusableError("it returns nothing")
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise UnusableError(f"it returns a {type(value).__name__}, not numbers in a row") from None
    numbers: Sequence[float] = array.ravel()[:MOST_NUMBERS].tolist()
    return {"shape": list(array.shape), "numbers": numbers}


def _limit_memory() -> None:
    """No more than MEMORY, so that a list without end is an error, and no core file."""
    try:
        import resource
    except ImportError:  # Windows has none
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    main()
