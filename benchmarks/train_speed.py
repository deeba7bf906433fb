"""Training from files to the end of an epoch: convworks against the loop that a PyTorch user writes today.

    python benchmarks/train_speed.py --quick          # under a minute or two, on a part of the data
    python benchmarks/train_speed.py                  # MNIST and CIFAR-10 (JPEG copy) whole

Both train the same network on the same files with the same batch size, optimizer and augmentation, in turns,
so that a machine that drifts drifts for both.

The loop: a Dataset of PIL images, transforms for each image, DataLoader with the better of 0 and 2 workers,
float32, default memory format, default allocator. convworks: as `convworks train` does it, with decoding and
hashing every file counted. Its plan is measured once for a machine and remembered; figures are given with and
without that first measurement. Neither side's validation is counted.

Needs CONVWORKS_DATA (a folder with mnist/ and cifar10-jpeg.zip); without it, the built-in shapes are used.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convworks.threads import spin_briefly

RESULTS = Path(__file__).parent / "results"
TARGETS = {"mnist_lenet": 2.0, "cifar_three_blocks": 3.5, "cifar_fastnet": 3.5}  # on a machine with AMX


def three_blocks(
    *, num_classes: int = 10, in_channels: int = 3, input_size: tuple[int, int] = (32, 32)
) -> Any:
    """Three blocks of two 3x3 convolutions with batch norm and ReLU, 64-128-256 maps; 153 MMAC at 32x32."""
    from torch import nn

    layers: list[Any] = []
    for width in (64, 128, 256):
        for _ in range(2):
            layers += [
                nn.Conv2d(in_channels, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            in_channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, num_classes))


# --- the ordinary loop ---------------------------------------------------------------------------------


def ordinary_loop(case: dict[str, Any], workers: int) -> dict[str, float]:
    """One epoch as it is usually written. Returns images and seconds, from files to the last step."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from convworks import models
    from convworks.data.sources import open_source

    start = time.perf_counter()
    torch.manual_seed(0)

    class Files(Dataset):  # type: ignore[type-arg]
        """Images are opened, augmented and normalised one by one."""

        def __init__(self) -> None:
            if case["kind"] == "idx":
                source = open_source(case["data"], cache=Path(case["cache"]))
                keep = [i for i, e in enumerate(source.entries) if e.split == "train"][: case["images"]]
                self.images = [source.array[i, :, :, 0] for i in keep]  # type: ignore[index]
                self.labels = [int(source.entries[i].label) for i in keep]  # type: ignore[arg-type]
            else:
                classes = sorted(p.name for p in (Path(case["data"]) / "train").iterdir())
                self.images = sorted((Path(case["data"]) / "train").glob("*/*"))
                self.images = random.sample(self.images, case["images"])
                self.labels = [classes.index(p.parent.name) for p in self.images]
            self.generator = np.random.default_rng(0)

        def __len__(self) -> int:
            return len(self.images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            item = self.images[index]
            image = Image.fromarray(item) if case["kind"] == "idx" else Image.open(item).convert("RGB")
            shift = case["shift"]
            if case["flip"] and self.generator.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            if shift:
                padded = Image.new(image.mode, (image.width + 2 * shift, image.height + 2 * shift))
                padded.paste(image, (shift, shift))
                left, top = self.generator.integers(0, 2 * shift + 1, 2)
                image = padded.crop((left, top, left + image.width, top + image.height))
            pixels = torch.from_numpy(np.array(image, dtype=np.uint8, copy=True))
            pixels = pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
            return pixels.contiguous().float().div(255).sub(0.45).div(0.25), self.labels[index]

    files = Files()
    loader = DataLoader(files, batch_size=case["batch"], shuffle=True, num_workers=workers)
    size = case["size"]
    network = models.create(
        case["model"], num_classes=10, in_channels=case["channels"], input_size=(size, size)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    criterion = torch.nn.CrossEntropyLoss()
    network.train()
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(network(x), y)
        loss.backward()
        optimizer.step()
    return {"images": len(files), "seconds": time.perf_counter() - start}


# --- convworks -----------------------------------------------------------------------------------------


def convworks_epoch(case: dict[str, Any]) -> dict[str, Any]:
    """One epoch of `convworks train`: files, hashes, decode, split, plan, epoch."""
    start = time.perf_counter()
    from convworks.flows.plan import plan_training
    from convworks.flows.prepare import DataRequest, build_network, prepare_data
    from convworks.flows.session import Session
    from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe
    from convworks.runs import Run
    from convworks.training.allocator import keep_pages

    keep_pages()
    recipe = Recipe(
        model=case["model"],
        batch=case["batch"],
        epochs=case["epochs"],
        size=case["size"],
        optimizer=OptimizerSpec(name="nesterov", lr=0.01, weight_decay=5e-4),
        augment=AugmentSpec(shift=case["shift"], flip=case["flip"]),
        val_fraction=0.01,
    )
    if case.get("precision"):
        recipe = replace(recipe, precision=case["precision"])
    import torch

    cache = Path(case["cache"])
    data = DataRequest(location=case["data"], cache=cache)
    prepared = prepare_data(data, recipe, expected=None, geometry=None, should_stop=lambda: False)
    decoded = time.perf_counter()
    network = build_network(recipe, len(prepared.dataset.classes), prepared.dataset.geometry)
    plan = plan_training(prepared, recipe, network, cache=cache)
    planned = time.perf_counter()
    torch.set_num_threads(plan.threads)
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Run(Path(folder)), recipe, prepared, network, plan, manifest="")
        session.run.checkpoints.mkdir()
        limit = case["images"] // case["batch"]
        for _ in zip(session._steps(), range(limit), strict=False):
            pass
    end = time.perf_counter()
    return {
        "images": session.position.seen,
        "seconds": end - start,
        "prepare": decoded - start,
        "plan_seconds": planned - decoded,
        "epoch": end - planned,
        "plan": plan.lines(),
        "measured": plan.measured,
    }


# --- the comparison ------------------------------------------------------------------------------------


def in_fresh_process(what: str, case: dict[str, Any], workers: int = 0) -> dict[str, Any]:
    """Run one side in a new process: its imports are not counted, its memory settings are its own."""
    answer = subprocess.run(
        [sys.executable, __file__, "--side", what, "--case", json.dumps(case), "--workers", str(workers)],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise SystemExit(f"{what} failed:\n{answer.stderr}")
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def make_cases(work: Path, *, quick: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """The two cases; images are written or extracted into `work`."""
    root = os.environ.get("CONVWORKS_DATA")
    common = {"epochs": 10}
    if root and (Path(root) / "mnist").is_dir():
        yield (
            "mnist_lenet",
            {
                **common,
                "cache": str(work / "cache-mnist"),
                "kind": "idx",
                "data": str(Path(root) / "mnist"),
                "images": 12_000 if quick else 54_000,
                "model": "lenet5_modern",
                "channels": 1,
                "size": 28,
                "batch": 64,
                "shift": 0,
                "flip": False,
            },
        )
    archive = Path(root) / "cifar10-jpeg.zip" if root else None
    images = 5_000 if quick else 50_000
    folder = work / "images"
    if archive is not None and archive.is_file():
        extract(archive, folder, images=images)
    else:
        write_shapes(folder, images=images)
    for name, model, count in (
        ("cifar_fastnet", "fastnet", images),
        ("cifar_three_blocks", "three_blocks", min(images, 12_800)),
    ):
        yield (
            name,
            {
                **common,
                "cache": str(work / f"cache-{name}"),
                "kind": "folder",
                "data": str(folder),
                "images": count,
                "model": model,
                "channels": 3,
                "size": 32,
                "batch": 128,
                "shift": 4,
                "flip": True,
            },
        )


def extract(archive: Path, folder: Path, *, images: int) -> None:
    """The first images of every class of cifar10-jpeg.zip, as files: train/CLASS/N.jpg, and a few val/."""
    taken: dict[tuple[str, str], int] = {}
    with zipfile.ZipFile(archive) as source:
        for name in sorted(source.namelist()):
            parts = name.split("/")
            if len(parts) < 3 or not name.endswith(".jpg"):
                continue
            split, label = parts[-3], parts[-2]
            count = taken.get((split, label), 0)
            if count >= (images // 10 if split == "train" else 2):
                continue
            taken[split, label] = count + 1
            target = folder / ("train" if split == "train" else "val") / label
            target.mkdir(parents=True, exist_ok=True)
            (target / parts[-1]).write_bytes(source.read(name))


def write_shapes(folder: Path, *, images: int) -> None:
    """The built-in shapes as JPEG files, repeated until there are enough."""
    from PIL import Image

    from convworks.data.sources import open_source

    source = open_source("shapes", cache=folder)
    for number in range(images + 20):
        index = number % len(source.entries)
        target = folder / ("train" if number < images else "val") / str(source.entries[index].label)
        target.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        Image.fromarray(source.pixels(index)).save(
            buffer, "JPEG", quality=75 + number // len(source.entries) % 20
        )
        (target / f"{number}.jpg").write_bytes(buffer.getvalue())


def compare(name: str, case: dict[str, Any]) -> dict[str, Any]:
    """Both sides in turns: the loop with 0 and 2 workers, convworks planning and with its plan remembered."""
    loops = {workers: in_fresh_process("loop", case, workers) for workers in (0, 2)}
    first = in_fresh_process("convworks", case)
    fresh_cache = {**case, "cache": case["cache"] + "-2"}
    plans = Path(fresh_cache["cache"]) / "plans"
    plans.parent.mkdir(exist_ok=True)
    (Path(case["cache"]) / "plans").rename(plans)
    remembered = in_fresh_process("convworks", fresh_cache)
    better = max(loops, key=lambda w: loops[w]["images"] / loops[w]["seconds"])
    loop_rate = loops[better]["images"] / loops[better]["seconds"]
    rates = {
        "first_time": first["images"] / first["seconds"],
        "plan_remembered": remembered["images"] / remembered["seconds"],
        "epoch_alone": remembered["images"] / remembered["epoch"],
    }
    sys.stdout.flush()
    print(f"\n{name}: {case['images']:,} images, batch {case['batch']}, {case['model']}")
    print(f"  loop, {better} workers      {loop_rate:>8,.0f} images/s  ({loops[better]['seconds']:.1f} s)")
    for kind, rate in rates.items():
        print(f"  convworks, {kind:<16}{rate:>8,.0f} images/s  {rate / loop_rate:.2f}x")
    print(f"  reading and hashing {remembered['prepare']:.1f} s, planning {first['plan_seconds']:.1f} s once")
    for line in remembered["plan"]:
        print(f"  plan: {line}")
    ratio = rates["plan_remembered"] / loop_rate
    print(f"figure {name}_vs_loop {ratio:.2f} x target {TARGETS[name]}")
    return {
        "case": {k: v for k, v in case.items() if k not in {"cache", "data"}},
        "loop": {f"workers_{w}": round(r["images"] / r["seconds"], 1) for w, r in loops.items()},
        "convworks": {kind: round(rate, 1) for kind, rate in rates.items()},
        "ratio": round(ratio, 3),
        "ratio_first_time": round(rates["first_time"] / loop_rate, 3),
        "plan": remembered["plan"],
        "measured": remembered["measured"],
        "seconds": {k: round(remembered[k], 2) for k in ("prepare", "plan_seconds", "epoch")},
    }


def machine() -> dict[str, Any]:
    import torch

    model, flags = "", ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            model = model or (value.strip() if key.strip() == "model name" else "")
            flags = flags or (value if key.strip() == "flags" else "")
    except OSError:
        model = platform.processor()
    return {
        "processor": model,
        "processors": len(os.sched_getaffinity(0)),
        "amx": "amx_tile" in flags,
        "avx512_bf16": "avx512_bf16" in flags,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Training speed against the ordinary PyTorch loop.")
    parser.add_argument("--quick", action="store_true", help="a part of the data")
    parser.add_argument("--only", choices=sorted(TARGETS), help="one case")
    parser.add_argument("--side", choices=("loop", "convworks"), help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        case = json.loads(args.case)
        random.seed(0)
        if args.side == "convworks":
            spin_briefly()  # as the command line does
        import torch  # noqa: F401  both sides start with torch imported

        from convworks.models.registry import register

        register(three_blocks, source="this benchmark", summary="a plain small network")

        result = ordinary_loop(case, args.workers) if args.side == "loop" else convworks_epoch(case)
        print(json.dumps(result))
        return
    found: dict[str, Any] = {"machine": machine(), "quick": args.quick, "cases": {}}
    print(f"{found['machine']}")
    with tempfile.TemporaryDirectory() as folder:
        for name, case in make_cases(Path(folder), quick=args.quick):
            if args.only in {None, name}:
                found["cases"][name] = compare(name, case)
    RESULTS.mkdir(exist_ok=True)
    suffix = "-quick" if args.quick else ""
    target = RESULTS / f"train_speed{suffix}.json"
    target.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")
    print(f"\nwritten to {target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target}")


if __name__ == "__main__":
    main()
