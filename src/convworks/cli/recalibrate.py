"""`convworks recalibrate RUN`: batch norm statistics of all training images, first layer to last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from convworks import environment
from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, count, duration, folder, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.evaluation.metrics import Metrics
    from convworks.flows.recalibrate import Recalibration


@dataclass(frozen=True, kw_only=True)
class RecalibrateFlags(OutputFlags):
    """Which run."""

    run: Annotated[Path, Shown("RUN", "runs/photos-fastnet-01", positional=True)]
    """folder of a finished run; its data must be where it was"""
    cache: Annotated[Path | None, Shown("DIR", "~/.cache/convworks")] = None
    """of downloads and prepared images [$CONVWORKS_CACHE]"""
    offline: bool = False
    """never use the network [$CONVWORKS_OFFLINE]"""


def run(args: RecalibrateFlags, console: Console) -> int:
    """Print the accuracy before and after, and where the new model is; returns 0, or 75 where stopped."""
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError
        from convworks.flows.recalibrate import RecalibrateRequest, recalibrate_run
        from convworks.training.recalibrate import StoppedRecalibrationError

        request = RecalibrateRequest(
            run=args.run,
            cache=environment.cache_folder(args.cache),
            offline=environment.is_offline(args.offline),
        )

        def live(done: int, layers: int) -> None:
            console.live(f"batch norm {min(done + 1, layers)} of {layers}")

        try:
            found = recalibrate_run(request, should_stop=stop, progress=live)
        except (ScanInterrupted, StoppedEarlyError, StoppedRecalibrationError):
            console.clear()
            console.say("Stopped; nothing was written.")
            return EXIT_INTERRUPTED
    console.clear()
    console.document(found.to_dict())
    _print(found, console)
    return EXIT_OK


def _print(found: Recalibration, console: Console) -> None:
    layers = [("batch norm", "values", "mean moved by", "std times")]
    layers += [
        (e.name, f"{e.values:,}", f"{e.mean_shift:.3f} std", f"{e.std_ratio:.3f}") for e in found.layers
    ]
    for number, line in enumerate(table(layers, right=(1, 2, 3))):
        console.answer(line, style="bold" if number == 0 else "")
    console.answer()
    for split, score in found.scores.items():
        console.answer(f"{split:<11}before  {_accuracy(score.before)}")
        console.answer(f"{'':<11}after   {_accuracy(score.after)}")
        console.answer(f"{'':<11}{count(score.changed, 'answer')} of {score.after.n:,} changed")
    new = folder(found.model)
    how = f"{count(len(found.layers), 'batch norm')} measured on {count(found.images, 'training image')}"
    for label, text in (
        ("measured", f"{how} in {duration(found.seconds)}, without augmentation"),
        ("model", f"{new}   (the run's own model is as it was)"),
        ("next", f"convworks predict {new} PATH"),
    ):
        for line in block(label, text):
            console.answer(line)


def _accuracy(metrics: Metrics) -> str:
    low, high = metrics.top1_ci
    return (
        f"accuracy {metrics.top1:.3f} (95 % {low:.3f}-{high:.3f}, n = {metrics.n:,}), loss {metrics.loss:.4f}"
    )


VERB = Verb(
    name="recalibrate",
    flags=RecalibrateFlags,
    main=("cache", "offline", "json"),
    examples=(
        "convworks recalibrate runs/photos-fastnet-01",
        "convworks recalibrate runs/photos-fastnet-01 --json",
    ),
    run=run,
)
