"""The verbs of several models, and predicting with a threshold: what is printed, and the exit status."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import convworks as cw
from convworks.cli import main
from convworks.flows.certainty import certainty, temperature_of, threshold_of
from tests.cli.helpers import run

QUICK = ["--threads", "1", "--precision", "fp32", "--workers", "0", "--quiet"]
SETTINGS = ["--set", "threads=1", "--set", "precision=fp32", "--set", "workers=0", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the groups runs/five (seeds) and runs/folds of the built-in digits."""
    folder = tmp_path_factory.mktemp("several")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CONVWORKS_CACHE", str(folder / "cache"))
        train = ["train", "digits", "--model", "mlp128", "--epochs", "3", "--lr", "0.003", *QUICK]
        assert main([*train, "--seeds", "3", "--name", "five"]) == 0
        assert main([*train, "--folds", "2", "--name", "folds"]) == 0
        yield folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("CONVWORKS_CACHE", str(place / "cache"))


def test_the_same_command_again_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--model", "mlp128", "--epochs", "3", "--lr", "0.003", *QUICK]
    found = run(capsys, *words, "--seeds", "3", "--name", "five")
    assert found.status == 0
    assert "five-s2" in found.out
    assert "(mean and standard deviation of 3 seeds; 359 images each)" in " ".join(found.out.split())
    assert "convworks ensemble runs/five --out runs/five-ensemble" in " ".join(found.out.split())


def test_folds_print_what_they_say_together(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--model", "mlp128", "--epochs", "3", "--lr", "0.003", *QUICK, "--json"]
    found = run(capsys, *words, "--folds", "2", "--name", "folds")
    last = json.loads(found.out.splitlines()[-1])
    assert last["kind"] == "folds" or last.get("event") == "repeated"
    text = run(capsys, *words[:-1], "--folds", "2", "--name", "folds").out
    assert "out of fold: accuracy" in text
    assert "on 1,797 images" in " ".join(text.split())


def test_two_ways_to_repeat_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "train", "digits", "--seeds", "2", "--folds", "2")
    assert found.status == 2
    assert "error[U267]" in found.err


@pytest.mark.usefixtures("drawn_page")
def test_an_ensemble_is_printed_saved_and_used(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    found = run(capsys, "ensemble", "runs/five", "--weights", "fitted", "--out", "models/five")
    assert found.status == 0, found.err
    assert "ENSEMBLE of 3" in found.out
    assert "over the mean member" in found.out
    assert "3 forward passes for one image" in " ".join(found.out.split())
    assert "never on those above" in " ".join(found.out.split())
    tree = json.loads(run(capsys, "ensemble", "runs/five", "--json").out)
    assert tree["single_or_ensemble"] == "ensemble"
    assert tree["external_data"] == []
    assert run(capsys, "eval", "models/five", "digits", "--split", "val").status == 0
    written = run(capsys, "report", "models/five")
    assert written.out == "wrote models/five/report.html\n"
    page = (place / "models" / "five" / "report.html").read_text()
    assert "over the mean member" in page
    assert "external data: no" in page
    assert page.count("<tr>") == 1 + 3 + 1 + 10
    assert "http" not in page.replace("http-equiv", "")
    shown = run(capsys, "show", "models/five")
    assert shown.status == 0, shown.err
    assert [line.split()[:3] for line in shown.out.splitlines() if line.startswith("0")] == [
        [f"{n:02d}", f"five-s{n}", "mlp128"] for n in range(3)
    ]
    assert "models/five/members/02/model" in shown.out
    tree = json.loads(run(capsys, "show", "models/five", "--json").out)
    assert sum(row["weight"] for row in tree["members"]) == pytest.approx(1)
    assert f"accuracy {tree['metrics']['top1']:.4f}" in shown.out
    one = json.loads(run(capsys, "list", "runs", "--json").out)
    kept = {row["name"]: row["accuracy"] for row in one}
    assert {row["name"]: row["accuracy"] for row in tree["members"]} == {
        f"five-s{n}": pytest.approx(kept[f"five-s{n}"]) for n in range(3)
    }
    refused = run(capsys, "show", "models/five", "--write", "layers.svg")
    assert (refused.status, "error[U182]" in refused.err) == (2, True)
    exported = run(capsys, "export", "models/five")
    assert exported.status == 4
    assert "error[A479]" in exported.err
    assert "members/00" in exported.err


def test_a_published_fusion_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "ensemble", "--fusion", "googlenet-7")
    assert "1,008 forward passes for one image" in found.out
    tree = json.loads(run(capsys, "ensemble", "--fusion", "vgg-7", "--json").out)
    assert (tree["networks"], len(tree["members"])) == (7, 7)
    assert run(capsys, "ensemble", "--fusion", "vgg-8").status == 2
    assert run(capsys, "ensemble").status == 2


def test_a_comparison_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "compare", "runs/five-s0", "runs/five-s1")
    assert found.out.startswith("setting")
    assert "not evidence" not in found.out  # one setting: nothing is claimed
    other = run(capsys, "compare", "runs/five-s0", "runs/folds-f0", "--verbose")
    assert "1 seed each: not evidence; use --seeds 5" in " ".join(other.out.split())
    tree = json.loads(run(capsys, "compare", "runs/five", "--json").out)
    assert len(tree["runs"]) == 3
    assert run(capsys, "compare", "runs/five-s0").status == 2


def test_a_learning_curve_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["learning-curve", "digits", "--model", "mlp128", "--epochs", "1", *SETTINGS]
    found = run(capsys, *words, "--fractions", "0.25,0.5,1")
    assert found.status == 0, found.err
    assert "for twice the images" in " ".join(found.out.split())
    assert "learning-curve.svg" in found.out
    bad = run(capsys, *words, "--fractions", "some")
    assert "error[U275]" in bad.err


def images(place: Path) -> list[Path]:
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = place / "images"
    folder.mkdir(exist_ok=True)
    for number, pixels in enumerate(load_digits().images[:40]):
        Image.fromarray((pixels * 255 / 16).round().astype(np.uint8)).save(folder / f"{number:02d}.png")
    return sorted(folder.iterdir())


def test_predict_abstains_below_a_threshold(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    images(place)
    found = run(capsys, "predict", "runs/five-s0", "images", "--threshold", "0.6", "--format", "csv")
    rows = list(csv.DictReader(found.out.splitlines()))
    assert len(rows) == 40
    for row in rows:
        assert (row["label"] == "abstain") == (float(row["probability"]) < 0.6)
    assert {row["label"] for row in rows} > {"abstain"}
    plain = run(capsys, "predict", "runs/five-s0", "images", "--threshold", "0.6").out
    assert "  abstain   " in plain
    tree = json.loads(run(capsys, "predict", "runs/five-s0", "images", "--threshold", "0.6", "--json").out)
    assert any(row["abstained"] and row["top"][0][1] < 0.6 for row in tree)
    assert run(capsys, "predict", "runs/five-s0", "images", "--threshold", "1.5").status == 2


def test_the_threshold_comes_from_validation(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    images(place)
    found = run(capsys, "predict", "runs/five-s0", "images", "--threshold", "auto", "--max-error", "0.02")
    assert "abstaining below" in found.err
    assert "on val" in found.err
    hard = run(capsys, "predict", "runs/five-s0", "images", "--threshold", "auto", "--max-error", "0.9")
    assert "abstain " not in hard.out


def test_calibrated_probabilities_keep_the_answers(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    paths = images(place)
    raw, even = cw.load("runs/five-s0"), cw.load("runs/five-s0", calibrated=True)
    before, after = raw.predict_proba(paths), even.predict_proba(paths)
    np.testing.assert_array_equal(before.argmax(axis=1), after.argmax(axis=1))
    assert np.abs(before - after).max() > 0.01
    found = run(capsys, "predict", "runs/five-s0", "images", "--calibrated")
    assert "probabilities at temperature" in found.err
    info = raw.bundle.info
    assert info["calibration"]["split"] == "val"
    assert info["calibration"]["loss_after"] < info["calibration"]["loss_before"]


def test_what_a_model_does_not_know_of_itself(tmp_path: Path) -> None:
    assert certainty(np.empty((0, 3)), np.empty(0, dtype=np.int64), split="val") == {}
    with pytest.raises(cw.ConvworksError, match="no stored curve") as problem:
        threshold_of({}, error=0.1, calibrated=False, where=tmp_path)
    assert problem.value.code == "U271"
    with pytest.raises(cw.ConvworksError, match="has no calibration"):
        temperature_of({}, where=tmp_path)
    wrong = certainty(np.tile([0.9, 0.1], (60, 1)), np.ones(60, dtype=np.int64), split="val")
    with pytest.raises(cw.ConvworksError, match="no threshold brings the error down to 0.1") as problem:
        threshold_of(wrong, error=0.1, calibrated=False, where=tmp_path)
    assert problem.value.code == "U272"
    assert wrong["calibration"] is None


def test_python_has_the_same_doors(place: Path) -> None:
    found = cw.train_many(
        "digits", seeds=2, model="mlp128", epochs=1, name="python", threads=1, precision="fp32", workers=0
    )
    assert [path.name for path in found.runs] == ["python-s0", "python-s1"]
    ensemble = cw.Ensemble.make(found.folder)
    assert ensemble.metrics.n == 359
    assert cw.Ensemble.load(["runs/python"]).predict_proba(images(place)[:3]).shape == (3, 10)
    with pytest.raises(cw.ConvworksError, match="one of seeds, folds and bagging"):
        cw.train_many("digits")


def test_fresh_never_replaces_a_group_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "digits", "--model", "mlp128", "--epochs", "3", "--lr", "0.003", *QUICK]
    found = run(capsys, *words, "--seeds", "3", "--name", "five", "--fresh")
    assert found.status == 2
    assert "error[U130]: there is a group of runs called 'five' already" in found.err
    assert "--name five-2" in found.err
