"""`convworks cost NAME`: the memory and time of a training on this machine, before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from convworks import environment
from convworks.cli.architecture import storage
from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.networks import built, image_of
from convworks.cli.text import block, count, duration, table
from convworks.errors import EXIT_OK

if TYPE_CHECKING:
    from convworks.flows.cost import Cost, Counts
    from convworks.recipes.resolve import Resolved


@dataclass(frozen=True, kw_only=True)
class CostFlags(OutputFlags):
    """The training that is asked about."""

    name: Annotated[str, Shown("NAME", "resnet18", positional=True)]
    """a model"""
    data: Annotated[str | None, Shown("DATA", "photos/")] = None
    """images that it would be trained on; counted, not decoded"""
    recipe: Annotated[str | None, Shown("NAME", "fast")] = None
    """training procedure, see: convworks list recipes"""
    epochs: Annotated[int | None, Shown("N", "30"), Ge(1)] = None
    """passes over the training images [recipe's]"""
    batch: Annotated[int | None, Shown("N", "32"), Ge(1)] = None
    """images in one step [recipe's]"""
    size: Annotated[int | None, Shown("N", "128"), Ge(1)] = None
    """side of the input in pixels [the data's, or the paper's]"""
    input: Annotated[str | None, Shown("SIZE", "1080x1920x3")] = None
    """the whole input in place of --size, HxWxC"""
    classes: Annotated[int | None, Shown("N", "10"), Ge(2)] = None
    """classes of the model [the data's, or as published]"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "optimizer.name=adam")] = ()
    """one setting of the recipe or model_options.NAME=VALUE"""
    device: Annotated[str | None, Shown("NAME", "cpu")] = None
    """cpu, cuda, cuda:1 or auto [auto]"""
    threads: Annotated[int | None, Shown("N", "2"), Ge(1)] = None
    """compute threads [what is faster here, measured]"""
    dry_run: bool = False
    """only the memory: measure nothing"""


def run(args: CostFlags, console: Console) -> int:
    """Print the memory, then measure and print the time. Raises U101, U122 and the D-errors of the data."""
    from convworks import models
    from convworks.flows.cost import count_images, estimate, measure

    info = models.info(args.name)
    resolved, counts = _resolved(args), None
    if args.data is not None:
        counts, resolved = count_images(_request(args.data), resolved)
    recipe = resolved.recipe
    image = image_of(args.input, size=recipe.size, channels=None, published=info)
    if counts is not None and args.input is None:
        image = counts.image
    classes = args.classes or (counts.classes if counts is not None else info.num_classes)
    net = built(args.name, image=image, classes=classes, options=dict(recipe.model_options))
    cost = estimate(resolved, net.rows, image=image, classes=classes, counts=counts)
    _say_memory(cost, console)
    if args.dry_run:
        cost = replace(cost, why_not="--dry-run asks for the memory alone")
    else:
        found = measure(cost, progress=console.live)
        console.clear()
        cost = replace(cost, why_not=found) if isinstance(found, str) else replace(cost, timing=found)
    _say_time(cost, console)
    console.document(_document(cost))
    return EXIT_OK


def _resolved(args: CostFlags) -> Resolved:
    from convworks.recipes.defaults import resolve_named

    flags: Mapping[str, Any] = {
        "model": args.name,
        "epochs": args.epochs,
        "batch": args.batch,
        "size": args.size,
        "device": args.device,
        "threads": args.threads,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    return resolve_named(args.recipe, assignments=args.set, flags=given)


def _request(location: str) -> Any:
    from convworks.flows.prepare import DataRequest

    return DataRequest(
        location=location,
        cache=environment.cache_folder(None),
        data_root=environment.data_root(None),
        offline=True,  # a question is no reason to download
    )


def _say_memory(cost: Cost, console: Console) -> None:
    recipe = cost.recipe
    shape = " x ".join(map(str, cost.image))
    part = "" if recipe.accumulate == 1 else f" in {recipe.accumulate} parts"
    images = _images(cost.counts) if cost.counts is not None else ""
    for label, text in (
        ("training", f"{recipe.model}, {cost.parameters:,} parameters, {cost.macs:,} MACs an image"),
        ("input", f"{shape}, {cost.classes} classes"),
        ("images", images),
        (
            "settings",
            f"{recipe.epochs} epochs, batch {recipe.batch}{part}, optimizer {recipe.optimizer.name}",
        ),
    ):
        for line in block(label, text) if text else []:
            console.answer(line)
    console.answer()
    console.answer("memory of training, estimated before anything is allocated", style="bold")
    need, batch = cost.need, -(-recipe.batch // recipe.accumulate)
    each = need.training_activations // batch
    rows = [
        ("  weights", storage(need.weights), ""),
        ("  gradients", storage(need.gradients), ""),
        ("  optimizer", storage(need.optimizer), f"{count(cost.states, 'number')} for each parameter"),
        ("  average", storage(cost.average), "the averaged weights"),
        ("  activations", storage(need.training_activations), f"{batch} images of {storage(each)}"),
        ("  together", storage(cost.total), f"of {storage(cost.free)} that are free; operators need more"),
    ]
    for line in table([row for row in rows if row[1] != storage(0)], right=(1,)):
        console.answer(line)
    if cost.total - need.training_activations > cost.free:
        console.warn("this does not fit with any batch")
    elif cost.total > cost.free:
        console.warn("this does not fit; a smaller --batch, or --set accumulate=N, takes less")


def _images(counts: Counts) -> str:
    test = f", {counts.test:,} for the test" if counts.test else ""
    return (
        f"{counts.train:,} for training, {counts.val:,} for validation{test} in {counts.location} "
        f"({counts.rule}); counted by name, not decoded"
    )


def _say_time(cost: Cost, console: Console) -> None:
    console.answer()
    timing = cost.timing
    if timing is None:
        console.answer("time, not measured", style="bold")
        for line in block("  because", cost.why_not):
            console.answer(line)
        return
    where = f"{timing.device}, {timing.precision}" + (
        f", {count(timing.threads, 'thread')}" if timing.device == "cpu" else ""
    )
    console.answer(f"time, measured with random images at batch {timing.batch} ({where})", style="bold")
    rate = f"{1 / timing.step:,.1f} images a second, {_short(timing.step)} each"
    rows = [
        ("  training", rate),
        ("  inference", f"{1 / timing.inference:,.1f} images a second, {_short(timing.inference)} each"),
        ("  process", f"grew by {storage(timing.grown)} meanwhile"),
    ]
    if cost.epoch_seconds is not None and cost.run_seconds is not None:
        rows += [
            ("  an epoch", f"{duration(cost.epoch_seconds)}, with the validation"),
            ("  the run", f"{duration(cost.run_seconds)} for {count(cost.recipe.epochs, 'epoch')}"),
        ]
    else:
        rows += [("  an epoch", f"{duration(1000 * timing.step)} for every 1,000 images")]
    for line in table(rows):
        console.answer(line)
    batch = -(-cost.recipe.batch // cost.recipe.accumulate)
    said = "Times beyond the measured steps are extrapolated" + (
        f" from batch {timing.batch} to {batch}" if timing.batch != batch else ""
    )
    said += "; reading and changing images comes on top, and training may find faster settings than these."
    for line in block("", said):
        console.say(line[11:])


def _short(seconds: float) -> str:
    """'1.2 ms', '3.40 s'."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _document(cost: Cost) -> dict[str, Any]:
    return {
        "model": cost.recipe.model,
        "input": cost.image,
        "classes": cost.classes,
        "images": cost.counts,
        "epochs": cost.recipe.epochs,
        "batch": cost.recipe.batch,
        "estimated": {
            "weights": cost.need.weights,
            "gradients": cost.need.gradients,
            "optimizer": cost.need.optimizer,
            "average": cost.average,
            "activations": cost.need.training_activations,
            "together": cost.total,
            "free": cost.free,
        },
        "measured": cost.timing,
        "why_not_measured": cost.why_not or None,
        "extrapolated": {"epoch_seconds": cost.epoch_seconds, "run_seconds": cost.run_seconds},
    }


VERB = Verb(
    name="cost",
    flags=CostFlags,
    main=("data", "recipe", "epochs", "batch", "size", "input", "classes", "set", "dry_run", "json"),
    examples=(
        "convworks cost fastnet --data photos/",
        "convworks cost vgg_d --input 1080x1920x3 --batch 8",
    ),
    run=run,
)
