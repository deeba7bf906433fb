"""`convworks export MODEL --out FILE.safetensors`: the weights alone, under the names of others too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from convworks.cli.console import Console
from convworks.cli.flags import OutputFlags, Shown, Verb
from convworks.cli.text import block
from convworks.errors import EXIT_OK


@dataclass(frozen=True, kw_only=True)
class ExportFlags(OutputFlags):
    """Which model, and how its weights are named."""

    model: Annotated[Path, Shown("MODEL", "runs/photos-resnet18-01", positional=True)]
    """folder of a finished run, or of a model"""
    out: Annotated[Path | None, Shown("FILE", "resnet18.safetensors")] = None
    """file to be written [the model's name.safetensors]"""
    names: Annotated[Literal["convworks", "torchvision", "timm"], Shown("NAME", "torchvision")] = "convworks"
    """whose names: convworks, torchvision or timm"""


def run(args: ExportFlags, console: Console) -> int:
    """Write the file, read it back, and say what is in it."""
    from convworks.bundle import load_bundle
    from convworks.durable import sha256_file
    from convworks.weights.export import check_target, export_safetensors

    name = args.model.absolute().parent.name if args.model.name == "model" else args.model.absolute().name
    target = args.out or Path(f"{name}.safetensors")
    check_target(target)
    bundle = load_bundle(args.model)
    file = export_safetensors(
        bundle.network,
        target,
        model=bundle.info["model"],
        names=args.names,
        options=bundle.info["options"],
        classes=bundle.classes,
    )
    tensors = len(bundle.network.state_dict())
    digest, size = sha256_file(file), file.stat().st_size
    console.document({"file": file, "names": args.names, "tensors": tensors, "bytes": size, "sha256": digest})
    for label, text in (
        ("file", f"{file}, {size:,} bytes, sha256 {digest[:12]}"),
        (
            "weights",
            f"{tensors} tensors of {bundle.info['model']} under {args.names}'s names, read back and equal",
        ),
    ):
        for line in block(label, text):
            console.answer(line)
    return EXIT_OK


VERB = Verb(
    name="export",
    flags=ExportFlags,
    main=("out", "names", "json"),
    examples=(
        "convworks export runs/photos-resnet18-01 --names torchvision",
        "convworks export runs/photos-fastnet-01 --out fastnet.safetensors",
    ),
    run=run,
)
