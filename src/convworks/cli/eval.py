"""`convworks eval MODEL DATA`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from convworks.cli.common import data_request
from convworks.cli.console import Console, clean
from convworks.cli.flags import Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import LABEL, block, count, fraction, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.evaluation.metrics import Metrics
    from convworks.flows.evaluate import Evaluation

HEADER = ("path", "label", "predicted", "probability", "probability_of_label")
MOST_CLASSES = 25  # rows of the table of classes without --verbose
MOST_NAMES = 5


@dataclass(frozen=True, kw_only=True)
class EvalFlags(SourceFlags):
    """Which model, on what."""

    model: Annotated[Path, Shown("MODEL", "runs/photos-fastnet-01", positional=True)]
    """folder of a finished run, or of a model"""
    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """folder of class folders, .zip, .tar, .csv, or mnist ..."""
    split: Annotated[Literal["train", "val", "test", "all"] | None, Shown("NAME", "test")] = None
    """train, val, test or all [test, else val, else all]"""
    ignore_classes: Annotated[tuple[str, ...], Shown("NAME", "lily")] = ()
    """leave out a class that the model does not know"""
    skip_unreadable: bool = False
    """leave out unreadable images, and say how many"""
    csv: Annotated[Path | None, Shown("FILE", "evaluation.csv")] = None
    """write label, answer and probability of every image"""


def run(args: EvalFlags, console: Console) -> int:
    """Print the metrics; returns 0, or 75 where it was stopped."""
    from convworks.cli.tables import check_writable, write_csv

    if args.csv is not None:
        check_writable(args.csv, HEADER)
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError
        from convworks.flows.evaluate import EvaluateRequest, evaluate

        request = EvaluateRequest(
            model=args.model,
            data=data_request(args, args.source),
            split=args.split,
            ignore_classes=args.ignore_classes,
            skip_unreadable=args.skip_unreadable,
        )
        try:
            found = evaluate(request, should_stop=stop)
        except (ScanInterrupted, StoppedEarlyError):
            console.say("Stopped; nothing was written.")
            return EXIT_INTERRUPTED
    if args.csv is not None:
        write_csv(args.csv, HEADER, _rows(found))
        console.say(f"{'images':<{LABEL}}{args.csv}")
    console.document({"model": str(args.model), "data": args.source, **found.to_dict()})
    _print(found, console)
    return EXIT_OK


def _print(found: Evaluation, console: Console) -> None:
    from convworks.report.text import verdict

    for warning in found.warnings:
        console.warn(warning)
    if found.left_out:
        names = ", ".join(clean(path) for path, _ in found.left_out[:MOST_NAMES])
        more = f" and {len(found.left_out) - MOST_NAMES} more" if len(found.left_out) > MOST_NAMES else ""
        console.warn(f"{count(len(found.left_out), 'image')} left out: {names}{more}")
    metrics = found.metrics
    for number, sentence in enumerate(verdict(metrics)):
        for line in block(found.split if number == 0 else "", sentence):
            console.answer(line)
    console.answer()
    for line in class_lines(metrics, everything=console.verbose):
        console.answer(line)


def class_lines(metrics: Metrics, *, everything: bool) -> list[str]:
    """One row for each class; the weakest ones where there are many."""
    scores = sorted(metrics.classes, key=lambda score: (score.recall is None, score.recall))
    shown = scores if everything else scores[:MOST_CLASSES]
    rows = [("class", "images", "recall", "95 %", "precision", "f1")]
    for score in shown:
        low, high = score.recall_ci
        known = score.recall is not None
        rows.append(
            (
                score.name,
                f"{score.n:,}",
                fraction(score.recall),
                f"{low:.3f}-{high:.3f}" if known else "-",
                fraction(score.precision),
                fraction(score.f1),
            )
        )
    lines = table(rows, right=(1, 2, 3, 4, 5))
    hidden = len(scores) - len(shown)
    return [*lines, *([f"... {count(hidden, 'class')} more, all with --verbose"] if hidden else [])]


def _rows(found: Evaluation) -> list[tuple[str, str, str, float, float]]:
    answers = found.probabilities.argmax(axis=1)
    return [
        (
            path,
            found.classes[int(label)],
            found.classes[int(answer)],
            float(probabilities[answer]),
            float(probabilities[label]),
        )
        for path, label, answer, probabilities in zip(
            found.paths, found.labels, answers, found.probabilities, strict=True
        )
    ]


VERB = Verb(
    name="eval",
    flags=EvalFlags,
    main=("split", "ignore_classes", "skip_unreadable", "csv", "labels", "data", "json"),
    examples=(
        "convworks eval runs/photos-fastnet-01 newset/",
        "convworks eval runs/photos-fastnet-01 photos/ --split val --csv val.csv",
    ),
    run=run,
)
