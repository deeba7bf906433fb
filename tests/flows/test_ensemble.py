"""Ensembles of real runs: honest rows, own preprocessing, a model everywhere, planted leaks and damage."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convworks as cw
from convworks.bundle import load_bundle
from convworks.data.manifest import Manifest
from convworks.durable import to_json
from convworks.errors import ConvworksError
from convworks.evaluation.metrics import log_loss
from convworks.flows.ensemble import EnsembleRequest, EnsembleResult, make_ensemble
from convworks.flows.ensemble_bundle import load_ensemble, together
from convworks.flows.evaluate import EvaluateRequest, evaluate
from convworks.flows.predict import Predictor, load
from convworks.flows.prepare import DataRequest
from convworks.flows.repeat import Repeated
from tests.flows.several import noisy, train_group

pytestmark = pytest.mark.usefixtures("no_pages")

SECOND = {"model": "mlp128", "size": 20, "normalize": "mean-image", "optimizer.lr": 0.05, "ema": None}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble")
    noisy(folder / "tested", each=40, test=30)
    noisy(folder / "plain", each=36, seed=1)
    return folder


@pytest.fixture(scope="module")
def groups(work: Path) -> dict[str, Repeated]:
    return {
        "seeds": train_group(work, work / "tested", "seeds", name="seeds", epochs=3),
        "others": train_group(work, work / "tested", "seeds", 2, name="others", epochs=3, **SECOND),
        "folds": train_group(work, work / "plain", "folds", 2, name="folds", epochs=1),
        "mlp_folds": train_group(work, work / "plain", "folds", 2, name="mlp_folds", **SECOND),
        "bags": train_group(work, work / "plain", "bags", 3, name="bags", epochs=1),
    }


def make(work: Path, *members: Path, **options: Any) -> EnsembleResult:
    return make_ensemble(EnsembleRequest(members=members, cache=work / "cache", **options))


def data(work: Path, name: str = "tested") -> DataRequest:
    return DataRequest(location=str(work / name), cache=work / "cache")


def test_a_committee_is_reported_on_test_and_chosen_on_val(work: Path, groups: dict[str, Repeated]) -> None:
    found = make(work, *groups["seeds"].runs)
    assert (found.roles.split, found.metrics.n) == ("test", 90)
    assert len(found.roles.fit) == 12  # half the share beside a test split
    assert not set(found.roles.fit) & set(found.roles.report)
    assert found.weights == pytest.approx((1 / 3,) * 3)
    members = [row.metrics.top1 for row in found.rows if row.metrics is not None]
    assert found.mean_member == pytest.approx(np.mean(members))
    assert found.over_mean[0] == pytest.approx(found.metrics.top1 - np.mean(members))
    assert found.over_mean[1] <= found.over_mean[0] <= found.over_mean[2]
    best = next(row for row in found.rows if row.name == found.best)
    assert best.metrics is not None
    assert found.over_best.difference == pytest.approx(found.metrics.top1 - best.metrics.top1)
    assert "had not learnt" in found.best_chosen
    assert found.roles.notes == ()


def test_the_average_is_the_mean_of_the_members_own_evaluations(
    work: Path, groups: dict[str, Repeated]
) -> None:
    paths = [*groups["seeds"].runs[:2], groups["others"].runs[0]]
    found = make(work, *paths, out=work / "models" / "mixed")
    alone = [evaluate(EvaluateRequest(model=p, data=data(work), split="test")) for p in paths]
    mean = np.mean([each.probabilities for each in alone], axis=0)
    assert found.metrics.top1 == np.mean(mean.argmax(axis=1) == alone[0].labels)
    assert found.metrics.loss == pytest.approx(log_loss(mean, alone[0].labels), rel=1e-5)
    whole = evaluate(EvaluateRequest(model=work / "models" / "mixed", data=data(work), split="test"))
    np.testing.assert_allclose(whole.probabilities, mean, atol=1e-6)
    assert whole.metrics.top1 == found.metrics.top1
    assert whole.warnings == ()


def test_each_member_sees_the_images_in_its_own_way(work: Path, groups: dict[str, Repeated]) -> None:
    paths = [groups["seeds"].runs[0], groups["others"].runs[0]]
    sizes = {load_bundle(path).preprocess.geometry.height for path in paths}
    assert sizes == {28, 20}
    images = sorted((work / "tested" / "test" / "red").glob("*.png"))[:5]
    both = cw.Ensemble.load(paths).predict_proba(images)
    each = [load(path).predict_proba(images) for path in paths]
    np.testing.assert_allclose(both, np.mean(each, axis=0), atol=1e-6)
    heavy = cw.Ensemble.load(paths, weights=[3, 1]).predict_proba(images)
    np.testing.assert_allclose(heavy, 0.75 * each[0] + 0.25 * each[1], atol=1e-6)


@pytest.mark.parametrize("method", ["uniform", "fitted", "greedy", "stacking"])
def test_an_ensemble_is_a_model_everywhere(work: Path, groups: dict[str, Repeated], method: str) -> None:
    out = work / "models" / method
    found = make(work, *groups["seeds"].runs, *groups["others"].runs, method=method, out=out)
    assert found.path == out
    images = sorted((work / "tested" / "test").rglob("*.png"), key=str)
    predictor = load(out)
    measured = evaluate(EvaluateRequest(model=out, data=data(work)))
    assert measured.split == "test"
    assert measured.metrics.top1 == found.metrics.top1
    assert measured.metrics.loss == pytest.approx(found.metrics.loss, rel=1e-6)
    named = [row.label for row in predictor.predict(images)]
    right = [label == path.parent.name for label, path in zip(named, images, strict=True)]
    assert np.mean(right) == found.metrics.top1
    with pytest.raises(ConvworksError, match="an ensemble of several networks") as problem:
        load_bundle(out)
    assert problem.value.code == "A479"
    assert load_bundle(out / "members" / "00").info["model"] == "tutorial_cnn"


def test_fitted_weights_never_look_at_the_reported_images(work: Path, groups: dict[str, Repeated]) -> None:
    """Other labels on the test images change the report and not the weights."""
    runs = [*groups["seeds"].runs, *groups["others"].runs]
    found = make(work, *runs, method="fitted")
    turned = work / "turned"
    if not turned.exists():
        shutil.copytree(work / "tested", turned)
        (turned / "test" / "red").rename(turned / "test" / "spare")
        (turned / "test" / "blue").rename(turned / "test" / "red")
        (turned / "test" / "spare").rename(turned / "test" / "blue")
    other = make(work, *runs, method="fitted", data=data(work, "turned"))
    assert other.weights == found.weights
    assert other.metrics.top1 != found.metrics.top1


def test_without_a_test_split_halves_are_kept_apart(work: Path, groups: dict[str, Repeated]) -> None:
    runs = train_group(work, work / "plain", "seeds", 2, name="plain_seeds").runs
    found = make(work, *runs, method="fitted")
    assert not set(found.roles.fit) & set(found.roles.report)
    assert len(found.roles.fit) + found.metrics.n == 21
    assert "lean to the good side" in " ".join(found.roles.notes)


def test_folds_are_stacked_on_out_of_fold_answers(work: Path, groups: dict[str, Repeated]) -> None:
    found = make(work, *groups["folds"].runs, *groups["mlp_folds"].runs, method="stacking")
    assert found.groups == ((0, 1), (2, 3))
    assert found.roles.split == "out-of-fold"
    assert len(found.roles.fit) + len(found.roles.report) == 108
    assert not found.roles.whole
    assert found.answered == 2.0


def test_one_group_of_folds_has_no_gain_to_report(work: Path, groups: dict[str, Repeated]) -> None:
    found = make(work, *groups["folds"].runs)
    assert found.answered == 1.0
    assert found.metrics.top1 == pytest.approx(groups["folds"].together.top1)  # type: ignore[union-attr]
    assert "not measured" in found.roles.notes[-1]


def test_bags_are_reported_out_of_bag(work: Path, groups: dict[str, Repeated]) -> None:
    found = make(work, *groups["bags"].runs)
    assert found.roles.split == "out-of-fold"
    assert found.metrics.n > 60
    assert found.metrics.top1 == pytest.approx(groups["bags"].together.top1, abs=0.02)  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["fitted", "greedy", "stacking"])
def test_fitting_on_what_was_learnt_is_refused(work: Path, groups: dict[str, Repeated], method: str) -> None:
    with pytest.raises(ConvworksError, match="was trained on 108 of 120 images") as problem:
        make(work, *groups["seeds"].runs, method=method, fit="train")
    assert problem.value.code == "A477"
    with pytest.raises(ConvworksError, match="share images"):
        make(work, *groups["seeds"].runs, method=method, split="test", fit="all")


def test_a_planted_leak_is_seen(work: Path, groups: dict[str, Repeated], tmp_path: Path) -> None:
    """One member was trained on the validation images in secret: its manifest gives it away."""
    leaky = tmp_path / "leaky"
    shutil.copytree(groups["seeds"].runs[1], leaky)
    manifest = Manifest.load(leaky / "manifest.jsonl")
    samples = tuple(s._replace(split="train") if s.split == "val" else s for s in manifest.samples)
    replace(manifest, samples=samples).save(leaky / "manifest.jsonl")
    with pytest.raises(ConvworksError, match="was trained on 12 of 12 images") as problem:
        make(work, groups["seeds"].runs[0], leaky, method="stacking", fit="val", split="test")
    assert problem.value.code == "A477"
    with pytest.raises(ConvworksError, match="was trained on .* of 108 images"):
        make(work, *groups["folds"].runs[:1], *groups["mlp_folds"].runs[1:2], split="all")


def test_members_of_different_splits_leave_too_little(work: Path, groups: dict[str, Repeated]) -> None:
    with pytest.raises(ConvworksError, match="too few images are left") as problem:
        make(work, groups["folds"].runs[0], groups["mlp_folds"].runs[1])
    assert problem.value.code == "A478"


def permuted(run: Path, target: Path, order: list[int]) -> Path:
    """A copy of a model that has the same classes in another order, weights and all."""
    from safetensors.torch import save

    from convworks.durable import write_folder

    bundle = load_bundle(run)
    weights = {name: value.clone() for name, value in bundle.network.state_dict().items()}
    last = list(weights)[-2:]
    for name in last:
        weights[name] = weights[name][order].contiguous()
    info = {**bundle.info, "classes": [bundle.classes[i] for i in order]}
    files = {p.name: p.read_bytes() for p in bundle.path.iterdir() if p.name != "MANIFEST.json"}
    files["model.json"] = to_json({k: v for k, v in info.items() if k not in {"metrics"}})
    files["weights.safetensors"] = save(weights)
    target.mkdir(parents=True)
    write_folder(target / "model", files.items())
    return target


def test_a_hundred_orders_of_the_classes_give_the_same_answers(
    work: Path, groups: dict[str, Repeated], tmp_path: Path
) -> None:
    first, second = groups["seeds"].runs[0], groups["others"].runs[0]
    images = sorted((work / "tested" / "test").rglob("*.png"), key=str)[::7]
    expected = Predictor(together([first, second])).predict_proba(images)
    random = np.random.default_rng(0)
    for number in range(100):
        order = random.permutation(3).tolist()
        if number < 12:  # on disk; the other orders by the same code, in memory
            other = permuted(second, tmp_path / str(number), order)
            both = together([first, other])
            np.testing.assert_allclose(Predictor(both).predict_proba(images), expected, atol=1e-6)
        answers = [load(first).predict_proba(images), load(second).predict_proba(images)]
        whole = together([first, second])
        shuffled = replace(whole.members[1].bundle, classes=tuple(whole.classes[i] for i in order))
        members = (whole.members[0], replace(whole.members[1], bundle=shuffled))
        found = replace(whole, members=members).combine([answers[0], answers[1][:, order]])
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_snapshots_of_one_run_are_members(work: Path) -> None:
    changes = {"schedule.name": "warm-restarts", "schedule.cycle": 1, "epochs": 3}
    run = train_group(work, work / "tested", "seeds", 2, name="cycles", **changes).runs[0]
    found = make(work, run)
    assert [row.name for row in found.rows] == [f"cycles-s0/0{n}" for n in (1, 2, 3)]
    assert found.roles.split == "test"


def test_dropout_is_drawn_and_compared_with_weight_scaling(work: Path, groups: dict[str, Repeated]) -> None:
    run = train_group(work, work / "tested", "seeds", 2, name="dropping", **DROPOUT).runs[0]
    found = make(work, run, samples=8, out=work / "models" / "drawn")
    assert found.passes == 8
    assert found.scaling is not None
    one, pair = found.scaling
    assert pair.difference == pytest.approx(found.metrics.top1 - one.top1)
    again = evaluate(EvaluateRequest(model=work / "models" / "drawn", data=data(work), split="test"))
    assert again.metrics.loss == pytest.approx(found.metrics.loss, rel=1e-6)
    with pytest.raises(ConvworksError, match="no dropout layer") as problem:
        make(work, *groups["others"].runs, samples=8)
    assert problem.value.code == "U269"


DROPOUT = {"model": "tutorial_cnn", "epochs": 2}


def test_a_group_stands_for_its_runs_and_gives_its_certainty(work: Path, groups: dict[str, Repeated]) -> None:
    out = work / "models" / "group"
    found = make(work, groups["seeds"].folder, out=out)
    assert [row.name for row in found.rows] == ["seeds-s0", "seeds-s1", "seeds-s2"]
    info = json.loads((out / "ensemble.json").read_text())
    assert info["abstention"]["split"] == "fit"
    assert info["external_data"] == []
    assert info["reported_on"] == "the test images"
    assert info["calibration"] is None  # twelve images are too few
    images = sorted((work / "tested" / "test").rglob("*.png"), key=str)
    rows = load(out, threshold=0.9).predict(images)
    unsure = [row for row in rows if row.abstained]
    assert unsure
    assert all(row.label == "abstain" and row.top[0][1] < 0.9 for row in unsure)
    assert all(row.top[0][1] >= 0.9 for row in rows if not row.abstained)
    with pytest.raises(ConvworksError, match="has no calibration") as problem:
        load(out, calibrated=True)
    assert problem.value.code == "U270"


def test_a_fusion_wants_its_own_members(work: Path, groups: dict[str, Repeated]) -> None:
    with pytest.raises(ConvworksError, match=r"is tutorial_cnn, which is no \(further\) member") as problem:
        make(work, *groups["seeds"].runs, fusion="alexnet-5")
    assert problem.value.code == "U274"


def test_one_member_is_none(work: Path, groups: dict[str, Repeated]) -> None:
    with pytest.raises(ConvworksError, match="an ensemble of 1 model is none") as problem:
        make(work, groups["seeds"].runs[0])
    assert problem.value.code == "U273"
    with pytest.raises(ConvworksError, match="of no model"):
        together([])
    with pytest.raises(ConvworksError, match="do not fit 2 models"):
        together(groups["seeds"].runs[:2], weights=[1])


def test_other_classes_are_refused(work: Path, groups: dict[str, Repeated], tmp_path: Path) -> None:
    noisy(tmp_path / "data", each=20)
    (tmp_path / "data" / "red").rename(tmp_path / "data" / "rosy")
    other = train_group(tmp_path, tmp_path / "data", "seeds", 2, epochs=1).runs[0]
    with pytest.raises(ConvworksError, match="seeds-s0 lacks red; seeds-s0 adds rosy") as problem:
        make(work, groups["seeds"].runs[0], other)
    assert problem.value.code == "U263"


def test_a_folder_of_something_else_is_not_replaced(
    work: Path, groups: dict[str, Repeated], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ConvworksError, match="is not an ensemble") as problem:
        make(work, *groups["seeds"].runs, out=tmp_path / "mine")
    assert problem.value.code == "U277"
    for _ in range(2):  # an ensemble is replaced
        make(work, *groups["seeds"].runs[:2], out=tmp_path / "ours")
    assert len(load_ensemble(tmp_path / "ours").members) == 2
    assert not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize(
    "damage",
    [
        {"weights": [0.5]},
        {"weights": [-1.0, 2.0]},
        {"weights": [0.0, 0.0]},
        {"method": "evil"},
        {"classes": []},
        {"members": []},
        {"format": "x"},
    ],
)
def test_damage_is_seen(work: Path, groups: dict[str, Repeated], tmp_path: Path, damage: dict) -> None:
    out = tmp_path / "broken"
    make(work, *groups["seeds"].runs[:2], out=out)
    info = json.loads((out / "ensemble.json").read_text())
    (out / "ensemble.json").write_bytes(to_json({**info, **damage}))
    with pytest.raises(ConvworksError, match="was changed") as problem:
        load_ensemble(out)
    assert problem.value.code == "A480"
    from convworks.durable import sha256_file

    (out / "MANIFEST.json").write_bytes(to_json({"ensemble.json": sha256_file(out / "ensemble.json")}))
    with pytest.raises(ConvworksError, match="lacks a part"):
        load_ensemble(out)


def test_another_member_or_a_newer_format_is_seen(
    work: Path, groups: dict[str, Repeated], tmp_path: Path
) -> None:
    from convworks.durable import sha256_file

    out = tmp_path / "broken"
    make(work, *groups["seeds"].runs[:2], out=out)
    shutil.rmtree(out / "members" / "01")
    shutil.copytree(out / "members" / "00", out / "members" / "01")
    with pytest.raises(ConvworksError, match="member 01 is missing or another one"):
        load_ensemble(out)
    info = json.loads((out / "ensemble.json").read_text())
    (out / "ensemble.json").write_bytes(to_json({**info, "format": 99}))
    (out / "MANIFEST.json").write_bytes(to_json({"ensemble.json": sha256_file(out / "ensemble.json")}))
    with pytest.raises(ConvworksError, match="reads up to 1") as problem:
        load_ensemble(out)
    assert problem.value.code == "A413"


def test_a_split_that_members_drew_differently(work: Path, groups: dict[str, Repeated]) -> None:
    out = work / "models" / "folds"
    make(work, *groups["folds"].runs, out=out)
    with pytest.raises(ConvworksError, match="not the same for all members") as problem:
        evaluate(EvaluateRequest(model=out, data=data(work, "plain"), split="val"))
    assert problem.value.code == "D203"
    whole = evaluate(EvaluateRequest(model=out, data=data(work, "plain"), split="all"))
    assert "members were trained on up to 54 of these 108 images" in whole.warnings[0]


def test_a_member_that_says_nothing_needs_data(
    work: Path, groups: dict[str, Repeated], tmp_path: Path
) -> None:
    for number in (0, 1):
        shutil.copytree(groups["seeds"].runs[number] / "model", tmp_path / f"moved{number}")
    moved = [tmp_path / "moved0", tmp_path / "moved1"]
    with pytest.raises(ConvworksError, match="does not say which data") as problem:
        make(work, *moved)
    assert problem.value.code == "U273"
    assert make(work, *moved, data=data(work)).roles.split == "test"
