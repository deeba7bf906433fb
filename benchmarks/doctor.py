"""How long `convworks check` takes for 10,000 photographs, and how much memory.

    python benchmarks/doctor.py --quick          # 500 photographs
    python benchmarks/doctor.py                  # 10,000

Parts of the photographs of caltech10.zip, cut out at random and compressed again, in a temporary folder; one
in a hundred is followed by a near copy. The check runs in a process of its own with an empty cache, finds
near duplicates, and writes page, quarantine list and split file. A second run finds the decoded images in
the cache.

Needs CONVWORKS_DATA (a folder with caltech10.zip); without it the photographs are smooth noise.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SECONDS, MEGABYTES, PHOTOGRAPHS = 90, 500, 10_000
MEASURED = """
import resource, sys
from convworks.cli import main
status = main(sys.argv[1:])
print(f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB", file=sys.stderr)
sys.exit(status)
"""


def photographs() -> list[tuple[str, Image.Image]]:
    """(class, picture): photographs, or smooth noise where there are none."""
    archive = Path(os.environ.get("CONVWORKS_DATA", ""), "caltech10.zip")
    if archive.is_file():
        with zipfile.ZipFile(archive) as opened:
            names = sorted(name for name in opened.namelist() if name.endswith(".jpg"))
            return [
                (Path(name).parent.name, Image.open(io.BytesIO(opened.read(name))).convert("RGB"))
                for name in names
            ]
    random = np.random.default_rng(0)
    noise = [random.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(100)]
    return [
        (str(k % 10), Image.fromarray(pixels).resize((300, 200), Image.Resampling.BICUBIC))
        for k, pixels in enumerate(noise)
    ]


def pieces(count: int) -> Iterator[tuple[str, Image.Image, int]]:
    """(class, picture, quality): parts of half the side, enlarged to some 300 pixels, and near copies."""
    random = np.random.default_rng(1)
    originals = photographs()
    made = 0
    while made < count:
        label, image = originals[made % len(originals)]
        w, h = (int(side * random.uniform(0.45, 0.6)) for side in image.size)
        left, top = int(random.integers(0, image.width - w)), int(random.integers(0, image.height - h))
        part = image.crop((left, top, left + w, top + h)).resize((int(random.integers(260, 340)), 220))
        yield label, part, int(random.integers(75, 92))
        made += 1
        if made % 100 == 0 and made < count:
            yield label, part.resize((part.width * 3 // 4, 165)), 60
            made += 1


def make(folder: Path, count: int) -> None:
    for number, (label, image, quality) in enumerate(pieces(count)):
        (folder / label).mkdir(parents=True, exist_ok=True)
        image.save(folder / label / f"{number:05d}.jpg", "JPEG", quality=quality)


def check(folder: Path, work: Path, *, again: bool) -> tuple[float, int, str]:
    """Seconds, peak megabytes and what was printed."""
    files = ["--out", "page.html", "--quarantine", "list.csv", "--splits", "splits.csv"]
    command = [sys.executable, "-c", MEASURED, "check", str(folder), "--cache", str(work / "cache"), *files]
    start = time.perf_counter()
    ran = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if ran.returncode:
        raise SystemExit(ran.stderr)
    peak = re.search(r"peak (\d+) MB", ran.stderr)
    assert peak is not None
    if not again:
        print(ran.stdout)
        print(f"page of {(work / 'page.html').stat().st_size / 1e6:.1f} MB")
    return seconds, int(peak[1]), ran.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="500 photographs in place of 10,000")
    count = 500 if parser.parse_args().quick else PHOTOGRAPHS
    with tempfile.TemporaryDirectory() as temporary:
        folder, work = Path(temporary, "photos"), Path(temporary)
        make(folder, count)
        seconds, memory, _ = check(folder, work, again=False)
        second, _, _ = check(folder, work, again=True)
    print(f"figure doctor_{count}_seconds {seconds:.1f} s target <{SECONDS}")
    print(f"figure doctor_memory_mb {memory} MB target <{MEGABYTES}")
    print(f"figure doctor_{count}_cached_seconds {second:.1f} s")


if __name__ == "__main__":
    main()
