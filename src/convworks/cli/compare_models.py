"""`convworks compare-models A B [C]`: what networks have, do and cost, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from convworks.cli.architecture import check_target, document, storage, widest_field, write_text
from convworks.cli.console import Console
from convworks.cli.flags import Shown, Verb
from convworks.cli.networks import NetworkFlags, network_of
from convworks.cli.parse import command
from convworks.cli.text import table
from convworks.errors import EXIT_OK, ConvworksError

if TYPE_CHECKING:
    from convworks.cli.networks import Network

MOST = 3
SUFFIXES = (".md", ".csv", ".svg")


@dataclass(frozen=True, kw_only=True)
class CompareModelsFlags(NetworkFlags):
    """Which networks."""

    models: Annotated[tuple[str, ...], Shown("NAME|RUN", "vgg_e resnet34", positional=True)]
    """two or three models or runs"""
    write: Annotated[Path | None, Shown("FILE", "pair.svg")] = None
    """a picture, side by side (.svg), or the table (.md, .csv)"""


@dataclass(frozen=True, slots=True)
class Line:
    """One fact of every network; `numbers` for the ratios, where they make sense."""

    name: str
    texts: tuple[str, ...]
    numbers: tuple[float, ...] = ()

    @property
    def ratio(self) -> str:
        """Of the last network to the first, '' where one of them has nothing."""
        if len(self.numbers) < 2 or not self.numbers[0] or not self.numbers[-1]:
            return ""
        quotient = self.numbers[-1] / self.numbers[0]
        return f"{quotient:.2f}x" if quotient >= 0.1 else f"{quotient:.2g}x"


def run(args: CompareModelsFlags, console: Console) -> int:
    """Print the table, and write it or the picture. Raises U183 for one network or more than three."""
    if not 2 <= len(args.models) <= MOST:
        names = [*args.models, "resnet34"][:2] if len(args.models) < MOST else args.models[:MOST]
        raise ConvworksError(
            "U183",
            f"compare-models takes two or three networks, not {len(args.models)}",
            try_=command("compare-models", *names),
        )
    if args.write is not None:
        check_target(args.write, suffixes=SUFFIXES)
    nets = [network_of(name, args) for name in args.models]
    lines = [*_lines(nets), *_stage_lines(nets)]
    last = f"{nets[-1].name} to {nets[0].name}"
    rows = [("", *(net.name for net in nets), last)]
    rows += [(line.name, *line.texts, line.ratio) for line in lines]
    for number, text in enumerate(table(rows, right=range(1, len(nets) + 2))):
        console.answer(text, style="bold" if number == 0 else "")
    console.document({"models": [document(net) for net in nets], "facts": _numbers(lines)})
    if args.write is not None:
        write_text(args.write, _file(args.write, nets, rows), console)
    return EXIT_OK


def _lines(nets: Sequence[Network]) -> list[Line]:
    """The facts of the whole networks."""
    from convworks import anatomy

    rows = [net.rows for net in nets]
    sums = [anatomy.totals(each) for each in rows]
    needs = [anatomy.memory(net.rows, net.image) for net in nets]
    shares = [anatomy.dense_share(each) for each in rows]
    fields = [max(row.field) if (row := widest_field(each)) else 0 for each in rows]
    sides = [max(net.size) for net in nets]
    counts = {
        "layers with weights": [sum(bool(row.macs) for row in each) for each in rows],
        "parameters": [each.parameters for each in sums],
        "  for training only": [each.idle for each in sums],
        "multiply-adds (MACs)": [each.macs for each in sums],
        "FLOPs, twice that": [2 * each.macs for each in sums],
        "neurons": [each.neurons for each in sums],
    }
    memories = {
        "weights in memory": [need.weights for need in needs],
        "inference, an image": [need.inference_activations for need in needs],
        "training, an image": [need.training_activations for need in needs],
        "training, fixed part": [need.training - need.training_activations for need in needs],
    }
    return [
        Line("input", tuple("x".join(map(str, net.image)) for net in nets)),
        *(_counted(name, values) for name, values in counts.items() if any(values)),
        *(Line(name, tuple(map(storage, values)), tuple(values)) for name, values in memories.items()),
        Line("in dense layers", tuple(f"{100 * share:.2f} %" for share in shares)),
        Line(
            "receptive field", tuple(f"{f} of {n}" for f, n in zip(fields, sides, strict=True)), tuple(fields)
        ),
    ]


def _counted(name: str, values: Sequence[int]) -> Line:
    return Line(name, tuple(f"{value:,}" if value else "-" for value in values), tuple(values))


def _stage_lines(nets: Sequence[Network]) -> list[Line]:
    """Multiply-adds by the size of the maps, which is what stages of different networks have in common."""
    cost: dict[tuple[int, ...], list[int]] = {}
    for number, net in enumerate(nets):
        for row in net.rows:
            if row.macs:
                cost.setdefault(row.output[1:], [0] * len(nets))[number] += row.macs
    order = sorted(cost, key=lambda size: (-len(size), [-n for n in size]))
    names = {size: f"MACs at {'x'.join(map(str, size))}" if size else "MACs on vectors" for size in order}
    return [_counted(names[size], cost[size]) for size in order]


def _numbers(lines: Sequence[Line]) -> dict[str, Any]:
    return {line.name.strip(): line.numbers for line in lines if line.numbers}


def _file(path: Path, nets: Sequence[Network], rows: Sequence[Sequence[str]]) -> str:
    from convworks.anatomy import diagram
    from convworks.cli.tables import line as csv_line

    if path.suffix.lower() == ".svg":
        return diagram([net.drawing() for net in nets])
    if path.suffix.lower() == ".csv":
        head, *others = rows
        return "\n".join(map(csv_line, (("what", *head[1:]), *others))) + "\n"
    head, *others = rows
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (("what", *head[1:]), rule, *others)) + "\n"


VERB = Verb(
    name="compare-models",
    flags=CompareModelsFlags,
    main=("write", "size", "channels", "classes", "set", "out", "json"),
    examples=(
        "convworks compare-models vgg_e resnet34",
        "convworks compare-models vgg_e plain34 resnet34 --write three.svg",
    ),
    run=run,
)
