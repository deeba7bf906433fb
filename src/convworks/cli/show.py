"""`convworks show NAME` for a model or a recipe, `convworks show RUN` for a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import block, folder, fraction
from convworks.errors import EXIT_OK, ConvworksError, unknown_name

if TYPE_CHECKING:
    from convworks.recipes.recipe import Recipe
    from convworks.runs import Run

MOST_ROWS = 40  # layers listed one by one without --verbose; above, the stages are


@dataclass(frozen=True, kw_only=True)
class ShowFlags(OutputFlags):
    """What to show."""

    subject: Annotated[str, Shown("NAME|RUN", "lenet5", positional=True)]
    """a model, a recipe, or the folder of a run"""
    size: Annotated[int | None, Shown("N", "32"), Ge(1)] = None
    """side of the model's input in pixels [as published]"""
    channels: Annotated[int | None, Shown("N", "3"), Ge(1)] = None
    """colour channels of the model's input [as published]"""
    classes: Annotated[int | None, Shown("N", "10"), Ge(2)] = None
    """classes of the model [as published]"""
    out: Annotated[Path, Shown("DIR", "runs")] = Path("runs")
    """folder of the runs, for a run's name alone"""


def run(args: ShowFlags, console: Console) -> int:
    """Print what the name stands for; a name of both a model and a recipe shows both."""
    from convworks import models
    from convworks.recipes import defaults

    name = args.subject
    if name not in models.names() and name not in defaults.names():
        return _show_run(_find_run(args), console)
    parts: dict[str, Any] = {}
    if name in models.names():
        parts["model"] = _show_model(args, console)
    if name in defaults.names():
        parts["recipe"] = _show_recipe(name, defaults.recipe(name), console)
    console.document(parts)
    return EXIT_OK


def _show_model(args: ShowFlags, console: Console) -> dict[str, Any]:
    import torch

    from convworks import anatomy, models

    info = models.info(args.subject)
    height, width = (args.size, args.size) if args.size else info.input_size
    channels, classes = args.channels or info.in_channels, args.classes or info.num_classes
    with torch.random.fork_rng(devices=[]):
        network = models.create(
            info.name, num_classes=classes, in_channels=channels, input_size=(height, width)
        )
    rows = anatomy.trace(network, (channels, height, width))
    shown = rows if console.verbose or len(rows) <= MOST_ROWS else anatomy.stages(rows)
    _facts(
        console,
        {
            info.name: info.summary,
            "source": info.source,
            "deviations": "; ".join(info.deviations) or "none",
            "options": ", ".join(f"{key} = {value!r}" for key, value in info.options.items()) or "none",
            "input": f"{channels} x {height} x {width}, {classes} classes",
        },
    )
    console.answer()
    console.answer(anatomy.format_table(shown, width=max(80, console.width)))
    total = anatomy.totals(rows)
    return {
        "name": info.name,
        "source": info.source,
        "deviations": info.deviations,
        "options": info.options,
        "input": [channels, height, width],
        "classes": classes,
        "parameters": total.parameters,
        "macs": total.macs,
        "layers": anatomy.to_records(rows),
    }


def _show_recipe(name: str, recipe: Recipe, console: Console) -> dict[str, Any]:
    from convworks.recipes.recipe import Recipe as Plain
    from convworks.recipes.recipe import leaves
    from convworks.recipes.resolve import to_dict

    usual = dict(leaves(Plain()))
    chosen = [f"{key} {value}" for key, value in leaves(recipe) if console.verbose or value != usual[key]]
    console.answer()
    _facts(console, {"recipe": ", ".join(chosen), "use": f"convworks train DATA --recipe {name}"})
    return {"name": name, **to_dict(recipe)}


def _find_run(args: ShowFlags) -> Run:
    """The run of a path, or of a name below --out. Raises U101 where nothing is called so."""
    from convworks import models
    from convworks.recipes import defaults
    from convworks.runs import list_runs, open_run

    path = Path(args.subject)
    if path.exists() or "/" in args.subject:
        return open_run(path)
    runs = {run.name: run for run in list_runs(args.out)}
    if args.subject in runs:
        return runs[args.subject]
    known = {*models.names(), *defaults.names(), *runs}
    raise unknown_name("model, recipe or run", args.subject, known, try_="convworks show {near}")


def _show_run(run: Run, console: Console) -> int:
    from convworks.runs import read_records

    record = run.record()
    recipe, sources = record["recipe"], record.get("provenance", {})
    epochs = [each for each in read_records(run.metrics_file) if each.get("kind") == "epoch"]
    scores = _scores(run)
    console.document(
        {"run": run.path, **record, "finished": run.finished, "epochs": epochs, "scores": scores}
    )
    from convworks.recipes.resolve import flatten

    chosen = [
        f"{key} {value} [{sources[key]}]"
        for key, value in flatten(recipe).items()
        if console.verbose or sources.get(key, "default") != "default"
    ]
    _facts(
        console,
        {
            "run": folder(run.path),
            "model": f"{recipe['model']} on {record['data']['location']}",
            "state": f"{'finished' if run.finished else 'not finished'}, {len(epochs)} epochs",
            **{split: _words(score) for split, score in scores.items()},
            "settings": ", ".join(chosen) or "defaults",
            "command": " ".join(record.get("command", [])),
            "next": f"convworks {'predict' if run.finished else 'resume'} {folder(run.path)}"
            + (" PATH" if run.finished else ""),
        },
    )
    return EXIT_OK


def _scores(run: Run) -> dict[str, dict[str, Any]]:
    """The main numbers of each evaluation of a run; one that is damaged is passed over."""
    from convworks.durable import read_json

    found = {}
    for file in sorted(run.evaluation.glob("*.json")):
        try:
            tree = read_json(file)
            found[file.stem] = {key: tree[key] for key in ("top1", "top1_ci", "n", "balanced_accuracy")}
        except (ConvworksError, KeyError, TypeError):
            continue
    return found


def _words(score: dict[str, Any]) -> str:
    low, high = score["top1_ci"]
    return (
        f"accuracy {score['top1']:.3f} (95 % {low:.3f}-{high:.3f}, n = {score['n']:,}), "
        f"balanced {fraction(score['balanced_accuracy'])}"
    )


def _facts(console: Console, facts: dict[str, str]) -> None:
    label = max(11, *(len(name) + 2 for name in facts))
    for name, text in facts.items():
        for number, line in enumerate(block("", text, width=max(80, console.width) - label + 11)):
            console.answer(f"{name if number == 0 else '':<{label}}{line[11:]}")


VERB = Verb(
    name="show",
    flags=ShowFlags,
    main=("size", "channels", "classes", "out", "json", "verbose"),
    examples=("convworks show lenet5 --size 32", "convworks show runs/photos-fastnet-01"),
    run=run,
)
