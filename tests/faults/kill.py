"""Kill a training with SIGKILL at many points, resume it, and compare every byte with an undisturbed run.

    python -m tests.faults.kill --points 200
    python -m tests.faults.kill --points 200 --of transfer

One process imports torch, with what a first optimizer step imports of it; every training is a fork of it.
`benches.py` says what is trained. The page of a run, written when the run is finished already, is left out:
it would take most of the time. Kinds of points:

    time        at a uniformly random moment of the run
    checkpoint  inside the writing of a checkpoint: before, half-way through and after each durable call
    evaluation  in the middle of a validation pass
    start       while the data is read
    moment      of a transfer: while features are written, at or shortly after a thaw, while scales are
                measured, at the whitening of the first layer
    double      killed, resumed, and killed again before the second end

It ends with `figure NAME VALUE UNIT target TARGET` lines, as benchmarks do, and exits 1 where
one point differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from convworks.flows import results
from tests.faults import deaths
from tests.faults.benches import NEW, RECORDS, TRANSFER, Bench, Variant

KINDS = {"time": 0.4, "checkpoint": 0.3, "evaluation": 0.1, "start": 0.1, "double": 0.1}
TRANSFER_KINDS = {"time": 0.2, "checkpoint": 0.2, "evaluation": 0.1, "moment": 0.4, "double": 0.1}
OF: dict[str, tuple[tuple[Variant, ...], dict[str, float]]] = {
    "new": (NEW, KINDS),
    "transfer": (TRANSFER, TRANSFER_KINDS),
}


def fork(work: Callable[[], None], *, kill_after: float | None = None) -> int:
    """Run `work` in a forked child and return its exit status; SIGKILL it after some seconds if asked to."""
    child = os.fork()
    if child == 0:
        status = 70
        results.write_report = lambda run, **facts: run / "report.html"
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


@dataclass(frozen=True, slots=True)
class Reference:
    """An undisturbed run: its durable calls, its duration, and the bytes that it ends with."""

    calls: int
    seconds: float
    files: dict[str, str]


def undisturbed(bench: Bench, name: str) -> Reference:
    """One whole run."""
    read, write = os.pipe()

    def work() -> None:
        os.write(write, str(deaths.count_durable_calls(lambda: bench.start(name))).encode())

    start = time.monotonic()
    status = fork(work)
    seconds = time.monotonic() - start
    os.close(write)
    text = os.read(read, 32).decode()
    os.close(read)
    if status != 0 or not text:
        raise RuntimeError(f"the undisturbed run failed with status {status}")
    return Reference(int(text), seconds, bench.hashes(name))


def one_point(bench: Bench, kind: str, name: str, draw: random.Random, whole: Reference) -> int:
    """Kill a new run in one way, then continue it until it ends. Returns how often it was killed."""
    killed = 0

    def attempt(work: Callable[[], None], kill_after: float | None = None) -> bool:
        nonlocal killed
        status = fork(work, kill_after=kill_after)
        if status not in (0, -signal.SIGKILL):
            raise RuntimeError(f"{name}: a training ended with status {status}")
        killed += status != 0
        return status == 0

    def first(way: Callable[[], None]) -> None:
        attempt(lambda: (way(), bench.start(name))[1])

    seconds = whole.seconds
    features = bench.cache / "features"
    if kind == "moment" or draw.random() < 0.5:  # else those of an earlier run are found
        shutil.rmtree(features, ignore_errors=True)
    if kind in {"time", "double"}:
        attempt(lambda: bench.start(name), kill_after=draw.uniform(0, seconds))
    elif kind == "start":
        attempt(lambda: bench.start(name), kill_after=draw.uniform(0, min(0.3, seconds)))
    elif kind == "checkpoint":
        number, moment = draw.randint(1, whole.calls), draw.choice(deaths.MOMENTS)
        first(lambda: deaths.in_durable_call(number, moment))
    elif kind == "moment":
        way, own = deaths.AT[draw.choice(bench.variant.moments)], random.Random(draw.random())
        first(lambda: way(own))
    else:
        number = draw.randint(1, bench.variant.settings["epochs"])
        first(lambda: deaths.in_evaluation(number))
    run = bench.work / "runs" / name
    if kind == "double" and not (run / "finished.json").is_file():
        attempt(lambda: bench.start(name), kill_after=draw.uniform(0, seconds / 2))
    if draw.random() < 0.3:  # features are computed again, from the weights of the checkpoint
        shutil.rmtree(features, ignore_errors=True)
    # The same command again and `resume` are two ways to the same end. Killed before anything was written,
    # only the command can know what was wanted; killed after the very end, there is nothing left to do.
    if (run / "finished.json").is_file():
        return killed
    again = draw.random() < 0.5 or not (run / "recipe.json").is_file()
    if not attempt(lambda: bench.start(name) if again else bench.resume(name)):
        raise RuntimeError(f"{name}: the continued run was killed by something else")
    return killed


def prove(
    points: int, *, of: str = "new", seed: int = 0, say: Callable[[str], None] = print
) -> tuple[int, Counter[str], int]:
    """(points that ended the same, kinds, kills) over `points` random points."""
    variants, shares = OF[of]
    draw = random.Random(seed)
    kinds = [kind for kind, share in shares.items() for _ in range(round(share * points))]
    with tempfile.TemporaryDirectory() as folder:
        benches = made(Path(folder), variants[: len(kinds)])
        references = []
        for number, bench in enumerate(benches):
            # The first run of a bench measures the plan; every later one remembers it.
            references.append(undisturbed(bench, f"reference-{number}"))
        same, kills = 0, 0
        for number, kind in enumerate(kinds):
            place = number % len(benches)
            name, bench, whole = f"{kind}-{number}", benches[place], references[place]
            kills += one_point(bench, kind, name, draw, whole)
            found = bench.hashes(name)
            files = sorted({*whole.files, *found})  # one too many differs too
            different = [file for file in files if found.get(file) != whole.files.get(file)]
            same += not different
            if different:
                say(f"{name}: differs in {', '.join(different)}")
            shutil.rmtree(bench.work / "runs" / name)
    return same, Counter(kinds), kills


def made(work: Path, variants: Sequence[Variant]) -> list[Bench]:
    """A bench for each variant, in one folder, and the run that some begin with."""
    benches = [Bench(work, variant) for variant in variants]
    if any(variant.begins for variant in variants) and fork(benches[0].start_source) != 0:
        raise RuntimeError("the run to begin with failed")
    return benches


def control(of: str = "new") -> tuple[int, int]:
    """(files that differ, files) between runs and others with another seed.

    What a run began with is left out: it does not depend on the seed."""
    different = total = 0
    with tempfile.TemporaryDirectory() as folder:
        for number, bench in enumerate(made(Path(folder), OF[of][0][: 1 if of == "new" else None])):
            for name, seed in (("a", 0), ("b", 1)):
                begin = f"{name}-{number}"
                if fork(lambda bench=bench, name=begin, seed=seed: bench.start(name, seed=seed)) != 0:  # type: ignore[misc]
                    raise RuntimeError(f"run {begin} failed")
            a, b = bench.hashes(f"a-{number}"), bench.hashes(f"b-{number}")
            files = [file for file in a if file != RECORDS[1]]
            different += sum(a[file] != b[file] for file in files)
            total += len(files)
    return different, total


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill trainings and compare what they end with.")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--of", choices=tuple(OF), default="new", help="trainings from the start, or from another's weights"
    )
    parser.add_argument("--control", action="store_true", help="compare with another seed: all must differ")
    args = parser.parse_args()
    start = time.monotonic()
    if args.control:
        different, total = control(args.of)
        print(f"figure control_files_different {different}/{total} files target {total}/{total}")
        return 0 if different == total else 1
    same, kinds, kills = prove(args.points, of=args.of, seed=args.seed)
    total = sum(kinds.values())
    print(
        ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        + f"; {kills} kills; {time.monotonic() - start:.0f} s"
    )
    print(f"figure kill_points_identical {same}/{total} points target {total}/{total}")
    return 0 if same == total else 1


if __name__ == "__main__":
    sys.exit(main())
