"""PyTorch's own files: read in another process, tensors only, or refused; nothing in them ever runs."""

from __future__ import annotations

import builtins
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from convworks import models
from convworks.bundle import load_bundle
from convworks.errors import ConvworksError
from convworks.flows.predict import load
from convworks.weights import pth
from convworks.weights.export import renamed
from convworks.weights.importer import import_weights
from convworks.weights.layouts import layout
from convworks.weights.pth import read_pth
from convworks.weights.pth_reader import RefusedError, named_tensors

MODEL = "mobilenet_v1_025_128"
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.zeros(2, dtype=torch.float16)}


class Calls:
    """Pickles as a call of `function`: what a hostile file does when it is read."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def saved(path: Path, value: Any, *, zipped: bool = True) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    return path


def refused(code: str, path: Path, **how: Any) -> str:
    with pytest.raises(ConvworksError) as caught:
        read_pth(path, trusted=True, **how)
    assert caught.value.code == code, caught.value
    return str(caught.value)


DRIVER = """
import json, sys
sys.path.insert(0, {folder!r})
import pth_reader
pth_reader._limit = lambda *_: None  # limits are for one file
for source in sys.argv[1:]:
    print(json.dumps(pth_reader.main(source, source + ".safetensors", 2**30, 60)))
"""


def read_each(folder: Path, files: dict[str, bytes]) -> dict[str, dict[str, Any]]:
    """The reader's answers to many files, from one process with a dangerous setting of torch."""
    paths = {name: folder / f"{number}.pth" for number, name in enumerate(files)}
    for name, path in paths.items():
        path.write_bytes(files[name])
    ran = subprocess.run(
        [sys.executable, "-P", "-c", DRIVER.format(folder=str(pth.READER.parent)), *map(str, paths.values())],
        env={**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(files, map(json.loads, ran.stdout.splitlines()), strict=True))


def packed(value: Any, *, zipped: bool = True) -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"epoch": 3, "state_dict": tensors},
        lambda tensors: {"model": OrderedDict(tensors), "args": None},
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()},
    ],
    ids=["plain", "state_dict", "model", "data-parallel", "parameters"],
)
def test_tables_are_found_where_programs_put_them(wrap: Callable[[Any], Any]) -> None:
    found = named_tensors(wrap(TENSORS), limit=1000)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_files_of_old_versions_and_shared_memory_come_through(tmp_path: Path) -> None:
    whole = torch.arange(10.0)
    shared = {"first": whole[:4], "second": whole[2:8], "all": whole, "turned": whole.reshape(2, 5).T}
    found = read_pth(saved(tmp_path / "a.pth", shared, zipped=False), trusted=True)
    for name, tensor in shared.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_without_trust_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pth, "_ask_child", lambda *_: pytest.fail("the file was read"))
    with pytest.raises(ConvworksError) as caught:
        read_pth(saved(tmp_path / "a.pth", TENSORS), trusted=False)
    assert caught.value.code == "U196"
    assert "--trust-this-file" in str(caught.value)


def hostile(canary: Path) -> dict[str, Any]:
    """Values that leave a file when they are unpickled in the ordinary way."""
    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Calls(os.system, f"touch {canary}"),
        "eval": Calls(eval, code),
        "exec": Calls(exec, code),
        "popen": Calls(subprocess.Popen, ["touch", str(canary)]),
        "open": Calls(builtins.open, str(canary), "w"),
        "import": Calls(__import__, "antigravity"),
        "getattr": Calls(getattr, "x", "upper"),
        "torch.load": Calls(torch.load, str(canary)),
        "hidden in a list": [TENSORS["a.bias"], [Calls(os.system, f"touch {canary}")]],
        "a whole network": torch.nn.Linear(2, 2),
    }


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    values = hostile(canary)
    files = {
        f"{name}, {'zip' if zipped else 'old'}": packed(
            {"a.weight": torch.zeros(2), "b": value}, zipped=zipped
        )
        for name, value in values.items()
        for zipped in (True, False)
    }
    files["bare"] = pickle.dumps(values["os.system"])
    program = io.BytesIO()
    with zipfile.ZipFile(program, "w") as archive:  # as a TorchScript archive is
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"program/{name}", pickle.dumps(3))
        archive.writestr("program/version", "3")
    files["program"] = program.getvalue()
    answers = read_each(tmp_path, files)
    assert len(answers) == 22
    for name, answer in answers.items():
        kind = "content" if name == "bare" else "code"
        assert answer["refused"] == kind, f"{name}: {answer}"
    assert answers["os.system, zip"]["reason"] == "posix.system"
    assert not canary.exists()


def test_a_refusal_says_what_was_asked_for(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    said = refused("A418", saved(tmp_path / "evil.pth", {"b": hostile(canary)["os.system"]}))
    assert "evil.pth is refused: it asks for more than tensors, namely posix.system" in said
    assert not canary.exists()


def test_the_canary_would_have_been_seen(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickle.dumps(hostile(canary)["exec"]))
    assert canary.exists()


def test_what_is_no_table_of_tensors_is_refused() -> None:
    cases: dict[str, tuple[Any, str]] = {
        "number": (3, "it holds int, not a table of tensors"),
        "list": ([torch.zeros(2)], "it holds list"),
        "empty": ({}, "not a table of tensors"),
        "text": ({"a": torch.zeros(2), "b": "hello"}, "'b' is a str, not a tensor"),
        "key": ({3: torch.zeros(2)}, "a name in it is a int"),
        "sparse": ({"a": torch.zeros(2, 2).to_sparse()}, "not a dense tensor"),
        "complex": ({"a": torch.zeros(2, dtype=torch.complex64)}, "not a dense tensor"),
    }
    for value, expected in cases.values():
        with pytest.raises(RefusedError, match=expected):
            named_tensors(value, limit=2**20)


def test_a_small_file_that_stands_for_much_is_refused(tmp_path: Path) -> None:
    bomb = saved(tmp_path / "bomb.pth", {"a": torch.zeros(1).expand(10**6, 10**6)})
    assert bomb.stat().st_size < 10_000
    assert "its tensors take more than" in refused("A419", bomb)
    packed = tmp_path / "packed.pth"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("packed/data/0", bytes(5_000_000))
    assert "it has 5,000," in refused("A419", packed, size_cap=2**20)
    assert "bytes" in refused("A419", saved(tmp_path / "a.pth", TENSORS), size_cap=100)


def test_a_reader_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow.py"
    slow.write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr(pth, "READER", slow)
    assert "more than 1 s" in refused("A419", saved(tmp_path / "a.pth", TENSORS), time_limit=1)


def test_a_reader_that_dies_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = tmp_path / "dead.py"
    dead.write_text("import os\nprint('{}')\nos._exit(9)\n")
    monkeypatch.setattr(pth, "READER", dead)
    assert "ended with status 9" in refused("A418", saved(tmp_path / "a.pth", TENSORS))


def test_a_file_that_was_cut_or_changed_is_refused(tmp_path: Path) -> None:
    files = {}
    for zipped in (True, False):
        content = packed({"w": torch.arange(1000.0)}, zipped=zipped)
        files |= {
            f"{zipped} {share}": content[: int(share * len(content))] for share in (0.0, 0.3, 0.9, 0.99)
        }
    for name, answer in read_each(tmp_path, {**files, "text": b"no weights", "zip": b"PK\x03\x04"}).items():
        assert answer.get("refused") == "content", f"{name}: {answer}"


def test_special_files_and_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    refused("A411", tmp_path)
    refused("A411", tmp_path / "none.pth")
    refused("A415", saved(tmp_path / "a.pth", {"state_dict": {"a": torch.tensor([torch.nan])}}))


# --- as a model folder ------------------------------------------------------------------------------------


def published(folder: Path, *, suffix: str = "pth") -> tuple[torch.nn.Module, Path]:
    """A network of four classes, and its weights as somebody else would publish them."""
    torch.manual_seed(0)
    network = models.create(MODEL, num_classes=4, input_size=(128, 128), activation="relu6")
    chosen = layout(MODEL, "timm", {"activation": "relu6"})
    tensors, path = renamed(network.state_dict(), chosen, MODEL), folder / f"mobile.{suffix}"
    if suffix == "pth":
        return network, saved(path, tensors)
    safetensors.torch.save_file(tensors, path)
    return network, path


def test_an_import_makes_a_folder_that_predicts(tmp_path: Path) -> None:
    network, file = published(tmp_path)
    made = import_weights(
        file,
        model=MODEL,
        out=tmp_path / "models" / "mobile",
        options={"activation": "relu6"},
        classes=("a", "b", "c", "d"),
        trusted=True,
    )
    assert (made.names, made.classes, made.input, made.normalisation) == ("timm", 4, (3, 128, 128), "half")
    bundle = load_bundle(made.path)
    assert bundle.info["imported"] == {"file": "mobile.pth", "sha256": made.sha256, "names": "timm"}
    for (name, a), b in zip(network.state_dict().items(), bundle.network.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    geometry = bundle.preprocess.geometry
    assert (geometry.stored_height, geometry.height, geometry.fit) == (146, 128, "crop")
    image = torch.full((160, 200, 3), 255, dtype=torch.uint8).numpy()
    with torch.no_grad():
        expected = network.eval()(torch.ones(1, 3, 128, 128)).softmax(1)  # 255 becomes 1
    found = torch.from_numpy(load(made.path).predict_proba([image]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_an_import_refuses_what_does_not_fit(tmp_path: Path) -> None:
    _, file = published(tmp_path, suffix="safetensors")
    out, options = tmp_path / "m", {"activation": "relu6"}

    def fails(code: str, **how: Any) -> str:
        with pytest.raises(ConvworksError) as caught:
            import_weights(file, **({"model": MODEL, "out": out, "options": options, "trusted": True} | how))
        assert caught.value.code == code, caught.value
        assert not out.exists()
        return str(caught.value)

    assert "--model NAME" in fails("U199", model=None)
    assert "for 4 classes" in fails("U198", classes=("a", "b"))
    assert "1 of them twice" in fails("U198", classes=("a", "b", "c", "c"))
    fails("U101", model="mobilnet")
    fails("A417", options={})
    fails("A405", model="resnet18", options={})
    fails("U143", out=tmp_path)


def test_the_reader_prints_its_answer_only(tmp_path: Path) -> None:
    """As a program by itself, as the parent starts it."""
    target = tmp_path / "w.safetensors"
    ran = subprocess.run(
        [
            sys.executable,
            "-P",
            str(pth.READER),
            str(saved(tmp_path / "a.pth", TENSORS)),
            str(target),
            "1000000",
            "60",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == '{"tensors": 2, "bytes": 28}'
    assert target.is_file()
    assert io.BytesIO(target.read_bytes()).read(9)[8:] == b"{"
