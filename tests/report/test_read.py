"""Run folders: complete, young, and damaged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from convworks.errors import ConvworksError
from convworks.report.read import read_run
from tests.report.helpers import (
    STEPS,
    fake_answers,
    fake_manifest,
    fake_run,
    write_evaluation,
    write_lines,
    write_recipe,
)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def run(complete: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(complete, tmp_path / complete.name))


def test_a_complete_run(complete: Path) -> None:
    record = read_run(complete)
    assert record.name == "flowers-resnet18-01"
    assert (len(record.steps), len(record.epochs)) == (20 * STEPS, 20)
    assert record.recipe["model"] == "resnet18"
    assert record.sources["epochs"] == "flag"
    assert record.command[:2] == ("convworks", "train")
    assert record.manifest is not None
    assert [each.split for each in record.evaluations] == ["val"]
    assert record.timing is not None
    np.testing.assert_allclose(
        record.timing.seconds, 20 * 10 + 4
    )  # the hour between the sessions is not in it
    assert (record.timing.sessions, record.timing.resumed_at) == (2, (7 * STEPS + 3,))


def test_the_test_set_comes_before_the_validation_set(run: Path) -> None:
    manifest = fake_manifest()
    write_evaluation(run, manifest, split="val", seed=4)
    for split in ("test", "another"):
        shutil.copy(run / "evaluation" / "val.safetensors", run / "evaluation" / f"{split}.safetensors")
        record = json.loads((run / "evaluation" / "val.json").read_text())
        (run / "evaluation" / f"{split}.json").write_text(json.dumps({**record, "split": split}))
    assert [each.split for each in read_run(run).evaluations] == ["test", "val", "another"]


@pytest.mark.parametrize(
    "missing",
    [
        "manifest.jsonl",
        "plan.json",
        "metrics.jsonl",
        "timing.jsonl",
        "evaluation",
        "model",
        "evaluation/val.safetensors",
    ],
)
def test_any_other_file_may_be_missing(run: Path, missing: str) -> None:
    gone = run / missing
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    read_run(run)


def test_only_a_recipe_is_enough(run: Path) -> None:
    for each in run.iterdir():
        if each.name != "recipe.json":
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    record = read_run(run)
    assert (record.manifest, record.steps, record.epochs, record.timing, record.evaluations) == (
        None,
        (),
        (),
        None,
        (),
    )
    assert record.kept_epoch is None


def test_the_kept_epoch(run: Path) -> None:
    assert read_run(run).kept_epoch == 17  # the one that was evaluated
    shutil.rmtree(run / "evaluation")
    best = [place for place, each in enumerate(read_run(run).epochs) if each.best]
    assert read_run(run).kept_epoch == best[-1]
    write_recipe(run, recipe={"keep": "last"})
    assert read_run(run).kept_epoch == 19


def test_a_last_line_that_was_cut_off_is_left_out(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert len(read_run(run).epochs) == 19


def test_a_diverged_run_has_steps_without_numbers(run: Path) -> None:
    write_lines(run / "metrics.jsonl", [{"kind": "step", "step": 1, "loss": None, "lr": 0.1}])
    (step,) = read_run(run).steps
    assert (step.loss, step.lr, step.gradient_norm) == (None, 0.1, None)


def broken_evaluation(**changes: object) -> Callable[[Path], object]:
    def breaks(run: Path) -> None:
        answers = {**fake_answers(fake_manifest()), **changes}
        save_file(
            {k: np.asarray(v) for k, v in answers.items() if v is not None},
            run / "evaluation/val.safetensors",
        )

    return breaks


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())


N = len(fake_answers(fake_manifest())["labels"])


@pytest.mark.parametrize(
    ("damage", "code", "message"),
    [
        (lambda run: (run / "recipe.json").unlink(), "A410", "not a run folder"),
        (text("recipe.json", "{"), "A401", "recipe.json"),
        (text("recipe.json", "[]"), "A401", "recipe.json is not a table"),
        (text("recipe.json", '{"recipe": 5}'), "A401", "recipe.json is not a table"),
        (text("plan.json", '{"a": NaN}'), "A401", "plan.json"),
        (text("manifest.jsonl", "{}\n"), "A441", "manifest.jsonl"),
        (text("metrics.jsonl", '{"kind": "step"\n{}\n'), "A462", "line 1 of metrics.jsonl"),
        (text("metrics.jsonl", "{}\n[]\n"), "A462", "line 2 of metrics.jsonl"),
        (text("metrics.jsonl", "[" * 100_000 + "\n"), "A462", "line 1"),
        (text("metrics.jsonl", '{"kind": "step", "loss": 1}\n'), "A462", "step is missing"),
        (text("metrics.jsonl", '{"kind": "step", "step": 1, "loss": "<b>"}\n'), "A462", "not a number"),
        (text("metrics.jsonl", '{"kind": "step", "step": 1, "loss": NaN}\n'), "A462", "not a number"),
        (text("metrics.jsonl", '{"kind": "step", "step": 1, "loss": true}\n'), "A462", "not a number"),
        (text("metrics.jsonl", '{"kind": "step", "step": 1%s}\n' % ("0" * 400)), "A462", "not a number"),
        (text("metrics.jsonl", '{"kind": "epoch", "epoch": 0, "step": 5}\n' * 2), "A462", "does not follow"),
        (text("timing.jsonl", '{"event": "start", "at": []}\n'), "A462", "at is"),
        (text("evaluation/val.json", "{}"), "A460", "not a record of an evaluation"),
        (text("evaluation/val.json", "{"), "A401", "val.json"),
        (text("evaluation/val.safetensors", b"\xff" * 40), "A463", "cannot read val.safetensors"),
        (broken_evaluation(rows=None), "A463", "cannot read val.safetensors: 'rows'"),
        (broken_evaluation(rows=np.full(N, 10**6)), "A463", "does not fit"),
        (broken_evaluation(rows=np.full(N, -1)), "A463", "does not fit"),
        (broken_evaluation(labels=np.full(N, 10)), "A463", "does not fit"),
        (broken_evaluation(labels=np.zeros(N)), "A463", "does not fit"),
        (broken_evaluation(labels=np.zeros(3, dtype=np.int64)), "A463", "does not fit"),
        (broken_evaluation(probabilities=np.full((N, 10), np.nan, dtype=np.float32)), "A463", "does not fit"),
        (broken_evaluation(probabilities=np.zeros((N, 9), dtype=np.float32)), "A463", "does not fit"),
    ],
)
def test_a_damaged_folder_is_refused(
    run: Path, damage: Callable[[Path], object], code: str, message: str
) -> None:
    damage(run)
    with pytest.raises(ConvworksError, match=message) as caught:
        read_run(run)
    assert caught.value.code == code


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConvworksError, match="there is no run") as caught:
        read_run(tmp_path / "nothing")
    assert caught.value.code == "A410"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], None),
        ([{"event": "epoch", "at": 5.0}], None),
        ([{"event": "start", "at": 5.0}], (0.0, 1, ())),
        ([{"event": "start", "at": 5.0}, {"event": "finish", "at": 9.0}], (0.0, 1, ())),
        (
            [{"event": "start", "at": 5.0}, {"event": "epoch", "at": 1.0}],
            (0.0, 1, ()),
        ),  # the clock was set back
        (
            [
                {"event": "start", "at": 5.0},
                {"event": "epoch", "at": 8.0},
                {"event": "resume", "at": 90.0, "step": 4},  # after a kill: nothing tells when it came
                {"event": "epoch", "at": 91.5},
                {"event": "resume", "at": 99.0, "step": 4},
            ],
            (4.5, 3, (4,)),
        ),
    ],
)
def test_the_wall_clock(run: Path, lines: list[dict], expected: tuple | None) -> None:
    write_lines(run / "timing.jsonl", lines)
    timing = read_run(run).timing
    assert (timing and (timing.seconds, timing.sessions, timing.resumed_at)) == expected
