"""The verdict's tables of evaluations: those of training, and those that `convworks eval --protocol` kept.

Kept answers count only where the model that gave them is the run's own, to the hash. Rows about the same
images are compared image by image with the first of them.
"""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convworks.data.manifest import SPLITS
from convworks.durable import MANIFEST, sha256_file
from convworks.errors import ConvworksError
from convworks.evaluation.comparison import PairedDifference, paired_difference
from convworks.evaluation.kept_answers import FOLDER, Kept, load_kept
from convworks.evaluation.metrics import Interval, predict, wilson
from convworks.report.notes import split_name
from convworks.report.provenance import data_name
from convworks.report.read import RunRecord

MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class Row:
    protocol: str
    definition: str
    error: float
    interval: Interval  # Wilson, 95 %
    passes: int  # forward passes for one image
    seconds: float
    difference: PairedDifference | None  # of the error to the first row's; None for that row


@dataclass(frozen=True, slots=True)
class Images:
    """The rows about one set of images."""

    data: str
    split: str
    n: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Protocols:
    """`left_out` says what is there and not shown; `command` makes more."""

    tables: tuple[Images, ...]
    left_out: str
    command: str


def protocols(run: RunRecord) -> Protocols | None:
    """None for a run without a model."""
    manifest = run.path / "model" / MANIFEST
    if not manifest.is_file():
        return None
    own, others, damaged = sha256_file(manifest), 0, 0
    found: dict[tuple[str, str], list[tuple[str, Kept]]] = defaultdict(list)
    for file in sorted((run.path / "evaluation" / FOLDER).glob("*.json")):
        try:
            kept = load_kept(file)
            identity = kept.facts["identity"]
            if identity["model"] == own:
                key = str(identity["data"]), str(kept.facts["split"])
                found[key].append((_data(file, kept), kept))
            else:
                others += 1
        except (ConvworksError, KeyError, TypeError):  # a crash between the two files; eval makes it again
            damaged += 1
    tables = [_table(split, each) for (_, split), each in found.items()]
    words = [f"{others} of another model"] * bool(others) + [f"{damaged} that cannot be read"] * bool(damaged)
    return Protocols(
        tables=tuple(sorted(tables, key=lambda each: (each.data, each.split))),
        left_out=" and ".join(words),
        command=shlex.join(_command(run)),
    )


def _command(run: RunRecord) -> list[str]:
    """Evaluates under two protocols, on the images that the page is about."""
    split = next((each.split for each in run.evaluations if each.plain), "")
    words = ["convworks", "eval", str(run.path), data_name(run) or "DATA"]
    return [*words, *(["--split", split] if split in SPLITS else []), "--protocol", "centre,10-crop"]


def _data(file: Path, kept: Kept) -> str:
    """The name of the data, which the name of the file begins with."""
    end = file.stem.rfind(f"-{kept.facts['split']}-")
    return file.stem[:end] if end > 0 else file.stem


def _table(split: str, members: list[tuple[str, Kept]]) -> Images:
    """The cheapest protocol first, and of equally cheap ones by name."""
    order = sorted(members, key=lambda each: (_passes(each[1]), str(each[1].facts["protocol"])))[:MOST_ROWS]
    first = predict(order[0][1].probabilities) == order[0][1].labels
    rows = []
    for place, (_, kept) in enumerate(order):
        right = predict(kept.probabilities) == kept.labels
        n = len(right)
        low, high = wilson(int(right.sum()), n)
        rows.append(
            Row(
                protocol=str(kept.facts["protocol"]),
                definition=str(kept.facts.get("definition") or ""),
                error=1 - float(right.mean()) if n else 0.0,
                interval=(1 - high, 1 - low),
                passes=_passes(kept),
                seconds=kept.seconds,
                # first minus this one, of accuracies, is this one minus the first, of errors
                difference=paired_difference(first, right) if place else None,
            )
        )
    return Images(order[0][0], split_name(split), len(first), tuple(rows))


def _passes(kept: Kept) -> int:
    views = kept.facts["identity"]["protocol"]["views"]
    return int(views)


def evaluations(run: RunRecord) -> list[dict[str, Any]]:
    """Every evaluation of training, each with its set and its protocol; empty for a single one."""
    external = run.recipe.get("pretrained")
    rows = [
        {
            "set": split_name(each.split.partition(", ")[0]),
            "protocol": each.protocol,
            "definition": each.definition or ("one view of each image" if each.plain else ""),
            "network": "one, averaged weights" if each.weights == "average" else "one",
            "external": f"yes, weights {external}" if external else "no",
            "metrics": each.metrics,
        }
        for each in run.evaluations
    ]
    return rows if len(rows) > 1 else []
