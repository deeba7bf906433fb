"""The algorithms of convolution against each other and against torch's own, over a grid of shapes.

    python benchmarks/convolution.py --quick          # about a minute
    python benchmarks/convolution.py                  # the whole grid; draws the map of winners

For each shape, type and pass (forward, gradient to the input, gradient to the weights) it prints the time of
every algorithm as a multiple of torch's own convolution, measured in turns in the same run, and the winner.
Then `algorithm="auto"` runs against torch.nn.functional as a user calls both, forward and through autograd.
A row in which that is below TARGET is chosen and measured anew, once, and the second figures stand: on a
machine that does other things too a single row may be off. Such rows have "again" in the results;
`--missed` does the same later, for the rows of the last results.

Padding keeps the size. The batch shrinks as the maps and the work grow, and shapes with more than MOST_MACS
multiply-adds for one image are left out and counted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from convworks.threads import spin_briefly

spin_briefly()

import torch  # noqa: E402  after the thread settings
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from convworks.machine import processor_name  # noqa: E402
from convworks.ops import autotune  # noqa: E402
from convworks.ops.algorithms import lowering  # noqa: E402
from convworks.ops.algorithms.window import Window  # noqa: E402
from convworks.ops.convolution import convolve  # noqa: E402

RESULTS = Path(__file__).parent / "results"
KERNELS = (1, 3, 5, 9, 17, 31)
CHANNELS = ((3, 64), (64, 64), (128, 128), (256, 256), (512, 512))
MAPS = (7, 14, 28, 56, 112, 224)
QUICK = {"kernels": (3, 17, 31), "channels": ((64, 64), (128, 128)), "maps": (7, 28)}
BATCHES = {7: 256, 14: 64, 28: 32, 56: 8, 112: 2, 224: 1}  # at most
SMALLEST_COLOUR = 28  # side of the smallest map with 3 channels: images
SHORT, MOST_MACS = (
    1e9,
    6e9,
)  # of one forward pass: batches are halved above the first; left out above the other
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TARGET = 0.95  # auto is never slower than this share of torch's speed
LARGE = 17  # kernels from here on are the ones that the frequency domain is for


class Shape(NamedTuple):
    kernel: int
    inputs: int
    outputs: int
    side: int

    @property
    def batch(self) -> int:
        batch = BATCHES[self.side]
        while batch > 1 and batch * self.macs > SHORT:
            batch //= 2
        return batch

    @property
    def macs(self) -> float:
        """Of one image."""
        return float(self.outputs * self.side**2 * self.inputs * self.kernel**2)

    @property
    def window(self) -> Window:
        half = self.kernel // 2
        return Window((self.kernel,) * 2, (1, 1), ((half, half),) * 2, (1, 1))

    def tensors(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        x = torch.randn(self.batch, self.inputs, self.side, self.side)
        w = torch.randn(self.outputs, self.inputs, self.kernel, self.kernel)
        return x.to(dtype), (w / math.sqrt(w[0].numel())).to(dtype)


def shapes(quick: bool) -> tuple[list[Shape], int]:
    """The grid, and how many shapes are left out because torch would take too long for them."""
    grid = QUICK if quick else {"kernels": KERNELS, "channels": CHANNELS, "maps": MAPS}
    every = [
        Shape(k, c, o, side)
        for k, (c, o), side in itertools.product(grid["kernels"], grid["channels"], grid["maps"])
        if c > 3 or side >= SMALLEST_COLOUR
    ]
    kept = [shape for shape in every if shape.macs <= MOST_MACS]
    return kept, len(every) - len(kept)


def ratio_of(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of theirs, and theirs / ours: medians of pairs that are taken in turns."""
    ours(), theirs()
    started = time.perf_counter()
    theirs()
    once = max(time.perf_counter() - started, 1e-6)
    repeats = max(1, int(2e-3 / once))
    pairs = []
    for turn in range(min(41, max(7, int(0.6 / (once * repeats))))):
        seconds = {}
        for run in (ours, theirs) if turn % 2 else (theirs, ours):
            started = time.perf_counter()
            for _ in range(repeats):
                run()
            seconds[run] = (time.perf_counter() - started) / repeats
        pairs.append((seconds[theirs], seconds[theirs] / seconds[ours]))
    return statistics.median(s for s, _ in pairs), statistics.median(r for _, r in pairs)


def auto_against_torch(shape: Shape, dtype: torch.dtype) -> dict[str, float]:
    """auto / torch for inference, and for forward and backward through autograd, as users call them."""
    x, w = shape.tensors(dtype)
    half = shape.kernel // 2
    with torch.no_grad():
        seconds, inference = ratio_of(
            lambda: convolve(x, w, padding=half, algorithm="auto"), lambda: F.conv2d(x, w, padding=half)
        )
    x, w = x.requires_grad_(), w.requires_grad_()
    dy = torch.randn(shape.batch, shape.outputs, shape.side, shape.side).to(dtype)

    def train(convolution: Callable[[], Tensor]) -> None:
        torch.autograd.grad(convolution(), (x, w), dy)

    both, training = ratio_of(
        lambda: train(lambda: convolve(x, w, padding=half, algorithm="auto")),
        lambda: train(lambda: F.conv2d(x, w, padding=half)),
    )
    return {
        "torch_ms": seconds * 1e3,
        "inference": inference,
        "torch_train_ms": both * 1e3,
        "training": training,
    }


def run(quick: bool) -> dict[str, Any]:
    cases, left_out = shapes(quick)
    rows = []
    for dtype, shape in itertools.product(TYPES, cases):
        row = measured(shape, dtype)
        rows.append(measured_again(row) if missed(row) else row)
        print(line(rows[-1]), flush=True)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": processor_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "system": platform.system(),
        "left_out": left_out,
        "most_macs": MOST_MACS,
        "rows": rows,
    }


def measured(shape: Shape, dtype: str) -> dict[str, Any]:
    """One row of the results."""
    x, w = shape.tensors(TYPES[dtype])
    passes = {part: autotune.measure(part, x, w, shape.window) for part in autotune.PASSES}
    row = {"dtype": dtype, **shape._asdict(), "batch": shape.batch, "passes": passes}
    row["lowering_mib"] = lowering.extra_bytes(tuple(x.shape), shape.window, x.element_size()) / 2**20
    return {**row, "auto": auto_against_torch(shape, TYPES[dtype])}


def missed(row: dict[str, Any]) -> bool:
    return min(row["auto"]["inference"], row["auto"]["training"]) < TARGET


def measured_again(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a new choice of auto and new figures, and what they were at first."""
    autotune.CHOICES = autotune.Choices()
    new = measured(Shape(*(row[each] for each in Shape._fields)), row["dtype"])
    return {**new, "again": {"first": row["auto"]}}


def line(row: dict[str, Any]) -> str:
    """One line for a shape: the winner of each pass, each algorithm's time in torch's, and auto."""
    name = f"{row['dtype']:<8} {row['kernel']:>2}x{row['kernel']:<2} {row['inputs']:>3}->{row['outputs']:<3} "
    name += f"{row['side']:>3} px batch {row['batch']:<2}"
    parts = []
    for part, seconds in row["passes"].items():
        library = seconds["library"]
        best = min(seconds, key=lambda each: seconds[each])
        others = " ".join(f"{short(n)} {s / library:.2f}" for n, s in seconds.items() if n != "library")
        parts.append(f"{part}: {library * 1e3:.2f} ms, {short(best)} wins ({others})")
    auto = row["auto"]
    speed = f"auto {auto['inference']:.2f}x inference, {auto['training']:.2f}x training"
    return f"{name} {speed} | lowering {row['lowering_mib']:.0f} MiB | " + " | ".join(parts)


def short(name: str) -> str:
    return name.replace("trimmed ", "t-").replace("channels_last", "last").replace(" ", ":")


def family(name: str) -> str:
    """The algorithm of a name, for the map: tiles and trimming are the same algorithm."""
    return name.removeprefix("trimmed ").split(" ")[0]


COLOURS = {
    "library": "#d0d0d0", "channels_last": "#8fb8de", "lowering": "#f2b04c", "direct": "#7a5195",
    "winograd": "#58a55c", "winograd4": "#2e7d32", "fft": "#d1495b",
}  # fmt: skip


def draw(result: dict[str, Any], file: Path) -> None:
    """The winner of each pass as a coloured cell: kernels across, maps down, a panel for each case."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in result["rows"] if row["dtype"] == "float32"]
    kernels, sides = sorted({r["kernel"] for r in rows}), sorted({r["side"] for r in rows})
    channels = sorted({(r["inputs"], r["outputs"]) for r in rows})
    figure, axes = plt.subplots(
        len(autotune.PASSES), len(channels), figsize=(2.7 * len(channels) + 1, 8.2), squeeze=False
    )
    for (i, part), (j, (c, o)) in itertools.product(enumerate(autotune.PASSES), enumerate(channels)):
        axis = axes[i][j]
        for row in rows:
            if (row["inputs"], row["outputs"]) == (c, o):
                cell(axis, kernels.index(row["kernel"]), sides.index(row["side"]), row["passes"][part])
        axis.set(xlim=(-0.5, len(kernels) - 0.5), ylim=(-0.5, len(sides) - 0.5))
        axis.set_xticks(range(len(kernels)), kernels)
        axis.set_yticks(range(len(sides)), sides)
        axis.set_title(f"{c} to {o} maps" if i == 0 else "", fontsize=10)
        axis.set_xlabel("kernel" if i == len(autotune.PASSES) - 1 else "")
        axis.set_ylabel(f"{part.replace('_', ' ')}\nmap side" if j == 0 else "", fontsize=9)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    figure.legend(handles, list(COLOURS), loc="lower center", ncols=len(COLOURS), frameon=False)
    figure.suptitle(
        f"Fastest algorithm, float32, padding keeps the size; the number is its gain over torch's own\n"
        f"{result['machine']}, {result['threads']} threads, torch {result['torch']}", fontsize=10
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0.04, 1, 0.98))
    figure.savefig(file, dpi=110)


def cell(axis: Any, x: int, y: int, seconds: dict[str, float]) -> None:
    import matplotlib.pyplot as plt

    best = autotune.best_of(seconds)
    axis.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, color=COLOURS[family(best)], lw=0))
    if best != "library":
        gain = seconds["library"] / seconds[best]
        axis.text(x, y, f"{gain:.1f}" if gain < 10 else f"{gain:.0f}", ha="center", va="center", fontsize=7)


def summary(result: dict[str, Any]) -> list[str]:
    """One line for each figure."""
    lines = []
    for dtype in TYPES:
        rows = [row for row in result["rows"] if row["dtype"] == dtype]
        worst = min(min(row["auto"]["inference"], row["auto"]["training"]) for row in rows)
        lines.append(f"figure convolution_auto_worst_{dtype} {worst:.3f} x target {TARGET}")
    large = [r["auto"] for r in result["rows"] if r["dtype"] == "float32" and r["kernel"] >= LARGE]
    for kind in ("inference", "training"):
        mean = statistics.geometric_mean(row[kind] for row in large)
        lines.append(f"figure convolution_auto_large_kernels_{kind} {mean:.2f} x target 1.3")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a corner of the grid")
    parser.add_argument("--missed", action="store_true", help="the last results' rows below the target again")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.missed:
        result = json.loads((RESULTS / "convolution.json").read_text(encoding="utf-8"))
        result["rows"] = [measured_again(row) if missed(row) else row for row in result["rows"]]
    else:
        result = run(args.quick)
    print(f"{len(result['rows'])} rows; {result['left_out']} shapes above {MOST_MACS:.0e} MACs left out")
    if not args.quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "convolution.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draw(result, RESULTS / "convolution.png")
    print("\n".join(summary(result)))


if __name__ == "__main__":
    main()
