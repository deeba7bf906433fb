"""The report of an ensemble: what it gains over its members, on which images, and at what cost."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convworks.durable import read_json, write_atomic
from convworks.errors import ConvworksError
from convworks.evaluation.metrics import Metrics
from convworks.report.page import templates
from convworks.report.text import verdict

HEADS = ("Member", "Model", "Weight", "Accuracy", "95 %", "Loss", "Passes", "External data")
MOST_CLASSES = 200


def write_ensemble_report(folder: Path) -> Path:
    """Write `report.html` into an ensemble's folder.

    Raises A401 and A460 where its record is damaged, A480 where it lacks a part, and OSError.
    """
    info = read_json(folder / "ensemble.json")
    try:
        page = templates().get_template("ensemble.html").render(**_context(folder, info))
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise ConvworksError(
            "A480", f"the ensemble's record is damaged: {problem!r}", where=str(folder)
        ) from problem
    path = folder / "report.html"
    write_atomic(path, page.encode("utf-8"))
    return path


def _context(folder: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    metrics = Metrics.from_dict(info["metrics"])
    external = ", ".join(map(str, info["external_data"])) or "no"
    lead = [
        f"{len(info['rows'])} members",
        f"weights {info['method']}",
        f"measured on {info['split']}",
        f"external data: {external}",
        f"{int(info['passes']):,} forward passes for one image",
    ]
    return {
        "name": folder.absolute().name,
        "lead": lead,
        "sentences": verdict(metrics),
        "comparison": _comparison(info),
        "notes": [str(each) for each in info["notes"]],
        "heads": HEADS,
        "rows": [_row(row) for row in info["rows"]],
        "classes": [_class(score) for score in metrics.classes[:MOST_CLASSES]],
    }


def _comparison(info: Mapping[str, Any]) -> list[str]:
    gain, low, high = (float(each) for each in info["over_mean_member"])
    best = {key: float(value) for key, value in info["over_best_single"].items()}
    found = [f"Measured on {info['reported_on']}."]
    if info["fitted_on"] and info["method"] != "uniform":
        found.append(f"Weights were fitted on {info['fitted_on']} ({int(info['fit_images']):,} images).")
    found.append(
        f"{gain:+.4f} accuracy over the mean member ({float(info['mean_member']):.4f}), 95 % interval "
        f"{low:+.4f} to {high:+.4f}."
    )
    found.append(
        f"{best['difference']:+.4f} over the best single member, {info['best_single']}, chosen on "
        f"{info['best_chosen_on']}: 95 % interval {best['low']:+.4f} to {best['high']:+.4f}, McNemar "
        f"p = {best['p']:.3g}."
    )
    return found


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    weight = "-" if row["weight"] is None else f"{row['weight']:.3f}"
    scores = ("-", "-", "-")
    if row["accuracy"] is not None:
        low, high = row["ci"]
        scores = (f"{row['accuracy']:.4f}", f"{low:.3f}-{high:.3f}", f"{row['loss']:.4f}")
    external = str(row["external_data"] or "no")
    return str(row["name"]), str(row["model"]), weight, *scores, str(row["passes"]), external


def _class(score: Any) -> tuple[str, ...]:
    low, high = score.recall_ci
    cells = ("-" if value is None else f"{value:.3f}" for value in (score.precision, score.f1))
    recall = "-" if score.recall is None else f"{score.recall:.3f}"
    return score.name, f"{score.n:,}", recall, f"{low:.3f}-{high:.3f}", *cells
