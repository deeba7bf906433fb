"""The two sides of train_speed.py, each run in a process of its own, and the streaming test."""

from __future__ import annotations

import random
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from convworks.machine import HostShare

MB = 2**20


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


def peak_memory() -> int:
    """Bytes that this process held at the most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- the ordinary loop ---------------------------------------------------------------------------------


def ordinary_loop(case: dict[str, Any], workers: int) -> dict[str, float]:
    """One epoch as it is usually written. Returns images and seconds, from files to the last step."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from convworks import models
    from convworks.data.sources import open_source

    start, host = time.perf_counter(), HostShare()
    torch.manual_seed(0)
    size, shift = case["size"], case["shift"]

    class Files(Dataset):  # type: ignore[type-arg]
        """Images are opened, resized, augmented and normalised one by one."""

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
            if case.get("stored"):  # the shorter side to 256, a random crop of 224
                ratio = case["stored"] / min(image.size)
                sides = tuple(max(round(side * ratio), size) for side in image.size)
                image = image.resize(sides, Image.Resampling.BILINEAR)
                left, top = (int(self.generator.integers(0, side - size + 1)) for side in image.size)
                image = image.crop((left, top, left + size, top + size))
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
    loader = DataLoader(files, batch_size=case["batch"], shuffle=True, num_workers=workers, drop_last=True)
    network = models.create(
        case["model"], num_classes=10, in_channels=case["channels"], input_size=(size, size)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    criterion = torch.nn.CrossEntropyLoss()
    network.train()
    seen = 0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(network(x), y)
        loss.backward()
        optimizer.step()
        seen += len(y)
    seconds = time.perf_counter() - start
    return {"images": seen, "seconds": seconds, "peak": peak_memory(), "taken_by_host": host.taken()}


# --- convworks -----------------------------------------------------------------------------------------


def recipe_of(case: dict[str, Any]) -> Any:
    from convworks.recipes.recipe import AugmentSpec, OptimizerSpec, Recipe

    return Recipe(
        model=case["model"],
        batch=case["batch"],
        epochs=case["epochs"],
        size=case["size"],
        stored=case.get("stored"),
        optimizer=OptimizerSpec(name="nesterov", lr=0.01, weight_decay=5e-4),
        augment=AugmentSpec(shift=case["shift"], flip=case["flip"]),
        val_fraction=0.01,
        precision=case.get("precision", "auto"),
    )


def convworks_epoch(case: dict[str, Any]) -> dict[str, Any]:
    """One epoch of `convworks train`: files, hashes, decode, split, plan, epoch; then the ceiling."""
    import torch

    from convworks.flows.plan import plan_training
    from convworks.flows.prepare import DataRequest, build_network, prepare_data
    from convworks.flows.session import Session
    from convworks.runs import Run
    from convworks.training.allocator import keep_pages

    start, host = time.perf_counter(), HostShare()
    keep_pages()
    recipe = recipe_of(case)
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
        for _ in zip(range(limit), session._steps(), strict=False):
            pass
    end, taken = time.perf_counter(), host.taken()
    peak = peak_memory()
    share, ceiling = share_of_ceiling(prepared, recipe, network, plan)
    return {
        "images": session.position.seen,
        "seconds": end - start,
        "prepare": decoded - start,
        "plan_seconds": planned - decoded,
        "epoch": end - planned,
        "plan": plan.lines(),
        "measured": plan.measured,
        "peak": peak,
        "taken_by_host": taken,
        "share_of_ceiling": share,
        "ceiling": ceiling,
    }


def share_of_ceiling(prepared: Any, recipe: Any, network: Any, plan: Any) -> tuple[float, float]:
    """(share that a step reaches of torch's own convolutions alone, their images a second), taken in turn."""
    from convworks.flows.plan_report import shares_of

    shares, _ = shares_of(prepared, recipe, network, plan)
    assert shares.ceiling is not None
    return shares.of_ceiling, recipe.batch / shares.ceiling


# --- streaming -----------------------------------------------------------------------------------------


def unshared_memory() -> int:
    """Bytes of this process that are its own, not pages of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def streaming(case: dict[str, Any]) -> dict[str, Any]:
    """Read and train on images that take many times the memory that they may take."""
    from convworks.data.dataset import build_dataset
    from convworks.data.preprocess import Preprocess
    from convworks.flows.prepare import (
        DataRequest,
        Prepared,
        build_network,
        choose_geometry,
        optimizer_for,
        training_loader,
    )
    from convworks.training.allocator import keep_pages
    from convworks.training.loop import Numerics, StepSettings, accumulate_gradients

    keep_pages()
    recipe = replace(recipe_of(case), model="lenet5_modern", stored=None)
    cap, cache = case["cap"], Path(case["cache"])
    from convworks.data.store import probe

    before = unshared_memory()
    request = DataRequest(location=case["data"], cache=cache)
    with request.open() as source:
        geometry = choose_geometry(recipe, probe(source))
        dataset = build_dataset(
            source, geometry=geometry, seed=0, val_fraction=0.01, cache=cache, threads=1, ram_limit=cap
        )
    read = unshared_memory()
    preprocess = Preprocess.fit(
        dataset.images, dataset.split_rows("train"), geometry=geometry, normalize="none"
    )
    prepared = Prepared(dataset, preprocess, 0.0, request)
    network = build_network(recipe, len(dataset.classes), geometry).train()
    loader = training_loader(prepared, recipe, numerics=Numerics(), workers=1)
    optimizer, settings = optimizer_for(recipe, network), StepSettings(seed=0, lr=0.01)
    held: list[int] = []
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            accumulate_gradients(network, optimizer, batch, settings, Numerics())
            optimizer.step()
            held.append(unshared_memory())
    settled = held[len(held) // 4 :]
    return {
        "storage": dataset.storage,
        "images_bytes": dataset.images.numel(),
        "cap": cap,
        "reading_grew": read - before,
        "training_grew": max(settled) - settled[0],
        "steps": len(held),
    }
