"""The recipe's protocol: a finished run is evaluated with it too; protocols on the built-in data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from convworks.errors import ConvworksError
from convworks.flows.evaluate import EvaluateRequest, evaluate
from convworks.flows.events import Finished, Note
from convworks.flows.ladder import LadderRequest, climb
from convworks.flows.prepare import DataRequest
from convworks.report.read import read_run
from tests.flows.helpers import train_all
from tests.flows.ladders import photographs


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photographs(tmp_path_factory.mktemp("data") / "colours")


def test_a_finished_run_is_evaluated_with_the_recipes_protocol_too(colours: Path, tmp_path: Path) -> None:
    events = train_all(tmp_path, colours, epochs=1, protocol="10-crop")
    done = next(event for event in events if isinstance(event, Finished))
    assert any(text.startswith("10-crop on val: accuracy ") for text in done.sentences)
    folder = tmp_path / "runs" / "run" / "evaluation"
    record = json.loads((folder / "val-10-crop.json").read_text())
    assert record["protocol"] == "10-crop"
    assert record["views"] == 10
    assert json.loads((folder / "val.json").read_text())["protocol"] == "centre"
    shown = read_run(tmp_path / "runs" / "run").evaluations
    assert [each.split for each in shown] == ["val", "val, 10-crop"]  # the first is the report's figure
    base = EvaluateRequest(
        model=tmp_path / "runs" / "run",
        data=DataRequest(location=str(colours), cache=tmp_path / "cache"),
        split="val",
        protocol="10-crop",
    )
    np.testing.assert_allclose(evaluate(base).probabilities, shown[1].probabilities, atol=1e-6)
    assert "<td>10-crop" in (tmp_path / "runs" / "run" / "report.html").read_text()


def test_a_recipes_protocol_that_cannot_be_done_is_a_warning(colours: Path, tmp_path: Path) -> None:
    events = train_all(tmp_path, colours, epochs=1, protocol="full")
    assert any(isinstance(event, Finished) for event in events)
    notes = [event.text for event in events if isinstance(event, Note) and event.level == "warning"]
    assert any("not evaluated with protocol 'full'" in text for text in notes)


def test_a_recipes_protocol_that_there_is_not_is_refused_at_once(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(ConvworksError, match=r"U112.*there is no protocol called '10-crp'.*'10-crop'"):
        train_all(tmp_path, colours, protocol="10-crp")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_sources_of_arrays(name: str, tmp_path: Path) -> None:
    # Grey images of 8 pixels in a network of 28, and colour: no files to read again.
    train_all(tmp_path, name, epochs=1, size=28)
    base = EvaluateRequest(
        model=tmp_path / "runs" / "run",
        data=DataRequest(location=name, cache=tmp_path / "cache"),
        split="val",
    )
    found = climb(LadderRequest(evaluate=base, protocols=("centre", "10-crop", "vgg-dense", "tta-shifts")))
    assert [rung.cost for rung in found.rungs] == [1, 10, 2, 9]
    assert all(np.isfinite(rung.probabilities).all() for rung in found.rungs)
