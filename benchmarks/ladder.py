"""The ladder of evaluation on photographs: ways to look at an image, then one network, five, five stacked.

    python benchmarks/ladder.py --quick         # a minute: two members, few images, the cheap protocols
    python benchmarks/ladder.py                 # the ten classes of caltech10.zip; about an hour on two cores

The photographs are split once, by the order of their names: in every class the first quarter is for the test,
the next eighth validates, the rest trains. Two networks are trained from random weights at 224 pixels: VGG-A
with a quarter of its maps and hidden units, five seeds of it, and ResNet-18. A run keeps its last weights, so
that even the validation images have chosen nothing; the stacking is fitted on them, and every figure below is
of the test images, which nothing was tuned on.

The rows: each network under each protocol, its error with Wilson's 95 % interval and the paired difference to
the single central crop; then the committee of five VGGs, and VGGs and ResNet stacked, with the paired
difference to the mean member. Views that dense evaluation shares with crops are not computed twice.

Needs CONVWORKS_DATA (a folder with caltech10.zip).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from convworks.threads import spin_briefly

spin_briefly()

import torch  # noqa: E402  after the thread settings

from convworks import api  # noqa: E402
from convworks.flows.ensemble import EnsembleResult  # noqa: E402
from convworks.flows.ladder import Ladder  # noqa: E402
from convworks.flows.several import Ensemble  # noqa: E402
from convworks.machine import processor_name  # noqa: E402
from protocols import QUARTER  # noqa: E402

RESULTS = Path(__file__).parent / "results"
PROTOCOLS = ("centre", "10-crop", "144-crop", "vgg-dense", "dense+multi-crop")
QUICK_PROTOCOLS = ("centre", "10-crop", "vgg-dense")
MEMBERS = 5
COMMON: dict[str, Any] = {
    "size": 224,
    "stored": 256,  # crops of 224 from it
    "batch": 32,
    "keep": "last",
    "augment__flip": True,
    "label_smoothing": 0.1,
}
VGG = {"model": "stack", "model_options": {"spec": QUARTER}, "initialize": "he", "epochs": 60}
RESNET = {"model": "resnet18", "epochs": 30}


def split(archive: Path, folder: Path, *, most: int | None) -> Path:
    """Write the photographs as train/, val/ and test/, at the most so many of a class."""
    taken: dict[str, int] = {}
    with zipfile.ZipFile(archive) as source:
        names = sorted(name for name in source.namelist() if name.endswith(".jpg"))
        totals: dict[str, int] = {}
        for name in names:
            label = name.split("/")[-2]
            totals[label] = min(totals.get(label, 0) + 1, most or len(names))
        for name in names:
            label, file = name.split("/")[-2:]
            place = taken.get(label, 0) / totals[label]
            if place >= 1:
                continue
            taken[label] = taken.get(label, 0) + 1
            part = "test" if place < 0.25 else "val" if place < 0.375 else "train"
            target = folder / part / label
            target.mkdir(parents=True, exist_ok=True)
            (target / file).write_bytes(source.read(name))
    return folder


def print_ladder(name: str, ladder: Ladder) -> list[dict[str, Any]]:
    """One line for every protocol."""
    print(f"\n{name}, {len(ladder.labels)} test images")
    rows = [rung.to_dict(ladder.side) for rung in ladder.rungs]
    for row in rows:
        low, high = (100 * each for each in row["top1_error_ci"])
        line = f"  {row['protocol']:<18}{100 * row['top1_error']:6.2f} %  [{low:5.2f}, {high:5.2f}]"
        line += f"  {row['cost']:>4} passes {row['seconds']:>7.1f} s"
        if row["difference"] is not None:
            error, low, high = (100 * row["difference"][key] for key in ("error", "low", "high"))
            line += f"  {error:+.2f} points [{low:+.2f}, {high:+.2f}], p = {row['difference']['p']:.3f}"
        print(line, flush=True)
        row.pop("metrics")
    return rows


def print_ensemble(name: str, result: EnsembleResult) -> dict[str, Any]:
    """The mean member, all together, and the paired difference."""
    found = result.to_dict()
    low, high = (100 * (1 - each) for each in reversed(result.metrics.top1_ci))
    gain, gain_low, gain_high = (100 * each for each in result.over_mean)
    print(f"\n{name}: reported on {result.roles.reported_on}", flush=True)
    print(f"  mean member {100 * (1 - result.mean_member):6.2f} %")
    print(f"  together    {100 * (1 - result.metrics.top1):6.2f} %  [{low:5.2f}, {high:5.2f}]")
    print(f"  {-gain:+.2f} points [{-gain_high:+.2f}, {-gain_low:+.2f}]", flush=True)
    return {
        "mean_member_error": 1 - result.mean_member,
        "error": 1 - result.metrics.top1,
        "ci": [low / 100, high / 100],
        "over_mean_member": list(result.over_mean),
        "reported_on": found["reported_on"],
        "fitted_on": found["fitted_on"],
        "members": [{key: row[key] for key in ("model", "accuracy")} for row in found["rows"]],
    }


def climb(folder: Path, data: Path, *, quick: bool) -> dict[str, Any]:
    """Train, evaluate, combine; returns what is kept."""
    members, protocols = (2, QUICK_PROTOCOLS) if quick else (MEMBERS, PROTOCOLS)
    few: Mapping[str, Any] = {"epochs": 2} if quick else {}
    vggs = []
    for seed in range(members):
        vggs.append(train(data, folder, f"vgg-{seed}", {**VGG, **few, "seed": seed}))
    resnet = train(data, folder, "resnet", {**RESNET, **few, "seed": 0})
    taken = {run.path.name: seconds(run) for run in (*vggs, resnet)}
    print(f"seconds of training: {taken}", flush=True)
    rows = {
        "vgg_a_quarter": print_ladder("VGG-A, a quarter of the width", vggs[0].ladder(data, *protocols)),
        "resnet18": print_ladder("ResNet-18", resnet.ladder(data, *protocols)),
    }
    five: Sequence[Path] = [run.path for run in vggs]
    common: dict[str, Any] = {"data": data, "split": "test"}
    together = {
        "committee": print_ensemble(f"Committee of {members} VGGs", Ensemble.make(*five, **common)),
        "stacked": print_ensemble(
            f"{members} VGGs and ResNet-18, stacked on the validation images",
            Ensemble.make(*five, resnet.path, weights="stacking", fit="val", **common),
        ),
        "averaged": print_ensemble(
            f"{members} VGGs and ResNet-18, averaged", Ensemble.make(*five, resnet.path, **common)
        ),
    }
    return {"ladders": rows, "ensembles": together, "training_seconds": taken}


def train(data: Path, folder: Path, name: str, settings: Mapping[str, Any]) -> api.TrainedRun:
    run = api.train(data, out=folder / "runs", name=name, **{**COMMON, **settings})
    print(f"{name}: validation {100 * run.best.accuracy:.2f} % at its best epoch", flush=True)
    return run


def seconds(run: api.TrainedRun) -> float:
    """Of training: the median epoch's, for all of them, so that a pause does not count."""
    lines = (run.path / "timing.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    epochs = [each["wall_seconds"] for each in records if each["event"] == "epoch"]
    return round(statistics.median(epochs) * len(epochs), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two members, few images, cheap protocols")
    parser.add_argument("--work", type=Path, help="a folder for runs, which are continued if they are there")
    args = parser.parse_args()
    archive = Path(os.environ.get("CONVWORKS_DATA") or ".") / "caltech10.zip"
    if not archive.is_file():
        raise SystemExit(f"{archive} is missing: set CONVWORKS_DATA to a folder that holds caltech10.zip")
    with tempfile.TemporaryDirectory(prefix="convworks-ladder-") as temporary:
        work = args.work or Path(temporary)
        data = split(archive, work / "photos", most=16 if args.quick else None)
        found = climb(work, data, quick=args.quick)
    vgg, five = found["ladders"]["vgg_a_quarter"], found["ensembles"]["committee"]
    gain = 100 * (vgg[0]["top1_error"] - vgg[-1]["top1_error"])
    print(f"\nfigure ladder_dense_multi_crop_gain {gain:.2f} points target 0")
    print(f"figure ladder_committee_gain {100 * five['over_mean_member'][0]:.2f} points target 0")
    if args.quick:
        return
    found |= {"date": datetime.now(UTC).date().isoformat(), "machine": processor_name()}
    found |= {"processors": torch.get_num_threads(), "torch": torch.__version__}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ladder.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
