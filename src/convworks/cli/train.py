"""`convworks train DATA`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Lt

from convworks.cli.common import data_request, show_all
from convworks.cli.console import Console
from convworks.cli.flags import SEED_LIMIT, Shown, SourceFlags, Verb
from convworks.cli.parse import spelled
from convworks.cli.render import Renderer
from convworks.cli.repeat import run_repeat, wanted
from convworks.cli.signals import StopRequest
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK

if TYPE_CHECKING:
    from convworks.flows.train import TrainRequest
    from convworks.recipes.resolve import Resolved

# Flag -> the setting of a recipe that it sets.
SETTINGS = {
    "model": "model",
    "pretrained": "pretrained",
    "init": "init",
    "freeze": "transfer.freeze",
    "unfreeze": "transfer.unfreeze",
    "epochs": "epochs",
    "lr": "optimizer.lr",
    "batch": "batch",
    "size": "size",
    "seed": "seed",
    "device": "device",
    "threads": "threads",
    "precision": "precision",
}


@dataclass(frozen=True, kw_only=True)
class TrainFlags(SourceFlags):
    """What is trained, on what, and how."""

    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """folder of class folders, .zip, .tar, .csv, or mnist ..."""
    model: Annotated[str | None, Shown("NAME", "resnet18")] = None
    """network, see: convworks list models [recipe's]"""
    pretrained: Annotated[str | None, Shown("FILE", "imagenet1k_v1")] = None
    """weights to begin with: .safetensors, run, imagenet1k_v1"""
    init: Annotated[str | None, Shown("FILE", "runs/vgg-a")] = None
    """layers of another network to begin with, by name and shape"""
    freeze: Annotated[Literal["none", "backbone"] | None, Shown("PART", "backbone")] = None
    """backbone: only the last stage learns, on stored features"""
    unfreeze: Annotated[int | None, Shown("N", "2"), Ge(0)] = None
    """one stage more learns after every N epochs, from the end"""
    recipe: Annotated[str | None, Shown("NAME", "fast")] = None
    """training procedure, see: convworks list recipes"""
    epochs: Annotated[int | None, Shown("N", "30"), Ge(1)] = None
    """passes over the training images [recipe's]"""
    lr: Annotated[float | None, Shown("X", "0.05"), Gt(0)] = None
    """learning rate at the top of the schedule [recipe's]"""
    batch: Annotated[int | None, Shown("N", "32"), Ge(1)] = None
    """images in one step [recipe's]"""
    size: Annotated[int | None, Shown("N", "128"), Ge(1)] = None
    """side of the input in pixels [recipe's]"""
    seed: Annotated[int | None, Shown("N", "0"), Ge(0), Lt(SEED_LIMIT)] = None
    """of every random draw [0]"""
    out: Annotated[Path, Shown("DIR", "runs")] = Path("runs")
    """folder that gets the run's folder"""
    name: Annotated[str | None, Shown("NAME", "photos-01")] = None
    """name of the run's folder [data-model-number]"""
    config: Annotated[Path | None, Shown("FILE", "settings.toml")] = None
    """TOML file of settings"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "optimizer.momentum=0.9")] = ()
    """one setting; the list of them is at the end of --help-all"""
    workers: Annotated[int | Literal["auto"] | None, Shown("N", "2"), Ge(0)] = None
    """threads that prepare batches; never changes the result [auto]"""
    device: Annotated[str | None, Shown("NAME", "cpu")] = None
    """cpu, cuda, cuda:1 or auto [auto]"""
    threads: Annotated[int | None, Shown("N", "2"), Ge(1)] = None
    """compute threads [what is faster here, measured]"""
    precision: Annotated[Literal["auto", "fp32", "bf16"] | None, Shown("NAME", "fp32")] = None
    """auto, fp32 or bf16 [auto: what is faster here, measured]"""
    strict: bool = False
    """stop at the first unreadable image instead of leaving it out"""
    seeds: Annotated[int | None, Shown("N", "5"), Ge(1)] = None
    """train N times with other seeds: mean, spread, a committee"""
    folds: Annotated[int | None, Shown("K", "5"), Ge(1)] = None
    """K-fold cross-validation: every image validates once"""
    bagging: Annotated[int | None, Shown("N", "5"), Ge(1)] = None
    """train N times on images drawn with replacement"""
    rescue_dir: Annotated[Path | None, Shown("DIR", "~/rescue")] = None
    """where the model goes if the run's disk is full"""
    fresh: bool = False
    """start anew beside a stopped run; a --name must be new"""
    dry_run: bool = False
    """read the data and say what would be done; write no run"""


def run(args: TrainFlags, console: Console) -> int:
    """Train, print the events, and return 0 or 75 (stopped, resumable)."""
    with StopRequest() as stop:
        from convworks.flows.train import TrainRequest, train

        request = TrainRequest(
            data=data_request(args, args.source, strict=args.strict),
            resolved=resolved(args),
            out=args.out,
            name=args.name,
            command=spelled(VERB, args),
            fresh=args.fresh,
            rescue=args.rescue_dir,
        )
        several = wanted(args.seeds, args.folds, args.bagging)
        if args.dry_run:
            return _rehearse(request, console, stop)
        if several is not None:
            return run_repeat(request, *several, console=console, stop=stop)
        return show_all(train(request, should_stop=stop), Renderer(console))


def resolved(args: TrainFlags) -> Resolved:
    """The recipe out of the flags, --set, --config and --recipe, with the source of every value."""
    from convworks.recipes.defaults import resolve_named

    flags = {setting: getattr(args, flag) for flag, setting in SETTINGS.items()}
    flags["workers"] = -1 if args.workers == "auto" else args.workers
    given = {setting: value for setting, value in flags.items() if value is not None}
    return resolve_named(args.recipe, config=args.config, assignments=args.set, flags=given)


def _rehearse(request: TrainRequest, console: Console, stop: StopRequest) -> int:
    """Everything up to the first step, in a folder that is thrown away."""
    import tempfile

    from convworks.flows.events import Will
    from convworks.flows.train import train
    from convworks.runs import next_name

    renderer = Renderer(console)
    with tempfile.TemporaryDirectory(prefix="convworks-dry-run-") as folder:
        rehearsal = replace(request, out=Path(folder), fresh=True)
        with closing(train(rehearsal, should_stop=stop)) as events:
            for event in events:
                if isinstance(event, Will):
                    base = event.run.name.rpartition("-")[0]
                    name = request.name or next_name(request.out, base)
                    renderer.show(replace(event, run=request.out / name))
                    console.say("Nothing was trained: this was a dry run.")
                    return EXIT_OK
                renderer.show(event)
    return EXIT_INTERRUPTED


def _settings() -> list[str]:
    from convworks.cli.help import settings_lines
    from convworks.recipes.recipe import help_lines

    rows = [(key, f"{text} [{default}]") for key, (text, default) in help_lines().items()]
    return ["Settings, for --set KEY=VALUE and --config FILE", *settings_lines(rows)]


VERB = Verb(
    name="train",
    flags=TrainFlags,
    main=(
        "model",
        "pretrained",
        "recipe",
        "epochs",
        "lr",
        "batch",
        "size",
        "seed",
        "out",
        "name",
        "device",
        "fresh",
        "dry_run",
    ),
    examples=("convworks train photos/", "convworks train shapes --model lenet5 --epochs 3"),
    run=run,
    more=_settings,
)
