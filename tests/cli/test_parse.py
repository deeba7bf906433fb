"""From words to a flags dataclass; every mistake is one error that names the word."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Lt
from hypothesis import given, settings
from hypothesis import strategies as st

from convworks.cli.entry import find_verb
from convworks.cli.flags import OutputFlags, Shown, Verb, describe, field_docs
from convworks.cli.parse import command, parse, usage
from convworks.errors import ConvworksError


@dataclass(frozen=True, kw_only=True)
class Flags(OutputFlags):
    source: Annotated[str, Shown("DATA", "photos/", positional=True)]
    """the data"""
    paths: Annotated[tuple[str, ...], Shown("PATH", positional=True)] = ()
    """more paths"""
    epochs: Annotated[int | None, Shown("N", "30"), Ge(1)] = None
    """passes over
    the data"""
    lr: Annotated[float | None, Shown("X", "0.1"), Gt(0), Lt(10)] = None
    """learning rate"""
    factor: Annotated[float | None, Shown("X", "2")] = None
    """any finite number"""
    precision: Annotated[Literal["auto", "fp32", "bf16"], Shown("NAME")] = "auto"
    """numbers"""
    workers: Annotated[int | Literal["auto"] | None, Shown("N", "2"), Ge(0)] = None
    """threads"""
    set: Annotated[tuple[str, ...], Shown("KEY=VALUE", "a=1")] = ()
    """a setting"""
    out: Annotated[Path, Shown("DIR", "runs")] = Path("runs")
    """folder"""
    dry_run: bool = False
    """do nothing"""


VERB = Verb(
    name="train",
    flags=Flags,
    main=("epochs",),
    examples=("convworks train photos/", "convworks train digits"),
    run=lambda args, console: 0,
)


def read(line: str) -> Any:
    return parse(VERB, shlex.split(line))


def test_values_get_the_type_of_their_field() -> None:
    args = read(
        "photos/ a b --epochs 3 --lr 1e-3 --precision bf16 --workers auto --out here --dry-run --json"
    )
    assert args == Flags(
        source="photos/",
        paths=("a", "b"),
        epochs=3,
        lr=1e-3,
        precision="bf16",
        workers="auto",
        out=Path("here"),
        dry_run=True,
        json=True,
    )
    assert read("photos/") == Flags(source="photos/")
    assert read("photos/ --workers 2").workers == 2


@pytest.mark.parametrize(
    "line",
    [
        "--epochs 3 --set a=1 photos/ --set b=2 --dry-run",
        "photos/ --set a=1 --dry-run --set b=2 --epochs=3",
        "--dry-run --set=a=1 --set=b=2 --epochs 3 -- photos/",
    ],
)
def test_the_order_of_flags_and_subjects_is_free(line: str) -> None:
    assert read(line) == Flags(source="photos/", epochs=3, set=("a=1", "b=2"), dry_run=True)


def test_switches_have_a_negative_form() -> None:
    assert read("photos/ --dry-run --no-dry-run").dry_run is False


def test_a_subject_may_begin_with_a_dash_after_two_dashes() -> None:
    assert read("-- -x.jpg --epochs").source == "-x.jpg"
    assert read("-- -x.jpg --epochs").paths == ("--epochs",)


def test_a_home_folder_is_expanded_after_the_equals_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert read("photos/ --out=~/runs").out == Path("/home/ada/runs")


MISTAKES = [
    ("photos/ --epoch 5", "U002", "unknown flag --epoch      did you mean  --epochs 5", "photos/ --epochs 5"),
    ("photos/ --epoch=5", "U002", "did you mean  --epochs 5", "photos/ --epochs 5"),
    ("photos/ -epochs 5", "U002", "unknown flag -epochs", "photos/ --epochs 5"),
    ("photos/ --dry_run", "U002", "did you mean  --dry-run", "photos/ --dry-run"),
    ("photos/ --EPOCHS 4", "U002", "did you mean  --epochs 4", "photos/ --epochs 4"),
    ("photos/ --learning-rate 0.2", "U002", "did you mean  --lr 0.2", "photos/ --lr 0.2"),
    ("photos/ --epoch", "U002", "did you mean  --epochs 30", "photos/ --epochs 30"),
    ("photos/ --no-epochs", "U002", "unknown flag --no-epochs", "photos/ --epochs 30"),
    ("photos/ --zzz 1", "U002", "unknown flag --zzz", "--help"),
    ("photos/ --epochs five", "U003", "--epochs cannot be 'five'", "photos/ --epochs 30"),
    ("photos/ --epochs 2.5", "U003", "--epochs cannot be '2.5'", "photos/ --epochs 30"),
    ("photos/ --epochs=-1", "U003", "--epochs cannot be '-1'", "photos/ --epochs=30"),
    ("photos/ --lr -0.1", "U003", "--lr cannot be '-0.1'", "photos/ --lr 0.1"),
    ("photos/ --lr nan", "U003", "--lr cannot be 'nan'", "photos/ --lr 0.1"),
    ("photos/ --lr 0", "U003", "--lr cannot be '0'", "photos/ --lr 0.1"),
    ("photos/ --factor inf", "U003", "--factor cannot be 'inf'", "photos/ --factor 2"),
    ("photos/ --factor nan", "U003", "--factor cannot be 'nan'", "photos/ --factor 2"),
    ("photos/ --lr inf", "U003", "--lr cannot be 'inf'", "photos/ --lr 0.1"),
    ("photos/ --lr 10", "U003", "--lr cannot be '10'", "photos/ --lr 0.1"),
    ("photos/ --lr None", "U003", "--lr cannot be 'None'", "photos/ --lr 0.1"),
    ("photos/ --precision fp23", "U003", "did you mean  fp32", "photos/ --precision fp32"),
    ("photos/ --workers many", "U003", "--workers cannot be 'many'", "photos/ --workers 2"),
    ("photos/ --epochs", "U003", "--epochs needs a value", "photos/ --epochs 30"),
    ("photos/ --epochs --lr 1", "U003", "--epochs needs a value", "photos/ --epochs 30 --lr 1"),
    ("photos/ --out=", "U003", "--out needs a value", "photos/ --out runs"),
    ("photos/ --dry-run=yes", "U003", "--dry-run takes no value", "photos/ --dry-run"),
    (
        "photos/ --epochs 1 --epochs 2",
        "U003",
        "--epochs is given twice, as '1' and as '2'",
        "photos/ --epochs 1",
    ),
    ("--epochs 1", "U004", "train needs DATA", "photos/"),
]


@pytest.mark.parametrize(("line", "code", "what", "right"), MISTAKES)
def test_a_mistake_names_the_word_and_offers_the_right_command(
    line: str, code: str, what: str, right: str
) -> None:
    with pytest.raises(ConvworksError) as caught:
        read(line)
    assert caught.value.code == code
    assert what in caught.value.what
    assert caught.value.try_ == f"convworks train {right}"


@pytest.mark.parametrize("line", [mistake[0] for mistake in MISTAKES])
def test_the_offered_command_is_itself_without_mistakes(line: str) -> None:
    with pytest.raises(ConvworksError) as caught:
        read(line)
    words = shlex.split(caught.value.try_)
    assert words[:2] == ["convworks", "train"]
    if words[2:] != ["--help"]:
        parse(VERB, words[2:])


def test_one_subject_too_many_is_named_and_key_value_is_read_as_a_flag() -> None:
    @dataclass(frozen=True, kw_only=True)
    class One(OutputFlags):
        source: Annotated[str, Shown("DATA", positional=True)]
        epochs: Annotated[int | None, Shown("N")] = None

    verb = Verb(name="train", flags=One, main=(), examples=VERB.examples, run=VERB.run)
    with pytest.raises(ConvworksError, match=r"unexpected argument 'b'") as caught:
        parse(verb, ["a", "b"])
    assert (caught.value.code, caught.value.try_) == ("U005", "convworks train a")
    with pytest.raises(ConvworksError, match=r"did you mean  --epochs 5") as caught:
        parse(verb, ["a", "epochs=5"])
    assert caught.value.try_ == "convworks train a --epochs 5"


def outcome(words: list[str]) -> Any:
    """The flags, or the error."""
    try:
        return parse(VERB, words)
    except ConvworksError as problem:
        return problem


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=5))
@settings(max_examples=150, deadline=None)
def test_any_words_give_flags_or_one_usage_error(words: list[str]) -> None:
    found = outcome(words)
    assert isinstance(found, Flags) or found.exit_status == 2


@given(
    st.sampled_from(["--epochs", "--lr", "--workers", "--precision", "--out", "--set"]), st.text(max_size=6)
)
@settings(max_examples=150, deadline=None)
def test_any_value_gives_flags_or_an_error_that_names_the_flag(flag: str, value: str) -> None:
    found = outcome(["photos/", f"{flag}={value}"])
    assert isinstance(found, Flags) or (found.code == "U003" and flag in found.what)


def test_help_texts_are_the_docstrings_of_the_fields() -> None:
    assert field_docs(Flags)["epochs"] == "passes over the data"
    assert field_docs(Flags)["json"].startswith("print JSON")


def test_own_flags_come_before_those_of_the_group() -> None:
    names = [flag.field for flag in describe(Flags)]
    assert names == [
        *("source", "paths", "epochs", "lr", "factor", "precision", "workers", "set", "out", "dry_run"),
        *("json", "quiet", "verbose"),
    ]


def test_what_is_allowed_in_words() -> None:
    allowed = {flag.field: flag.allowed() for flag in describe(Flags)}
    assert allowed["epochs"] == "a whole number of at least 1"
    assert allowed["lr"] == "a number above 0 below 10"
    assert allowed["workers"] == "a whole number of at least 0 or auto"
    assert allowed["precision"] == "auto, fp32 or bf16"
    assert (allowed["out"], allowed["source"]) == ("a path", "text")


def test_usage_and_quoting() -> None:
    assert usage(VERB) == "convworks train DATA [PATH...] [flags]"
    assert shlex.split(command("train", "my photos/", "it's")) == ["convworks", "train", "my photos/", "it's"]


def test_an_empty_word_is_not_the_current_folder() -> None:
    with pytest.raises(ConvworksError, match=r"U004.*was given an empty word") as caught:
        parse(find_verb(["train"]), [""])
    assert caught.value.exit_status == 2
