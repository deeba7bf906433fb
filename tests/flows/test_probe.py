"""Probes and feature vectors of a run, on its own images and on others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convworks.bundle import load_bundle
from convworks.data.decode import decode
from convworks.data.store import ScanInterrupted
from convworks.errors import ConvworksError
from convworks.evaluation.inference import StoppedEarlyError
from convworks.flows.prepare import DataRequest
from convworks.flows.probe import FeaturesRequest, ProbeRequest, feature_vectors, probe, write_npz
from tests.cli.helpers import draw
from tests.flows.helpers import request, train_all, write_images

pytestmark = pytest.mark.usefixtures("no_pages")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_images(folder / "colours")
    train_all(folder, folder / "colours", model="fastnet", size=16, epochs=3, seed=3)
    return folder


def asked(work: Path, location: str | Path, **options: Any) -> ProbeRequest:
    data = request(work, work / location if location != "shapes" else "shapes").data
    return ProbeRequest(model=work / "runs" / "run", data=data, **options)


def test_every_stage_has_its_row_and_nothing_is_random(work: Path) -> None:
    found = probe(asked(work, "colours"))
    assert [row.layer for row in found.rows] == ["input", "stem", "block1", "block2", "block3", "pool"]
    assert found.rows[-1].features == 256
    assert (found.train, found.val, found.classes) == (48, 12, ("blue", "green", "red"))
    assert found.own is not None
    assert not found.warnings
    assert all(0 <= row.accuracy <= 1 for row in found.rows)
    again = probe(asked(work, "colours"))
    assert again.rows == found.rows


def test_the_split_is_that_of_the_run(work: Path) -> None:
    few = probe(asked(work, "colours", images=20))
    assert (few.train, few.val) == (20, 12)
    assert not few.warnings


def test_classes_may_be_others(work: Path) -> None:
    found = probe(asked(work, "shapes", images=60))
    assert (found.train, found.val, found.own) == (60, 60, None)
    assert len(found.classes) == 5


def test_images_that_the_network_was_trained_on_are_counted(work: Path) -> None:
    for name in ("blue", "green", "red"):
        shutil.copytree(work / "colours" / name, work / "more" / name)
    for number in range(20):
        draw(work / "more" / "white" / f"{number}.png", seed=number)
    found = probe(asked(work, "more"))
    assert "the network was trained on" in found.warnings[0]
    assert found.own is None


def test_it_can_be_stopped(work: Path) -> None:
    with pytest.raises((StoppedEarlyError, ScanInterrupted)):
        probe(asked(work, "colours"), should_stop=lambda: True)


def test_feature_vectors_are_what_the_last_layer_sees(work: Path, tmp_path: Path) -> None:
    data = DataRequest(location=str(work / "colours"), cache=work / "cache")
    found = feature_vectors(FeaturesRequest(model=work / "runs" / "run", data=data))
    assert found.vectors.shape == (60, 256)
    assert (found.kind, found.classes) == ("all 256", ("blue", "green", "red"))
    bundle = load_bundle(work / "runs" / "run")
    for row in (0, 33):  # one image at a time, from its file
        pixels = decode((work / "colours" / found.paths[row]).read_bytes()).pixels
        stored = torch.from_numpy(bundle.preprocess.geometry.fitted(pixels))[None]
        x = bundle.preprocess.to_input(
            stored, dtype=torch.float32, memory_format=torch.contiguous_format, device="cpu"
        )
        expected = torch.nn.Sequential(*list(bundle.network.children())[:-1])(x)[0]
        np.testing.assert_allclose(found.vectors[row], expected.detach().numpy(), rtol=1e-4, atol=1e-5)
        assert found.paths[row].split("/")[0] == found.classes[found.labels[row]]
    write_npz(tmp_path / "a.npz", found)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as stored_file:
        assert np.array_equal(stored_file["features"], found.vectors)
        assert stored_file["paths"].tolist() == list(found.paths)
        assert [stored_file["classes"][k] for k in stored_file["labels"][:1]] == ["blue"]


def test_maps_before_the_last_stage_become_their_means(tmp_path: Path) -> None:
    write_images(tmp_path / "colours", each=6)
    train_all(tmp_path, tmp_path / "colours", model="nin", size=32, epochs=1)
    data = DataRequest(location=str(tmp_path / "colours"), cache=tmp_path / "cache")
    found = feature_vectors(FeaturesRequest(model=tmp_path / "runs" / "run", data=data))
    assert found.vectors.shape == (18, 192)
    assert found.kind == "means of 192x8x8 on 1x1"


def test_a_split_that_is_not_there(work: Path) -> None:
    data = DataRequest(location=str(work / "colours"), cache=work / "cache")
    with pytest.raises(ConvworksError) as caught:
        feature_vectors(FeaturesRequest(model=work / "runs" / "run", data=data, split="test"))
    assert caught.value.code == "D202"


def test_from_python(work: Path) -> None:
    import convworks as cw

    run, cache = work / "runs" / "run", work / "cache"
    found = cw.probe(run, work / "colours", images=20, cache=cache)
    assert (found.train, len(found.rows)) == (20, 6)
    assert cw.features(run, work / "colours", cache=cache).vectors.shape == (60, 256)
    assert {each.about for each in cw.advise(work / "colours", cache=cache)} >= {"model", "transfer"}


def test_what_to_try_names_the_verb_and_the_model(work: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(work / "colours", tmp_path / "broken"))
    (broken / "red" / "0.png").write_bytes(b"no image")
    model = work / "runs" / "run"
    asked = FeaturesRequest(model=model, data=DataRequest(location=str(broken), cache=tmp_path / "cache"))
    with pytest.raises(ConvworksError, match="D149") as caught:
        feature_vectors(asked)
    assert caught.value.try_ == f"convworks features {model} {broken} --skip-unreadable"
