"""Dense evaluation against the crops that cover the same positions.

    python benchmarks/protocols.py --quick      # a VGG-A of a quarter of the width; some seconds
    python benchmarks/protocols.py              # VGG-A as published

A VGG network moves by 32 pixels from one cell of its last map to the next. At scale Q its dense scores are
thus those of crops of 224 pixels at every multiple of 32: ((Q - 224) / 32 + 1)^2 of a square image, 36 at
Q = 384. Both ways are run on the same generated images, in turns, in this process; the time is that of the
network alone, since decoding and resizing are the same. Of crops, as many go through at once as is fastest.

The scores are compared too. They are not equal: a crop sees zeros beyond its border, a dense window sees the
image (Simonyan, Zisserman 2015, section 3.2, call the two complementary). With one position they are equal.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convworks import models
from convworks.evaluation.dense import DenseNetwork, fully_convolutional

RESULTS = Path(__file__).parent / "results"
TARGET = 5.0
CROP, STRIDE = 224, 32
BATCHES = (1, 4, 12)  # crops at once
QUARTER = (  # VGG-A with a quarter of its maps and hidden units
    "16@3x3 same relu, max 2x2/2, 32@3x3 same relu, max 2x2/2, "
    "64@3x3 same relu, 64@3x3 same relu, max 2x2/2, "
    "128@3x3 same relu, 128@3x3 same relu, max 2x2/2, 128@3x3 same relu, 128@3x3 same relu, max 2x2/2, "
    "flatten, dense 1024 relu, dropout, dense 1024 relu, dropout, dense K"
)


def network(*, quick: bool) -> nn.Module:
    torch.manual_seed(0)
    if quick:
        return models.create("stack", num_classes=100, input_size=(CROP, CROP), spec=QUARTER).eval()
    return models.create("vgg_a", num_classes=1000, input_size=(CROP, CROP)).eval()


def crops(image: Tensor) -> Tensor:
    """(1, 3, Q, Q) -> all crops of 224 at multiples of 32, row by row."""
    windows = image.unfold(2, CROP, STRIDE).unfold(3, CROP, STRIDE)  # (1, 3, rows, columns, 224, 224)
    return windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, image.shape[1], CROP, CROP).contiguous()


def by_crops(net: nn.Module, batch: int) -> Callable[[Tensor], Tensor]:
    return lambda image: torch.cat([net(part) for part in crops(image).split(batch)])


def by_map(dense: DenseNetwork) -> Callable[[Tensor], Tensor]:
    return lambda image: dense.score_map(image)[0].flatten(1).T


def seconds(run: Callable[[Tensor], Tensor], image: Tensor) -> float:
    start = time.perf_counter()
    run(image)
    return time.perf_counter() - start


def compare(net: nn.Module, scale: int, rounds: int) -> dict[str, Any]:
    """Median seconds of an image both ways, in turns, and how alike the scores are."""
    dense = fully_convolutional(net, (3, CROP, CROP))
    image = torch.randn(1, 3, scale, scale)
    positions = ((scale - CROP) // STRIDE + 1) ** 2
    ways = {f"crops, {batch} at once": by_crops(net, batch) for batch in BATCHES if batch <= positions}
    ways["dense"] = by_map(dense)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):  # the first one warms up
        for name, run in ways.items():
            taken = seconds(run, image)
            if turn:
                times[name].append(taken)
    medians = {name: statistics.median(each) for name, each in times.items()}
    best = min(name for name in medians if name != "dense" and medians[name] == _fastest(medians))
    a, b = by_crops(net, 4)(image), ways["dense"](image)
    one = torch.randn(1, 3, CROP, CROP)
    return {
        "scale": scale,
        "positions": positions,
        "seconds": medians,
        "best_crops": best,
        "factor": medians[best] / medians["dense"],
        "correlation": correlation(a, b),
        "difference_at_one_position": float((net(one) - dense(one)).abs().max() / net(one).abs().max()),
    }


def correlation(a: Tensor, b: Tensor) -> float:
    """Of scores (positions, K), each class about its own mean: how alike the two ways see the places."""
    parts = [(each - each.mean(0)).flatten() for each in (a, b)]
    return float(torch.corrcoef(torch.stack(parts))[0, 1])


def _fastest(medians: dict[str, float]) -> float:
    return min(value for name, value in medians.items() if name != "dense")


@torch.inference_mode()
def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the width")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/protocols.json")
    args = parser.parse_args()
    net = network(quick=args.quick)
    rows = []
    for scale in (256, 384) if args.quick else (256, 384, 512):
        row = compare(net, scale, args.rounds)
        rows.append(row)
        times = "   ".join(f"{name} {value:.3f} s" for name, value in row["seconds"].items())
        print(f"Q = {scale}, {row['positions']} positions   {times}   factor {row['factor']:.1f}", flush=True)
    chosen = next(row for row in rows if row["scale"] == 384)
    print(f"correlation of the scores {chosen['correlation']:.3f}; one position differs by "
          f"{chosen['difference_at_one_position']:.1e}")  # fmt: skip
    print(f"figure dense_vs_multicrop {chosen['factor']:.1f} x target {TARGET:g}")
    if args.save:
        machine = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        document = {"network": "quarter" if args.quick else "vgg_a", "machine": machine, "rows": rows}
        (RESULTS / "protocols.json").write_text(json.dumps(document, indent=2) + "\n")
    return 0 if chosen["factor"] >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
