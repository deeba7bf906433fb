"""`convworks predict MODEL PATH...`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le, Lt

from convworks.cli.console import Console, clean
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import count
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.flows.predict import Prediction, Predictor

MOST_NAMES = 3


@dataclass(frozen=True, kw_only=True)
class PredictFlags(OutputFlags):
    """Which model, on which images."""

    model: Annotated[Path, Shown("MODEL", "runs/photos-fastnet-01", positional=True)]
    """folder of a finished run, or of a model"""
    paths: Annotated[tuple[Path, ...], Shown("PATH", "new.jpg", positional=True)]
    """images, and folders of images"""
    format: Annotated[Literal["table", "csv", "json"], Shown("NAME")] = "table"
    """how rows are printed: table, csv or json"""
    csv: Annotated[Path | None, Shown("FILE", "predictions.csv")] = None
    """write the rows into a file as well"""
    top: Annotated[int, Shown("N", "3"), Ge(1)] = 2
    """classes named for each image"""
    threshold: Annotated[float | Literal["auto"] | None, Shown("P", "0.9"), Ge(0), Le(1)] = None
    """`abstain` below this probability; auto: by --max-error"""
    max_error: Annotated[float, Shown("SHARE", "0.05"), Ge(0), Lt(1)] = 0.05
    """auto: wanted error among the answered, by validation"""
    calibrated: bool = False
    """probabilities at the temperature fitted on validation"""


def run(args: PredictFlags, console: Console) -> int:
    """Print a row for each image; 0, 75 where it was stopped. Raises D213 where some could not be read."""
    from convworks.cli.tables import check_writable, write_csv

    if args.csv is not None:
        check_writable(args.csv, header(args.top))
    console.json_output |= args.format == "json"
    with StopRequest() as stop:
        from convworks.flows.predict import load, predict_paths

        predictor = load(
            args.model, calibrated=args.calibrated, threshold=args.threshold, max_error=args.max_error
        )
        _say_how(predictor, args, console)
        top = min(args.top, len(predictor.classes_))
        rows: list[Prediction] = []
        printer = _Printer(args.format, top, console)
        for row in predict_paths(predictor, args.paths, top=top):
            if stop() or console.reader_gone:
                console.say(f"Stopped after {count(len(rows), 'image')}.")
                return EXIT_INTERRUPTED
            rows.append(row)
            printer.show(row)
    console.document(rows)
    if args.csv is not None:
        write_csv(args.csv, header(top), (cells(row, top) for row in rows))
        console.say(f"{count(len(rows), 'image')} -> {args.csv}")
    _report_unreadable(rows)
    return EXIT_OK


def header(top: int) -> list[str]:
    """path, label, probability, label_2, probability_2, ..., error"""
    further = [name for rank in range(2, top + 1) for name in (f"label_{rank}", f"probability_{rank}")]
    return ["path", "label", "probability", *further, "error"]


def cells(row: Prediction, top: int) -> list[Any]:
    """The values of one row, in the order of the header."""
    answers: list[Any] = [value for answer in row.top for value in answer]
    if row.abstained:
        answers[0] = row.label
    return [row.path, *(answers or [None] * (2 * top)), row.error]


class _Printer:
    """Rows as they come."""

    def __init__(self, format_: str, top: int, console: Console) -> None:
        self.format, self.top, self.console = format_, top, console
        self._width = 20
        if format_ == "csv":
            from convworks.cli.tables import line

            self._line = line
            console.raw(line(header(top)))

    def show(self, row: Prediction) -> None:
        if self.format == "csv":
            self.console.raw(self._line(cells(row, self.top)))
        elif not self.console.json_output:
            path = clean(row.path)
            self._width = max(self._width, len(path))
            self.console.answer(f"{path:<{self._width}}  {'   '.join(_words(row))}")


def _words(row: Prediction) -> Iterator[str]:
    if row.error:
        yield f"unreadable: {row.error}"
    if row.abstained:
        yield "abstain"
    for name, probability in row.top:
        yield f"{clean(name)} {probability:.3f}"


def _say_how(predictor: Predictor, args: PredictFlags, console: Console) -> None:
    """The temperature and the threshold, and where they come from."""
    stored = predictor.bundle.info.get("abstention")
    split = stored.get("split", "val") if isinstance(stored, dict) else "val"
    if predictor.temperature is not None:
        console.say(f"probabilities at temperature {predictor.temperature:.3f}, fitted on {split}")
    if args.threshold == "auto":
        from convworks.flows.certainty import threshold_of

        bundle = predictor.bundle
        curve, point = threshold_of(
            bundle.info, error=args.max_error, calibrated=args.calibrated, where=bundle.path
        )
        low, high = point.interval
        console.say(
            f"abstaining below {point.threshold:.3f}: on {split} {curve.coverage(point):.0%} of {curve.n:,} "
            f"images were answered, {point.error:.3f} of them wrong (95 % {low:.3f}-{high:.3f})"
        )


def _report_unreadable(rows: list[Prediction]) -> None:
    bad = [row.path for row in rows if row.error]
    if bad:
        more = f" and {len(bad) - MOST_NAMES} more" if len(bad) > MOST_NAMES else ""
        raise ConvworksError(
            "D213",
            f"{len(bad)} of {count(len(rows), 'image')} could not be read",
            where=", ".join(map(clean, bad[:MOST_NAMES])) + more,
            why="they are in the rows with their reason; the other rows are complete",
            try_="replace or remove these files",
        )


VERB = Verb(
    name="predict",
    flags=PredictFlags,
    main=("format", "csv", "top", "threshold", "max_error", "calibrated", "json", "quiet"),
    examples=(
        "convworks predict runs/photos-fastnet-01 new.jpg",
        "convworks predict runs/photos-fastnet-01 holiday/ --csv predictions.csv",
    ),
    run=run,
)
