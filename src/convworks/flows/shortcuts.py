"""Flows by plain arguments: what the Python door offers of checks, probes, feature vectors and advice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from convworks import environment
from convworks.flows.advise import Advice
from convworks.flows.advise import advise as advise_flow
from convworks.flows.check import CheckOptions, CheckReport
from convworks.flows.check import check as check_flow
from convworks.flows.check_files import Targets
from convworks.flows.prepare import DataRequest
from convworks.flows.probe import (
    IMAGES,
    FeaturesRequest,
    FeatureVectors,
    ProbeReport,
    ProbeRequest,
    feature_vectors,
)
from convworks.flows.probe import probe as probe_flow
from convworks.flows.report import rewrite_report, write_card, write_comparison
from convworks.recipes.defaults import entry, resolve_named
from convworks.recipes.published import PublishedRecipe
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import Resolved, resolve

_SHORT = {"lr": "optimizer.lr", "momentum": "optimizer.momentum", "weight_decay": "optimizer.weight_decay"}


def probe(
    model: str | Path, data: str | Path, *, images: int = IMAGES, cache: str | Path | None = None
) -> ProbeReport:
    """A linear classifier on the features of every stage of a model, as `convworks probe`."""
    return probe_flow(ProbeRequest(model=Path(model), data=data_request(data, cache), images=images))


def features(
    model: str | Path, data: str | Path, *, split: str = "all", cache: str | Path | None = None
) -> FeatureVectors:
    """What the last stage of a model sees of every image, as `convworks features`."""
    return feature_vectors(FeaturesRequest(model=Path(model), data=data_request(data, cache), split=split))


def advise(data: str | Path, *, cache: str | Path | None = None) -> tuple[Advice, ...]:
    """Which model, size and training suit these images, and by which rule, as `convworks advise`."""
    return advise_flow(data_request(data, cache))[1]


def check(
    data: str | Path,
    *,
    models: Sequence[str | Path] = (),
    page: str | Path | None = None,
    quarantine: str | Path | None = None,
    splits: str | Path | None = None,
    labels: str | Path | None = None,
    near: bool = True,
    seed: int = 0,
    cache: str | Path | None = None,
) -> CheckReport:
    """Look at data and say what is wrong with it, as `convworks check`; nothing in it is changed.

    `page`, `quarantine` and `splits` are files to write, `models` are runs that tell doubtful labels. Where
    no leak-free split exists, `refused` of the answer says why. Raises D-errors, U006 and R503.
    """
    request = data_request(data, cache)
    if labels is not None:
        request = replace(request, labels=Path(labels))
    page, quarantine, splits = (None if each is None else Path(each) for each in (page, quarantine, splits))
    targets = Targets(page=page, quarantine=quarantine, splits=splits)
    models_ = tuple(Path(each) for each in models)
    return check_flow(request, options=CheckOptions(models=models_, near=near, seed=seed, targets=targets))


def published(name: str) -> PublishedRecipe:
    """A recipe with its source: values, their places in the paper, deviations, citation. Raises U101."""
    return entry(name)


def write_report(
    *runs: str | Path,
    out: str | Path = "comparison.html",
    human_error: float | None = None,
    cache: str | Path | None = None,
) -> Path:
    """Write the page of one run again, or with several runs the page that compares them, into `out`.

    Raises A410, U285, U286, and the A-codes of damaged records.
    """
    where = environment.cache_folder(None if cache is None else Path(cache))
    paths = [Path(each) for each in runs]
    if len(paths) == 1:
        return rewrite_report(paths[0], cache=where, human_error=human_error)[0]
    return write_comparison(paths, Path(out), cache=where)[0]


def model_card(run: str | Path) -> Path:
    """Write RUN/model-card.md from the facts of a run, as `convworks report RUN --card`. Raises A410."""
    return write_card(Path(run))


def data_request(location: str | Path, cache: str | Path | None = None) -> DataRequest:
    """Data as the command line would find it: its folders come from the environment."""
    return DataRequest(
        location=str(location),
        cache=environment.cache_folder(None if cache is None else Path(cache)),
        data_root=environment.data_root(None),
        offline=environment.is_offline(False),
    )


def asked_recipe(*, model: str | None, named: str | Recipe | None, settings: Mapping[str, Any]) -> Resolved:
    """The recipe that keyword arguments ask for: epochs=5, lr=0.1, augment__flip=True."""
    values = {_SHORT.get(key, key.replace("__", ".")): value for key, value in settings.items()}
    if model is not None:
        values["model"] = model
    if isinstance(named, Recipe):
        return resolve(base=named, base_name="given", flags=values)
    return resolve_named(named, flags=values)
