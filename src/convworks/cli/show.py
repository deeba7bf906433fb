"""`convworks show NAME` for a model or a recipe, `show recipe NAME` for a recipe, `show RUN` for a run, an
ensemble by its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from convworks.cli.architecture import (
    check_target,
    document,
    facts,
    print_architecture,
    write_architecture,
)
from convworks.cli.console import Console
from convworks.cli.flags import Shown, Verb
from convworks.cli.networks import Network, NetworkFlags, find_run, network_of
from convworks.cli.recipe_card import document as recipe_document
from convworks.cli.recipe_card import setting_rows, show_citation, show_recipe
from convworks.cli.show_ensemble import show_ensemble
from convworks.cli.text import folder, fraction
from convworks.errors import EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.recipes.published import PublishedRecipe
    from convworks.runs import Run


@dataclass(frozen=True, kw_only=True)
class ShowFlags(NetworkFlags):
    """What to show."""

    subject: Annotated[str, Shown("NAME|RUN", "lenet5", positional=True)]
    """a model, recipe, run or ensemble; or: recipe NAME"""
    name: Annotated[str | None, Shown("NAME", "alexnet2012", positional=True)] = None
    """the recipe, after the word recipe"""
    cite: bool = False
    """only the citation of a recipe, as BibTeX"""
    write: Annotated[Path | None, Shown("FILE", "layers.svg")] = None
    """the layers as .svg (a picture), .md, .csv or .json"""
    kilo: Annotated[Literal[1000, 1024] | None, Shown("N", "1024")] = None
    """parameters in K of 1000 or 1024, as papers print them"""
    without_biases: bool = False
    """count parameters without biases"""


def run(args: ShowFlags, console: Console) -> int:
    """Print what the name stands for; a name of both a model and a recipe shows both."""
    from convworks import models
    from convworks.bundle import is_ensemble
    from convworks.recipes import defaults

    if args.write is not None:
        check_target(args.write)
    name = args.subject
    if args.cite or args.name is not None or (name == "recipe" and not _is_run(name, args)):
        return _recipe_alone(args, console)
    if name not in models.names() and name not in defaults.names():
        place = next((each for each in (Path(name), args.out / name) if is_ensemble(each)), None)
        if place is not None:
            return show_ensemble(place, console, write=args.write)
        return _show_run(find_run(name, args.out), args, console)
    parts: dict[str, Any] = {}
    if name in models.names():
        parts["model"] = _show_model(args, console)
    if name in defaults.names():
        whole = show_recipe if not parts else _recipe_in_short
        parts["recipe"] = whole(defaults.entry(name), console)
    console.document(parts)
    return EXIT_OK


def _is_run(name: str, args: ShowFlags) -> bool:
    return Path(name).exists() or (args.out / name).exists()


def _recipe_alone(args: ShowFlags, console: Console) -> int:
    """`show recipe NAME`, and `--cite`. Raises U004 without a name, U005 for another word before it."""
    from convworks.recipes import defaults

    if args.name is not None and args.subject != "recipe":
        raise ConvworksError(
            "U005",
            f"show takes one name, and got '{args.subject}' and '{args.name}'",
            where="two names are for a recipe: convworks show recipe NAME",
            try_=f"convworks show {args.subject}",
        )
    name = args.name or args.subject
    if name == "recipe":
        raise ConvworksError("U004", "show recipe needs NAME", try_="convworks show recipe alexnet2012")
    show = show_citation if args.cite else show_recipe
    console.document({"recipe": show(defaults.entry(name), console)})
    return EXIT_OK


def _show_model(args: ShowFlags, console: Console) -> dict[str, Any]:
    net = network_of(args.subject, args)
    info, (channels, height, width) = net.info, net.image
    options = {**info.options, **net.options}
    facts(
        console,
        {
            info.name: info.summary,
            "source": info.source,
            "deviations": "; ".join(info.deviations) or "none",
            "options": ", ".join(f"{key} = {value!r}" for key, value in options.items()) or "none",
            "input": f"{channels} x {height} x {width}, {net.classes} classes",
        },
    )
    _layers(net, args, console)
    return document(net)


def _layers(net: Network, args: ShowFlags, console: Console) -> None:
    """The table, and the file where one was asked for."""
    from convworks.anatomy import Columns

    columns = Columns(image=net.image, kilo=args.kilo, weights=args.without_biases)
    print_architecture(net, console, columns)
    if args.write is not None:
        write_architecture(args.write, net, columns, console)


def _recipe_in_short(entry: PublishedRecipe, console: Console) -> dict[str, Any]:
    """Below the layers of a network of that name: the settings in one paragraph."""
    chosen = [f"{key} {value}" for key, value, _ in setting_rows(entry, everything=console.verbose)]
    console.answer()
    facts(console, {"recipe": ", ".join(chosen), "use": f"convworks train DATA --recipe {entry.name}"})
    return recipe_document(entry)


def _show_run(run: Run, args: ShowFlags, console: Console) -> int:
    from convworks.recipes.resolve import flatten
    from convworks.runs import read_records, state_of

    record = run.record()
    recipe, sources = record["recipe"], record.get("provenance", {})
    epochs = [each for each in read_records(run.metrics_file) if each.get("kind") == "epoch"]
    scores = _scores(run)
    net = network_of(str(run.path), args) if run.geometry_file.is_file() else None
    layers = {"architecture": document(net)} if net is not None else {}
    parts = {"run": run.path, **record, "finished": run.finished, "epochs": epochs, "scores": scores}
    console.document(parts | layers)
    chosen = [
        f"{key} {value} [{sources[key]}]"
        for key, value in flatten(recipe).items()
        if console.verbose or sources.get(key, "default") != "default"
    ]
    facts(
        console,
        {
            "run": folder(run.path),
            "model": f"{recipe['model']} on {record['data']['location']}",
            "state": f"{state_of(run)}, {len(epochs)} epochs",
            **{split: _words(score) for split, score in scores.items()},
            "settings": ", ".join(chosen) or "defaults",
            **({"recipe": record["compliance"].removeprefix("recipe ")} if "compliance" in record else {}),
            "command": " ".join(record.get("command", [])),
            "next": f"convworks {'predict' if run.finished else 'resume'} {folder(run.path)}"
            + (" PATH" if run.finished else ""),
        },
    )
    if net is not None:
        _layers(net, args, console)
    elif args.write is not None:
        raise ConvworksError(
            "U182", f"{run.name} was stopped before it had a network", try_=f"convworks resume {run.path}"
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


VERB = Verb(
    name="show",
    flags=ShowFlags,
    main=(
        "cite",
        "size",
        "channels",
        "classes",
        "set",
        "write",
        "kilo",
        "without_biases",
        "out",
        "json",
        "verbose",
    ),
    examples=("convworks show lenet5 --write lenet5.svg", "convworks show recipe alexnet2012"),
    run=run,
)
