"""What `show` prints and writes of a network: layers, sums, cost of each stage, memory, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convworks.cli.console import Console, plain
from convworks.cli.text import block, folder, table
from convworks.errors import ConvworksError

if TYPE_CHECKING:
    from convworks.anatomy import Columns, Memory, Row
    from convworks.cli.networks import Network

MOST_ROWS = 40  # layers listed one by one without --verbose; above, the stages are
SUFFIXES = (".md", ".csv", ".json", ".svg")
MARKS = {".md": 7, ".csv": 5, ".json": 15, ".svg": 19}  # letters by which a file of ours is known


def print_architecture(net: Network, console: Console, columns: Columns) -> None:
    """The table of layers, or of stages where there are many, and what it sums up to."""
    from convworks import anatomy

    rows = net.rows
    whole = console.verbose or len(rows) <= MOST_ROWS
    shown = rows if whole else anatomy.stages(rows)
    console.answer()
    console.answer(anatomy.format_table(shown, width=max(80, console.width), columns=columns))
    if not whole:
        console.say(f"{len(rows)} layers in {len(shown)} stages; --verbose lists every layer.")
    console.answer()
    facts(console, _sums(net))
    lines = _shares(anatomy.stages(rows))
    if len(lines) > 2:
        console.answer()
    for line in lines if len(lines) > 2 else []:
        console.answer(line)


def _sums(net: Network) -> dict[str, str]:
    from convworks import anatomy

    rows = net.rows
    total, need = anatomy.totals(rows), anatomy.memory(rows, net.image)
    biases = sum(row.biases for row in rows)
    found = {
        "weights": f"{total.parameters - biases:,} without the {biases:,} biases",
        "neurons": f"{total.neurons:,} outputs of the layers that multiply",
        "dense": dense_words(rows),
        **memory_words(need),
    }
    widest = widest_field(rows)
    if widest is not None:
        found["field"] = f"up to {field_words(widest, net)}, in {widest.name}"
    return found


def widest_field(rows: Sequence[Row]) -> Row | None:
    """The layer with a window that sees most; in a network with branches not always the last."""
    seen = [row for row in rows if row.kernel and row.field]
    return max(seen, key=lambda row: max(row.field), default=None)


def dense_words(rows: Sequence[Row]) -> str:
    """'86.06 % of the parameters are in fully connected layers'."""
    from convworks import anatomy

    text = f"{100 * anatomy.dense_share(rows):.2f} % of the parameters are in fully connected layers"
    if anatomy.totals(rows).idle:
        text += f", {100 * anatomy.dense_share(rows, idle=False):.2f} % without what only training uses"
    return text


def memory_words(need: Memory) -> dict[str, str]:
    """Of one image: what inference takes, and training with momentum."""
    fixed = need.weights + need.gradients + need.optimizer
    return {
        "inference": f"{storage(need.weights)} of weights and {storage(need.inference_activations)} an image",
        "training": f"{storage(fixed)} of weights, gradients and momentum, "
        f"and {storage(need.training_activations)} an image",
    }


def field_words(row: Row, net: Network) -> str:
    """'212 of 224 pixels', '483 pixels, more than the 224 of the image'."""
    size = net.image[1:]
    if all(f > n for f, n in zip(row.field, size, strict=True)):
        return f"{_by(row.field)} pixels, more than the {_by(size)} of the image"
    return f"{_by(row.field)} of {_by(size)} pixels"


def _by(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def _shares(stages: Sequence[Row]) -> list[str]:
    """A line for each stage: its part of the parameters, of the multiply-adds and of all outputs."""
    sums = {
        "parameters": [row.parameters for row in stages],
        "MACs": [row.macs for row in stages],
        "output": [row.neurons for row in stages],
    }
    rows = [("share of", *sums)]
    for number, row in enumerate(stages):
        parts = (100 * column[number] / max(1, sum(column)) for column in sums.values())
        rows.append((row.name, *(f"{part:.1f} %" for part in parts)))
    return table(rows, right=(1, 2, 3))


def document(net: Network) -> dict[str, Any]:
    """All of it as data."""
    from convworks import anatomy

    rows = net.rows
    total = anatomy.totals(rows)
    return {
        "name": net.name,
        "model": net.info.name,
        "source": net.info.source,
        "deviations": net.info.deviations,
        "options": {**net.info.options, **net.options},
        "input": list(net.image),
        "classes": net.classes,
        "parameters": total.parameters,
        "fixed": total.fixed,
        "training_only": total.idle,
        "macs": total.macs,
        "flops": 2 * total.macs,
        "neurons": total.neurons,
        "dense_share": anatomy.dense_share(rows),
        "memory": anatomy.memory(rows, net.image),
        "stages": anatomy.to_records(anatomy.stages(rows)),
        "layers": anatomy.to_records(rows),
    }


# --- files ------------------------------------------------------------------------------------------------


def check_target(path: Path, *, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Before the work. Raises U181 for a suffix that says no format."""
    if path.suffix.lower() not in suffixes:
        raise ConvworksError(
            "U181",
            f"cannot tell from '{path.name}' what to write",
            where=f"the end of the name decides: {', '.join(suffixes)}",
            try_=f"--write {path.with_suffix(suffixes[-1]).name}",
        )


def write_architecture(path: Path, net: Network, columns: Columns, console: Console) -> None:
    """A table (.md, .csv, .json) or a picture (.svg)."""
    from convworks import anatomy

    rows = net.rows
    match path.suffix.lower():
        case ".md":
            text = anatomy.format_markdown(rows, columns=columns) + "\n"
        case ".csv":
            text = anatomy.format_csv(rows)
        case ".json":
            text = json.dumps({"convworks": "anatomy", **plain(document(net))}, indent=2) + "\n"
        case _:
            text = anatomy.diagram([net.drawing()])
    write_text(path, text, console)


def write_text(path: Path, text: str, console: Console) -> None:
    """Write a file whole, and say so. Raises U006 where another file would be lost, R503 if it cannot be."""
    from convworks.durable import write_atomic

    mark = text[: MARKS[path.suffix.lower()]].encode()
    try:
        if path.exists() and not path.read_bytes().startswith(mark):
            raise ConvworksError(
                "U006",
                f"{path} exists, and is nothing that this command wrote",
                why="it would be lost",
                try_=f"--write {path.with_name('new-' + path.name)}",
            )
        write_atomic(path, text.encode())
    except OSError as problem:
        raise ConvworksError("R503", f"cannot write {path}: {problem.strerror or problem}") from problem
    console.say(f"wrote {folder(path)}")


# --- words ------------------------------------------------------------------------------------------------


def storage(size: float) -> str:
    """'574.7 MB', '1.9 GB', '84 kB'."""
    for unit, many in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= many:
            return f"{size / many:,.1f} {unit}"
    return f"{size / 1e3:,.1f} kB"


def facts(console: Console, found: dict[str, str]) -> None:
    """Names and texts, the texts wrapped."""
    label = max(11, *(len(name) + 2 for name in found))
    for name, text in found.items():
        for number, line in enumerate(block("", text, width=max(80, console.width) - label + 11)):
            console.answer(f"{name if number == 0 else '':<{label}}{line[11:]}")
