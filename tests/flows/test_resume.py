"""Stopping anywhere and going on: the end is the same to the bit, or the difference is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convworks.data.manifest import Manifest
from convworks.errors import ConvworksError
from convworks.flows.events import Finished, Note, Stopped, Will
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import from_dict, resolve
from convworks.runs import Run
from tests.flows.helpers import fingerprint, resume_all, train_all, train_until, write_images

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


SETTINGS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "accumulated": {"accumulate": 3},
    "adamw": {"optimizer.name": "adamw"},
    "alexnet form": {"optimizer.name": "sgd_alexnet"},
    "bf16 channels_last": {"precision": "bf16", "memory_format": "channels_last"},
    "plateau": {"schedule.name": "plateau", "schedule.patience": 0},
    "restarts": {"schedule.name": "warm-restarts", "schedule.cycle": 1, "epochs": 3},
    "regularised": {
        "regularize.l1": 1e-3,
        "regularize.proximal": True,
        "regularize.l2_plain": 1e-4,
        "regularize.max_norm": 1.0,
        "regularize.noise": 0.5,
        "regularize.dropout": 0.2,
    },
    "sparse": {
        "model": "stack",
        "model_options": {"spec": "conv 4@3x3 sigmoid, max 2x2, dense 8 sigmoid, dense K"},
        "regularize.sparsity": 0.1,
        "regularize.sparsity_layers": ("dense1.sigmoid",),
        "accumulate": 2,
    },
    "stochastic depth": {"model": "resnet20_cifar", "size": 16, "regularize.stochastic_depth": 0.5},
    "rmsprop": {"optimizer.name": "rmsprop", "optimizer.lr": 1e-3},
}
# Three steps, one batch of evaluation, twice; the questions after them belong to the end of the run.
MOMENTS = [("sgd", asked) for asked in range(1, 11)] + [(name, 5) for name in SETTINGS if name != "sgd"]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What undisturbed runs end with."""
    found = {}
    for name, settings in SETTINGS.items():
        work = tmp_path_factory.mktemp("whole")
        train_all(work, data, **settings)
        found[name] = fingerprint(work)
    return found


@pytest.mark.parametrize(("name", "asked"), MOMENTS)
def test_stopped_anywhere_it_ends_in_the_same_bits(
    tmp_path: Path, data: Path, whole: dict[str, dict[str, str]], name: str, asked: int
) -> None:
    events = train_until(tmp_path, data, asked, **SETTINGS[name])
    assert isinstance(events[-1], Stopped)
    assert events[-1].run == tmp_path / "runs" / "run"
    assert isinstance(resume_all(tmp_path)[-1], Finished)
    assert fingerprint(tmp_path) == whole[name]


def test_settings_end_in_different_bits(whole: dict[str, dict[str, str]]) -> None:
    weights = [
        tuple(v for k, v in files.items() if k.endswith("network.safetensors")) for files in whole.values()
    ]
    assert len(set(weights)) == len(SETTINGS)


def test_stopped_while_the_data_is_read(tmp_path: Path, data: Path, whole: dict[str, dict[str, str]]) -> None:
    events = train_until(tmp_path, data, 1, scanning=True)
    assert [type(e) for e in events] == [Stopped]
    assert isinstance(resume_all(tmp_path)[-1], Finished)
    assert fingerprint(tmp_path) == whole["sgd"]


def test_the_same_command_continues(tmp_path: Path, data: Path, whole: dict[str, dict[str, str]]) -> None:
    train_until(tmp_path, data, 6, name=None)
    events = train_all(tmp_path, data, name=None)
    assert isinstance(events[0], Note)
    assert "continuing" in events[0].text
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["colours-tutorial_cnn-01"]
    assert fingerprint(tmp_path, "colours-tutorial_cnn-01") == whole["sgd"]
    again = train_all(tmp_path, data, name=None)  # a finished run is never touched: this is a new one
    assert again[-1].run.name == "colours-tutorial_cnn-02"


def test_fresh_starts_another(tmp_path: Path, data: Path) -> None:
    train_until(tmp_path, data, 6, name=None)
    train_all(tmp_path, data, name=None, fresh=True)
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_fresh_never_replaces_a_run_of_that_name(tmp_path: Path, data: Path) -> None:
    train_until(tmp_path, data, 4)
    run = tmp_path / "runs" / "run"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ConvworksError, match="U130.*there is a run called 'run' already") as caught:
        train_all(tmp_path, data, fresh=True)
    assert caught.value.try_ == f"--name run-2, or convworks resume {run}"
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_resume_says_exact_and_where(tmp_path: Path, data: Path) -> None:
    train_until(tmp_path, data, 6)
    will = next(e for e in resume_all(tmp_path) if isinstance(e, Will))
    assert (will.exact, will.resumed_at) == ("exact", (2, 2))


def test_another_environment_is_said(tmp_path: Path, data: Path) -> None:
    train_until(tmp_path, data, 6)
    run = Run(tmp_path / "runs" / "run")
    record = run.record()
    record["environment"]["torch"] = "1.0"
    run.write_json(run.recipe_file, record)
    will = next(e for e in resume_all(tmp_path) if isinstance(e, Will))
    assert will.exact.startswith("approximate: torch 1.0 -> ")


def test_a_finished_run_has_nothing_to_continue(tmp_path: Path, data: Path) -> None:
    train_all(tmp_path, data)
    before = fingerprint(tmp_path)
    events = resume_all(tmp_path)
    assert len(events) == 1
    assert "finished" in events[0].text
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("change", ["changed", "added", "removed", "moved"])
def test_other_images_are_refused_unless_accepted(tmp_path: Path, with_page: None, change: str) -> None:
    folder = write_images(tmp_path / "colours", each=8)
    train_until(tmp_path, folder, 4)
    first = folder / "red" / "0.png"
    match change:
        case "changed":
            shutil.copy(folder / "blue" / "1.png", first)
        case "added":
            shutil.copy(first, folder / "red" / "new.png")
        case "removed":
            first.unlink()
        case _:
            first.rename(folder / "blue" / "from-red.png")
    with pytest.raises(ConvworksError, match="D145") as caught:
        resume_all(tmp_path)
    assert caught.value.exit_status == 3
    assert "0.png" in str(caught.value) or "new.png" in str(caught.value)
    assert caught.value.try_ == f"convworks resume {tmp_path / 'runs' / 'run'} --accept-data-change"
    before = {s.pixels: s.split for s in Manifest.load(Run(tmp_path / "runs" / "run").manifest_file).samples}
    events = resume_all(tmp_path, accept_data_change=True)
    assert isinstance(events[-1], Finished)
    assert next(e for e in events if isinstance(e, Will)).exact == "approximate: changed on the way: data"
    after = Manifest.load(Run(tmp_path / "runs" / "run").manifest_file).samples
    assert all(before.get(s.pixels, s.split) == s.split for s in after if s.split == "val")  # no leak
    assert (
        "Changed while the run was stopped: data" in (tmp_path / "runs" / "run" / "report.html").read_text()
    )


SAFE = ["workers=2", "keep_checkpoints=3", "checkpoint_every=2"]
UNSAFE = [
    "epochs=9",
    "batch=8",
    "optimizer.lr=0.5",
    "optimizer.name=adam",
    "optimizer.momentum=0.1",
    "seed=5",
    "optimizer.weight_decay=0.1",
    "schedule.name=constant",
    "schedule.warmup=0.5",
    "augment.shift=3",
    "augment.flip=true",
    "label_smoothing=0.2",
    "class_weights=balanced",
    "clip_norm=1.0",
    "accumulate=4",
    "precision=bf16",
    "memory_format=channels_last",
    "winograd=no",
    "amx=no",
    "threads=2",
    "keep=last",
    "normalize=none",
    "size=32",
    "early_stopping=1",
    "val_fraction=0.3",
]


@pytest.mark.parametrize("assignment", SAFE + UNSAFE)
def test_verdict_on_a_changed_setting(tmp_path: Path, data: Path, assignment: str) -> None:
    # Fault T13: safe keys are accepted, others need --override and are stamped.
    train_until(tmp_path, data, 4)
    recipe = from_dict(Run(tmp_path / "runs" / "run").record()["recipe"])
    changes = resolve(base=recipe, base_name="run", assignments=(assignment,))
    if assignment in SAFE:
        assert isinstance(resume_all(tmp_path, changes=changes)[-1], Finished)
        return
    key = assignment.partition("=")[0]
    with pytest.raises(ConvworksError, match=f"U131.*{key}") as caught:
        resume_all(tmp_path, changes=changes)
    assert caught.value.exit_status == 2


def test_an_override_is_stamped(tmp_path: Path, data: Path) -> None:
    train_until(tmp_path, data, 4)
    run = Run(tmp_path / "runs" / "run")
    changes = resolve(
        base=from_dict(run.record()["recipe"]), base_name="run", assignments=("optimizer.lr=0.5",)
    )
    events = resume_all(tmp_path, changes=changes, override=True)
    will = next(e for e in events if isinstance(e, Will))
    assert will.exact == "approximate: changed on the way: optimizer.lr"
    assert run.record()["overrides"] == ["optimizer.lr"]
    assert run.record()["provenance"]["optimizer.lr"] == "--set"


def test_another_command_in_the_same_name_is_refused(tmp_path: Path, data: Path) -> None:
    train_until(tmp_path, data, 4)
    with pytest.raises(ConvworksError, match=r"U131.*batch was 16, is 8"):
        train_all(tmp_path, data, batch=8)


def test_a_damaged_newest_checkpoint_falls_back_and_ends_the_same(
    tmp_path: Path, data: Path, whole: dict[str, dict[str, str]]
) -> None:
    train_until(tmp_path, data, 8)
    newest = max((tmp_path / "runs" / "run" / "checkpoints").glob("step-*"))
    (newest / "optimizer.safetensors").write_bytes(b"")
    events = resume_all(tmp_path)
    assert any(isinstance(e, Note) and e.level == "warning" and newest.name in e.text for e in events)
    assert fingerprint(tmp_path) == whole["sgd"]


@pytest.mark.parametrize(
    ("file", "content", "code"),
    [
        ("recipe.json", "{", "A401"),
        ("recipe.json", "[]", "A401"),
        ("recipe.json", '{"recipe": {"model": "os.system"}, "data": {}}', "A401"),
        ("recipe.json", '{"recipe": {"__class__": "x"}, "data": {}}', "U101"),
        ("plan.json", "{}", "A416"),
        ("plan.json", "[" * 100_000, "A401"),
        ("geometry.json", '{"height": 1}', "A401"),
    ],
)
def test_damaged_records_are_named(tmp_path: Path, data: Path, file: str, content: str, code: str) -> None:
    train_until(tmp_path, data, 6)
    (tmp_path / "runs" / "run" / file).write_text(content)
    with pytest.raises(ConvworksError, match=code):
        resume_all(tmp_path)


def test_everything_in_the_recipe_round_trips(tmp_path: Path, data: Path) -> None:
    train_until(tmp_path, data, 4)
    record = json.loads((tmp_path / "runs" / "run" / "recipe.json").read_text())
    assert isinstance(from_dict(record["recipe"]), Recipe)


def kill(*arguments: str) -> list[str]:
    """Run the proof in a process of its own: it forks, and forks want a process without threads."""
    answer = subprocess.run(
        [sys.executable, "-m", "tests.faults.kill", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert answer.stderr == ""
    return answer.stdout.splitlines()


def test_twenty_kills_end_in_the_same_bits() -> None:
    # Fault T1: 8 at random times, 6 inside a checkpoint write, 2 in evaluation, 2 at the start, 2 double.
    *details, summary, figure = kill("--points", "20", "--seed", "1")
    assert details == []
    assert figure == "figure kill_points_identical 20/20 points target 20/20"
    assert summary.startswith("8 time, 6 checkpoint, 2 evaluation, 2 start, 2 double;")
    kills = int(summary.split(";")[1].split()[0])
    assert kills >= 12  # a random moment may fall after the end


def test_kills_of_a_transfer_end_in_the_same_bits() -> None:
    # Staged thawing at rates of its own; whitening; stored features of a frozen backbone; 8-bit rounding.
    *details, summary, figure = kill("--of", "transfer", "--points", "4", "--seed", "2")
    assert details == []
    assert figure == "figure kill_points_identical 4/4 points target 4/4"
    assert summary.startswith("1 time, 1 checkpoint, 2 moment;")


def test_the_kill_proof_can_fail() -> None:
    # The control: the reference is compared with a run of another seed, and every file must differ.
    assert kill("--control")[-1] == "figure control_files_different 11/11 files target 11/11"
