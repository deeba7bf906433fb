"""`convworks plan MODEL DATA`: how fast each way of training is here, and where the time goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from convworks.cli.common import data_request
from convworks.cli.console import Console
from convworks.cli.flags import Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, count, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.flows.plan_report import PlanReport
    from convworks.recipes.resolve import Resolved


@dataclass(frozen=True, kw_only=True)
class PlanFlags(SourceFlags):
    """The training that is asked about."""

    model: Annotated[str, Shown("MODEL", "resnet18", positional=True)]
    """a network, see: convworks list models"""
    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """folder of class folders, .zip, .tar, .csv, or mnist ..."""
    recipe: Annotated[str | None, Shown("NAME", "fast")] = None
    """training procedure, see: convworks list recipes"""
    batch: Annotated[int | None, Shown("N", "32"), Ge(1)] = None
    """images in one step [recipe's]"""
    batches: Annotated[tuple[int, ...], Shown("N", "256")] = ()
    """a further batch to measure [a quarter to four times]"""
    size: Annotated[int | None, Shown("N", "128"), Ge(1)] = None
    """side of the input in pixels [recipe's]"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "precision=fp32")] = ()
    """one setting, see: convworks train --help-all"""
    device: Annotated[str | None, Shown("NAME", "cpu")] = None
    """cpu, cuda, cuda:1 or auto [auto]"""
    threads: Annotated[int | None, Shown("N", "2"), Ge(1)] = None
    """compute threads [what is faster here, measured]"""


def run(args: PlanFlags, console: Console) -> int:
    """Print what was measured; 75 where it was stopped. Nothing is stored in runs."""
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.flows.plan_report import explore
        from convworks.training.allocator import keep_pages

        keep_pages()
        request = data_request(args, args.source)
        pending = request.pending_download()
        if pending:
            console.say(pending)
        try:
            found = explore(
                request, _resolved(args), batches=args.batches, progress=console.live, should_stop=stop
            )
        except ScanInterrupted:
            console.clear()
            console.say("Stopped; nothing was written.")
            return EXIT_INTERRUPTED
    console.clear()
    console.document(found.to_dict())
    _say_options(found, console)
    _say_shares(found, console)
    _say_batches(found, console)
    return EXIT_OK


def _resolved(args: PlanFlags) -> Resolved:
    from convworks.recipes.defaults import resolve_named

    flags = {
        "model": args.model,
        "batch": args.batch,
        "size": args.size,
        "device": args.device,
        "threads": args.threads,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    return resolve_named(args.recipe, assignments=args.set, flags=given)


def _say_options(found: PlanReport, console: Console) -> None:
    recipe, plan = found.recipe, found.plan
    console.answer(f"training {recipe.model} in batches of {recipe.batch}, images a second", style="bold")
    best = max(plan.measured.values())
    rows = [
        (f"  {name}", _rate(rate), f"{rate / best:.0%}")
        for name, rate in sorted(plan.measured.items(), key=lambda each: -each[1])
    ]
    for line in table(rows, right=(1, 2)):
        console.answer(line)
    for label, text in zip(("chosen", *[""] * 20), plan.lines(), strict=False):
        for line in block(f"  {label}", text):
            console.answer(line)
    if len(found.devices) > 1:
        (first, rate), (second, other) = found.devices.items()
        text = f"{first} trains {_rate(rate)}, {second} {_rate(other)} images a second: {rate / other:.1f}x"
        for line in block("  devices", text):
            console.answer(line)


def _say_shares(found: PlanReport, console: Console) -> None:
    shares = found.shares
    whole = shares.data + shares.step
    on_units = len(found.plan.amx) - found.dense
    layers = ((len(found.plan.winograd), "by Winograd's algorithm"), (on_units, "on matrix units"))
    own = [f"{count(many, 'layer')} {how}" for many, how in layers if many]
    console.answer()
    console.answer("where the time of a step goes", style="bold")
    rows = [("  data", shares.data, _ahead(found.plan.workers))]
    if shares.convolution is not None:
        how = ", ".join(("forward and backward, alone", *own))
        rows += [("  convolution", min(shares.convolution, shares.step), how)]
    rows += [("  everything else", shares.rest, "batch norm, activations, pooling, dense, loss, optimizer")]
    for line in table([(n, f"{s * 1e3:.1f} ms", f"{s / whole:.0%}", w) for n, s, w in rows], right=(1, 2)):
        console.answer(line)
    if found.ceiling is not None and shares.of_ceiling is not None:
        text = (
            f"torch's own convolutions and nothing else would train {_rate(found.ceiling)} images a second; "
            f"a step reaches {shares.of_ceiling:.0%} of that"
        )
        if own:
            text += ", more than 100% where these layers save more than everything else takes"
        for line in block("  ceiling", text):
            console.answer(line)


def _say_batches(found: PlanReport, console: Console) -> None:
    console.answer()
    console.answer("by size of the batch", style="bold")
    rows = [("  batch", "images/s", "steps an epoch", "rate, scaled")]
    rows += [
        (f"  {each.batch}", _rate(each.images_per_second), f"{each.steps_per_epoch:,}", f"{each.lr:.3g}")
        for each in found.batches
    ]
    for line in table(rows, right=(0, 1, 2, 3)):
        console.answer(line)
    if found.too_large:
        sizes = ", ".join(str(size) for size in found.too_large)
        text = f"{sizes}: more than {count(found.images, 'training image')} or half of the free memory"
        for line in block("  not tried", text):
            console.answer(line)
    text = (
        "--set optimizer.reference_batch=N scales the rate with the batch; a large one needs schedule.warmup"
    )
    for line in block("  rate", text):
        console.answer(line)


def _ahead(workers: int) -> str:
    if not workers:
        return "between the steps, by the computing thread"
    return f"{count(workers, 'thread')} prepare{'s' if workers == 1 else ''} it during the steps"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


VERB = Verb(
    name="plan",
    flags=PlanFlags,
    main=("recipe", "batch", "batches", "size", "device", "json"),
    examples=(
        "convworks plan resnet18 photos/ --batch 32",
        "convworks plan fastnet cifar10 --batches 512 --batches 2048",
    ),
    run=run,
)
