"""The network that a name or a run stands for, for the verbs that look at networks without training them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge

from convworks.cli.flags import OutputFlags, Shown
from convworks.cli.text import magnitude
from convworks.errors import ConvworksError, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from convworks.anatomy import Drawing, Graph, Row
    from convworks.models import ModelInfo
    from convworks.runs import Run


@dataclass(frozen=True, kw_only=True)
class NetworkFlags(OutputFlags):
    """Which form of a network."""

    size: Annotated[int | None, Shown("N", "32"), Ge(1)] = None
    """side of the input in pixels [as published]"""
    channels: Annotated[int | None, Shown("N", "3"), Ge(1)] = None
    """colour channels of the model's input [as published]"""
    input: Annotated[str | None, Shown("SIZE", "1080x1920x3")] = None
    """the whole input in place of --size and --channels, HxWxC"""
    classes: Annotated[int | None, Shown("N", "10"), Ge(2)] = None
    """classes of the model [as published]"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "model_options.output=linear")] = ()
    """an option of the model: model_options.NAME=VALUE"""
    out: Annotated[Path, Shown("DIR", "runs")] = Path("runs")
    """folder of the runs, for a run's name alone"""


@dataclass(frozen=True, slots=True)
class Network:
    """A network with its trace. `model` is on the meta device where it can be: shapes without numbers."""

    name: str
    info: ModelInfo
    image: tuple[int, int, int]  # C, H, W
    classes: int
    options: dict[str, Any]
    graph: Graph
    model: nn.Module

    @property
    def rows(self) -> list[Row]:
        return self.graph.rows

    @property
    def size(self) -> tuple[int, int]:
        return self.image[1:]

    def drawing(self) -> Drawing:
        from convworks.anatomy import Drawing, totals

        total = totals(self.rows)
        caption = f"{_billions(total.macs)} multiply-adds, {magnitude(total.parameters)} parameters"
        return Drawing(self.name, caption, self.graph, self.image)


def _billions(number: int) -> str:
    """'19.63 G'; two digits, since papers cut 3.66 G to 3.6 and round it to 3.7."""
    return f"{number / 1e9:.2f} G" if number >= 10**8 else magnitude(number)


def network_of(name: str, args: NetworkFlags) -> Network:
    """The model of a name in the form that the flags ask for, or that of a run, which has its form.

    Raises U101 (no model or run of that name), U151 (a form was asked of a run), U120 to U123 from the model,
    U180 (--set of something else than an option of the model).
    """
    from convworks import models

    options = _options(args.set)
    if name in models.names():
        info = models.info(name)
        image = image_of(args.input, size=args.size, channels=args.channels, published=info)
        return built(name, image=image, classes=args.classes or info.num_classes, options=options)
    run = find_run(name, args.out)
    for flag in ("size", "channels", "input", "classes", "set"):
        if getattr(args, flag):
            raise ConvworksError(
                "U151",
                f"--{flag} cannot be given for a run",
                why="its network is for the inputs and classes it was trained with",
                try_=f"convworks show {run.path}",
            )
    return network_of_run(run)


def image_of(
    text: str | None, *, size: int | None, channels: int | None, published: ModelInfo
) -> tuple[int, int, int]:
    """(C, H, W) from --input, or from --size and --channels with what the paper has for the rest.

    Raises U140 for an --input that is no size, U184 for one that is no image or stands beside the others.
    """
    from convworks.ops.stack import parse_size

    if text is None:
        height, width = (size, size) if size else published.input_size
        return channels or published.in_channels, height, width
    shape = parse_size(text)
    if len(shape) != 3 or size or channels:
        raise ConvworksError(
            "U184",
            f"--input {text} is no image" if len(shape) != 3 else "--input already has the size and channels",
            where="--input HxWxC, or --size and --channels",
            try_="--input 224x224x3",
        )
    return shape[0], shape[1], shape[2]


def network_of_run(run: Run) -> Network:
    """The network of a run, finished or not. Raises A401 where its records are damaged."""
    from convworks.data.manifest import Manifest
    from convworks.durable import read_json

    recipe, geometry = run.record()["recipe"], read_json(run.geometry_file)
    try:
        image = (int(geometry["channels"]), int(geometry["height"]), int(geometry["width"]))
        model, options = str(recipe["model"]), dict(recipe["model_options"])
    except (KeyError, TypeError, ValueError) as problem:
        raise ConvworksError("A401", f"the run does not say its network: {problem}") from problem
    classes = len(Manifest.load(run.manifest_file).classes)
    return built(model, image=image, classes=classes, options=options, title=run.name)


def built(
    name: str, *, image: tuple[int, int, int], classes: int, options: dict[str, Any], title: str = ""
) -> Network:
    """Build and trace: on the meta device, which holds no numbers, or on the CPU where a layer needs them."""
    import torch

    from convworks import models
    from convworks.anatomy import trace_graph

    for device in ("meta", "cpu"):
        try:
            network = create(name, image=image, classes=classes, options=options, device=device)
            graph = trace_graph(network, image)
        except ConvworksError:
            raise
        except (RuntimeError, NotImplementedError):
            if device == "cpu":
                raise
            continue
        assert isinstance(network, torch.nn.Module)
        break
    return Network(title or name, models.info(name), image, classes, options, graph, network)


def create(
    name: str, *, image: tuple[int, int, int], classes: int, options: dict[str, Any], device: str
) -> nn.Module:
    """A network with weights drawn from seed 0; the program's own random numbers stay where they were."""
    import torch

    from convworks import models

    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return models.create(name, num_classes=classes, in_channels=image[0], input_size=image[1:], **options)


def _options(assignments: tuple[str, ...]) -> dict[str, Any]:
    from convworks.recipes.resolve import parse_assignment

    found = {}
    for text in assignments:
        key, value = parse_assignment(text)
        place, _, option = key.partition(".")
        if place != "model_options" or not option:
            raise ConvworksError(
                "U180",
                f"'{key}' is no option of a model",
                why="a network that is not trained has no other settings",
                try_=f"--set model_options.{key.rsplit('.', maxsplit=1)[-1]}={value}",
            )
        found[option] = value
    return found


def find_run(name: str, out: Path) -> Run:
    """The run of a path, or of a name below `out`. Raises U101 where nothing is called so."""
    from convworks import models
    from convworks.recipes import defaults
    from convworks.runs import list_runs, open_run

    path = Path(name)
    if path.exists() or "/" in name:
        return open_run(path)
    runs = {run.name: run for run in list_runs(out)}
    if name in runs:
        return runs[name]
    known = {*models.names(), *defaults.names(), *runs}
    raise unknown_name("model, recipe or run", name, known, try_="convworks show {near}")
