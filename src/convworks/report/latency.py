"""How fast the network answers, as measured once at the end of its training and kept in latency.json.

The report only reads: a page that is written again on another machine shows the same numbers.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass, fields
from typing import Any

from convworks.durable import read_json
from convworks.errors import ConvworksError
from convworks.report.read import RunRecord
from convworks.report.text import count, printable
from convworks.runs import Run

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Medians of repeated forward passes; `batch` is 1 where one image took too long for a larger one."""

    image_seconds: float  # of a pass with one image
    image_repeats: int
    batch: int
    batch_seconds: float  # of a pass with `batch` images
    batch_repeats: int
    device: str
    processor: str
    threads: int
    precision: str
    shape: tuple[int, int, int]  # C, H, W

    @property
    def images_per_second(self) -> float:
        return self.batch / self.batch_seconds

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self)}


def read_latency(run: Run) -> Latency | None:
    """None where nothing was measured. Raises A495 for a damaged record."""
    if not run.latency_file.is_file():
        return None
    tree = read_json(run.latency_file)
    try:
        values = {each.name: tree[each.name] for each in fields(Latency)}
        found = Latency(**values | {"shape": tuple(values["shape"])})
        times = (found.image_seconds, found.batch_seconds)
        whole = (found.image_repeats, found.batch, found.batch_repeats, found.threads, *found.shape)
        if not all(type(each) is float and 0 < each < math.inf for each in times):
            raise ValueError("a time is no positive number")
        if not all(type(each) is int and each > 0 for each in whole) or len(found.shape) != 3:
            raise ValueError("a number is not a whole one above 0")
        if not all(isinstance(each, str) for each in (found.device, found.processor, found.precision)):
            raise ValueError("a name is no text")
        return found
    except (KeyError, TypeError, ValueError) as problem:
        raise ConvworksError(
            "A495",
            f"latency.json is damaged: {problem}",
            where=str(run.latency_file),
            why="the report would show times that nobody measured",
            try_="remove latency.json; the report then says that nothing was measured",
        ) from problem


@dataclass(frozen=True, slots=True)
class Speed:
    """The rows of the verdict, and a sentence under them."""

    rows: tuple[tuple[str, str], ...]
    words: str
    command: str = ""  # what measures, where nothing was


def speed(run: RunRecord) -> Speed | None:
    """What the verdict says of latency; None for a run without a model. Raises A495."""
    found = read_latency(Run(run.path))
    if found is None:
        command = _command(run)
        return Speed((), "Latency was not measured when this run ended.", command) if command else None
    rows = [("One image takes", milliseconds(found.image_seconds))]
    if found.batch > 1:
        rows.append((f"In batches of {found.batch}", f"{_rounded(found.images_per_second)} images/s"))
    repeats = [found.image_repeats, *([found.batch_repeats] if found.batch > 1 else [])]
    where = f"{found.device} ({found.processor})" if found.processor else found.device
    medians = " and ".join(map(str, repeats))
    runs = f"{medians} passes" if repeats != [1] else "1 pass"
    threads = f", {count(found.threads, 'thread')}" if found.device == "cpu" else ""
    size = "x".join(map(str, (*found.shape[1:], found.shape[0])))
    words = (
        f"Times are medians of {runs} of the network alone, on {where}{threads}, {found.precision}, input "
        f"{size}; the reading of files comes on top."
    )
    return Speed(tuple(rows), words)


def milliseconds(seconds: float) -> str:
    """'0.015 ms', '0.42 ms', '12.3 ms', '1.24 s'."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    if seconds < 1e-4:
        return f"{1e3 * seconds:.2g} ms"
    return f"{1e3 * seconds:.2f} ms" if seconds < 0.01 else f"{1e3 * seconds:.1f} ms"


def _rounded(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _command(run: RunRecord) -> str:
    """Measures a network of this kind and size; '' where there is no model, or its kind is not known."""
    folder, model = Run(run.path), run.recipe.get("model")
    if not isinstance(model, str) or not folder.model.is_dir():
        return ""
    words = ["convworks", "cost", printable(model)]
    shape = read_json(folder.geometry_file) if folder.geometry_file.is_file() else None
    if isinstance(shape, dict) and {"height", "width", "channels"} <= shape.keys():
        words += ["--input", "x".join(str(shape[side]) for side in ("height", "width", "channels"))]
    if run.manifest is not None and len(run.manifest.classes) > 1:
        words += ["--classes", str(len(run.manifest.classes))]
    options = run.recipe.get("model_options")
    for key, value in options.items() if isinstance(options, dict) else ():
        words += ["--set", f"model_options.{key}={value}"]
    return shlex.join(words)
