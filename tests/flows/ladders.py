"""Runs on pictures of many sizes, and what is asked of them, for the tests of protocols."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image

from convworks.flows.evaluate import EvaluateRequest
from convworks.flows.ladder import Ladder, LadderRequest, climb
from convworks.flows.prepare import DataRequest
from tests.flows.helpers import write_images


def photographs(folder: Path) -> Path:
    """The coloured squares, in pictures of many sizes and proportions."""
    draw = random.Random(0)
    for path in sorted(write_images(folder).rglob("*.png")):
        image = Image.open(path).resize((draw.randint(20, 60), draw.randint(20, 60)))
        image.save(path)
    return folder


def request(
    work: Path, *protocols: str, run: str = "run", data: Path | None = None, **options: object
) -> LadderRequest:
    members = options.pop("members", ())
    base = EvaluateRequest(
        model=work / "runs" / run,
        data=DataRequest(location=str(data or work / "colours"), cache=work / "cache"),
        **options,  # type: ignore[arg-type]
    )
    return LadderRequest(evaluate=base, protocols=protocols, members=members)  # type: ignore[arg-type]


def climbed(work: Path, *protocols: str, **options: object) -> Ladder:
    return climb(request(work, *protocols, **options))  # type: ignore[arg-type]


def reorder(model: Path, classes: list[str]) -> None:
    """Exchange the outputs of a bundle, so that it answers as before under another order of its classes."""
    from safetensors.torch import load_file, save

    from convworks.durable import write_folder

    info = json.loads((model / "model.json").read_text())
    order = [info["classes"].index(name) for name in classes]
    info["classes"] = classes
    weights = load_file(model / "weights.safetensors")
    last = [name.rpartition(".")[0] for name in weights if name.endswith(".weight")][-1]
    for part in ("weight", "bias"):
        weights[f"{last}.{part}"] = weights[f"{last}.{part}"][order].contiguous()
    files = {p.name: p.read_bytes() for p in model.iterdir() if p.name != "MANIFEST.json"}
    files |= {"weights.safetensors": save(weights), "model.json": json.dumps(info).encode()}
    write_folder(model, files.items())
