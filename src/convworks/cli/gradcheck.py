"""`convworks gradcheck MODEL`: every gradient of a network against finite differences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt

from convworks.cli.console import Console
from convworks.cli.flags import SEED_LIMIT, OutputFlags, Shown, Verb
from convworks.cli.text import count, table
from convworks.errors import EXIT_OK, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from convworks.ops.gradient_check_network import LayerCheck

Shape = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class GradcheckFlags(OutputFlags):
    """Which network, and how closely to look."""

    model: Annotated[str, Shown("MODEL", "lenet5", positional=True)]
    """name of a model, folder of a finished run or of a model"""
    size: Annotated[int | None, Shown("N", "32"), Ge(1)] = None
    """side of the model's input in pixels [as published]"""
    channels: Annotated[int | None, Shown("N", "3"), Ge(1)] = None
    """colour channels of the model's input [as published]"""
    classes: Annotated[int | None, Shown("N", "10"), Ge(2)] = None
    """classes of the model [as published]"""
    batch: Annotated[int, Shown("N", "4"), Ge(1)] = 4
    """random images that go through it"""
    samples: Annotated[int, Shown("N", "8"), Ge(1)] = 8
    """entries of each tensor that are checked one by one"""
    tolerance: Annotated[float, Shown("X", "1e-6"), Gt(0), Lt(1)] = 1e-6
    """largest relative error that passes"""
    seed: Annotated[int, Shown("N", "0"), Ge(0), Lt(SEED_LIMIT)] = 0
    """of the weights, the images and the entries"""


def run(args: GradcheckFlags, console: Console) -> int:
    """One line for each layer. Returns 0; raises N630 with the first wrong entry."""
    import torch

    from convworks.ops.gradient_check import wrong_gradient
    from convworks.ops.gradient_check_network import check_network

    network, shape = _network(args)
    generator = torch.Generator().manual_seed(args.seed)
    x = torch.randn(args.batch, *shape, generator=generator, dtype=torch.float64)

    def live(line: LayerCheck) -> None:
        console.live(f"checked {line.name}")

    lines = check_network(
        network, x, tolerance=args.tolerance, samples=args.samples, seed=args.seed, report=live
    )
    console.clear()
    wrong = [line for line in lines if not line.ok]
    console.document(
        {
            "model": args.model,
            "input": [args.batch, *shape],
            "tolerance": args.tolerance,
            "ok": not wrong,
            "layers": [_record(line) for line in lines],
        }
    )
    rows = [("layer", "kind", "entries", "kinks", "worst error", ""), *(_row(line) for line in lines)]
    for number, text in enumerate(table(rows, right=(2, 3, 4))):
        console.answer(text, style="bold" if number == 0 else "")
    for line in wrong:
        if line.result is not None and line.result.first_wrong is not None:
            raise wrong_gradient(
                line.result.first_wrong,
                tolerance=args.tolerance,
                where=f"{line.name}, {line.kind}, for inputs of {' x '.join(map(str, (args.batch, *shape)))}",
            )
    checked = [line.result for line in lines if line.result is not None]
    console.answer()
    console.answer(
        f"Every gradient agrees with finite differences: {count(len(checked) - 1, 'layer')} and the whole "
        f"network, worst error {max(each.worst_error for each in checked):.1e}."
    )
    return EXIT_OK


def _network(args: GradcheckFlags) -> tuple[nn.Module, Shape]:
    """The network with new weights for a name, with its own for a folder, and the shape of one image."""
    import torch

    from convworks import models
    from convworks.bundle import load_bundle

    if args.model not in models.names():
        path = Path(args.model)
        if not path.exists() and "/" not in args.model:
            raise unknown_name("model", args.model, models.names(), try_="convworks gradcheck {near}")
        bundle = load_bundle(path)
        geometry = bundle.preprocess.geometry
        for name, given in (("size", args.size), ("channels", args.channels), ("classes", args.classes)):
            if given is not None:
                raise _fixed(name, args.model)
        return bundle.network, (geometry.channels, geometry.height, geometry.width)
    info = models.info(args.model)
    height, width = (args.size, args.size) if args.size else info.input_size
    channels = args.channels or info.in_channels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        network = models.create(
            info.name,
            num_classes=args.classes or info.num_classes,
            in_channels=channels,
            input_size=(height, width),
        )
    return network, (channels, height, width)


def _fixed(name: str, model: str) -> Exception:
    from convworks.errors import ConvworksError

    return ConvworksError(
        "U151",
        f"--{name} cannot be given for a trained model",
        why="its weights are for the inputs and classes it was trained with",
        try_=f"convworks gradcheck {model}",
    )


def _row(line: LayerCheck) -> tuple[str, ...]:
    if line.result is None:
        return (line.name, line.kind, "-", "-", "-", line.why)
    result = line.result
    verdict = "ok" if result.ok else f"FAILED at {result.first_wrong}"
    return (
        line.name,
        line.kind,
        str(result.checked),
        str(result.kinks),
        f"{result.worst_error:.1e}",
        verdict,
    )


def _record(line: LayerCheck) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": line.name, "kind": line.kind, "ok": line.ok}
    if line.result is None:
        return {**facts, "checked": 0, "why": line.why}
    return {
        **facts,
        "checked": line.result.checked,
        "kinks": line.result.kinks,
        "worst_error": line.result.worst_error,
        "tensors": line.result.tensors,
    }


VERB = Verb(
    name="gradcheck",
    flags=GradcheckFlags,
    main=("size", "samples", "tolerance", "seed", "json"),
    examples=("convworks gradcheck lenet5", "convworks gradcheck runs/photos-fastnet-01 --samples 20"),
    run=run,
)
