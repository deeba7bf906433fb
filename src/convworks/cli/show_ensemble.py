"""`convworks show ENSEMBLE`: its members, how they answer together, and where each is shown by itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from convworks.cli.architecture import facts
from convworks.cli.console import Console
from convworks.cli.text import count, folder, table
from convworks.errors import EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.flows.ensemble_bundle import Ensemble

HEADER = ("", "member", "model", "group", "weight", "accuracy", "kept in")
MOST_CLASSES = 12


def show_ensemble(path: Path, console: Console, *, write: Path | None) -> int:
    """Print it. Raises U182 where the layers were to be written, which each member has of its own, and the
    errors of `load_ensemble`."""
    from convworks.flows.ensemble_bundle import load_ensemble

    found = load_ensemble(path)
    rows = _members(found)
    if write is not None:
        raise ConvworksError(
            "U182",
            f"{path} has no layers of its own: it is an ensemble of {count(len(rows), 'network')}",
            try_=f"convworks show {rows[0]['model']} --write {write}",
        )
    console.document({"ensemble": path, **found.info, "members": rows})
    facts(console, _facts(found, rows))
    console.answer()
    cells = [
        (
            f"{number:02d}",
            row["name"],
            row["model"],
            str(row["group"]),
            "-" if row["weight"] is None else f"{row['weight']:.3f}",
            f"{row['accuracy']:.4f} on {row['split']}",
            folder(Path(row["path"])),
        )
        for number, row in enumerate(rows)
    ]
    for number, line in enumerate(table([HEADER, *cells], right=(3, 4))):
        console.answer(line, style="bold" if number == 0 else "")
    return EXIT_OK


def _members(found: Ensemble) -> list[dict[str, Any]]:
    """A row for each; the accuracy is that of its own training, on images that may differ."""
    weighed = found.stacking is None
    return [
        {
            "name": each.name,
            "model": each.bundle.info["model"],
            "group": each.group,
            "weight": found.weights[each.group] if weighed else None,
            "samples": each.samples,
            "accuracy": each.bundle.info["metrics"]["top1"],
            "split": each.bundle.info["split"],
            "path": str(each.bundle.path),
        }
        for each in found.members
    ]


def _facts(found: Ensemble, rows: list[dict[str, Any]]) -> dict[str, str]:
    from convworks.evaluation.metrics import Metrics

    groups = {row["group"] for row in rows}
    within = f", in {len(groups)} groups, each averaged first" if len(groups) < len(rows) else ""
    drawn = sorted({row["samples"] for row in rows if row["samples"]})
    dropout = f"; {', '.join(map(str, drawn))} passes with dropout at work" if drawn else ""
    shown = [*found.classes[:MOST_CLASSES]]
    more = f" and {len(found.classes) - len(shown)} more" if len(found.classes) > len(shown) else ""
    facts = {
        "ensemble": folder(found.path),
        "networks": f"{len(rows)}{within}{dropout}",
        "weights": found.method,
        "classes": f"{len(found.classes)}: {', '.join(shown)}{more}",
    }
    if "metrics" in found.info:
        metrics = Metrics.from_dict(found.info["metrics"])
        low, high = metrics.top1_ci
        facts[str(found.info.get("split", "accuracy"))] = (
            f"accuracy {metrics.top1:.4f} (95 % {low:.3f}-{high:.3f}, n = {metrics.n:,})"
        )
    return {**facts, "next": f"convworks predict {folder(found.path)} PATH"}
