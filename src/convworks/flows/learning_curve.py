"""What more training images would bring: the same training on growing parts of the images.

The parts are nested and stratified, and validation and test images are the same for all. Every part is
trained for as many steps as the whole, so that a small part is not also a short training (`budget` epochs
trains each for as many epochs instead). Error against ln n: Sun et al. 2017, "Revisiting unreasonable
effectiveness of data in deep learning era", found that accuracy rises with the logarithm of n.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from convworks.data.partition import Partition
from convworks.durable import to_json, write_atomic
from convworks.errors import ConvworksError
from convworks.evaluation.comparison import spread
from convworks.evaluation.trend import Line, fit_line
from convworks.flows.events import Event
from convworks.flows.repeat import Member, asked, begin_group, group_folder, train_members
from convworks.flows.session import StopRequest
from convworks.flows.train import TrainRequest, announce_download
from convworks.recipes.defaults import adapt_to_size
from convworks.report.learning_curve import draw_learning_curve
from convworks.report.read import read_run

Budget = Literal["steps", "epochs"]
FRACTIONS = (0.1, 0.2, 0.5, 1.0)
MOST_EPOCHS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRequest:
    """A training, and the shares of its training images."""

    base: TrainRequest
    fractions: tuple[float, ...] = FRACTIONS
    seeds: int = 1
    budget: Budget = "steps"


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One share of the images: the errors of all seeds."""

    fraction: float
    images: int
    errors: tuple[float, ...]
    epochs: int

    @property
    def mean(self) -> float:
        return spread(self.errors)[0]

    @property
    def deviation(self) -> float | None:
        return spread(self.errors)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """The points, and two straight lines through their means."""

    points: tuple[CurvePoint, ...]
    split: str
    measured: int  # images of that split
    line: Line  # error against ln n
    power: Line | None  # ln error against ln n, where no error is 0
    runs: tuple[Path, ...]
    picture: Path
    notes: tuple[str, ...]

    @property
    def twice(self) -> int:
        return 2 * self.points[-1].images

    def to_dict(self) -> dict[str, Any]:
        return {
            "split": self.split,
            "images_measured": self.measured,
            "points": [
                {
                    "fraction": each.fraction,
                    "images": each.images,
                    "errors": list(each.errors),
                    "mean": each.mean,
                    "standard_deviation": each.deviation,
                    "epochs": each.epochs,
                }
                for each in self.points
            ],
            "error_against_ln_n": _line(self.line),
            "ln_error_against_ln_n": None if self.power is None else _line(self.power),
            "for_a_doubling": self.line.slope * math.log(2),
            "at_twice_the_images": {
                "images": self.twice,
                "error": self.line.at(math.log(self.twice)),
                "interval": self.line.interval(math.log(self.twice)),
            },
            "runs": [str(each) for each in self.runs],
            "picture": str(self.picture),
            "notes": list(self.notes),
        }


def _line(line: Line) -> dict[str, Any]:
    return {
        "intercept": line.intercept,
        "slope": line.slope,
        "slope_ci": line.slope_interval,
        "r_squared": line.r_squared,
        "points": line.points,
    }


def learning_curve(
    request: CurveRequest, *, should_stop: StopRequest = lambda: False
) -> Generator[Event, None, LearningCurve | None]:
    """Train every part with every seed; None where it was asked to stop. The same request continues.

    Raises U275 (fractions), U267 (seeds), U268, and the errors of `train`.
    """
    fractions = _checked(request)
    yield from announce_download(request.base.data)
    base = _settled(request.base)
    wanted = asked(base, kind="curve", fractions=list(fractions), seeds=request.seeds, budget=request.budget)
    folder = group_folder(base, wanted, tail="-curve")
    begin_group(folder, wanted)
    members = list(_members(base, fractions, request))
    runs = yield from train_members(members, folder, should_stop=should_stop)
    if runs is None:
        return None
    found = _curve(runs, fractions, request, folder)
    write_atomic(folder / "summary.json", to_json(found.to_dict()))
    return found


def _checked(request: CurveRequest) -> tuple[float, ...]:
    fractions = tuple(sorted(set(request.fractions)))
    if len(fractions) < 2 or not all(0 < each <= 1 for each in fractions):
        raise ConvworksError(
            "U275",
            f"fractions must be two or more different numbers above 0 and up to 1, not "
            f"{', '.join(f'{each:g}' for each in request.fractions) or 'none'}",
            try_="--fractions 0.1,0.2,0.5,1",
        )
    if not 1 <= request.seeds <= 100:
        raise ConvworksError(
            "U267", f"--seeds {request.seeds} makes no sense: from 1 to 100", try_="--seeds 3"
        )
    return fractions


def _settled(base: TrainRequest) -> TrainRequest:
    """The recipe as it is for all images: a part must not get another batch or rate."""
    with base.data.open() as source:
        images = sum(entry.split in {None, "train"} for entry in source.entries)
    return replace(base, resolved=replace(adapt_to_size(base.resolved, images), adaptable=False))


def _members(base: TrainRequest, fractions: Sequence[float], request: CurveRequest) -> Iterator[Member]:
    recipe = base.resolved.recipe
    for fraction in fractions:
        epochs = recipe.epochs
        sources = dict(base.resolved.sources)
        if request.budget == "steps" and fraction < 1:
            epochs = min(MOST_EPOCHS, round(recipe.epochs / fraction))
            sources["epochs"] = "auto, as many steps as all images take"
        data = replace(base.data, partition=Partition(seed=recipe.seed, fraction=float(fraction)))
        for number in range(request.seeds):
            own = replace(recipe, seed=recipe.seed + number, epochs=epochs)
            resolved = replace(base.resolved, recipe=own, sources=sources)
            title = f"{fraction:.3g} of the images, seed {own.seed}"
            suffix = f"{round(1000 * fraction):04d}-s{number}"
            yield Member(suffix, title, replace(base, resolved=resolved, data=data))


def _curve(
    runs: Sequence[Path], fractions: Sequence[float], request: CurveRequest, folder: Path
) -> LearningCurve:
    records = [read_run(path) for path in runs]
    split = "test" if all(any(e.split == "test" for e in r.evaluations) for r in records) else "val"
    points, measured = [], 0
    for place, fraction in enumerate(fractions):
        own = records[place * request.seeds : (place + 1) * request.seeds]
        metrics = [next(e.metrics for e in record.evaluations if e.split == split) for record in own]
        manifest = own[0].manifest
        assert manifest is not None
        images = sum(manifest.count("train").values())
        points.append(
            CurvePoint(
                fraction, images, tuple(1 - each.top1 for each in metrics), int(own[0].recipe["epochs"])
            )
        )
        measured = metrics[0].n
    logs = [math.log(each.images) for each in points]
    means = [each.mean for each in points]
    line = fit_line(logs, means)
    power = fit_line(logs, [math.log(each) for each in means]) if min(means) > 0 else None
    picture = folder / "learning-curve.svg"
    errors = [list(each.errors) for each in points]
    write_atomic(picture, draw_learning_curve([p.images for p in points], errors, line, split=split).encode())
    return LearningCurve(
        points=tuple(points),
        split=split,
        measured=measured,
        line=line,
        power=power,
        runs=tuple(runs),
        picture=picture,
        notes=tuple(_notes(points, request, split)),
    )


def _notes(points: Sequence[CurvePoint], request: CurveRequest, split: str) -> list[str]:
    found = []
    if len(points) < 4:
        found.append(f"{len(points)} points: a line fits so few in any case; use four shares or more")
    if request.seeds < 3:
        found.append(f"{request.seeds} seed{'s' * (request.seeds > 1)} for each point; use --seeds 3")
    if split == "val":
        found.append("val chose the best epochs, so its errors lean to the good side")
    if request.budget == "epochs":
        found.append("small parts were trained for fewer steps, so the curve also shows short training")
    found.append("what is beyond the largest share is a guess that the line goes on")
    return found
