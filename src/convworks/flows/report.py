"""Write a run's report again, its model card, or the page that compares several runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convworks.bundle import is_ensemble, load_bundle
from convworks.data.decode import decode
from convworks.data.manifest import Manifest
from convworks.data.preprocess import Geometry
from convworks.data.sources import Source
from convworks.durable import read_json, write_atomic
from convworks.errors import ConvworksError
from convworks.flows.augment import preview_of
from convworks.flows.compare import compare_runs
from convworks.flows.ensemble_parts import expand
from convworks.flows.prepare import DataRequest, Prepared, prepare_data, request_from_dict
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import from_dict
from convworks.report import write_report
from convworks.report.ensemble_page import write_ensemble_report
from convworks.report.pictures import Augmented, Thumbnail
from convworks.report.read import read_run
from convworks.runs import Run, open_run

SHOWN = 12  # augmented images on a page
FEW = 20_000  # images up to which the data is prepared again for the augmented ones
MAKER = '<meta name="generator" content="convworks comparison">'


def rewrite_report(
    run: Path, *, cache: Path, human_error: float | None = None, images: bool = True
) -> tuple[Path, str]:
    """(the page, why it has no pictures or ''). `human_error` is the share that people get wrong.

    Without `images` no picture of an image is on the page, nor is the data opened. Raises A410 and the
    A-codes of damaged records.
    """
    if is_ensemble(run):
        return write_ensemble_report(run), ""
    found = open_run(run)
    if not images:
        return write_report(found.path, human_error=human_error), ""
    with ExitStack() as stack:
        missing, pictures = "", None
        seen: tuple[Augmented, ...] = ()
        try:
            geometry = load_bundle(found.path).preprocess.geometry
            request = _request(found, cache)
            pictures = _thumbnails(stack.enter_context(request.open()), geometry)
            seen = _augmented_again(found, request)
        except ConvworksError as problem:
            missing = problem.what
        page = write_report(found.path, thumbnail=pictures, augmented=seen, human_error=human_error)
        return page, missing


def augmented(prepared: Prepared, recipe: Recipe) -> tuple[Augmented, ...]:
    """Some training images as the network saw them in the first epoch; none where there is none."""
    try:
        found = preview_of(prepared, recipe, count=SHOWN, epochs=[0])
    except ConvworksError:
        return ()
    return tuple(
        Augmented(
            seen.path + (f" with {view.other}" if view.other else ""), view.title, view.changes, view.pixels
        )
        for seen in found.images
        for view in seen.views
    )


def write_card(run: Path) -> Path:
    """RUN/model-card.md. Raises A410 and the A-codes of damaged records."""
    from convworks.report.card import model_card

    record = read_run(run)
    path = record.path / "model-card.md"
    write_atomic(path, model_card(record).encode("utf-8"))
    return path


def write_comparison(
    runs: Sequence[Path], out: Path, *, cache: Path, images: bool = True
) -> tuple[Path, str]:
    """(the page of several runs, why it has no pictures or '').

    Raises U285 and U286 for an `out` that cannot be written over, and those of `compare_runs`.
    """
    from convworks.report.comparison_page import render_comparison

    check_page_target(out)
    paths = expand(list(runs))
    found = compare_runs(paths)
    records = [read_run(path) for path in paths]
    with ExitStack() as stack:
        missing, pictures = "", None
        try:
            first = open_run(paths[0])
            geometry = load_bundle(first.path).preprocess.geometry
            if images:
                pictures = _thumbnails(stack.enter_context(_request(first, cache).open()), geometry)
        except ConvworksError as problem:
            missing = problem.what
        text = render_comparison(found.to_dict(), records, thumbnail=pictures)
    write_atomic(out, text.encode("utf-8"))
    return out, missing


def check_page_target(out: Path) -> None:
    """Raises U285 for a name that is not a page's, U286 where another file would be lost."""
    if out.suffix.lower() != ".html":
        raise ConvworksError(
            "U285", f"a comparison is an HTML page, not '{out.name}'", try_="--out comparison.html"
        )
    if out.is_dir():
        raise ConvworksError("U286", f"{out} is a folder", try_=f"--out {out / 'comparison.html'}")
    if out.exists() and MAKER.encode() not in out.read_bytes()[:4000]:
        raise ConvworksError(
            "U286",
            f"{out} is there already, and is no comparison of convworks",
            why="it would be lost",
            try_=f"--out {out.with_name(out.stem + '-runs.html').name}",
        )


def _request(run: Run, cache: Path) -> DataRequest:
    return request_from_dict(run.record()["data"], cache=cache, offline=True)


def _augmented_again(run: Run, request: DataRequest) -> tuple[Augmented, ...]:
    """As training saw them; none of a large data set, or of one that has changed."""
    manifest = Manifest.load(run.manifest_file)
    if len(manifest.samples) > FEW:
        return ()
    try:
        recipe = from_dict(run.record()["recipe"])
        geometry = Geometry(**read_json(run.geometry_file))
        prepared = prepare_data(
            request, recipe, expected=manifest, geometry=geometry, should_stop=lambda: False
        )
        return augmented(prepared, recipe)
    except (ConvworksError, TypeError, ValueError, KeyError):
        return ()


def _thumbnails(source: Source, geometry: Geometry) -> Thumbnail:
    """Pixels by the path in the manifest, read and decoded when they are asked for."""
    places = {entry.path: index for index, entry in enumerate(source.entries)}

    def pixels(path: str) -> NDArray[np.uint8] | None:
        if path not in places:
            return None
        try:
            index = places[path]
            image = decode(source.read(index)).pixels if source.encoded else source.pixels(index)
        except ConvworksError:
            return None
        return geometry.fitted(image)

    return pixels
