"""Two runs and more, side by side; every figure of a pair counted again by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats

import convworks as cw
from convworks.errors import ConvworksError
from convworks.flows.compare import compare_runs
from convworks.flows.repeat import Repeated
from tests.flows.helpers import request, train_until
from tests.flows.several import noisy, train_group

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    noisy(folder / "data")
    return folder


@pytest.fixture(scope="module")
def slow(work: Path) -> Repeated:
    return train_group(work, work / "data", "seeds", 2, name="slow", **{"optimizer.lr": 0.001, "epochs": 1})


@pytest.fixture(scope="module")
def fast(work: Path) -> Repeated:
    return train_group(work, work / "data", "seeds", 2, name="fast", **{"optimizer.lr": 0.03, "epochs": 2})


def test_the_settings_come_first_and_only_those_that_differ(slow: Repeated, fast: Repeated) -> None:
    found = compare_runs([slow.runs[0], fast.runs[0]])
    assert dict(found.changes) == {"epochs": (1, 2), "optimizer.lr": (0.001, 0.03)}
    same = compare_runs(slow.runs)
    assert dict(same.changes) == {"seed": (0, 1)}


def test_a_pair_is_a_count_by_hand(slow: Repeated, fast: Repeated) -> None:
    found = compare_runs([slow.runs[0], fast.runs[0]])
    (pair,) = found.pairs
    a, b = (load_file(each.runs[0] / "evaluation" / "val.safetensors") for each in (slow, fast))
    np.testing.assert_array_equal(a["rows"], b["rows"])
    said_a, said_b = a["probabilities"].argmax(axis=1), b["probabilities"].argmax(axis=1)
    right_a, right_b = said_a == a["labels"], said_b == b["labels"]
    assert (pair.a, pair.b, pair.images) == ("slow-s0", "fast-s0", len(right_a))
    assert pair.difference.difference == pytest.approx(right_b.mean() - right_a.mean())
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    assert (pair.counts.only_a, pair.counts.only_b) == (only_a, only_b)
    assert pair.same_answer == (said_a == said_b).sum()
    if only_a + only_b:
        assert pair.difference.p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert "1 seed each: not evidence; use --seeds 5" in found.notes[0]


def test_seeds_are_repetitions_of_a_setting(slow: Repeated, fast: Repeated) -> None:
    found = compare_runs([*slow.runs, *fast.runs])
    assert [each.names for each in found.settings] == [("slow-s0", "slow-s1"), ("fast-s0", "fast-s1")]
    assert [(pair.a, pair.b) for pair in found.pairs] == [("slow-s0", "fast-s0"), ("slow-s1", "fast-s1")]
    (i, j, difference, low, high) = found.between[0]
    means = [np.mean([m.top1 for m in each.scores["val"]]) for each in (slow, fast)]
    assert (i, j, difference) == (0, 1, pytest.approx(means[1] - means[0]))
    assert low <= difference <= high
    json.dumps(found.to_dict(), allow_nan=False)
    assert cw.compare(slow.folder, fast.folder).to_dict() == found.to_dict()


def test_other_data_has_no_common_image(work: Path, slow: Repeated, tmp_path: Path) -> None:
    noisy(tmp_path / "data", each=20, seed=5)
    other = train_group(tmp_path, tmp_path / "data", "seeds", 2, epochs=1)
    with pytest.raises(ConvworksError, match="not evaluated on any common image") as problem:
        compare_runs([slow.runs[0], other.runs[0]])
    assert problem.value.code == "U276"


def test_folds_share_no_image_and_other_splits_some(work: Path, slow: Repeated) -> None:
    folds = train_group(work, work / "data", "folds", 2, name="folds", epochs=1)
    found = compare_runs([slow.runs[0], folds.runs[0]])
    assert found.pairs[0].images < 24
    assert any("common images only" in note for note in found.notes)
    with pytest.raises(ConvworksError, match="common image"):
        compare_runs(folds.runs)


def test_one_run_and_an_unfinished_one(work: Path, slow: Repeated) -> None:
    with pytest.raises(ConvworksError, match="a comparison of 1 run is none") as problem:
        compare_runs(slow.runs[:1])
    assert problem.value.code == "U273"
    train_until(work, work / "data", 4, name="stopped")
    with pytest.raises(ConvworksError, match="has not finished") as problem:
        compare_runs([slow.runs[0], request(work, work / "data").out / "stopped"])
    assert problem.value.code == "A411"
    with pytest.raises(ConvworksError, match="has no evaluation on 'test'") as problem:
        compare_runs(slow.runs, split="test")
    assert problem.value.code == "D202"


def test_answers_that_were_not_kept(slow: Repeated, fast: Repeated, tmp_path: Path) -> None:
    shutil.copytree(fast.runs[0], tmp_path / "bare")
    (tmp_path / "bare" / "evaluation" / "val.safetensors").unlink()
    with pytest.raises(ConvworksError, match="were not kept") as problem:
        compare_runs([slow.runs[0], tmp_path / "bare"])
    assert problem.value.code == "A463"
