"""The proof that the doctor finds what is planted, on photographs.

    CONVWORKS_DATA=... python -m tests.data.doctor_proof

Unpacks caltech10.zip into a temporary folder, plants defects and near copies there, and prints figures. Takes
about a minute. A pair of the clean set counts as false unless it stands in KNOWN: those were looked at, and
are copies, crops or new colourings of one photograph.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from convworks.data.doctor import Diagnosis, Scanned, diagnose
from convworks.data.scan import scan
from convworks.data.sources import open_source
from convworks.data.store import probe
from convworks.flows.prepare import choose_geometry
from convworks.recipes.defaults import recipe_for
from tests.data.defects import jpeg, plant_defects, plant_near_copies

KNOWN = {
    frozenset(f"{folder}/image_{n:04d}.jpg" for n in pair)
    for folder, pairs in {
        "grand_piano": [(6, 14), (41, 51), (2, 77), (9, 72), (3, 46), (51, 53), (41, 53)],
        "ketch": [(35, 41)],
        "starfish": [(16, 67)],
        "butterfly": [(1, 31)],
        "Motorbikes": [(63, 64)],
        "sunflower": [(26, 60)],
    }.items()
    for pair in pairs
}
EXACT_KINDS = (
    *(
        "unreadable",
        "too-large",
        "wrong-extension",
        "exif-rotated",
        "16-bit",
        "cmyk",
        "alpha",
        "palette",
        "1-bit",
    ),
    *("animated", "tiny", "long", "huge", "blank", "near-blank", "exact", "leak", "conflict"),
)


def look(folder: Path, cache: Path) -> Diagnosis:
    _, recipe = recipe_for("fastnet")
    with open_source(folder, cache=cache) as source:
        found = scan(
            source,
            indices=range(len(source.entries)),
            geometry=choose_geometry(recipe, probe(source)),
            cache=None,
        )
        scanned = Scanned(
            entries=source.entries,
            classes=tuple(source.classes),
            records=found.records,
            images=found.images,
            encoded=True,
        )

        def picture(index: int) -> np.ndarray:  # type: ignore[type-arg]
            return np.array(Image.open(folder / source.entries[index].path).convert("RGB"))

        return diagnose(scanned, picture=picture)


def named(diagnosis: Diagnosis, kind: str) -> set[str]:
    problem = diagnosis.problem(kind)
    return (
        set()
        if problem is None
        else {diagnosis.entries[i].path for item in problem.items for i in item.images}
    )


def pairs(diagnosis: Diagnosis, kind: str = "near") -> set[frozenset[str]]:
    problem = diagnosis.problem(kind)
    items = problem.items if problem else ()
    return {frozenset(diagnosis.entries[i].path for i in item.images) for item in items}


def origin(path: str) -> str:
    return path.split("--", maxsplit=1)[0].removesuffix(".jpg")


def clean_set(folder: Path, cache: Path) -> bool:
    diagnosis = look(folder, cache)
    alarms = {kind: len(named(diagnosis, kind)) for kind in EXACT_KINDS}
    found = pairs(diagnosis)
    false = found - KNOWN
    print(f"figure clean_alarms_of_exact_kinds {sum(alarms.values())} images target 0")
    print(f"figure clean_near_pairs {len(found)} pairs, {len(found & KNOWN)} of them known copies")
    print(f"figure clean_false_pairs {100 * len(false) / len(diagnosis.entries):.2f} % of images target <=1")
    for pair in sorted(map(sorted, false)):
        print("  please look:", " ~ ".join(pair))
    return not sum(alarms.values()) and len(false) <= 0.01 * len(diagnosis.entries)


def defects(folder: Path, cache: Path) -> bool:
    planted = plant_defects(folder, sorted((folder / "airplanes").glob("*.jpg"))[:20], folder / "chair")
    diagnosis = look(folder, cache)
    missed = {kind: paths - named(diagnosis, kind) for kind, paths in planted.items()}
    allowed = {path for paths in planted.values() for path in paths}
    allowed |= {f"airplanes/image_{n:04d}.jpg" for n in (12, 13, 14)}  # the other halves of the copies
    extra = {kind: named(diagnosis, kind) - allowed for kind in EXACT_KINDS}
    found = sum(not each for each in missed.values())
    print(f"figure kinds_found {found} of {len(planted)} target all")
    print(f"figure kinds_false {sum(map(len, extra.values()))} images target 0")
    for kind, paths in missed.items():
        if paths:
            print("  missed:", kind, sorted(paths))
    return found == len(planted) and not any(extra.values())


def near_copies(folder: Path, cache: Path, *, seed: int) -> bool:
    sources = sorted(folder.glob("*/image_*.jpg"))
    chosen = [sources[i] for i in np.random.default_rng(seed).permutation(len(sources))[:200]]
    planted = plant_near_copies(folder, chosen, seed=seed)
    diagnosis = look(folder, cache)
    found = pairs(diagnosis)
    related = {frozenset(origin(path) + ".jpg" for path in pair) for pair in KNOWN}
    false = [
        pair
        for pair in found
        if len({origin(path) for path in pair}) == 2
        and frozenset(f"{origin(path)}.jpg" for path in pair) not in related
    ]
    hits = total = 0
    for kind, wanted in planted.items():
        hits, total = hits + len(wanted & found), total + len(wanted)
        print(f"figure near_recall_{kind.replace(' ', '_')} {100 * len(wanted & found) / len(wanted):.1f} %")
    print(f"figure near_recall {100 * hits / total:.2f} % of {total} target >=95")
    print(f"figure near_false_pairs {100 * len(false) / len(found):.3f} % of {len(found)} target <=1")
    return hits >= 0.95 * total and len(false) <= 0.01 * len(found)


def across_splits(folder: Path, target: Path, cache: Path) -> bool:
    """Train and test of different pictures, into which 25 exact and 25 near copies are planted."""
    sources = sorted(folder.glob("*/image_*.jpg"))
    random = np.random.default_rng(3)
    for place, path in enumerate(sources):
        split = "test" if place % 5 == 0 else "train"
        into = target / split / path.parent.name
        into.mkdir(parents=True, exist_ok=True)
        (into / path.name).write_bytes(path.read_bytes())
    trained = sorted(target.glob("train/*/*.jpg"))
    exact, near = set(), set()
    for place, number in enumerate(random.permutation(len(trained))[:50]):
        path = trained[number]
        copy = target / "test" / path.parent.name / f"leak-{place}.jpg"
        pair = frozenset((path.relative_to(target).as_posix(), copy.relative_to(target).as_posix()))
        if place % 2:
            copy.write_bytes(path.read_bytes())
            exact.add(pair)
        else:
            with Image.open(path) as image:
                copy.write_bytes(
                    jpeg(image.convert("RGB").resize((image.width * 3 // 4, image.height * 3 // 4)), 60)
                )
            near.add(pair)
    diagnosis = look(target, cache)
    found_exact, found_near = pairs(diagnosis, "leak"), pairs(diagnosis, "near-leak")
    print(f"figure leaks_exact {len(exact & found_exact)} of {len(exact)} target all")
    print(f"figure leaks_near {len(near & found_near)} of {len(near)} target >=95 %")
    return exact == found_exact and len(near & found_near) >= 0.95 * len(near)


def main() -> int:
    data = os.environ.get("CONVWORKS_DATA")
    if not data or not (Path(data) / "caltech10.zip").is_file():
        print("CONVWORKS_DATA has no caltech10.zip: nothing was proved")
        return 0
    with tempfile.TemporaryDirectory() as work:
        results = []
        for number, proof in enumerate((clean_set, defects, lambda f, c: near_copies(f, c, seed=1))):
            folder = Path(work) / str(number)
            with zipfile.ZipFile(Path(data) / "caltech10.zip") as archive:
                for name in archive.namelist():
                    archive.extract(name, folder)
            results.append(proof(folder, Path(work) / "cache"))
        results.append(across_splits(Path(work) / "0", Path(work) / "splits", Path(work) / "cache"))
    print("proved" if all(results) else "NOT PROVED")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
