"""Kept answers under protocols, from files made by hand: compared image by image, damaged ones left out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save
from scipy.stats import binomtest

from convworks.report.page import write_report
from convworks.report.protocol_table import protocols
from convworks.report.read import read_run
from tests.report.helpers import fake_run

N, K = 80, 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = fake_run(tmp_path)
    (made / "model" / "MANIFEST.json").write_text("{}")
    return made


def own(run: Path) -> str:
    return hashlib.sha256((run / "model" / "MANIFEST.json").read_bytes()).hexdigest()


def keep(
    run: Path,
    protocol: str,
    right: NDArray[np.bool_],
    *,
    views: int = 1,
    split: str = "test",
    data: str = "flowers-2",
    **identity: Any,
) -> Path:
    labels = np.arange(len(right)) % K
    answers = np.where(right, labels, (labels + 1) % K)
    folder = run / "evaluation" / "protocols"
    folder.mkdir(parents=True, exist_ok=True)
    content = save({"probabilities": np.eye(K, dtype=np.float32)[answers], "labels": labels.astype(np.int64)})
    file = folder / f"{data}-{split}-{protocol.replace('/', '_')}.json"
    file.with_suffix(".safetensors").write_bytes(content)
    known = {"model": own(run), "data": f"{data} {split}", "images": len(right), "classes": list("abcd")}
    record = {
        "protocol": protocol,
        "split": split,
        "seconds": 0.25 * views,
        "definition": f"{views} views",
        "identity": {**known, "protocol": {"views": views}, **identity},
        "paths": [str(i) for i in range(len(right))],
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    file.write_text(json.dumps(record))
    return file


def pattern(*wrong: int) -> NDArray[np.bool_]:
    right = np.ones(N, dtype=bool)
    right[list(wrong)] = False
    return right


def test_a_ladder_with_paired_differences(run: Path) -> None:
    one, ten = pattern(*range(20)), pattern(*range(6, 20), 30)
    keep(run, "10-crop", ten, views=10)
    keep(run, "centre", one)
    found = protocols(read_run(run))
    assert found is not None
    (table,) = found.tables
    assert (table.data, table.split, table.n) == ("flowers-2", "test", N)
    first, second = table.rows
    assert [(each.protocol, each.passes, each.seconds) for each in table.rows] == [
        ("centre", 1, 0.25),
        ("10-crop", 10, 2.5),
    ]
    assert first.error == pytest.approx(20 / N)
    assert second.error == pytest.approx(15 / N)
    interval = binomtest(15, N).proportion_ci(method="wilson")
    np.testing.assert_allclose(second.interval, (interval.low, interval.high))
    assert first.difference is None
    assert second.difference is not None
    assert second.difference.difference == pytest.approx((15 - 20) / N)
    assert second.difference.low < -5 / N < second.difference.high
    # six images are right only with ten crops, one only with one
    assert second.difference.p == pytest.approx(binomtest(1, 7).pvalue)
    text = write_report(run).read_text()
    assert "<caption>Protocols on flowers-2, 80 test images; differences are to the first row" in text
    assert '<td class="n">-6.25</td>' in text
    assert '<td class="n">18.75 %</td>' in text


def test_other_images_stand_in_a_table_of_their_own(run: Path) -> None:
    keep(run, "centre", pattern(1), split="val")
    keep(run, "centre", pattern(1, 2), data="more")
    keep(run, "mean/two", pattern(3), data="more", views=2)
    found = protocols(read_run(run))
    assert found is not None
    assert [(each.data, each.split, len(each.rows)) for each in found.tables] == [
        ("flowers-2", "validation", 1),
        ("more", "test", 2),
    ]
    assert found.left_out == ""


def test_another_model_and_damage_are_left_out_and_said(run: Path) -> None:
    keep(run, "centre", pattern(1))
    keep(run, "10-crop", pattern(2), views=10, model="0" * 64)
    damaged = keep(run, "144-crop", pattern(3), views=144)
    damaged.with_suffix(".safetensors").write_bytes(b"another evaluation")
    other = keep(run, "flip", pattern(4), views=2)
    other.write_text("{}")
    record = read_run(run)
    found = protocols(record)
    assert found is not None
    assert [row.protocol for row in found.tables[0].rows] == ["centre"]
    assert found.left_out == "1 of another model and 2 that cannot be read"
    text = write_report(run).read_text()
    assert "Kept answers that are not shown: 1 of another model and 2 that cannot be read." in text


def test_none_yet_says_how_to_get_some(run: Path) -> None:
    found = protocols(read_run(run))
    assert found is not None
    assert found.tables == ()
    assert found.command == f"convworks eval {run} flowers/ --split val --protocol centre,10-crop"
    text = write_report(run).read_text()
    assert "Other protocols, each compared with the first image by image:" in text
    assert '<span class="word">--protocol</span> <span class="word">centre,10-crop</span>' in text
    (run / "model" / "MANIFEST.json").unlink()
    assert protocols(read_run(run)) is None


def test_hostile_names_do_nothing(run: Path) -> None:
    keep(run, "<b>x", pattern(1), data="<img src=x>", split="<i>")
    text = write_report(run).read_text()
    assert "<img src=x" not in text
    assert "&lt;b&gt;x" in text
