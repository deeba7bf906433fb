"""`convworks train --seeds N`, `--folds K` and `--bagging N`: several runs, and what they say together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from convworks.cli.console import Console
from convworks.cli.render import Renderer
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, count, folder, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.flows.repeat import Kind, Repeated
    from convworks.flows.train import TrainRequest

NOUN = {"seeds": "seed", "folds": "fold", "bags": "bag"}


def wanted(seeds: int | None, folds: int | None, bagging: int | None) -> tuple[Kind, int] | None:
    """What was asked for; None for a single run. Raises U267 for two things at once."""
    given: list[tuple[Kind, int]] = []
    if seeds is not None:
        given.append(("seeds", seeds))
    if folds is not None:
        given.append(("folds", folds))
    if bagging is not None:
        given.append(("bags", bagging))
    if len(given) > 1:
        raise ConvworksError(
            "U267",
            "--seeds, --folds and --bagging are three ways to repeat a training: one at a time",
            why="otherwise nobody could say where a difference comes from",
            try_="--folds 5",
        )
    return given[0] if given else None


def run_repeat(request: TrainRequest, kind: Kind, times: int, *, console: Console, stop: StopRequest) -> int:
    """Train all, print the table; 75 where it was stopped."""
    from convworks.flows.repeat import RepeatRequest, repeat

    renderer = Renderer(console)
    events = repeat(RepeatRequest(base=request, kind=kind, count=times), should_stop=stop)
    found: Repeated | None = None
    while True:
        try:
            renderer.show(next(events))
        except StopIteration as end:
            found = end.value
            break
    if found is None:
        console.say("The same command continues where it was stopped.")
        return EXIT_INTERRUPTED
    console.record("repeated", found.to_dict())
    console.answer()
    for line in lines(found):
        console.answer(line)
    return EXIT_OK


def lines(found: Repeated) -> Iterator[str]:
    """A row for each run, mean and spread, what to do next."""
    splits = [split for split in ("val", "test") if split in found.scores]
    noun = NOUN[found.kind]
    rows = [("run", *(f"{split} accuracy" for split in splits), *(f"{split} loss" for split in splits))]
    for number, path in enumerate(found.runs):
        scores = [found.scores[split][number] for split in splits]
        rows.append((path.name, *(f"{s.top1:.4f}" for s in scores), *(f"{s.loss:.4f}" for s in scores)))
    yield from table(rows, right=range(1, len(rows[0])))
    yield ""
    for split in splits:
        mean, deviation = found.accuracy(split)
        n = {each.n for each in found.scores[split]}
        images = f"{min(n):,}" if len(n) == 1 else f"{min(n):,} to {max(n):,}"
        text = f"accuracy {mean:.4f} +/- {deviation or 0:.4f} (mean and standard deviation of "
        yield from block(split, f"{text}{count(len(found.runs), noun)}; {images} images each)")
    if found.together is not None:
        low, high = found.together.top1_ci
        label = "out of fold" if found.kind == "folds" else "out of bag"
        yield from block(
            "together",
            f"{label}: accuracy {found.together.top1:.4f} (95 % {low:.4f}-{high:.4f}) on "
            f"{found.together.n:,} images, each answered by the runs that did not learn it",
        )
    for note in found.notes:
        yield from block("note", note)
    yield from block("kept in", folder(found.folder))
    yield from block(
        "next", f"convworks ensemble {folder(found.folder)} --out {folder(found.folder)}-ensemble"
    )
