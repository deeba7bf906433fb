"""`convworks import FILE --model NAME`: published weights as a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import block, folder
from convworks.errors import EXIT_OK, ConvworksError

NAMES_CAP = 2**22  # bytes of a file of class names


@dataclass(frozen=True, kw_only=True)
class ImportFlags(OutputFlags):
    """Which file, and the network that it is for."""

    file: Annotated[Path, Shown("FILE", "resnet18.safetensors", positional=True)]
    """.safetensors, or a PyTorch file (.pth, .pt)"""
    model: Annotated[str | None, Shown("NAME", "resnet18")] = None
    """network that the weights are for [what the file says]"""
    out: Annotated[Path | None, Shown("DIR", "models/resnet18")] = None
    """model folder to be made [models/ and the file's name]"""
    class_names: Annotated[Path | None, Shown("FILE", "classes.txt")] = None
    """names of the outputs, one a line [class 0, class 1 ...]"""
    size: Annotated[int | None, Shown("N", "224"), Ge(1)] = None
    """side of the input in pixels [as published]"""
    channels: Annotated[int | None, Shown("N", "3"), Ge(1)] = None
    """colour channels of the input, 1 or 3 [as published]"""
    normalize: Annotated[Literal["imagenet", "half"] | None, Shown("NAME", "imagenet")] = None
    """how pixels were scaled: imagenet or half [as published]"""
    option: Annotated[tuple[str, ...], Shown("KEY=VALUE", "batch_norm=true")] = ()
    """an option of the network"""
    trust_this_file: bool = False
    """read a PyTorch file, which is a pickle"""


def run(args: ImportFlags, console: Console) -> int:
    """Make the folder and say what is in it."""
    from convworks.recipes.resolve import parse_assignment
    from convworks.weights.importer import import_weights

    made = import_weights(
        args.file,
        model=args.model,
        out=args.out or Path("models") / args.file.stem,
        options=dict(parse_assignment(each) for each in args.option),
        classes=None if args.class_names is None else read_names(args.class_names),
        size=args.size,
        channels=args.channels,
        normalisation=args.normalize,
        trusted=args.trust_this_file,
    )
    console.document(made)
    channels, height, width = made.input
    place = folder(made.path)
    facts: dict[str, Any] = {
        "model": f"{made.model}, {made.parameters:,} parameters, {made.classes:,} classes",
        "weights": f"{args.file.name}, {made.names}'s names, sha256 {made.sha256[:12]}",
        "input": f"{channels} x {height} x {width}, scaled as {made.normalisation}",
        "folder": place,
        "next": f"convworks predict {place} PATH",
    }
    for label, text in facts.items():
        for line in block(label, text):
            console.answer(line)
    return EXIT_OK


def read_names(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises U198 where it cannot be read."""
    try:
        if path.stat().st_size > NAMES_CAP:
            raise ValueError(f"it is larger than {NAMES_CAP:,} bytes")
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as problem:
        raise ConvworksError(
            "U198",
            f"cannot read class names in '{path}': {problem}",
            try_="--class-names FILE with a name a line",
        ) from problem


VERB = Verb(
    name="import",
    flags=ImportFlags,
    main=("model", "out", "class_names", "size", "normalize", "trust_this_file", "json"),
    examples=(
        "convworks import resnet18.safetensors --model resnet18",
        "convworks import vgg16-397923af.pth --model vgg_d --trust-this-file",
    ),
    run=run,
)
