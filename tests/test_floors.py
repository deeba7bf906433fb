"""The house: a lower floor never imports an upper one; files stay readable; no file can run code.

The floors are those of docs/architecture.md.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "convworks"
FLOORS = {
    0: ("errors", "error_codes", "threads", "randomness", "durable", "eager", "garbage", "machine", "ops"),
    1: ("layers", "anatomy", "data"),
    2: ("models", "training", "evaluation"),
    3: ("recipes", "runs", "bundle", "weights", "insight"),
    4: ("report", "exercises", "ledger"),
    5: ("flows", "environment", "api", "sklearn", "demos"),
    6: ("cli", "__main__"),
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
NEVER = {
    ("models", "training"),
    ("training", "models"),
    ("training", "recipes"),
}  # they meet in recipes and flows
LONGEST_FILE = 400
LONGEST_FUNCTION = 60


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "convworks":
            parts = node.module.split(".")
            yield from ((name, node.lineno) for name in (parts[1:2] or [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("convworks."):
                    yield alias.name.split(".")[1], node.lineno


def upward_imports(path: Path, source: str) -> list[str]:
    here = room(path)
    if here == "__init__":  # the package's door looks into every room
        return []
    found = []
    for there, line in imported_rooms(ast.parse(source)):
        if there not in FLOOR_OF:
            continue
        if FLOOR_OF[there] > FLOOR_OF[here] or (here, there) in NEVER:
            found.append(f"{path.name}:{line} imports convworks.{there}")
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_upward_import(path: Path) -> None:
    assert upward_imports(path, path.read_text()) == []


def test_an_upward_import_is_seen() -> None:
    bad = "from convworks.cli import main\nimport convworks.flows.train\nfrom convworks import report"
    assert len(upward_imports(SOURCE / "training" / "loop.py", bad)) == 3
    assert upward_imports(SOURCE / "models" / "lenet.py", "from convworks.training.loop import Step") != []


def test_every_room_has_a_floor() -> None:
    assert {room(path) for path in files()} - {"__init__"} <= FLOOR_OF.keys()


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_and_functions_fit_a_reader(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_FILE
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


FORBIDDEN_CALLS = {"eval", "exec", "extractall", "compile", "__import__"}
# The one exemption: a program of its own, which convworks starts and never imports, reads PyTorch's files by
# torch's restricted reader under limits of memory and time. Its torch.load must say weights_only=True itself.
MAY_LOAD_TENSORS = SOURCE / "weights" / "pth_reader.py"
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MAY_OPEN_THE_NETWORK = {"download.py"}
NETWORK_MODULES = {"urllib.request", "http.client", "requests", "ftplib", "smtplib"}


def loads_tensors_only(call: ast.Call) -> bool:
    """Whether torch.load is called with weights_only=True, as a constant."""
    return any(k.arg == "weights_only" and getattr(k.value, "value", None) is True for k in call.keywords)


def dangers(path: Path, source: str) -> list[str]:
    """Places where a file could run code or the network is opened."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            names = [alias.name for alias in node.names]
            modules = [module, *(f"{module}.{name}" for name in names)] if module else names
            for name in modules:
                if name.split(".")[0] in FORBIDDEN_MODULES:
                    found.append(f"{node.lineno}: {name}")
                if name in NETWORK_MODULES and path.name not in MAY_OPEN_THE_NETWORK:
                    found.append(f"{node.lineno}: {name}")
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else None
            attribute = node.func.attr if isinstance(node.func, ast.Attribute) else None
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if name in FORBIDDEN_CALLS or attribute == "extractall":
                found.append(f"{node.lineno}: {name or attribute}()")
            torch_load = attribute == "load" and isinstance(owner, ast.Name) and owner.id == "torch"
            if torch_load and not (path == MAY_LOAD_TENSORS and loads_tensors_only(node)):
                found.append(f"{node.lineno}: torch.load()")
            if any(
                k.arg == "allow_pickle" and getattr(k.value, "value", None) is True for k in node.keywords
            ):
                found.append(f"{node.lineno}: allow_pickle=True")
    return found


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_file_can_run_code(path: Path) -> None:
    assert dangers(path, path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "torch.load('x')",
        "eval('1')",
        "np.load('x', allow_pickle=True)",
        "archive.extractall()",
        "from urllib import request",
        "import urllib.request",
    ],
)
def test_a_danger_is_seen(line: str) -> None:
    assert dangers(SOURCE / "data" / "decode.py", line) != []


def test_the_reader_of_tensors_is_exempt_from_nothing_else() -> None:
    safe, unsafe = "torch.load(f, weights_only=True)", "torch.load(f, weights_only=flag)"
    assert dangers(MAY_LOAD_TENSORS, safe) == []
    assert dangers(MAY_LOAD_TENSORS, unsafe) != []
    assert dangers(MAY_LOAD_TENSORS, "import pickle") != []
    assert dangers(SOURCE / "weights" / "pth.py", safe) != []
    importers = [
        path
        for path in files()
        if "weights.pth_reader" in path.read_text() or "import pth_reader" in path.read_text()
    ]
    assert importers == []
