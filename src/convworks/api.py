"""The Python door to the flows: `import convworks as cw`.

    run = cw.train("photos/", model="fastnet", epochs=10)
    run.best.accuracy, run.path
    cw.load(run.path).predict(["a.jpg"])

Everything here is a few lines over the flows; nothing is kept between calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convworks.bundle import load_bundle
from convworks.durable import read_json
from convworks.environment import cache_folder, data_root, is_offline
from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Metrics
from convworks.flows.evaluate import EvaluateRequest, Evaluation
from convworks.flows.evaluate import evaluate as evaluate_flow
from convworks.flows.events import Event, Stopped
from convworks.flows.ladder import Ladder, LadderRequest, climb
from convworks.flows.learning_rate import RateRequest, RateTest, find_rate
from convworks.flows.own_loop import Data, fit
from convworks.flows.plan_report import plan
from convworks.flows.predict import Predictor, load
from convworks.flows.prepare import (
    DataRequest,
)
from convworks.flows.repeat import Kind, Repeated, RepeatRequest, repeat
from convworks.flows.several import Ensemble, compare
from convworks.flows.shortcuts import (
    advise,
    asked_recipe,
    check,
    data_request,
    features,
    model_card,
    probe,
    published,
    write_report,
)
from convworks.flows.train import ResumeRequest, TrainRequest
from convworks.flows.train import resume as resume_flow
from convworks.flows.train import train as train_flow
from convworks.recipes.defaults import recipe
from convworks.recipes.recipe import Recipe
from convworks.weights.int8 import load_int8

__all__ = [
    "Data",
    "Ensemble",
    "TrainedRun",
    "advise",
    "check",
    "compare",
    "features",
    "find_lr",
    "fit",
    "load",
    "load_int8",
    "model_card",
    "plan",
    "probe",
    "published",
    "recipe",
    "resume",
    "train",
    "train_many",
    "write_report",
]


@dataclass(frozen=True, slots=True)
class Best:
    """The kept epoch's result."""

    accuracy: float
    ci95: tuple[float, float]
    balanced_accuracy: float
    split: str
    epoch: int


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A finished run folder."""

    path: Path

    @property
    def best(self) -> Best:
        """Result of the kept weights, on test images where there were some, else on validation images."""
        info = load_bundle(self.path).info
        metrics = Metrics.from_dict(info["metrics"])
        return Best(metrics.top1, metrics.top1_ci, metrics.balanced_accuracy, info["split"], info["epoch"])

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def recipe(self) -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.path / "recipe.json")["recipe"]
        return found

    def ladder(
        self, data: str | Path, *protocols: str, members: Sequence[str | Path] = (), **options: Any
    ) -> Ladder:
        """Evaluate by several protocols, as `convworks eval --protocol a,b`; `members` are further models."""
        asked = EvaluateRequest(model=self.path, data=data_request(data), **options)
        return climb(
            LadderRequest(evaluate=asked, protocols=protocols, members=tuple(Path(each) for each in members))
        )

    def load(self) -> Predictor:
        return load(self.path)

    def evaluate(self, data: str | Path, *, split: str | None = None, **options: Any) -> Evaluation:
        """Metrics on labelled data; classes are matched by name. `options` are those of EvaluateRequest."""
        request = data_request(data)
        return evaluate_flow(EvaluateRequest(model=self.path, data=request, split=split, **options))


def train(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | Recipe | None = None,
    out: str | Path = "runs",
    name: str | None = None,
    cache: str | Path | None = None,
    root: str | Path | None = None,
    fresh: bool = False,
    **settings: Any,
) -> TrainedRun:
    """Train on a folder of class folders, an archive, a CSV file or a named data set.

    `root` is the folder of named data sets, and `cache` that of prepared images (else the environment's).
    `settings` are those of a recipe: epochs=5, lr=0.1, augment__flip=True. A stopped run with the same
    settings is continued. Returns the finished run. Raises ConvworksError.
    """
    request = TrainRequest(
        data=DataRequest(
            location=str(data),
            cache=Path(cache) if cache is not None else cache_folder(None),
            data_root=data_root(Path(root) if root is not None else None),
            offline=is_offline(False),
        ),
        resolved=asked_recipe(model=model, named=recipe, settings=settings),
        out=Path(out),
        name=name,
        fresh=fresh,
    )
    return TrainedRun(_last_run(train_flow(request)))


def train_many(
    data: str | Path,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    bagging: int | None = None,
    model: str | None = None,
    recipe: str | Recipe | None = None,
    out: str | Path = "runs",
    name: str | None = None,
    cache: str | Path | None = None,
    **settings: Any,
) -> Repeated:
    """`train` several times: with other seeds, on folds, or on bags; exactly one of the three is given.

    Raises U267 for none or several of them, and what `train` raises.
    """
    kinds: dict[Kind, int | None] = {"seeds": seeds, "folds": folds, "bags": bagging}
    given = [(kind, count) for kind, count in kinds.items() if count is not None]
    if len(given) != 1:
        raise ConvworksError("U267", "give one of seeds, folds and bagging", try_="seeds=5")
    base = TrainRequest(
        data=data_request(data, cache),
        resolved=asked_recipe(model=model, named=recipe, settings=settings),
        out=Path(out),
        name=name,
    )
    found: list[Repeated | None] = []

    def events() -> Iterator[Event]:
        found.append((yield from repeat(RepeatRequest(base=base, kind=given[0][0], count=given[0][1]))))

    _last_run(events())
    assert found[0] is not None
    return found[0]


def resume(run: str | Path, *, cache: str | Path | None = None) -> TrainedRun:
    """Continue a stopped run; it ends with the same bits as one that was never stopped."""
    where = Path(cache) if cache is not None else cache_folder(None)
    for _ in resume_flow(ResumeRequest(run=Path(run), cache=where)):
        pass
    return TrainedRun(Path(run))


def find_lr(
    data: str | Path,
    *,
    model: str | None = None,
    recipe: str | Recipe | None = None,
    cache: str | Path | None = None,
    rates: tuple[float, float] = (1e-5, 10.0),
    steps: int = 100,
    **settings: Any,
) -> RateTest:
    """The range test of `convworks lr-find`: `setting` is the lr to train with, None where no loss fell."""
    asked = data_request(data, cache)
    resolved = asked_recipe(model=model, named=recipe, settings=settings)
    return find_rate(RateRequest(data=asked, resolved=resolved, low=rates[0], high=rates[1], steps=steps))


def _last_run(events: Iterator[Event]) -> Path:
    path: Path | None = None
    for event in events:
        path = getattr(event, "run", path)
        if isinstance(event, Stopped):
            raise ConvworksError(
                "R530", f"the run {event.run} was stopped", try_=f"convworks resume {event.run}"
            )
    assert path is not None
    return path
