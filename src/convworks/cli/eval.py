"""`convworks eval MODEL DATA`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Lt

from convworks.cli.common import data_request
from convworks.cli.console import Console, clean
from convworks.cli.flags import Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import LABEL, block, count, folder, fraction, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.evaluation.metrics import Interval, Metrics
    from convworks.flows.evaluate import Evaluation
    from convworks.flows.ladder import Ladder, Rung

HEADER = ("path", "label", "predicted", "probability", "probability_of_label")
LADDER_HEADER = ("path", "protocol", "members", *HEADER[1:])
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
    protocol: Annotated[tuple[str, ...], Shown("A,B,...", "centre,10-crop")] = ()
    """views of each image: see list protocols [centre]"""
    members: Annotated[tuple[Path, ...], Shown("RUN", "runs/photos-fastnet-02")] = ()
    """a further model to average with; give it once for each"""
    human_error: Annotated[float | None, Shown("SHARE", "0.0116"), Ge(0), Lt(1)] = None
    """what people get wrong on such images, to compare with"""
    ignore_classes: Annotated[tuple[str, ...], Shown("NAME", "lily")] = ()
    """leave out a class that the model does not know"""
    skip_unreadable: bool = False
    """leave out unreadable images, and say how many"""
    csv: Annotated[Path | None, Shown("FILE", "evaluation.csv")] = None
    """write label, answer and probability of every image"""


def run(args: EvalFlags, console: Console) -> int:
    """Print the metrics, or the ladder of protocols; returns 0, or 75 where it was stopped."""
    from convworks.cli.tables import check_writable, write_csv

    several = bool(args.protocol or args.members or args.human_error is not None)
    header = LADDER_HEADER if several else HEADER
    if args.csv is not None:
        check_writable(args.csv, header)
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError

        try:
            found = _climb(args, console, stop) if several else _evaluate(args, stop)
        except (ScanInterrupted, StoppedEarlyError):
            console.say("Stopped; what was not finished was not written.")
            return EXIT_INTERRUPTED
        finally:
            console.clear()
    if args.csv is not None:
        write_csv(args.csv, header, _rows(found))
        console.say(f"{'images':<{LABEL}}{args.csv}")
    console.document({"model": str(args.model), "data": args.source, **found.to_dict()})
    _warn(found, console)
    for line in _lines(found, console):
        console.answer(line)
    return EXIT_OK


def _request(args: EvalFlags) -> Any:
    from convworks.flows.evaluate import EvaluateRequest

    return EvaluateRequest(
        model=args.model,
        data=data_request(args, args.source),
        split=args.split,
        ignore_classes=args.ignore_classes,
        skip_unreadable=args.skip_unreadable,
    )


def _evaluate(args: EvalFlags, stop: StopRequest) -> Evaluation:
    from convworks.flows.evaluate import evaluate

    return evaluate(_request(args), should_stop=stop)


def _climb(args: EvalFlags, console: Console, stop: StopRequest) -> Ladder:
    from convworks.flows.ladder import LadderRequest, climb

    request = LadderRequest(
        evaluate=_request(args),
        protocols=args.protocol or ("centre",),
        members=args.members,
        human_error=args.human_error,
    )
    return climb(request, should_stop=stop, told=console.live if console.live_output else console.say)


def _warn(found: Evaluation | Ladder, console: Console) -> None:
    for warning in found.warnings:
        console.warn(warning)
    if found.left_out:
        names = ", ".join(clean(path) for path, _ in found.left_out[:MOST_NAMES])
        more = f" and {len(found.left_out) - MOST_NAMES} more" if len(found.left_out) > MOST_NAMES else ""
        console.warn(f"{count(len(found.left_out), 'image')} left out: {names}{more}")


def _lines(found: Evaluation | Ladder, console: Console) -> Iterator[str]:
    from convworks.flows.evaluate import Evaluation
    from convworks.report.text import verdict

    if not isinstance(found, Evaluation):
        yield from ladder_lines(found)
        return
    for number, sentence in enumerate(verdict(found.metrics)):
        yield from block(found.split if number == 0 else "", sentence)
    yield from block("protocol", found.protocol)
    yield ""
    yield from class_lines(found.metrics, everything=console.verbose)


def ladder_lines(ladder: Ladder) -> Iterator[str]:
    """The table, what each protocol is, and where the probabilities are."""
    from convworks.data.sources import shown

    number = len(ladder.facts["models"])
    alone = f"one model, and {number} averaged" if ladder.rungs[0].members == 1 else f"{number} together"
    models = "one model" if number == 1 else alone
    external = shown(str(ladder.facts["external_data"]))
    told = f"{ladder.split}, {count(len(ladder.labels), 'image')}; {models}"
    yield from block("images", f"{told}; trained on other data too: {external}")
    yield ""
    yield from table(_ladder_table(ladder.rungs), right=range(1, 9))
    yield ""
    for protocol in {rung.protocol.name: rung.protocol for rung in ladder.rungs}.values():
        yield from block("", f"{protocol.name}: {protocol.words(ladder.side)}")
    if ladder.human_error is not None:
        yield from block("people", _against_people(ladder))
    if ladder.kept_in is not None:
        yield from block("kept in", folder(ladder.kept_in))


def _ladder_table(rungs: tuple[Rung, ...]) -> list[tuple[str, ...]]:
    first = rungs[0].protocol.name
    rows: list[tuple[str, ...]] = [
        ("protocol", "models", "cost", "top-1", "95 %", "top-5", "95 %", "seconds", f"- {first} (95 %)", "p")
    ]
    for rung in rungs:
        metrics, change = rung.metrics, rung.difference
        rows.append(
            (
                rung.protocol.name,
                str(rung.members),
                f"{rung.cost:,}",
                _percent(1 - metrics.top1),
                _range(metrics.top1_ci),
                "-" if metrics.top5 is None else _percent(1 - metrics.top5),
                "-" if metrics.top5_ci is None else _range(metrics.top5_ci),
                f"{rung.seconds:.1f}{' (kept)' if rung.reused else ''}",
                "-"
                if change is None
                else "{:+.2f} ({:+.2f} to {:+.2f})".format(*(100 * n for n in change[:3])),
                "-" if change is None else f"{change[3]:.2g}",
            )
        )
    return rows


def _against_people(ladder: Ladder) -> str:
    """Where the last row stands beside an error that people make."""
    assert ladder.human_error is not None
    rung, human = ladder.rungs[-1], ladder.human_error
    low, high = (1 - end for end in reversed(rung.metrics.top1_ci))
    if low <= human <= high:
        place = f"inside the interval of {rung.protocol.name}: these images do not tell the two apart"
    else:
        place = f"{'below' if human < low else 'above'} the interval of {rung.protocol.name}"
    return f"error of people {100 * human:.2f} %, {place}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _range(ci: Interval) -> str:
    """The interval of an error, from that of an accuracy."""
    return f"{100 * (1 - ci[1]):.2f}-{100 * (1 - ci[0]):.2f}"


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


def _rows(found: Evaluation | Ladder) -> Iterator[tuple[Any, ...]]:
    from convworks.flows.evaluate import Evaluation

    if isinstance(found, Evaluation):
        yield from _image_rows(found, found.probabilities)
        return
    for rung in found.rungs:
        for path, *rest in _image_rows(found, rung.probabilities):
            yield path, rung.protocol.name, rung.members, *rest


def _image_rows(found: Evaluation | Ladder, probabilities: Any) -> Iterator[tuple[Any, ...]]:
    answers = probabilities.argmax(axis=1)
    for path, label, answer, each in zip(found.paths, found.labels, answers, probabilities, strict=True):
        yield (
            path,
            found.classes[int(label)],
            found.classes[int(answer)],
            float(each[answer]),
            float(each[label]),
        )


VERB = Verb(
    name="eval",
    flags=EvalFlags,
    main=("split", "protocol", "ignore_classes", "skip_unreadable", "csv", "labels", "data", "json"),
    examples=(
        "convworks eval runs/photos-fastnet-01 newset/",
        "convworks eval runs/photos-fastnet-01 photos/ --protocol centre,10-crop",
    ),
    run=run,
)
