"""`convworks export MODEL --out FILE.safetensors`: the weights alone, under others' names too, or in 8
bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from convworks.cli.common import data_request
from convworks.cli.console import Console
from convworks.cli.flags import Shown, SourceFlags, Verb
from convworks.cli.signals import StopRequest
from convworks.cli.text import block
from convworks.errors import EXIT_INTERRUPTED, EXIT_OK, ConvworksError


@dataclass(frozen=True, kw_only=True)
class ExportFlags(SourceFlags):
    """Which model, and how its weights are named."""

    model: Annotated[Path, Shown("MODEL", "runs/photos-resnet18-01", positional=True)]
    """folder of a finished run, or of a model"""
    out: Annotated[Path | None, Shown("FILE", "resnet18.safetensors")] = None
    """file to be written [the model's name.safetensors]"""
    names: Annotated[Literal["convworks", "torchvision", "timm"], Shown("NAME", "torchvision")] = "convworks"
    """whose names: convworks, torchvision or timm"""
    int8: Annotated[Path | None, Shown("FILE", "int8.safetensors")] = None
    """write 8-bit weights with their scales instead"""
    calibrate: Annotated[str | None, Shown("DATA", "photos/")] = None
    """int8: images to measure input ranges on [the run's own]"""


def run(args: ExportFlags, console: Console) -> int:
    """Write the file, read it back, and say what is in it; 0, or 75 where it was stopped."""
    if args.int8 is not None:
        return _int8(args, args.int8, console)
    if args.calibrate is not None:
        raise ConvworksError(
            "U004", "--calibrate is for --int8", try_=f"--int8 int8.safetensors --calibrate {args.calibrate}"
        )
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


def _int8(args: ExportFlags, file: Path, console: Console) -> int:
    if args.out is not None or args.names != "convworks":
        raise ConvworksError(
            "U003",
            "--int8 names its own file, and has one layout",
            try_=f"--int8 {args.out or file}",
        )
    with StopRequest() as stop:
        from convworks.data.store import ScanInterrupted
        from convworks.evaluation.inference import StoppedEarlyError
        from convworks.flows.quantized import export_quantized

        data = None if args.calibrate is None else data_request(args, args.calibrate)
        try:
            found = export_quantized(args.model, file, data, should_stop=stop)
        except (ScanInterrupted, StoppedEarlyError):
            console.say("Stopped; nothing was written.")
            return EXIT_INTERRUPTED
    console.document(found)
    for label, text in (
        ("file", f"{found.file}, {found.size:,} bytes; {found.float_size:,} in floating point"),
        ("weights", f"{found.layers} layers of {found.model} in 8 bits, input scales {found.scales}"),
        (
            "outputs",
            f"read back and equal; at most {found.difference:.3g} from those of floating point, for noise",
        ),
    ):
        for line in block(label, text):
            console.answer(line)
    return EXIT_OK


VERB = Verb(
    name="export",
    flags=ExportFlags,
    main=("out", "names", "int8", "calibrate", "json"),
    examples=(
        "convworks export runs/photos-resnet18-01 --names torchvision",
        "convworks export runs/photos-fastnet-01 --out fastnet.safetensors",
    ),
    run=run,
)
