"""Checkpoints: whole or absent, verified before they are believed, newest valid one first."""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import pytest
import torch

from convworks import durable
from convworks.errors import ConvworksError
from convworks.training.checkpoint import (
    best_name,
    checkpoint_steps,
    load_checkpoint,
    load_into,
    newest_valid,
    read_tensors,
    remove_old,
    save_checkpoint,
    serialize,
    step_name,
)


def save(folder: Path, step: int, name: str | None = None) -> Path:
    tensors = {
        "network": {"w": torch.full((3, 2), float(step))},
        "optimizer": {"w/m": torch.arange(4.0) + step},
    }
    return save_checkpoint(
        folder, name or step_name(step), tensors=tensors, state={"position": {"step": step}}
    )


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    found = load_checkpoint(save(tmp_path, 12))
    assert found.state == {"position": {"step": 12}}
    torch.testing.assert_close(found.tensors["network"]["w"], torch.full((3, 2), 12.0))
    torch.testing.assert_close(found.tensors["optimizer"]["w/m"], torch.arange(4.0) + 12)


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(folder.iterdir()))).hexdigest()

    assert digest(save(tmp_path, 5)) == digest(save(tmp_path, 5, name="again"))
    assert digest(save(tmp_path, 6)) != digest(save(tmp_path, 5))


def test_tied_and_channels_last_tensors_are_written_whole(tmp_path: Path) -> None:
    weight = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    (tmp_path / "x.safetensors").write_bytes(serialize({"a": weight, "b": weight}))
    found = read_tensors(tmp_path / "x.safetensors")
    torch.testing.assert_close(found["a"], weight, rtol=0, atol=0)
    torch.testing.assert_close(found["b"], weight, rtol=0, atol=0)


def test_newest_first_and_old_ones_go(tmp_path: Path) -> None:
    for step in (3, 20, 100, 7):
        save(tmp_path, step)
    for step in (3, 20):
        save(tmp_path, step, name=best_name(step))
    assert checkpoint_steps(tmp_path) == [100, 20, 7, 3]
    remove_old(tmp_path, keep=2, best_step=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-00000003", "step-00000020", "step-00000100"]


@pytest.mark.parametrize("seed", range(40))
def test_any_damage_falls_back_to_the_one_before(tmp_path: Path, seed: int) -> None:
    # Fault L1: truncated, bit-flipped, emptied, deleted or swapped files.
    draw = random.Random(seed)
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    file = draw.choice(sorted(path.iterdir()))
    content = bytearray(file.read_bytes())
    match seed % 5:
        case 0:
            file.write_bytes(content[: draw.randrange(len(content))])
        case 1:
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            file.write_bytes(content)
        case 2:
            file.write_bytes(b"")
        case 3:
            file.unlink()
        case _:
            other = next(p for p in sorted(path.iterdir()) if p != file)
            file.write_bytes(other.read_bytes())
    checkpoint, warnings = newest_valid(tmp_path)
    assert checkpoint is not None
    assert checkpoint.state["position"]["step"] == 1
    assert len(warnings) == 1
    assert "step-00000002" in warnings[0]
    assert (tmp_path / "step-00000002.broken").is_dir()


def test_no_whole_checkpoint_is_an_error_that_says_so(tmp_path: Path) -> None:
    (save(tmp_path, 4) / "network.safetensors").write_bytes(b"x")
    with pytest.raises(
        ConvworksError, match=r"A404.*step-00000004 is damaged.*expected sha256 .* found"
    ) as caught:
        newest_valid(tmp_path)
    assert caught.value.exit_status == 4


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{durable.TEMPORARY}abc").mkdir()
    (tmp_path / f"{durable.TEMPORARY}file").write_bytes(b"x")
    save(tmp_path, 9)
    checkpoint, _ = newest_valid(tmp_path)
    assert checkpoint is not None
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000009"]


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert newest_valid(tmp_path) == (None, [])


CALLS = ["write_bytes", "fsync_file", "fsync_folder", "rename", "replace"]


def test_the_order_of_a_save_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Fault T3: every file is synced inside the temporary folder, then the folder, the name and its parent.
    calls = []
    for name in CALLS:
        original = getattr(durable, name)
        monkeypatch.setattr(
            durable,
            name,
            lambda *a, name=name, original=original: (calls.append((name, a[0].name)), original(*a))[1],
        )
    monkeypatch.setattr(durable.os, "fsync", lambda handle: calls.append(("fsync", "")))
    save(tmp_path, 1)
    names = [name for name, _ in calls if name != "fsync_file"]
    assert names == ["write_bytes", "fsync"] * 4 + [
        "fsync_folder",
        "fsync",
        "rename",
        "fsync_folder",
        "fsync",
    ]
    assert [target for name, target in calls if name == "fsync_folder"][1] == tmp_path.name


@pytest.mark.parametrize("name", ["write_bytes", "fsync_folder", "rename"])
@pytest.mark.parametrize("at", range(1, 5))
def test_a_refusing_disk_leaves_the_old_one_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, at: int
) -> None:
    save(tmp_path, 1)
    count, original = 0, getattr(durable, name)

    def refuse(*args: object) -> None:
        nonlocal count
        count += 1
        if count == at:
            raise OSError(28, "No space left on device")
        original(*args)

    monkeypatch.setattr(durable, name, refuse)
    try:
        save(tmp_path, 2)
    except OSError:
        pass
    monkeypatch.undo()
    checkpoint, warnings = newest_valid(tmp_path)
    assert warnings == []
    assert checkpoint is not None
    assert not list(tmp_path.glob(f"{durable.TEMPORARY}*"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"b": torch.zeros(2)}, "lacks a"),
        ({"a": torch.zeros(2), "b": torch.zeros(1)}, "has more than this network: b"),
        ({"a": torch.zeros(3)}, r"a is \(3,\) in the file and \(2,\) in the network"),
    ],
)
def test_weights_of_another_network_are_refused(source: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(ConvworksError, match=words):
        load_into({"a": torch.zeros(2)}, source, where=Path("x"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        (2**60).to_bytes(8, "little") + b"{}",
        (100).to_bytes(8, "little") + b"{" * 100,
        (60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999]}}    ',
        (72).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}      '
        + b"1234",
        b"PK\x03\x04" + b"0" * 100,
    ],
    ids=["empty", "length", "huge header", "not json", "offsets", "shape", "zip"],
)
def test_hostile_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConvworksError, match="A402"):
        read_tensors(path)


def test_replacing_a_folder_of_the_same_name(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    shutil.copytree(path, tmp_path / "copy")
    durable.write_folder(path, [("state.json", b"{}")])
    assert sorted(p.name for p in path.iterdir()) == [durable.MANIFEST, "state.json"]
    assert durable.folder_damage(path) == ""
