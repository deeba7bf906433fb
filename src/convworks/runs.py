"""The run folder: runs/NAME/ with everything that a run is, and a lock so that two processes never share it.

    recipe.json  manifest.jsonl  geometry.json  plan.json  metrics.jsonl  timing.jsonl  warnings.jsonl
    checkpoints/  evaluation/  model/  latency.json  report.html  finished.json

`metrics.jsonl` is the source of truth for curves and report. It holds no times, so that a run that was
stopped and resumed ends with the same bytes as one that was not; times are in `timing.jsonl`, and what
belongs to one session or one machine in `warnings.jsonl` and `latency.json`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from convworks.durable import TEMPORARY, fsync_file, read_json, to_json, write_atomic
from convworks.errors import ConvworksError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no fcntl; there the owner file alone speaks
    fcntl = None  # type: ignore[assignment]

_NUMBERED_TRIES = 10_000


class Run:
    """Paths and files of one run folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe_file = path / "recipe.json"
        self.manifest_file = path / "manifest.jsonl"
        self.plan_file = path / "plan.json"
        self.geometry_file = path / "geometry.json"
        self.metrics_file = path / "metrics.jsonl"
        self.timing_file = path / "timing.jsonl"
        self.warnings_file = path / "warnings.jsonl"
        self.latency_file = path / "latency.json"
        self.checkpoints = path / "checkpoints"
        self.evaluation = path / "evaluation"
        self.model = path / "model"
        self.report = path / "report.html"
        self.finished_file = path / "finished.json"

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def finished(self) -> bool:
        return self.finished_file.is_file()

    def record(self) -> dict[str, Any]:
        """recipe.json: the recipe, the source of each value, the data and the command. Raises A401."""
        found = read_json(self.recipe_file)
        if not isinstance(found, dict) or "recipe" not in found or "data" not in found:
            raise ConvworksError("A401", "recipe.json is not the record of a run", where=str(self.path))
        return found

    def write_json(self, path: Path, value: Any) -> None:
        write_atomic(path, to_json(value))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process. Raises R510 where another one has it."""
        with (self.path / ".lock").open("a") as handle:
            if fcntl is not None:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as problem:
                    raise self._in_use() from problem
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            write_atomic(self.path / "owner.json", to_json(owner))
            try:
                yield
            finally:
                (self.path / "owner.json").unlink(missing_ok=True)

    def _in_use(self) -> ConvworksError:
        owner: dict[str, Any] = {}
        with contextlib.suppress(ConvworksError):
            owner = read_json(self.path / "owner.json")
        who = f" by pid {owner['pid']} on {owner['host']} since {owner['since']}" if "pid" in owner else ""
        return ConvworksError(
            "R510",
            f"the run {self.name} is in use{who}",
            where=str(self.path),
            why="two processes in one run folder would spoil each other's files",
            try_="wait for it, or train under another name with --name",
        )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def next_name(out: Path, base: str) -> str:
    """base-01, base-02 ...: the first that is free."""
    return next(name for n in count(1) if not (out / (name := f"{base}-{n:02d}")).exists())


def create_run(out: Path, base: str, *, name: str | None = None) -> Run:
    """Make a new folder: `name`, or base-01, base-02 ... (the making is atomic: two starts get two folders).

    Raises R503 where the place cannot be written to, U130 where `name` is taken or no plain name.
    """
    if name is not None and (not re.fullmatch(r"[\w.+-][\w.+ -]{0,199}", name) or name in {".", ".."}):
        raise ConvworksError("U130", f"'{name}' cannot be the name of a run", try_="--name my-run")
    try:
        out.mkdir(parents=True, exist_ok=True)
        if name is not None:
            (out / name).mkdir(exist_ok=_holds_nothing(out / name))
            return Run(out / name)
        for _ in range(_NUMBERED_TRIES):
            with contextlib.suppress(FileExistsError):  # another process was quicker
                path = out / next_name(out, base)
                path.mkdir()
                return Run(path)
    except FileExistsError as problem:
        if name:
            raise name_taken(out, name, kind="run") from problem
        raise ConvworksError(
            "U130", f"'{out}' is a file, not a folder", where=str(out), try_="--out runs"
        ) from problem
    except OSError as problem:
        raise ConvworksError(
            "R503",
            f"cannot write to {out}: {problem.strerror or problem}",
            why="nothing was computed",
            try_="--out with a folder of your own, for example --out ~/runs",
        ) from problem
    raise ConvworksError("R503", f"there are too many runs called {base} in {out}", try_="--name my-run")


def name_taken(out: Path, name: str, *, kind: str) -> ConvworksError:
    """U130: nothing is ever replaced. A run that was stopped can be continued, a finished one cannot."""
    free = next(each for n in count(2) if not (out / (each := f"{name}-{n}")).exists())
    stopped = (out / name / "recipe.json").is_file() and not Run(out / name).finished
    return ConvworksError(
        "U130",
        f"there is a {kind} called '{name}' already",
        where=str(out),
        why="none is ever replaced: --fresh begins a new one, under a name that is free",
        try_=f"--name {free}" + (f", or convworks resume {out / name}" if stopped else ""),
    )


def _holds_nothing(path: Path) -> bool:
    """Whether a folder is what a run that was killed in its first moment leaves behind."""
    return path.is_dir() and all(
        each.name in {".lock", "owner.json"} or each.name.startswith(TEMPORARY) for each in path.iterdir()
    )


def open_run(path: Path) -> Run:
    """An existing run folder. Raises A410 where it is none."""
    if path.name == "model" and not (path / "recipe.json").exists():
        path = path.parent
    if (path / "recipe.json").is_file():
        return Run(path)
    siblings = (
        sorted(p.parent.name for p in path.parent.glob("*/recipe.json")) if path.parent.is_dir() else []
    )
    what = f"'{path}' is not a run folder" if path.exists() else f"there is no run '{path}'"
    raise ConvworksError(
        "A410",
        what + (": it has no recipe.json" if path.exists() else ""),
        where=f"runs there: {', '.join(siblings[-5:])}" if siblings else "",
        try_="convworks list runs",
    )


def list_runs(out: Path) -> list[Run]:
    """Run folders in `out`, oldest first."""
    if not out.is_dir():
        return []
    found = [p.parent for p in out.glob("*/recipe.json")]
    return [Run(path) for path in sorted(found, key=lambda p: (p.stat().st_mtime_ns, p.name))]


class MetricsLog:
    """metrics.jsonl, appended in memory and written at every flush.

    A disk that is full loses nothing: the lines wait for the next flush.
    """

    def __init__(self, path: Path, *, length: int = 0) -> None:
        """Continue a log whose first `length` bytes belong to this run's state; the rest is cut off."""
        self.path, self._waiting = path, b""
        with path.open("ab") as file:
            self.length = min(length, file.tell())
        os.truncate(path, self.length)

    def append(self, record: dict[str, Any]) -> None:
        self._waiting += json.dumps(record, sort_keys=True, allow_nan=False).encode() + b"\n"

    def flush(self) -> None:
        """Write and fsync what waits. Raises OSError where the disk refuses; the file then ends as before."""
        if not self._waiting:
            return
        try:
            with self.path.open("ab") as file:
                file.write(self._waiting)
        except OSError:
            os.truncate(self.path, self.length)
            raise
        fsync_file(self.path)
        self.length += len(self._waiting)
        self._waiting = b""

    def discard(self) -> None:
        self._waiting = b""


def read_records(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a JSON-lines log; a last line that was cut off is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict):
                records.append(value)
    return records


def state_of(run: Run) -> str:
    """In words: finished, not finished, or diverged at step N where its last session ended so."""
    if run.finished:
        return "finished"
    last: dict[str, Any] = next(reversed(read_records(run.timing_file)), {})
    if last.get("event") != "diverged":
        return "not finished"
    return f"diverged at step {last['step']}" if isinstance(last.get("step"), int) else "diverged"


def append_timing(run: Run, **record: Any) -> None:
    """Add a line to timing.jsonl; a disk that is full only loses the line."""
    with contextlib.suppress(OSError), run.timing_file.open("a") as file:
        file.write(json.dumps({"at": round(time.time(), 3), **record}, sort_keys=True) + "\n")


def require_space(folder: Path, needed: int) -> None:
    """Raises R504 where the disk under `folder` has fewer than `needed` free bytes."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConvworksError(
            "R504",
            f"the disk under {folder} has {free / 1e6:,.0f} MB free; this run needs {needed / 1e6:,.0f} MB",
            why="nothing was computed",
            try_="free some space, or --out on another disk",
        )
