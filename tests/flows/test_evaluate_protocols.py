"""Ladders of protocols on a run: what is kept, what is used again, and members."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convworks.data.store import ScanInterrupted
from convworks.errors import ConvworksError
from convworks.evaluation.inference import StoppedEarlyError
from convworks.flows import kept
from convworks.flows import ladder as ladder_module
from convworks.flows.ensemble_bundle import save_ensemble
from convworks.flows.evaluate import evaluate
from convworks.flows.ladder import LadderRequest, climb
from convworks.report.read import read_run
from tests.flows.helpers import StopAfter, train_all, write_images
from tests.flows.ladders import climbed, photographs, reorder, request

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("ladders")
    data = photographs(work / "colours")
    for name, seed in (("run", 0), ("other", 1), ("third", 2)):
        train_all(work, data, epochs=3, name=name, seed=seed)
    return work


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "work")
    return tmp_path / "work"


ALL = (
    "centre",
    "10-crop",
    "144-crop",
    "vgg-dense",
    "vgg-multi-scale",
    "multi-crop@256",
    "tta",
    "tta-shifts",
    "mirror-translate",
    "tta-turns",
)


def test_a_ladder_has_a_row_for_each_protocol(work: Path) -> None:
    found = climbed(work, *ALL)
    assert [rung.protocol.name for rung in found.rungs] == list(ALL)
    assert [rung.cost for rung in found.rungs] == [1, 10, 144, 2, 6, 50, 18, 9, 6, 5]
    plain = evaluate(request(work).evaluate)
    np.testing.assert_array_equal(found.rungs[0].probabilities, plain.probabilities)  # bit for bit
    assert found.paths == plain.paths
    for rung in found.rungs:
        assert rung.probabilities.shape == (60, 3)
        assert not rung.reused
        np.testing.assert_allclose(rung.probabilities.sum(1), 1, atol=1e-5)
        one = evaluate(replace(request(work).evaluate, protocol=rung.protocol.name))
        np.testing.assert_array_equal(one.probabilities, rung.probabilities)
        assert one.to_dict()["protocol"] == rung.protocol.name
    right = [(rung.probabilities.argmax(1) == found.labels) for rung in found.rungs]
    for rung, correct in zip(found.rungs[1:], right[1:], strict=True):
        assert rung.difference is not None
        value, low, high, p = rung.difference
        assert value == pytest.approx((~correct).mean() - (~right[0]).mean())
        assert low <= value <= high
        assert 0 <= p <= 1
    assert json.loads(json.dumps(found.to_dict()))["rows"][1]["cost"] == 10


def test_what_was_kept_is_used_again_and_says_what_it_is(work: Path) -> None:
    first = climbed(work, "10-crop", "vgg-multi-scale-jitter")
    folder = work / "runs" / "run" / "evaluation" / "protocols"
    assert sorted(path.name for path in folder.iterdir()) == [
        "colours-all-10-crop.json",
        "colours-all-10-crop.safetensors",
        "colours-all-vgg-multi-scale-jitter.json",
        "colours-all-vgg-multi-scale-jitter.safetensors",
    ]
    record = kept.load_kept(folder / "colours-all-10-crop.json")
    np.testing.assert_array_equal(record.probabilities, first.rungs[0].probabilities)
    assert record.facts["protocol"] == "10-crop"
    assert record.facts["identity"]["protocol"]["views"] == 10
    assert record.facts["paths"] == first.paths
    said: list[str] = []
    again = climb(request(work, "centre", "dense+multi-crop", "10-crop+vgg-ms-jitter"), told=said.append)
    assert [text.partition(":")[0] for text in said] == ["centre", "multi-crop"]  # only what is new
    assert [rung.reused for rung in again.rungs] == [False, False, True]
    expected = np.mean([rung.probabilities.astype(float) for rung in first.rungs], axis=0)
    np.testing.assert_allclose(again.rungs[2].probabilities, expected, atol=1e-7)
    fresh = climb(replace(request(work, "dense+multi-crop"), keep=False))
    np.testing.assert_array_equal(fresh.rungs[0].probabilities, again.rungs[1].probabilities)


def change_label(work: Path) -> None:
    (work / "colours" / "red" / "0.png").rename(work / "colours" / "blue" / "z.png")


def change_pixels(work: Path) -> None:
    image = Image.open(work / "colours" / "red" / "0.png")
    image.putpixel((0, 0), (1, 2, 3))
    image.save(work / "colours" / "red" / "0.png")


def change_model(work: Path) -> None:
    shutil.rmtree(work / "runs" / "run" / "model")
    shutil.copytree(work / "runs" / "other" / "model", work / "runs" / "run" / "model")


def damage_tensors(work: Path) -> None:
    path = work / "runs" / "run" / "evaluation" / "protocols" / "colours-all-10-crop.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def damage_record(work: Path) -> None:
    path = work / "runs" / "run" / "evaluation" / "protocols" / "colours-all-10-crop.json"
    path.write_bytes(path.read_bytes()[:-20])


def lose_tensors(work: Path) -> None:
    (work / "runs" / "run" / "evaluation" / "protocols" / "colours-all-10-crop.safetensors").unlink()


@pytest.mark.parametrize(
    "change", [change_label, change_pixels, change_model, damage_tensors, damage_record, lose_tensors]
)
def test_what_was_kept_of_something_else_is_never_used(work: Path, change: object) -> None:
    assert not climbed(work, "10-crop").rungs[0].reused
    assert climbed(work, "10-crop").rungs[0].reused
    change(work)  # type: ignore[operator]
    again = climbed(work, "10-crop")
    assert not again.rungs[0].reused
    fresh = climb(replace(request(work, "10-crop"), keep=False))
    np.testing.assert_array_equal(again.rungs[0].probabilities, fresh.rungs[0].probabilities)
    assert climbed(work, "10-crop").rungs[0].reused


def test_other_code_or_another_definition_is_something_else(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    climbed(work, "10-crop")
    monkeypatch.setattr(kept, "pixel_code", lambda: "another resizer")
    assert not climbed(work, "10-crop").rungs[0].reused


def test_kept_files_that_are_damaged_are_named(work: Path) -> None:
    climbed(work, "10-crop")
    damage_tensors(work)
    with pytest.raises(ConvworksError, match="A470.*two files are of different"):
        kept.load_kept(work / "runs" / "run" / "evaluation" / "protocols" / "colours-all-10-crop.json")


def test_the_finished_run_is_as_it_was(work: Path) -> None:
    run = work / "runs" / "run"
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    record = read_run(run)
    climbed(work, "10-crop", "vgg-dense")
    assert {p: p.read_bytes() for p in before} == before
    assert [each.split for each in read_run(run).evaluations] == [each.split for each in record.evaluations]


def test_a_run_that_cannot_be_written_to_is_evaluated_with_a_warning(work: Path) -> None:
    (work / "runs" / "run" / "evaluation" / "protocols").write_text("a file is in the way")
    found = climbed(work, "10-crop", "centre")
    assert len(found.rungs) == 2
    assert found.kept_in is None
    assert [text for text in found.warnings if "not kept" in text]


def test_a_model_outside_a_run_keeps_nothing(work: Path) -> None:
    shutil.copytree(work / "runs" / "run" / "model", work / "bare")
    before = sorted(work.rglob("*"))
    base = replace(request(work).evaluate, model=work / "bare")
    found = climb(LadderRequest(evaluate=base, protocols=("10-crop",)))
    assert found.kept_in is None
    assert found.facts["external_data"] == "unknown"
    assert sorted(path for path in work.rglob("*") if "cache" not in path.parts) == [
        path for path in before if "cache" not in path.parts
    ]


@pytest.mark.parametrize("asked", [1, 3, 8, 15, 30])
def test_a_stop_leaves_nothing_half(work: Path, asked: int) -> None:
    with pytest.raises((StoppedEarlyError, ScanInterrupted)):
        climb(request(work, "10-crop", "144-crop", "multi-crop"), should_stop=StopAfter(asked, armed=True))
    folder = work / "runs" / "run" / "evaluation" / "protocols"
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    assert not [name for name in names if name.startswith(".tmp")]
    for name in names:
        kept.load_kept((folder / name).with_suffix(".json"))
    assert len(climbed(work, "10-crop").rungs) == 1


def test_members_are_averaged_and_counted(work: Path) -> None:
    members = (work / "runs" / "other", work / "runs" / "third")
    found = climbed(work, "googlenet-ladder", members=members)
    assert [(r.members, r.protocol.name, r.cost) for r in found.rungs] == [
        (1, "centre", 1),
        (1, "10-crop", 10),
        (1, "144-crop", 144),
        (3, "centre", 3),
        (3, "10-crop", 30),
        (3, "144-crop", 432),
    ]
    assert any("other was trained on 48 of these 60 images" in text for text in found.warnings)
    alone = [climbed(work, "10-crop", run=name).rungs[0] for name in ("run", "other", "third")]
    assert all(rung.reused for rung in alone)  # each in its own run
    expected = np.mean([rung.probabilities.astype(float) for rung in alone], axis=0)
    np.testing.assert_allclose(found.rungs[4].probabilities, expected, atol=1e-7)


def test_an_ensemble_has_a_ladder_too(work: Path) -> None:
    paths = [work / "runs" / name for name in ("run", "other", "third")]
    classes = ("red", "blue", "green")
    save_ensemble(
        work / "three",
        paths,
        groups=[0, 1, 2],
        samples=[0, 0, 0],
        classes=classes,
        method="uniform",
        weights=[1 / 3] * 3,
        stacking=None,
        facts={},
    )
    base = replace(request(work).evaluate, model=work / "three")
    found = climb(LadderRequest(evaluate=base, protocols=("centre", "10-crop")))
    assert [(rung.members, rung.cost) for rung in found.rungs] == [(3, 3), (3, 30)]
    same = climbed(work, "10-crop", members=tuple(paths[1:])).rungs[1]
    order = [("blue", "green", "red").index(name) for name in found.classes]
    np.testing.assert_allclose(found.rungs[1].probabilities, same.probabilities[:, order], atol=1e-6)
    with pytest.raises(ConvworksError, match="U256.*has its members already"):
        climb(LadderRequest(evaluate=base, protocols=("centre",), members=(paths[0],)))


def test_members_keep_their_own_preprocessing_and_are_aligned_by_name(work: Path) -> None:
    # Another size, another normalisation, and the classes in another order.
    train_all(work, work / "colours", name="large", size=36, normalize="mean-image", epochs=2)
    alone = climbed(work, "10-crop", "centre", run="large").rungs
    run = climbed(work, "10-crop", "centre").rungs
    model = work / "runs" / "large" / "model"
    reorder(model, ["red", "blue", "green"])
    both = climbed(work, "10-crop", "centre", members=(work / "runs" / "large",))
    for at in range(2):
        expected = (run[at].probabilities.astype(float) + alone[at].probabilities) / 2
        np.testing.assert_allclose(both.rungs[2 + at].probabilities, expected, atol=2e-6)


def test_members_of_other_classes_are_refused_before_anything_is_read(work: Path) -> None:
    two = write_images(work / "two", classes=("blue", "lily", "red"))
    train_all(work, two, name="lilies", epochs=1)
    with pytest.raises(ConvworksError, match=r"same classes: lilies lacks green; lilies adds lily"):
        climbed(work, "centre", members=(work / "runs" / "lilies",))


def test_a_protocol_that_a_network_cannot_do_is_refused_before_anything_is_read(work: Path) -> None:
    for name, code in (("full", "U255"), ("nothing", "U253"), ("vgg-dense@9", "U254")):
        with pytest.raises(ConvworksError, match=code):
            climbed(work, "centre", name, data=work / "there is no such folder")


def test_notes_on_what_the_numbers_are(work: Path) -> None:
    found = climbed(work, "tta", "tta-shifts", split="val")
    text = "\n".join(found.warnings)
    assert "tta: half of the views are mirrored, and the network was not trained on mirrored images" in text
    assert "the best epoch was chosen on these images" in text
    shutil.rmtree(work / "colours" / "red")
    missing = climbed(work, "centre")
    assert "there is no image of red: scored as absent" in "\n".join(missing.warnings)
    assert found.facts["external_data"] == "no"
    (work / "runs" / "run" / "pretrained.json").write_text('{"from": "resnet18-torchvision"}')
    assert climbed(work, "centre").facts["external_data"] == "yes: resnet18-torchvision"


def test_an_image_that_changes_meanwhile_is_refused(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ladder_module._Member.probabilities

    def late(self: object, images: object, *rest: object) -> object:
        change_pixels(work)
        return original(self, images, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(ladder_module._Member, "probabilities", late)
    with pytest.raises(ConvworksError, match=r"A472.*'red/0\.png' changed"):
        climbed(work, "10-crop")
