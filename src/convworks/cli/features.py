"""`convworks features MODEL DATA --out FILE`: what the last layer sees of every image, as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from convworks.cli.common import data_request
from convworks.cli.console import Console
from convworks.cli.flags import Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import LABEL, count, duration
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.flows.probe import FeatureVectors

SUFFIXES = (".npz", ".csv")


@dataclass(frozen=True, kw_only=True)
class FeaturesFlags(SourceFlags):
    """Which model, on what, and where the numbers go."""

    model: Annotated[Path, Shown("MODEL", "runs/photos-fastnet-01", positional=True)]
    """folder of a finished run, or of a model"""
    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """labelled images, of any classes"""
    out: Annotated[Path, Shown("FILE", "features.npz")] = Path("features.npz")
    """.npz (features, labels, classes, paths) or .csv"""
    split: Annotated[Literal["train", "val", "test", "all"], Shown("NAME", "test")] = "all"
    """train, val, test or all, where the data has splits"""
    skip_unreadable: bool = False
    """leave out unreadable images, and say how many"""


def run(args: FeaturesFlags, console: Console) -> int:
    """Write the file and say what is in it; 0, or 75 where it was stopped."""
    from convworks.cli.tables import check_writable

    if args.out.suffix.lower() not in SUFFIXES:
        raise ConvworksError(
            "U006",
            f"{args.out.name} is neither a .npz nor a .csv file",
            why="the ending of its name says what is written",
            try_=f"--out {args.out.with_suffix('.npz')}",
        )
    csv = args.out.suffix.lower() == ".csv"
    if csv:
        check_writable(args.out, ("path",))
    elif args.out.exists():
        _require_npz(args.out)
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError
        from convworks.flows.probe import FeaturesRequest, feature_vectors

        request = FeaturesRequest(
            model=args.model,
            data=data_request(args, args.source),
            split=args.split,
            skip_unreadable=args.skip_unreadable,
        )
        try:
            found = feature_vectors(request, should_stop=stop)
        except (ScanInterrupted, StoppedEarlyError):
            console.say("Stopped; nothing was written.")
            return EXIT_INTERRUPTED
    if csv:
        _write_csv(args.out, found)
    else:
        from convworks.flows.probe import write_npz

        write_npz(args.out, found)
    images, numbers = found.vectors.shape
    console.document(
        {
            "file": args.out,
            "images": images,
            "features": numbers,
            "kind": found.kind,
            "classes": found.classes,
        }
    )
    if found.left_out:
        console.warn(f"{count(len(found.left_out), 'image')} left out")
    console.answer(f"{'features':<{LABEL}}{args.out}, {count(images, 'image')} x {numbers:,} ({found.kind})")
    console.say(duration(found.seconds))
    return EXIT_OK


def _require_npz(path: Path) -> None:
    """Raises U006 where a file of another kind would be lost."""
    from convworks.cli.tables import check_writable

    if not path.is_file() or path.read_bytes()[:2] != b"PK":
        check_writable(path, ("PK",))


def _write_csv(path: Path, found: FeatureVectors) -> None:
    from convworks.cli.tables import write_csv

    header = ("path", "label", *(f"f{number}" for number in range(found.vectors.shape[1])))
    rows = (
        (name, found.classes[int(label)], *(float(value) for value in vector))
        for name, label, vector in zip(found.paths, found.labels, found.vectors, strict=True)
    )
    write_csv(path, header, rows)


VERB = Verb(
    name="features",
    flags=FeaturesFlags,
    main=("out", "split", "skip_unreadable", "labels", "data", "json"),
    examples=(
        "convworks features runs/photos-fastnet-01 photos/",
        "convworks features runs/photos-fastnet-01 photos/ --out photos.csv",
    ),
    run=run,
)
