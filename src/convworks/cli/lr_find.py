"""`convworks lr-find DATA`: the learning rate range test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Gt, Le, Lt

from convworks.cli.common import data_request
from convworks.cli.console import Console
from convworks.cli.flags import SEED_LIMIT, Shown, SourceFlags, Verb
from convworks.cli.parse import command, spelled
from convworks.cli.signals import StopRequest
from convworks.cli.text import block, table
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.flows.learning_rate import RateTest
    from convworks.recipes.resolve import Resolved

OWN = ("--low", "--high", "--steps", "--out", "--json", "--quiet", "--verbose")  # not flags of train


@dataclass(frozen=True, kw_only=True)
class LrFindFlags(SourceFlags):
    """The training that is tested, and the rates."""

    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """folder of class folders, .zip, .tar, .csv, or mnist ..."""
    model: Annotated[str | None, Shown("NAME", "resnet18")] = None
    """network, see: convworks list models [recipe's]"""
    recipe: Annotated[str | None, Shown("NAME", "fast")] = None
    """training procedure, see: convworks list recipes"""
    pretrained: Annotated[str | None, Shown("FILE", "imagenet1k_v1")] = None
    """weights to begin with, as for train"""
    batch: Annotated[int | None, Shown("N", "32"), Ge(1)] = None
    """images in one step [recipe's]"""
    size: Annotated[int | None, Shown("N", "128"), Ge(1)] = None
    """side of the input in pixels [recipe's]"""
    seed: Annotated[int | None, Shown("N", "0"), Ge(0), Lt(SEED_LIMIT)] = None
    """of every random draw [0]"""
    low: Annotated[float, Shown("X", "1e-5"), Gt(0)] = 1e-5
    """rate of the first step [1e-5]"""
    high: Annotated[float, Shown("X", "1"), Gt(0)] = 10.0
    """rate of the last step, if it comes so far [10]"""
    steps: Annotated[int, Shown("N", "100"), Ge(20), Le(100_000)] = 100
    """steps from the one to the other [100]"""
    out: Annotated[Path | None, Shown("FILE", "rates.svg")] = None
    """picture (.svg, .png) or table (.csv) of the loss by rate"""
    config: Annotated[Path | None, Shown("FILE", "settings.toml")] = None
    """TOML file of settings"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "optimizer.name=adam")] = ()
    """one setting, see: convworks train --help-all"""
    device: Annotated[str | None, Shown("NAME", "cpu")] = None
    """cpu, cuda, cuda:1 or auto [auto]"""
    threads: Annotated[int | None, Shown("N", "2"), Ge(1)] = None
    """compute threads [all]"""


def run(args: LrFindFlags, console: Console) -> int:
    """Print the two suggestions, the curve and the command to train with; 75 where it was stopped."""
    from convworks.cli.lr_plot import check_out, write_curve

    if args.out is not None:
        check_out(args.out)
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError
        from convworks.flows.learning_rate import RateRequest, find_rate

        request = RateRequest(
            data=data_request(args, args.source),
            resolved=_resolved(args),
            low=args.low,
            high=args.high,
            steps=args.steps,
        )
        pending = request.data.pending_download()
        if pending:
            console.say(pending)
        try:
            found = find_rate(
                request,
                should_stop=stop,
                say=console.say,
                progress=lambda step, rate: console.live(f"step {step} of {args.steps}, rate {rate:.3g}"),
            )
        except (ScanInterrupted, StoppedEarlyError):
            console.say("Stopped; nothing was written.")
            return EXIT_INTERRUPTED
    console.clear()
    _print(args, found, console)
    if args.out is not None:
        write_curve(args.out, found.curve(), f"{found.recipe.model}: rate test", console)
    return EXIT_OK


def _resolved(args: LrFindFlags) -> Resolved:
    from convworks.recipes.defaults import resolve_named

    flags = {
        "model": args.model,
        "pretrained": args.pretrained,
        "batch": args.batch,
        "size": args.size,
        "seed": args.seed,
        "device": args.device,
        "threads": args.threads,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    return resolve_named(args.recipe, config=args.config, assignments=args.set, flags=given)


def _print(args: LrFindFlags, found: RateTest, console: Console) -> None:
    from convworks.report.rate_chart import text_curve

    recipe, tried = found.recipe, len(found.rates)
    following = _next(args, found)
    console.document(
        {
            "model": recipe.model,
            "batch": recipe.batch,
            "steps": tried,
            "ended": found.ended,
            "steepest": found.steepest,
            "tenth_of_lowest": found.tenth,
            "lr": found.setting,
            "next": following,
            "rates": found.rates.tolist(),
            "losses": found.losses.tolist(),
            "smoothed": found.smoothed.tolist(),
        }
    )
    last = f" to {found.rates[-1]:.3g}" if tried else ""
    text = f"{recipe.model}, {tried} steps of {recipe.batch} images, rate {args.low:g}{last}; {found.ended}"
    for line in block("rate test", text):
        console.answer(line)
    rows = []
    if found.steepest is not None and found.tenth is not None:
        rows = [
            ("steepest", f"{found.steepest:.2g}", "the smoothed loss falls fastest here"),
            ("tenth", f"{found.tenth:.2g}", f"a tenth of {10 * found.tenth:.2g}, where it is lowest"),
        ]
    else:
        console.warn(
            "the loss did not fall at any of these rates: try other --low and --high, or more --steps"
        )
    for line in table(rows, right=(1,)):
        console.answer(line)
    console.answer()
    for line in text_curve(found.curve()) if tried else []:
        console.answer(line)
    if following:
        console.answer()
        for line in block("next", following):
            console.answer(line)


def _next(args: LrFindFlags, found: RateTest) -> str:
    """The command that trains so, at a tenth of the rate with the lowest loss."""
    if found.setting is None:
        return ""
    kept: list[str] = []
    words = list(spelled(VERB, args))[2:]
    while words:
        word = words.pop(0)
        if word in OWN:
            if word not in ("--json", "--quiet", "--verbose"):
                words.pop(0)
        else:
            kept.append(word)
    at = kept.index("--") if "--" in kept else len(kept)
    return command("train", *kept[:at], "--lr", f"{found.setting:g}", *kept[at:])


VERB = Verb(
    name="lr-find",
    flags=LrFindFlags,
    main=("model", "recipe", "batch", "size", "seed", "low", "high", "steps", "out", "set", "json"),
    examples=(
        "convworks lr-find photos/ --model resnet18",
        "convworks lr-find digits --model lenet5_modern --steps 60 --out rates.svg",
    ),
    run=run,
)
