"""Advice follows from numbers by rules that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convworks.cli.parse import parse
from convworks.cli.train import VERB, resolved
from convworks.flows.advise import Statistics, advice_on, advise, to_dict
from convworks.flows.prepare import DataRequest
from tests.flows.helpers import write_images


def facts(**changes: Any) -> Statistics:
    usual: dict[str, Any] = {
        "location": "photos/",
        "counts": {"a": 6000, "b": 6000},
        "measured": 3000,
        "channels": 3,
        "side": 32,
    }
    return Statistics(**{**usual, **changes})


def about(**changes: Any) -> dict[str, str]:
    return {each.about: each.command for each in advice_on(facts(**changes))}


def test_plenty_of_small_images_need_little_advice() -> None:
    assert about() == {"model": "convworks train photos/"}
    assert about(channels=1) == {"model": "convworks train photos/ --model lenet5_modern"}


def test_few_photographs_call_for_transfer() -> None:
    found = about(counts={"a": 50, "b": 60}, side=300, measured=100)
    assert list(found) == ["size", "transfer", "fine-tune", "augment", "measuring"]
    assert found["transfer"].endswith("--pretrained imagenet1k_v1 --freeze backbone")
    assert "fine-tune" not in about(counts={"a": 19, "b": 60}, side=300)
    assert "transfer" not in about(counts={"a": 100, "b": 100}, side=300)


def test_few_small_images_call_for_similar_ones() -> None:
    assert "--init" in about(counts={"a": 50, "b": 60})["transfer"]


def test_imbalance_and_grey_images() -> None:
    assert "class_weights=balanced" in about(counts={"a": 3000, "b": 1000})["balance"]
    assert "balance" not in about(counts={"a": 2999, "b": 1000})
    assert "flip" in about(counts={"a": 900, "b": 900})["augment"]
    assert "flip" not in about(counts={"a": 900, "b": 900}, channels=1)["augment"]


def test_every_command_is_one(tmp_path: Path) -> None:
    for changes in (
        {},
        {"counts": {"a": 50, "b": 600}, "side": 300, "measured": 50},
        {"counts": {"a": 50, "b": 600}, "channels": 1},
        {"counts": {"a": 0, "b": 6}, "measured": 0},
        {"side": 500},
    ):
        for each in advice_on(facts(**changes)):
            program, verb, *words = each.command.split()
            assert (program, verb) == ("convworks", "train")
            resolved(parse(VERB, words))
            assert each.text.endswith((".", ":"))
            assert each.rule


def test_advice_on_files(tmp_path: Path) -> None:
    write_images(tmp_path / "colours", each=10)
    write_images(tmp_path / "colours", classes=("white",), each=40)
    data = DataRequest(location=str(tmp_path / "colours"), cache=tmp_path / "cache")
    found, rows = advise(data)
    assert found.counts == {"blue": 8, "green": 8, "red": 8, "white": 32}
    assert (found.measured, found.channels, found.side) == (14, 3, 12)
    assert {"model", "transfer", "augment", "balance", "measuring"} == {each.about for each in rows}
    assert len(to_dict(found, rows)["advice"]) == 5


@pytest.mark.parametrize(
    ("name", "word"), [("digits", "lenet5_modern"), ("shapes", "convworks train shapes")]
)
def test_the_built_in_sets(tmp_path: Path, name: str, word: str) -> None:
    _, rows = advise(DataRequest(location=name, cache=tmp_path))
    assert word in rows[0].command
