"""`convworks eval --protocol`: the ladder on the screen, as JSON and as a table, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from convworks.cli.eval import LADDER_HEADER
from tests.cli.helpers import run

RUN = "runs/photos-mlp128-01"


def test_a_ladder_on_the_screen(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = run(capsys, "eval", RUN, "photos", "--protocol", "centre,10-crop", "--protocol", "144-crop")
    assert ran.status == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("images     all, 24 images; one model; trained on other data too: no")
    head = next(line for line in lines if line.startswith("protocol"))
    assert head.split()[:4] == ["protocol", "models", "cost", "top-1"]
    assert "- centre (95 %)" in head
    rows = {line.split()[0]: line.split()[2] for line in lines if line.startswith(("centre", "10-", "144-"))}
    assert rows == {"centre": "1", "10-crop": "10", "144-crop": "144"}
    text = " ".join(ran.out.split())
    assert "10-crop: 4 corners and the centre of the middle square, mirrored" in text
    assert "shorter side 14, 15, 17, 19 (256, 288, 320, 352 at 224)" in text
    assert f"kept in {RUN}/evaluation/protocols" in text
    assert max(map(len, lines)) <= 120
    assert "144-crop: 144 views of 24 images with photos-mlp128-01" in ran.err
    again = run(capsys, "eval", RUN, "photos", "--protocol", "10-crop")
    assert "(kept)" in again.out
    assert "views of" not in again.err


def test_a_ladder_as_json_and_as_a_table(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("eval", RUN, "photos", "--protocol", "centre,tta-shifts", "--csv", "all.csv")
    document = json.loads(run(capsys, *words, "--json").out)
    assert [row["protocol"] for row in document["rows"]] == ["centre", "tta-shifts"]
    assert [row["cost"] for row in document["rows"]] == [1, 9]
    assert document["rows"][0]["difference"] is None
    assert set(document["rows"][1]["difference"]) == {"error", "low", "high", "p"}
    assert document["rows"][0]["top5_error"] is None  # two classes
    assert document["external_data"] == "no"
    rows = list(csv.reader(Path("all.csv").read_text().splitlines()))
    assert tuple(rows[0]) == LADDER_HEADER
    assert len(rows) == 1 + 2 * 24
    assert {row[1] for row in rows[1:]} == {"centre", "tta-shifts"}


def test_more_members_and_people(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["eval", RUN, "photos", "--protocol", "googlenet-ladder", "--members", RUN, "--members", RUN]
    ran = run(capsys, *words, "--human-error", "0.0116")
    assert ran.status == 0
    costs = [
        line.split()[1:3] for line in ran.out.splitlines() if line.startswith(("centre ", "10-", "144-"))
    ]
    assert costs == [["1", "1"], ["1", "10"], ["1", "144"], ["3", "3"], ["3", "30"], ["3", "432"]]
    assert "one model, and 3 averaged" in ran.out
    assert "error of people 1.16 %" in ran.out
    assert run(capsys, "eval", RUN, "photos", "--human-error", "1.5").status == 2


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--protocol", "10-crp"], 2, "error[U253]: there is no protocol called '10-crp'"),
        (["--protocol", "vgg-dense@5"], 2, "error[U254]"),
        (["--protocol", "full"], 2, "error[U255]: mlp128 cannot see whole images: it takes 12x12 only"),
        (["--protocol", "centre", "--members", "runs/none"], 4, "error[A411]"),
    ],
)
def test_what_is_refused(
    world: Path, capsys: pytest.CaptureFixture[str], words: list[str], status: int, message: str
) -> None:
    ran = run(capsys, "eval", RUN, "photos", *words)
    assert ran.status == status
    assert message in ran.err
    assert ran.out == ""


def test_a_stop_is_75_and_can_be_gone_on_with(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stops:
        """Asks to stop once the second protocol runs."""

        def __init__(self) -> None:
            self.asked = 0

        def __enter__(self) -> Stops:
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def __call__(self) -> bool:
            self.asked += 1
            return self.asked > 40

    with monkeypatch.context() as patch:
        patch.setattr("convworks.cli.eval.StopRequest", Stops)
        ran = run(capsys, "eval", RUN, "photos", "--protocol", "centre,multi-crop", "--csv", "all.csv")
    assert ran.status == 75
    assert ran.out == ""
    assert not Path("all.csv").exists()
    assert run(capsys, "eval", RUN, "photos", "--protocol", "centre,multi-crop").status == 0


def test_the_protocols_are_listed(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(run(capsys, "list", "protocols", "--json").out)
    views = {row["protocol"]: row["views"] for row in rows}
    assert (views["centre"], views["10-crop"], views["144-crop"], views["multi-crop"]) == (1, 10, 144, 150)
    assert "dense+multi-crop" in run(capsys, "list", "protocols").out


def test_the_help_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "eval", "-h").out
    assert len(text.splitlines()) <= 24
    assert "--protocol A,B,..." in text
    assert "--members RUN" in run(capsys, "eval", "--help-all").out


def test_an_extra_class_in_a_ladder(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (world / "photos" / "lily").mkdir()
    for index in range(2):
        content = (world / "photos" / "rose" / f"{index}.png").read_bytes()
        (world / "photos" / "lily" / f"{index}.png").write_bytes(content)
    ran = run(capsys, "eval", RUN, "photos", "--protocol", "10-crop")
    assert ran.status == 3
    assert "photos has a class the model never saw: 'lily' (2 images)" in ran.err
    assert f"convworks eval {RUN} photos --ignore-classes lily" in ran.err
    assert run(capsys, "eval", RUN, "photos", "--protocol", "10-crop", "--ignore-classes", "lily").status == 0
