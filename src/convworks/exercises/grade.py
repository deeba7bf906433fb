"""Grading a student's file: each function in a process of its own, with a time limit, against plain loops.

A wrong number, a wrong shape, an exception, an endless loop, a missing function, a file that is no Python:
each becomes one line. The file is run, so grade only what you would run yourself.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from convworks.errors import ConvworksError, unknown_name
from convworks.exercises import reference
from convworks.exercises.template import TEMPLATES

Status = Literal["ok", "wrong", "failed", "not run"]
CONVENTIONS = ("correlation", "convolution")
TOLERANCE = 1e-6  # relative, and absolute below 1


@dataclass(frozen=True, slots=True)
class Case:
    """One call of one function: what it is given, in words and in values."""

    function: str
    label: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Graded:
    """What came of one case."""

    function: str
    label: str
    status: Status
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Grading:
    """All cases of a file, and what else is to be said about it."""

    problem_set: str
    file: Path
    cases: tuple[Graded, ...]
    notes: tuple[str, ...]

    @property
    def right(self) -> int:
        return sum(case.status == "ok" for case in self.cases)


@dataclass(frozen=True, slots=True)
class ProblemSet:
    """The title, source and functions of a problem set."""

    title: str
    source: str
    functions: tuple[str, ...]


PROBLEM_SETS = {
    "convolution": ProblemSet(
        "1-D convolution module: forward, to the input, to the weights",
        "lectures, introduction to convolutional networks, problem set, convolution module",
        ("forward", "backward_input", "backward_weights"),
    ),
    "max-pool": ProblemSet(
        "1-D max-pool module: forward, backward, ties",
        "lectures, introduction to convolutional networks, problem set, max pooling module",
        ("forward", "backward"),
    ),
}


def problem_set(name: str) -> ProblemSet:
    """A problem set by name. Raises U141."""
    if name not in PROBLEM_SETS:
        try_ = "convworks exercise template {near} --out student.py"
        raise unknown_name("problem set", name, PROBLEM_SETS, code="U141", try_=try_)
    return PROBLEM_SETS[name]


def template(name: str) -> str:
    """The file to fill in. Raises U141."""
    problem_set(name)
    return TEMPLATES[name]


def grade(name: str, file: Path, *, limit: float = 10.0) -> Grading:
    """Run every function of a problem set in `file`, each for at most `limit` seconds.

    Raises U141 (no such problem set) and U144 (no such file); whatever the file does is in the result.
    """
    chosen = problem_set(name)
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "is not there"
        what = f"the file to grade {kind}: {file}"
        raise ConvworksError("U144", what, try_=f"convworks exercise template {name} --out student.py")
    graded: list[Graded] = []
    notes: list[str] = []
    for function in chosen.functions:
        cases = [case for case in CASES[name]() if case.function == function]
        lines, ending = _run(file.absolute(), function, cases, limit=limit)
        graded += _results(name, cases, lines, ending)
        printed = max(
            (line for line in lines if line["printed"]), key=lambda line: line["printed"], default=None
        )
        if printed:
            notes.append(
                f"{function} printed {printed['printed']:,} lines, not shown; the first: {printed['first']}"
            )
    return Grading(problem_set=name, file=file, cases=tuple(graded), notes=tuple(dict.fromkeys(notes)))


def _run(
    file: Path, function: str, cases: Sequence[Case], *, limit: float
) -> tuple[list[dict[str, Any]], str]:
    """The lines that the other process wrote, and in words how it ended where that was not by itself."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.jsonl"
        request = {"file": str(file), "function": function, "answers": str(answers)}
        request_json = json.dumps({**request, "cases": [case.arguments for case in cases]})
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "convworks.exercises.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PYTHONDONTWRITEBYTECODE": "1",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
            start_new_session=True,
        )
        try:
            process.communicate(request_json.encode(), timeout=limit)
            code = process.returncode
            ending = (
                f"the process ended with status {code}" if code >= 0 else f"it was ended by signal {-code}"
            )
        except subprocess.TimeoutExpired:
            ending = f"still running after {limit:g} s"
        finally:
            _end(process)
        text = answers.read_text(encoding="utf-8") if answers.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")], ending


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _results(name: str, cases: Sequence[Case], lines: Sequence[dict[str, Any]], ending: str) -> list[Graded]:
    refused = next((line["refused"] for line in lines if "refused" in line), "")
    convention = next((line["convention"] for line in lines if "convention" in line), "")
    if name == "convolution" and not refused and lines and convention not in CONVENTIONS:
        refused = f"CONVENTION is '{convention}', and must be one of {', '.join(CONVENTIONS)}"
    if refused or not lines:
        detail = refused or ending or "it does not start"
        first = Graded(cases[0].function, "all cases", "failed", detail)
        return [first, *(Graded(case.function, case.label, "not run") for case in cases[1:])]
    found = {line["case"]: line for line in lines if "case" in line}
    begun = max((line["begin"] for line in lines if "begin" in line), default=-1)
    results = []
    for number, case in enumerate(cases):
        line = found.get(number)
        if line is None:
            stopped = number == begun
            status: Status = "failed" if stopped else "not run"
            results.append(Graded(case.function, case.label, status, ending if stopped else ""))
        elif line["problem"]:
            results.append(Graded(case.function, case.label, "failed", line["problem"]))
        else:
            detail = _difference(name, case, line["value"], convention)
            results.append(Graded(case.function, case.label, "wrong" if detail else "ok", detail))
    return results


def _difference(name: str, case: Case, value: dict[str, Any], convention: str) -> str:
    """The first wrong entry in words; '' where all are right."""
    expected = _expected(name, case, flip=convention == "convolution")
    shape, numbers = tuple(value["shape"]), value["numbers"]
    if shape != (len(expected),):
        return f"its shape is {shape}, expected ({len(expected)},)"
    wrong = _first_wrong(numbers, expected)
    if wrong is None:
        return ""
    detail = f"entry {wrong} is {numbers[wrong]:.6g}, expected {expected[wrong]:.6g}"
    if (
        name == "convolution"
        and _first_wrong(numbers, _expected(name, case, flip=convention != "convolution")) is None
    ):
        other = CONVENTIONS[convention == "correlation"]
        return f"{detail}; these are the numbers of a {other}, and CONVENTION is '{convention}'"
    if "tie" in case.label and case.function == "backward":
        return f"{detail}; in a tie the first of the largest has the whole gradient"
    return detail


def _first_wrong(numbers: Sequence[float], expected: Sequence[float]) -> int | None:
    for place, (number, right) in enumerate(zip(numbers, expected, strict=True)):
        if not math.isclose(number, right, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            return place
    return None


def _expected(name: str, case: Case, *, flip: bool) -> list[float]:
    box = REFERENCE[name][case.function]
    return box(*case.arguments, flip=flip) if name == "convolution" else box(*case.arguments)


REFERENCE: dict[str, dict[str, Callable[..., list[float]]]] = {
    "convolution": {
        "forward": reference.convolution_forward,
        "backward_input": reference.convolution_backward_input,
        "backward_weights": reference.convolution_backward_weights,
    },
    "max-pool": {"forward": reference.max_pool_forward, "backward": reference.max_pool_backward},
}


def _line(draw: Random, n: int) -> list[float]:
    return [round(draw.uniform(-2, 2), 2) for _ in range(n)]


def convolution_cases() -> list[Case]:
    """Every boundary with several lengths, for the three boxes."""
    draw, cases = Random(1), []
    for boundary in ("valid", "same", "full"):
        for n, m in ((8, 3), (7, 5), (5, 1), (5, 5), (6, 2), (1, 1)):
            if boundary == "same" and m % 2 == 0:
                continue
            outputs = n + 2 * reference.frame(boundary, m) - m + 1
            x, w, dy = (_line(draw, count) for count in (n, m, outputs))
            label = f"{boundary}, N = {n}, M = {m}"
            cases.append(Case("forward", label, (x, w, boundary)))
            cases.append(Case("backward_input", label, (dy, w, n, boundary)))
            cases.append(Case("backward_weights", label, (dy, x, m, boundary)))
    return cases


def max_pool_cases() -> list[Case]:
    """Whole and incomplete windows, overlapping ones, negative values, and ties."""
    draw = Random(2)
    lines = [
        ("whole windows", _line(draw, 8), 2, 2),
        ("an incomplete window at the end", _line(draw, 7), 2, 2),
        ("overlapping windows", _line(draw, 9), 3, 2),
        ("stride 1", _line(draw, 6), 3, 1),
        ("gaps between windows", _line(draw, 9), 2, 3),
        ("one window", _line(draw, 4), 4, 4),
        ("windows of one", _line(draw, 3), 1, 1),
        ("negative values", [-3.0, -1.5, -2.0, -0.5, -4.0, -1.0], 3, 3),
        ("ties", [1.0, 3.0, 3.0, 0.0, 2.0, 2.0], 3, 3),
        ("all equal, a tie", [1.0] * 6, 2, 2),
        ("overlapping ties", [2.0, 2.0, 1.0, 2.0, 2.0], 3, 1),
    ]
    cases = []
    for label, x, size, stride in lines:
        dy = _line(draw, (len(x) - size) // stride + 1)
        shown = f"{label}, N = {len(x)}, size {size}, stride {stride}"
        cases.append(Case("forward", shown, (x, size, stride)))
        cases.append(Case("backward", shown, (dy, x, size, stride)))
    return cases


CASES = {"convolution": convolution_cases, "max-pool": max_pool_cases}
