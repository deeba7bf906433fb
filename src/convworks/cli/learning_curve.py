"""`convworks learning-curve DATA`: the error as the number of training images grows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

from convworks.cli.common import data_request
from convworks.cli.console import Console
from convworks.cli.flags import SEED_LIMIT, Shown, SourceFlags, Verb
from convworks.cli.parse import spelled
from convworks.cli.render import Renderer
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, folder, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.flows.learning_curve import LearningCurve

FRACTIONS = "0.1,0.2,0.5,1"


@dataclass(frozen=True, kw_only=True)
class LearningCurveFlags(SourceFlags):
    """Which data, which shares of it, and how each is trained."""

    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """folder of class folders, .zip, .tar, .csv, or mnist ..."""
    fractions: Annotated[str, Shown("A,B,...", "0.25,0.5,1")] = FRACTIONS
    """shares of the training images, one inside the next"""
    seeds: Annotated[int | None, Shown("N", "5"), Ge(1)] = None
    """runs with other seeds for each share [1]"""
    budget: Annotated[Literal["steps", "epochs"], Shown("NAME", "epochs")] = "steps"
    """what all shares get equally much of: steps or epochs"""
    model: Annotated[str | None, Shown("NAME", "resnet18")] = None
    """network, see: convworks list models [recipe's]"""
    recipe: Annotated[str | None, Shown("NAME", "fast")] = None
    """training procedure, see: convworks list recipes"""
    epochs: Annotated[int | None, Shown("N", "30"), Ge(1)] = None
    """passes over all training images [recipe's]"""
    lr: Annotated[float | None, Shown("X", "0.05"), Gt(0)] = None
    """learning rate at the top of the schedule [recipe's]"""
    batch: Annotated[int | None, Shown("N", "32"), Ge(1)] = None
    """images in one step [recipe's]"""
    seed: Annotated[int | None, Shown("N", "0"), Ge(0), Lt(SEED_LIMIT)] = None
    """of every random draw [0]"""
    out: Annotated[Path, Shown("DIR", "runs")] = Path("runs")
    """folder that gets the runs' folders"""
    name: Annotated[str | None, Shown("NAME", "photos-01")] = None
    """beginning of the runs' names [data-model-curve-number]"""
    config: Annotated[Path | None, Shown("FILE", "settings.toml")] = None
    """TOML file of settings"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "optimizer.momentum=0.9")] = ()
    """one setting; the list of them is at the end of train --help-all"""
    fresh: bool = False
    """start anew even where such a curve was stopped"""


def run(args: LearningCurveFlags, console: Console) -> int:
    """Train all shares, print the table and the line; 75 where it was stopped."""
    with StopRequest() as stop:
        from convworks.flows.learning_curve import CurveRequest, learning_curve
        from convworks.flows.train import TrainRequest
        from convworks.recipes.defaults import resolve_named

        keys = {"model": "model", "epochs": "epochs", "lr": "optimizer.lr", "batch": "batch", "seed": "seed"}
        given = {key: getattr(args, flag) for flag, key in keys.items() if getattr(args, flag) is not None}
        request = CurveRequest(
            base=TrainRequest(
                data=data_request(args, args.source),
                resolved=resolve_named(args.recipe, config=args.config, assignments=args.set, flags=given),
                out=args.out,
                name=args.name,
                command=spelled(VERB, args),
                fresh=args.fresh,
            ),
            fractions=_fractions(args.fractions),
            seeds=args.seeds or 1,
            budget=args.budget,
        )
        renderer = Renderer(console)
        events = learning_curve(request, should_stop=stop)
        while True:
            try:
                renderer.show(next(events))
            except StopIteration as end:
                found: LearningCurve | None = end.value
                break
    if found is None:
        console.say("The same command continues where it was stopped.")
        return EXIT_INTERRUPTED
    console.record("curve", found.to_dict())
    console.answer()
    for line in lines(found):
        console.answer(line)
    return EXIT_OK


def _fractions(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(each) for each in text.split(",") if each.strip())
    except ValueError as problem:
        raise ConvworksError(
            "U275", f"'{text}' is no list of fractions", try_=f"--fractions {FRACTIONS}"
        ) from problem


def lines(found: LearningCurve) -> Iterator[str]:
    """A row for each share, the line, what a doubling brings, and how far that can be believed."""
    rows = [("share", "training images", "epochs", "error", "sd", "runs")]
    for each in found.points:
        deviation = "-" if each.deviation is None else f"{each.deviation:.4f}"
        share, images = f"{each.fraction:g}", f"{each.images:,}"
        rows.append((share, images, str(each.epochs), f"{each.mean:.4f}", deviation, str(len(each.errors))))
    yield from table(rows, right=range(6))
    yield from block("", f"error on {found.split}, {found.measured:,} images")
    yield ""
    line = found.line
    sign = "+" if line.slope >= 0 else "-"
    yield from block(
        "fit",
        f"error = {line.intercept:.4f} {sign} {abs(line.slope):.4f} ln n, R^2 = {line.r_squared:.3f}, "
        f"{line.points} points",
    )
    if found.power is not None:
        yield from block(
            "",
            f"error = {math.exp(found.power.intercept):.3g} n^{found.power.slope:.3f}, "
            f"R^2 = {found.power.r_squared:.3f} (in logarithms)",
        )
    step = math.log(2)
    text = f"{line.slope * step:+.4f} error for twice the images"
    if line.slope_interval is not None:
        low, high = line.slope_interval
        text += f", 95 % {low * step:+.4f} to {high * step:+.4f} from the scatter of the points"
    yield from block("doubling", text)
    at = max(0.0, line.at(math.log(found.twice)))
    interval = line.interval(math.log(found.twice))
    around = "" if interval is None else f" ({max(0.0, interval[0]):.4f} to {interval[1]:.4f})"
    yield from block("guess", f"{found.twice:,} training images: error {at:.4f}{around}, if the line goes on")
    for note in found.notes:
        yield from block("note", note)
    yield from block("picture", folder(found.picture))


VERB = Verb(
    name="learning-curve",
    flags=LearningCurveFlags,
    main=("fractions", "seeds", "budget", "model", "recipe", "epochs", "lr", "batch", "seed", "out", "json"),
    examples=(
        "convworks learning-curve photos/ --seeds 3",
        "convworks learning-curve digits --model lenet5 --fractions 0.1,0.3,1",
    ),
    run=run,
)
