"""Kill a training with SIGKILL at many points, resume it, and compare every byte with an undisturbed run.

    python tests/faults/kill.py --points 200

One process imports torch; every training is a fork of it. The recipe has momentum, weight averaging,
every augmentation, dropout, batch normalisation, gradient accumulation, bf16, every regulariser, and warm
restarts with snapshots on. Kinds of points:

    time        at a uniformly random moment of the run
    checkpoint  inside the writing of a checkpoint: before, half-way through and after each durable call
    evaluation  in the middle of a validation pass
    start       while the data is read
    double      killed, resumed, and killed again before the second end

It ends with `figure NAME VALUE UNIT target TARGET` lines, as benchmarks do, and exits 1 where
one point differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from convworks import durable, models
from convworks.flows import results, session
from convworks.flows.prepare import DataRequest
from convworks.flows.train import ResumeRequest, TrainRequest, resume, train
from convworks.layers import Residual
from convworks.models.registry import register
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import resolve
from convworks.report import page as _page  # noqa: F401 - loaded once, before the forks

KINDS = {"time": 0.4, "checkpoint": 0.3, "evaluation": 0.1, "start": 0.1, "double": 0.1}
SETTINGS: dict[str, Any] = {
    "model": "everything_net",
    "epochs": 3,
    "batch": 16,
    "accumulate": 2,
    "size": 16,
    "ema": 0.9,
    "label_smoothing": 0.1,
    "clip_norm": 5.0,
    "precision": "bf16",
    "memory_format": "channels_last",
    "threads": 1,
    "workers": 1,
    "device": "cpu",
    "checkpoint_every": 4,
    "optimizer.lr": 0.05,
    "augment.shift": 2,
    "augment.flip": True,
    "augment.rotate": 10.0,
    "augment.scale_jitter": (16, 24),
    "augment.lighting": 0.5,
    "augment.brightness": 0.2,
    "augment.contrast": 0.2,
    "augment.saturation": 0.2,
    "augment.hue": 0.1,
    "augment.elastic": 10.0,
    "augment.randaugment": 2,
    "augment.cutout": 4,
    "augment.mixup": 0.4,
    "augment.cutmix": 1.0,
    "schedule.warmup": 0.1,
    "schedule.name": "warm-restarts",  # a snapshot after every epoch
    "schedule.cycle": 1,
    "regularize.l1": 1e-4,
    "regularize.proximal": True,
    "regularize.l2_plain": 1e-4,
    "regularize.max_norm": 2.0,
    "regularize.sparsity": 0.01,
    "regularize.sparsity_layers": ("gate",),
    "regularize.noise": 0.1,
    "regularize.dropout": 0.2,
    "regularize.stochastic_depth": 0.5,
}
# Crops by area exclude a scale jitter: every other point has them.
BY_AREA = {**SETTINGS, "augment.scale_jitter": None, "augment.area": (0.3, 1.0), "augment.mixup": 0.0}


class EverythingNet(nn.Module):
    """A small network with all that could go wrong in a resume: batch norm, two kinds of dropout, pooling."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.drop1 = nn.Dropout2d(0.1)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.act1, self.act2, self.gate = nn.ReLU(), nn.ReLU(), nn.Sigmoid()
        self.unit = Residual(nn.Conv2d(16, 16, 3, padding=1), nn.Identity())
        self.drop2 = nn.Dropout(0.3)
        self.fc = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.drop1(self.act1(self.norm1(self.conv1(x)))), 2)
        x = nn.functional.max_pool2d(self.act2(self.norm2(self.conv2(x))), 2)
        return self.fc(self.drop2(self.gate(self.unit(x)).mean((2, 3))))  # type: ignore[no-any-return]


def everything_net(
    *, num_classes: int = 3, in_channels: int = 3, input_size: tuple[int, int] = (16, 16)
) -> nn.Module:
    return EverythingNet(num_classes, in_channels)


if "everything_net" not in models.names():
    register(everything_net, source="this proof", summary="batch norm, dropout and pooling, for kills")


def make_images(folder: Path, *, per_class: int = 64) -> None:
    """Three classes of noisy 16-pixel PNG files."""
    generator = np.random.default_rng(0)
    for k, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.integers(0, 120, (16, 16, 3), dtype=np.uint8)
            pixels[4:12, 4:12, k] += 60
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


class Bench:
    """A data folder, a place for runs, and the bytes that an undisturbed run ends with."""

    def __init__(self, work: Path, settings: dict[str, Any] = SETTINGS) -> None:
        self.work, self.settings = work, settings
        self.data = work / "images"
        if not self.data.exists():
            make_images(self.data)

    def request(self, name: str, **changes: Any) -> TrainRequest:
        resolved = resolve(base=Recipe(), base_name="kill", flags={**self.settings, **changes})
        data = DataRequest(location=str(self.data), cache=self.work / "cache")
        return TrainRequest(data=data, resolved=resolved, out=self.work / "runs", name=name)

    def start(self, name: str, **changes: Any) -> None:
        """Train, or continue where the same request was stopped. Exits the (forked) process."""
        for _ in train(self.request(name, **changes)):
            pass

    def resume(self, name: str) -> None:
        for _ in resume(ResumeRequest(run=self.work / "runs" / name, cache=self.work / "cache")):
            pass

    def hashes(self, name: str) -> dict[str, str]:
        """sha256 of weights, optimizer, average, state, metrics, predictions, model and snapshots."""
        run = self.work / "runs" / name
        last = max((run / "checkpoints").glob("step-*"))
        wanted = [last / f"{group}.safetensors" for group in ("network", "optimizer", "average")]
        wanted += [last / "state.json", run / "metrics.jsonl", run / "evaluation" / "val.safetensors"]
        wanted += [run / "evaluation" / "val.json", run / "model" / "weights.safetensors"]
        wanted += sorted((run / "snapshots").glob("*/weights.safetensors"))
        return {str(p.relative_to(run)): hashlib.sha256(p.read_bytes()).hexdigest() for p in wanted}


def fork(work: Callable[[], None], *, kill_after: float | None = None) -> int:
    """Run `work` in a forked child and return its exit status; SIGKILL it after some seconds if asked to."""
    child = os.fork()
    if child == 0:
        status = 70
        try:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the child's own
            work()
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    if kill_after is not None:
        deadline = time.monotonic() + kill_after
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_durable_call(number: int, moment: str) -> None:
    """Patch this process: at durable call `number`, die before it, half-way through a write, or after it."""
    count = 0

    def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and moment == "before":
                die()
            if count == number and moment == "half" and original.__name__ == "write_bytes":
                args[0].write_bytes(args[1][: len(args[1]) // 2])
                die()
            value = original(*args, **kwargs)
            if count == number:
                die()
            return value

        return call

    for name in ("write_bytes", "fsync_file", "fsync_folder", "rename", "replace"):
        setattr(durable, name, wrapped(getattr(durable, name)))


def count_durable_calls(bench: Bench, name: str) -> int:
    """Number of durable calls in one whole run."""
    read, write = os.pipe()

    def work() -> None:
        count = 0

        def wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                return original(*args, **kwargs)

            return call

        for each in ("write_bytes", "fsync_file", "fsync_folder", "rename", "replace"):
            setattr(durable, each, wrapped(getattr(durable, each)))
        bench.start(name)
        os.write(write, str(count).encode())

    status = fork(work)
    os.close(write)
    text = os.read(read, 32).decode()
    os.close(read)
    if status != 0 or not text:
        raise RuntimeError(f"the undisturbed run failed with status {status}")
    return int(text)


def die_in_evaluation(number: int) -> None:
    """Patch this process: die in the `number`-th validation pass, after one of its batches."""
    count = 0
    original = session.predict_probabilities

    def call(network: Any, loader: Any, numerics: Any, *, should_stop: Any) -> Any:
        nonlocal count
        count += 1
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            if count == number and asked == 2:
                die()
            return bool(should_stop())

        return original(network, loader, numerics, should_stop=stop)

    session.predict_probabilities = call
    assert results.Session is session.Session


def one_point(bench: Bench, kind: str, name: str, draw: random.Random, seconds: float, calls: int) -> int:
    """Kill a new run in one way, then continue it until it ends. Returns how often it was killed."""
    killed = 0

    def attempt(work: Callable[[], None], kill_after: float | None = None) -> bool:
        nonlocal killed
        status = fork(work, kill_after=kill_after)
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{name}: a training ended with status {status}")
        killed += status != 0
        return status == 0

    if kind in {"time", "double"}:
        attempt(lambda: bench.start(name), kill_after=draw.uniform(0, seconds))
    elif kind == "start":
        attempt(lambda: bench.start(name), kill_after=draw.uniform(0, min(0.3, seconds)))
    elif kind == "checkpoint":
        number, moment = draw.randint(1, calls), draw.choice(["before", "half", "after"])
        attempt(lambda: (die_in_durable_call(number, moment), bench.start(name))[1])
    else:
        number = draw.randint(1, SETTINGS["epochs"])
        attempt(lambda: (die_in_evaluation(number), bench.start(name))[1])
    run = bench.work / "runs" / name
    if kind == "double" and not (run / "finished.json").is_file():
        attempt(lambda: bench.start(name), kill_after=draw.uniform(0, seconds / 2))
    # The same command again and `resume` are two ways to the same end. Killed before anything was written,
    # only the command can know what was wanted; killed after the very end, there is nothing left to do.
    if (run / "finished.json").is_file():
        return killed
    again = draw.random() < 0.5 or not (run / "recipe.json").is_file()
    if not attempt(lambda: bench.start(name) if again else bench.resume(name)):
        raise RuntimeError(f"{name}: the continued run was killed by something else")
    return killed


def prove(points: int, *, seed: int = 0, say: Callable[[str], None] = print) -> tuple[int, Counter[str], int]:
    """(points that ended the same, kinds, kills) over `points` random points."""
    draw = random.Random(seed)
    kinds = [kind for kind, share in KINDS.items() for _ in range(round(share * points))]
    with tempfile.TemporaryDirectory() as folder:
        benches = [Bench(Path(folder), settings) for settings in (SETTINGS, BY_AREA)]
        references = []
        for number, bench in enumerate(benches):
            # Measures the plan once; every later run remembers it.
            fork(lambda bench=bench, name=f"warm-up-{number}": bench.start(name))  # type: ignore[misc]
            start = time.monotonic()
            calls = count_durable_calls(bench, f"reference-{number}")
            seconds = time.monotonic() - start
            references.append((calls, seconds, bench.hashes(f"reference-{number}")))
        same, kills = 0, 0
        for number, kind in enumerate(kinds):
            name, bench = f"{kind}-{number}", benches[number % 2]
            calls, seconds, expected = references[number % 2]
            kills += one_point(bench, kind, name, draw, seconds, calls)
            found = bench.hashes(name)
            files = sorted({*expected, *found})  # one too many differs too
            different = [file for file in files if found.get(file) != expected.get(file)]
            same += not different
            if different:
                say(f"{name}: differs in {', '.join(different)}")
            shutil.rmtree(bench.work / "runs" / name)
    return same, Counter(kinds), kills


def control() -> tuple[int, int]:
    """(files that differ, files) between a run and one with another seed."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        for name, seed in (("a", 0), ("b", 1)):
            if fork(lambda name=name, seed=seed: bench.start(name, seed=seed)) != 0:  # type: ignore[misc]
                raise RuntimeError(f"run {name} failed")
        a, b = list(bench.hashes("a").values()), list(bench.hashes("b").values())
        return sum(x != y for x, y in zip(a, b, strict=True)), len(a)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill trainings and compare what they end with.")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--control", action="store_true", help="compare with another seed: all must differ")
    args = parser.parse_args()
    start = time.monotonic()
    if args.control:
        different, total = control()
        print(f"figure control_files_different {different}/{total} files target {total}/{total}")
        return 0 if different == total else 1
    same, kinds, kills = prove(args.points, seed=args.seed)
    total = sum(kinds.values())
    print(
        ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        + f"; {kills} kills; {time.monotonic() - start:.0f} s"
    )
    print(f"figure kill_points_identical {same}/{total} points target {total}/{total}")
    return 0 if same == total else 1


if __name__ == "__main__":
    sys.exit(main())
