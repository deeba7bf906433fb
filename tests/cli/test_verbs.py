"""Each verb from words to lines, files and exit status, on a small training."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from convworks.cli import main
from convworks.runs import Run, append_timing
from tests.cli.helpers import Ran, draw, run

RUN = "runs/photos-mlp128-01"
SMALL = ("--threads", "1", "--precision", "fp32", "--workers", "0", "--batch", "8")


class StopAfter:
    """A stop request that is made at its n-th question."""

    questions = 0

    def __enter__(self) -> StopAfter:
        self.left = self.questions
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def train(capsys: pytest.CaptureFixture[str], *words: str) -> Ran:
    return run(capsys, "train", "photos", "--model", "mlp128", "--epochs", "3", *SMALL, *words)


def test_training_tells_a_story_and_ends_with_the_answer(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = train(capsys, "--seed", "1")
    assert ran.status == 0
    story = ran.err.splitlines()
    starts = [line.split("  ")[0] for line in story if line and line[0] not in " "]
    assert starts == ["I found", "I will", "settings", "recipe", "run", "epoch", "1/3", "2/3", "3/3"]
    assert "val        accuracy" in ran.out
    assert "next       convworks predict runs/photos-mlp128-02 PATH" in ran.out
    assert (world / "runs" / "photos-mlp128-02" / "report.html").is_file()
    assert len((ran.err + ran.out).splitlines()) <= 3 + 30
    assert not any(c < " " for c in (ran.err + ran.out).replace("\n", ""))


def test_quiet_leaves_the_answer(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = train(capsys, "--quiet", "--name", "q")
    assert ran.err == ""
    assert ran.out.startswith("val        accuracy")


def test_programs_read_json_lines(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [json.loads(line) for line in train(capsys, "--json", "--name", "j").out.splitlines()]
    assert [each["event"] for each in records] == ["found", "will", *["epoch"] * 3, "finished"]
    assert records[-1]["run"] == "runs/j"


def test_every_value_remembers_where_it_came_from(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "my.toml").write_text(
        "epochs = 1\nlabel_smoothing = 0.1\n[optimizer]\nlr = 0.3\nmomentum = 0.5\n"
    )
    words = ["--config", "my.toml", "--set", "optimizer.lr=0.2", "--set", "optimizer.momentum=0.4"]
    assert train(capsys, *words, "--lr", "0.1", "--name", "p").status == 0
    record = json.loads((world / "runs/p/recipe.json").read_text())
    assert record["recipe"]["epochs"] == 3
    assert record["recipe"]["optimizer"]["lr"] == 0.1
    assert record["recipe"]["optimizer"]["momentum"] == 0.4
    assert record["recipe"]["label_smoothing"] == 0.1
    sources = record["provenance"]
    assert [sources[key] for key in ("epochs", "optimizer.lr", "optimizer.momentum", "label_smoothing")] == [
        "flag",
        "flag",
        "--set",
        "config my.toml",
    ]
    command = [*("--model", "mlp128", "--epochs", "3", "--lr", "0.1", "--batch", "8", "--name", "p"), *words]
    command += [*("--workers", "0", "--threads", "1", "--precision", "fp32")]
    assert record["command"] == ["convworks", "train", "photos", *command]


def test_a_model_in_a_config_file_brings_its_recipe(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "my.toml").write_text('model = "mlp128"\n')
    ran = run(capsys, "train", "photos", "--config", "my.toml", *SMALL, "--epochs", "1", "--name", "c")
    assert ran.status == 0
    record = json.loads((world / "runs/c/recipe.json").read_text())
    assert record["recipe"]["optimizer"]["name"] == "adam"


def test_a_dry_run_writes_no_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = train(capsys, "--dry-run", "--name", "dry")
    assert ran.status == 0
    assert "I will" in ran.err
    assert "run        runs/dry\n" in ran.err
    assert [path.name for path in (world / "runs").iterdir()] == ["photos-mlp128-01"]


def test_a_stopped_run_says_how_to_continue_and_continues(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(StopAfter, "questions", 30)
        patch.setattr("convworks.cli.train.StopRequest", StopAfter)
        ran = train(capsys, "--seed", "5")
    assert ran.status == 75
    assert ran.out == "continue with:  convworks resume runs/photos-mlp128-02\n"
    ran = run(capsys, "resume", "runs/photos-mlp128-02")
    assert ran.status == 0
    assert "I continue at epoch" in ran.err
    assert "next       convworks predict runs/photos-mlp128-02 PATH" in ran.out
    again = run(capsys, "resume", "runs/photos-mlp128-02")
    assert again.status == 0
    assert "finished" in again.err


def test_the_same_command_continues_and_fresh_does_not(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(StopAfter, "questions", 30)
        patch.setattr("convworks.cli.train.StopRequest", StopAfter)
        assert train(capsys, "--seed", "5").status == 75
    assert "runs/photos-mlp128-03" in train(capsys, "--seed", "5", "--fresh").out
    ran = train(capsys, "--seed", "5")
    assert ran.status == 0
    assert "runs/photos-mlp128-02" in ran.out


def test_eval_prints_intervals_and_writes_every_image(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = run(capsys, "eval", RUN, "photos", "--csv", "images.csv")
    assert ran.status == 0
    assert "accuracy" in ran.out
    assert "95 %" in ran.out
    with (world / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    assert {row["label"] for row in rows} == {"daisy", "rose"}
    right = sum(row["label"] == row["predicted"] for row in rows)
    document = json.loads(run(capsys, "eval", RUN, "photos", "--json").out)
    assert document["n"] == 24
    assert document["top1"] == pytest.approx(right / 24)


def test_eval_can_leave_out_what_cannot_be_read(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "photos" / "rose" / "bad.jpg").write_bytes(b"")
    draw(world / "photos" / "lily" / "1.png")
    ran = run(capsys, "eval", RUN, "photos", "--skip-unreadable", "--ignore-classes", "lily")
    assert ran.status == 0
    assert "n = 24" in ran.out
    assert "warning: 1 image left out: rose/bad.jpg" in ran.err


def test_a_stopped_eval_is_75(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convworks.cli.eval.StopRequest", StopAfter)
    ran = run(capsys, "eval", RUN, "photos", "--csv", "images.csv")
    assert (ran.status, ran.out) == (75, "")
    assert not (world / "images.csv").exists()


def test_predict_as_table_csv_and_json(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = run(capsys, "predict", RUN, "photos/daisy", "photos/rose/3.png").out.splitlines()
    assert len(table) == 13
    assert table[0].startswith("photos/daisy/0.png  ")
    assert table[2].startswith("photos/daisy/2.png")  # natural order
    text = run(capsys, "predict", RUN, "photos/rose/3.png", "--format", "csv").out
    (row,) = csv.DictReader(text.splitlines())
    assert list(row) == ["path", "label", "probability", "label_2", "probability_2", "error"]
    (found,) = json.loads(run(capsys, "predict", RUN, "photos/rose/3.png", "--json", "--top", "1").out)
    assert (found["label"], len(found["top"])) == (row["label"], 1)
    assert found["probability"] == pytest.approx(float(row["probability"]), abs=1e-6)


def test_predict_keeps_a_row_for_what_cannot_be_read(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "photos" / "rose" / "bad.jpg").write_bytes(b"")
    ran = run(capsys, "predict", RUN, "photos/rose", "--csv", "rows.csv", "--json")
    assert ran.status == 3
    assert len(json.loads(ran.out)) == 13
    with (world / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows if row["error"]] == ["photos/rose/bad.jpg"]
    again = run(capsys, "predict", RUN, "photos/daisy", "--csv", "rows.csv")
    assert again.status == 0  # a table of ours may be written again
    assert len((world / "rows.csv").read_text().splitlines()) == 13


def test_names_cannot_become_formulas(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(world / "=HYPERLINK()" / "1.png")
    ran = run(capsys, "predict", RUN, "=HYPERLINK()", "--format", "csv")
    assert ran.out.splitlines()[1].startswith("'=HYPERLINK()/1.png,")


def test_strange_names_stay_on_their_line(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw(world / "photos" / "a\nb\x1b" / "1.png", seed=7)
    draw(world / "photos" / "a\nb\x1b" / os.fsdecode(b"\xff.png"), seed=8)
    (world / "photos" / "rose" / "no\nte.txt").write_text("x")
    ran = run(capsys, "check", "photos")
    assert "a\\nb\\x1b 2" in ran.out
    assert "no\\nte.txt" in ran.out
    for words in (["predict", RUN, "photos"], ["predict", RUN, "photos", "--format", "csv"]):
        lines = run(capsys, *words).out.splitlines()
        assert len([line for line in lines if "a\\nb\\x1b" in line]) == 2
        assert any("\\xff.png" in line for line in lines)


def test_a_stopped_predict_is_75(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StopAfter, "questions", 3)
    monkeypatch.setattr("convworks.cli.predict.StopRequest", StopAfter)
    ran = run(capsys, "predict", RUN, "photos", "--csv", "rows.csv")
    assert ran.status == 75
    assert "after 3 images" in ran.err
    assert not (world / "rows.csv").exists()


def test_check_says_what_is_wrong_and_changes_nothing(
    world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (world / "photos" / "rose" / "bad.jpg").write_text("<html>")
    ran = run(capsys, "check", "photos")
    assert ran.status == 0
    assert "2: daisy 12, rose 12" in ran.out
    assert "unreadable" in ran.out
    assert "bad.jpg" in ran.out
    assert "next:  convworks train photos" in ran.err
    assert json.loads(run(capsys, "check", "photos", "--json").out)["readable"] == 24


@pytest.mark.parametrize(
    ("what", "name"),
    [("models", "lenet5"), ("recipes", "lenet5"), ("datasets", "digits"), ("runs", "photos-mlp128-01")],
)
def test_lists_have_the_names(what: str, name: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "list", what)
    assert ran.status == 0
    assert any(line.split()[0] == name for line in ran.out.splitlines())
    assert name in [row["name"] for row in json.loads(run(capsys, "list", what, "--json").out)]


def test_the_list_of_errors_has_every_exit_status(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "list", "errors", "--json").out)
    assert {row["exit"] for row in rows} == {1, 2, 3, 4, 5, 6, 75, 130}


def test_the_list_of_runs_says_how_they_stand(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "runs" / "broken").mkdir()
    (world / "runs" / "broken" / "recipe.json").write_text("{")
    lost = world / "runs" / "lost"
    lost.mkdir()
    shutil.copy(world / RUN / "recipe.json", lost)
    append_timing(Run(lost), event="diverged", epoch=1, step=7)
    rows = {row["name"]: row for row in json.loads(run(capsys, "list", "runs", "--json").out)}
    assert rows["photos-mlp128-01"]["state"] == "finished"
    assert rows["photos-mlp128-01"]["epochs"] == "2 of 2"
    assert rows["broken"]["state"] == "damaged"
    assert rows["lost"]["state"] == "diverged at step 7"
    assert "diverged at step 7, 0 epochs" in run(capsys, "show", "runs/lost").out
    assert "there are no runs in nowhere" in run(capsys, "list", "runs", "--out", "nowhere").err


def test_show_a_model_and_its_recipe(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "show", "lenet5").out
    assert "1,516" in text  # parameters of C3, LeCun et al. 1998
    assert "60,000 trainable parameters" in text
    assert "convworks train DATA --recipe lenet5" in text
    document = json.loads(run(capsys, "show", "mlp128", "--size", "8", "--classes", "3", "--json").out)
    assert document["model"]["parameters"] == 64 * 128 + 128 + 128 * 3 + 3
    assert document["recipe"]["model"] == "mlp128"


@pytest.mark.parametrize("subject", [RUN, "photos-mlp128-01", f"{RUN}/model"])
def test_show_a_run(subject: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "show", subject).out
    assert "mlp128 on" in text
    assert "finished, 2 epochs" in text
    assert "epochs 2 [flag]" in text
    assert "val" in text


@pytest.mark.usefixtures("drawn_page")
def test_report_writes_the_page_again(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = world / RUN / "report.html"
    page.unlink()
    ran = run(capsys, "report", RUN)
    assert (ran.status, ran.out) == (0, f"wrote {RUN}/report.html\n")
    assert page.stat().st_size > 1000


def test_doctor_reports_and_fails_on_problems(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from convworks.flows import doctor

    seen: dict[str, Any] = {}

    def examine(**folders: Any) -> list[doctor.Finding]:
        seen.update(folders)
        return findings

    monkeypatch.setattr(doctor, "examine", examine)
    findings = [
        doctor.Finding("Python", "3.11"),
        doctor.Finding("memory", "1 GB", "note", "a smaller --batch"),
    ]
    ran = run(capsys, "doctor", "--out", "here")
    assert ran.status == 0
    assert ran.out.splitlines() == ["ok    Python  3.11", "note  memory  1 GB", "         a smaller --batch"]
    assert seen == {"out": Path("here"), "cache": world / "cache", "data_root": None}
    findings.append(doctor.Finding("disk", "full", "problem", "free some space"))
    ran = run(capsys, "doctor")
    assert ran.status == 5
    assert ran.err == "error[R540]: 1 problem: disk\n  try:   free some space\n"


def test_all_words_come_from_the_command_line(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["convworks", "list", "models"])
    assert main() == 0
