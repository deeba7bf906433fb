"""The manual is true: commands and Python run, links lead somewhere, tables are those of the program.

Each ```console block of README.md, CONTRIBUTING.md and docs/ runs in a fresh folder with photographs and a
finished run, `runs/photos-fastnet-01`. Every line `$ convworks ...` must exit with 0, or with the status that
its comment states (`# exit 3`). These rules keep it quick, where no error is expected:

- `train` lines run for one epoch and with QUICK, where the line does not say otherwise itself;
- `resume` lines find that run as it was when it was stopped, with one epoch of two made;
- blocks that need a data set which is not built in are skipped, unless CONVWORKS_DATA has it; there `train`
  gets --dry-run;
- Python blocks, which say no such thing, find a planner with one plan to choose from;
- `plan` lines measure for a moment only;
- `train` lines leave out the page of the run, others the drawings on it (`tests/pages.py`).

What is shown below an error, a network or a table of names must be what is printed; figures of a training are
those of the machine that the page was written on. `$ make` lines must be targets of the Makefile.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convworks import models
from convworks.cli import main
from convworks.cli.entry import VERBS
from convworks.data.named import find_named, info, names
from convworks.errors import EXIT_STATUS, ConvworksError
from convworks.flows import plan, plan_report
from convworks.flows.doctor import KNOWN_VARIABLES
from convworks.flows.events import EpochDone
from convworks.flows.prepare import DataRequest
from convworks.flows.train import TrainRequest, train
from convworks.models import registry
from convworks.ops.native.build import find_compiler
from convworks.recipes.defaults import resolve_named
from convworks.recipes.recipe import help_lines
from convworks.runs import Run
from convworks.training import planner
from convworks.training.loop import Numerics
from tests import pages
from tests.ops.native import kernels

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = {"--threads": "1", "--precision": "fp32", "--workers": "0"}
CLASSES = ("airplanes", "butterfly", "grand_piano", "sunflower", "watch")
RUN = Path("runs") / "photos-fastnet-01"


# --- what the pages hold --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: the page, the line of its first line, its language and its text."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A line after the dollar sign, the status that it promises, and what is shown below it."""

    words: list[str]
    status: int
    shown: list[str]


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S):
            if match[1] in languages:
                found.append(Block(page, text.count("\n", 0, match.start()) + 2, match[1], match[2]))
    return found


def commands(block: Block) -> list[Command]:
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            status = re.search(r"# exit (\d+)$", line)
            found.append(Command(shlex.split(line[2:], comments=True), int(status[1]) if status else 0, []))
        elif line.strip() not in ("", "..."):
            assert found, f"{block.name}: output without a command"
            found[-1].shown.append(line)
    return found


def rows(page: str, *, under: str) -> dict[str, list[str]]:
    """First cell -> the other cells, of the table whose head row begins with `under`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    table = re.search(rf"^\| {under} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.M)
    assert table, f"{page} has no table of {under}"
    lines = [
        [cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in table[1].splitlines()
    ]
    return {first: rest for first, *rest in lines}


# --- the folder that the commands run in ----------------------------------------------------------------


def draw(path: Path, *, kind: int, seed: int) -> None:
    """A noisy picture of 32x32 whose colour and bright band tell its class."""
    pixels = np.random.default_rng([kind, seed]).integers(0, 90, (32, 32, 3), dtype=np.uint8)
    pixels[5 * kind : 5 * kind + 8, :, kind % 3] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def furnish(world: Path) -> None:
    """Everything that the pages name: photos/ in several forms, newset/, garden/, holiday/, new.jpg."""
    for kind, name in enumerate(CLASSES):
        for number in range(1, 11):
            draw(world / "photos" / name / f"{number}.jpg", kind=kind, seed=number)
        for number in range(11, 14):
            draw(world / "newset" / name / f"{number}.jpg", kind=kind, seed=number)
    for number in range(1, 4):
        draw(world / "garden" / "sunflower" / f"{number}.jpg", kind=3, seed=20 + number)
        draw(world / "garden" / "lily" / f"{number}.jpg", kind=1, seed=30 + number)
    for number in range(1, 5):
        draw(world / "holiday" / f"{number}.jpg", kind=number, seed=40)
    (world / "holiday" / "5.jpg").write_text("<html>not found</html>")
    draw(world / "new.jpg", kind=3, seed=50)
    files = sorted((world / "photos").rglob("*.jpg"))
    lines = [f"{path.relative_to(world / 'photos').as_posix()},{path.parent.name}" for path in files]
    (world / "labels.csv").write_text("\n".join(["path,label", *lines]))
    with zipfile.ZipFile(world / "photos.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(world))
    with tarfile.open(world / "photos.tar.gz", "w:gz") as tar:
        tar.add(world / "photos", "photos")
    x = np.zeros((12, 8, 8), dtype=np.uint8)
    x[:, 0, 0] = np.arange(12)
    np.savez(world / "arrays.npz", x=x, y=np.arange(12) % 2)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """world/ with a finished run, stopped/ with the same run before its second epoch, and cache/."""
    folder = tmp_path_factory.mktemp("docs")
    furnish(folder / "world")
    if find_compiler() is not None:  # else a command would compile them, for itself alone
        shutil.copytree(kernels.built(), folder / "cache" / "kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "world")
        patch.setenv("CONVWORKS_CACHE", str(folder / "cache"))
        settings = {"epochs": 2, "threads": 1, "workers": 0, "precision": "fp32"}
        settings |= {"memory_format": "contiguous", "batch": 16}
        request = TrainRequest(
            data=DataRequest(location="photos/", cache=folder / "cache"),
            resolved=resolve_named(None, flags=settings),
        )
        stop = threading.Event()
        for event in train(request, should_stop=stop.is_set):
            if isinstance(event, EpochDone):
                stop.set()
        shutil.copytree(RUN, folder / "stopped")
        assert not Run(RUN).finished
        assert main(["resume", str(RUN), "--quiet"]) == 0
    return folder


@pytest.fixture
def world(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder as the current one."""
    place = tmp_path / "world"
    shutil.copytree(template / "world", place)
    move(place / RUN, template, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("CONVWORKS_CACHE", str(template / "cache"))
    yield place
    assert not list(place.glob("convworks-crash-*"))


def move(run: Path, template: Path, world: Path) -> None:
    """A run remembers where its data lies."""
    record = (run / "recipe.json").read_text()
    assert str(template / "world") in record
    (run / "recipe.json").write_text(record.replace(str(template / "world"), str(world)))


def as_run(command: Command, template: Path, world: Path) -> list[str]:
    """The words of a command by the rules at the top of this file."""
    words = command.words[1:]
    if command.status != 0:
        return words
    if words[0] == "resume" and (world / words[1]).is_dir():
        shutil.rmtree(world / words[1])
        shutil.copytree(template / "stopped", world / words[1])
        move(world / words[1], template, world)
    if words[0] != "train":
        return words
    if "--epochs" in words:
        at = words.index("--epochs")
        del words[at : at + 2]
    for flag, value in QUICK.items():
        words += [] if flag in words else [flag, value]
    words += [] if any("memory_format" in word for word in words) else ["--set", "memory_format=contiguous"]
    named = set(words) & set(names())
    return [*words, "--epochs", "1", *(["--dry-run"] if named else [])]


def is_exact(command: Command) -> bool:
    """Whether what is shown must be what is printed: it does not depend on a training."""
    verb, subject = command.words[1], command.words[2] if len(command.words) > 2 else ""
    table = verb in ("show", "list") and not subject.startswith("runs")
    return table or (command.status != 0 and verb != "predict")


def skip_if_absent(words: list[str]) -> None:
    for name in set(words) & set(names()):
        root, cache = os.environ.get("CONVWORKS_DATA"), Path(os.environ["CONVWORKS_CACHE"])
        try:
            find_named(name, data_root=Path(root) if root else None, cache=cache, offline=True)
        except ConvworksError as problem:
            pytest.skip(f"{name} is not here (set CONVWORKS_DATA): {problem.code}")


# --- commands and Python --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.name)
def test_commands_run(
    block: Block,
    template: Path,
    world: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan_report, "SECONDS", 0.05)
    for toml in blocks("toml"):
        (world / "settings.toml").write_text(toml.text)
    for command in commands(block):
        program, *rest = command.words
        if program == "make":
            assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.M), f"no target {rest[0]}"
            continue
        if program == "pip":
            assert rest == ["install", "-c", "constraints.txt", "."]
            continue
        assert program == "convworks", f"cannot run {program}"
        assert not set(command.words) & {"|", ">", "&&", ";"}, "write commands that run without a shell"
        skip_if_absent(rest)
        capsys.readouterr()
        with pages.left_out(), pages.undrawn():
            status = main(as_run(command, template, world))
        out, err = capsys.readouterr()
        assert status == command.status, f"$ {shlex.join(command.words)}\n{out}{err}"
        if is_exact(command):
            printed = {" ".join(line.split()) for line in (out + err).splitlines()}
            for line in command.shown:
                assert " ".join(line.split()) in printed, f"not printed: {line}\n{out}{err}"


PYTHON_PAGES = sorted({block.page for block in blocks("python")})


@pytest.mark.parametrize("page", PYTHON_PAGES, ids=lambda page: page.name)
@pytest.mark.usefixtures("world")
def test_python_runs(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page follow each other, as a reader would type them."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))  # a page may register a network
    monkeypatch.setattr(planner, "candidates", lambda **_: [planner.Candidate(Numerics(), 1)])
    monkeypatch.setattr(plan, "_WORKERS_TRIED", (0,))
    namespace: dict[str, object] = {"__name__": "__docs__"}
    with pages.undrawn():
        for block in blocks("python"):
            if block.page == page:
                exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)


def test_the_network_of_the_manual_takes_its_place(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The family file of docs/models.md can be trained by name."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    (family,) = (block for block in blocks("python") if "register(" in block.text)
    exec(compile(family.text, "small_vgg.py", "exec"), {"__name__": "small_vgg"})
    words = ["train", "photos/", "--model", "small_vgg", "--set", "memory_format=contiguous", "--quiet"]
    assert main([*words, *(w for pair in QUICK.items() for w in pair), "--epochs", "1"]) == 0


# --- links, trees, tables -------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name}: {path} does not exist"
        assert not anchor or anchor in anchors(target), f"{page.name}: {path} has no heading #{anchor}"


def test_the_index_names_every_page() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [p.name for p in PAGES[2:] if f"]({p.name})" not in text and p.name != "index.md"] == []


def tree(page: str, top: str) -> dict[str, str]:
    """Path -> comment, of the drawn tree whose first line is `top`."""
    (block,) = (b for b in blocks("text") if b.page.name == page and b.text.startswith(top + "\n"))
    above: list[str] = []
    found = {}
    for line in block.text.splitlines()[1:]:
        parts = re.fullmatch(r"((?:│   |    )*)[├└]── (\S+) +(\S.*)", line)
        assert parts, f"{page}: a line of the tree without a path or a comment: {line}"
        above[len(parts[1]) // 4 :] = [parts[2]]
        found["".join(above)] = parts[3]
    return found


def test_the_file_tree_is_true() -> None:
    found = tree("README.md", "convworks/")
    for path in found:
        assert (ROOT / path).exists(), f"{path} does not exist"
        assert (ROOT / path).is_dir() == path.endswith("/"), f"{path}: folders end in a slash, files do not"
    source = ROOT / "src" / "convworks"
    rooms = {f"src/convworks/{p.name}/" for p in source.iterdir() if p.is_dir() and p.name[0] not in "_."}
    rooms |= {f"src/convworks/{p.name}" for p in source.glob("*.py") if p.name != "__init__.py"}
    assert sorted(rooms - found.keys()) == []


def test_the_tree_of_a_run_folder_is_true(template: Path) -> None:
    there = {p.name + "/" * p.is_dir() for p in (template / "world" / RUN).iterdir() if p.name[0] != "."}
    assert set(tree("results.md", f"{RUN.as_posix()}/")) == there


def test_every_setting_is_in_the_manual_with_its_default() -> None:
    table = rows("docs/training.md", under="setting")
    known = help_lines()
    assert list(table) == list(known)
    for key, (_, default) in known.items():
        if isinstance(default, bool | str):
            assert table[key][0] == str(default).lower(), key
        elif isinstance(default, int | float):
            assert float(table[key][0]) == default, key


def test_every_network_is_in_the_manual_with_its_parameters() -> None:
    table = rows("docs/models.md", under="name")
    assert list(table) == list(models.names())
    for name, (shape, parameters, _) in table.items():
        row = models.info(name)
        with torch.device("meta"):
            network = models.create(name, num_classes=row.num_classes)
        assert f"{sum(p.numel() for p in network.parameters()):,}" == parameters
        assert shape.startswith(f"{row.in_channels} x {row.input_size[0]} x {row.input_size[1]}")


def test_every_name_is_in_the_manual() -> None:
    assert list(rows("docs/index.md", under="verb")) == [verb for verb, _, _ in VERBS]
    assert set(rows("docs/index.md", under="variable")) == set(KNOWN_VARIABLES)
    assert set(map(str, EXIT_STATUS.values())) < set(rows("docs/index.md", under="status"))
    sets = rows("docs/data.md", under="name")
    assert {name: row[0] for name, row in sets.items()} == {
        n: f"{info(n).size / 1e6:.1f} MB" for n in names()
    }
