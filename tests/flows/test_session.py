"""The session: snapshots, notes, the part that learns, and networks without noise in what is kept."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convworks.bundle import load_bundle
from convworks.data.loader import Batch
from convworks.errors import ConvworksError
from convworks.flows import snapshots
from convworks.flows.events import Finished, Note, Stopped
from convworks.flows.prepare import build_network, prepare_data
from convworks.flows.session import Session
from convworks.flows.session_state import Best, packed, unpacked
from convworks.recipes.recipe import Recipe
from convworks.recipes.resolve import resolve
from convworks.runs import Run
from convworks.training.checkpoint import load_checkpoint, step_name
from convworks.training.planner import Plan
from convworks.training.schedule import Plateau
from convworks.training.stochastic_depth import survivals
from tests.flows.helpers import (
    QUICK,
    fingerprint,
    request,
    resume_all,
    train_all,
    train_until,
    write_images,
)

pytestmark = pytest.mark.usefixtures("no_pages")

RESTARTS = {"schedule.name": "warm-restarts", "schedule.cycle": 1, "schedule.cycle_growth": 2.0, "epochs": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data") / "colours")


def notes(events: list[Any]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def files_of(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


# --- snapshots ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def restarted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    work = tmp_path_factory.mktemp("restarted")
    return work, train_all(work, data, **RESTARTS)


def test_a_snapshot_at_the_end_of_each_cycle(restarted: tuple[Path, list[Any]]) -> None:
    """Cycles of 1 and 2 epochs; the third, of 4, has only one epoch and no snapshot."""
    work, events = restarted
    folder = work / "runs" / "run" / "snapshots"
    assert sorted(path.name for path in folder.iterdir()) == ["01", "02"]
    said = notes(events)
    assert said[0] == (
        "the run ends 1 epoch into cycle 3, which has no snapshot; cycles that end: after epoch 1, after "
        "epoch 3"
    )
    assert sum("the learning rate restarts" in text for text in said) == 2
    first, second = load_bundle(folder / "01"), load_bundle(folder / "02")
    assert (first.info["cycle"], first.info["epoch"], second.info["epoch"]) == (1, 1, 3)
    assert first.info["metrics"]["n"] == 12
    weights = [bundle.network.state_dict() for bundle in (first, second)]
    assert not all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    lines = (work / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    rates = [each["lr"] for each in map(json.loads, lines) if each["kind"] == "epoch"]
    assert rates[0] < rates[1]  # the last step of an epoch: low at the end of cycle 1
    assert rates[2] < rates[1]


def test_the_snapshot_is_the_network_of_its_epoch(restarted: tuple[Path, list[Any]]) -> None:
    work, _ = restarted
    run = work / "runs" / "run"
    last = load_checkpoint(run / "checkpoints" / step_name(12))  # 3 steps an epoch; two checkpoints are kept
    assert last.state["position"]["epoch"] == 4
    third = load_checkpoint(run / "checkpoints" / step_name(9))
    bundle = load_bundle(run / "snapshots" / "02")
    for name, value in bundle.network.state_dict().items():
        assert torch.equal(value, third.tensors["average"][name])  # ema: the averaged weights


@pytest.mark.parametrize("asked", [4, 5, 9, 12, 14])
def test_snapshots_after_a_stop_are_the_same(
    tmp_path: Path, data: Path, restarted: tuple[Path, list[Any]], asked: int
) -> None:
    work, _ = restarted
    assert isinstance(train_until(tmp_path, data, asked, **RESTARTS)[-1], Stopped)
    assert isinstance(resume_all(tmp_path)[-1], Finished)
    assert fingerprint(tmp_path) == fingerprint(work)
    one, two = tmp_path / "runs" / "run" / "snapshots", work / "runs" / "run" / "snapshots"
    assert files_of(one) == files_of(two)


def test_killed_between_snapshot_and_checkpoint(
    tmp_path: Path, data: Path, restarted: tuple[Path, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state does not know of the snapshot: it is removed, made again, and the same."""
    work, _ = restarted
    real = Session.try_to_save

    def die(self: Session) -> Iterator[Any]:
        if self.position.epoch == 3 and self.position.batch == 0:
            raise RuntimeError("killed")
        yield from real(self)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "try_to_save", die)
        with pytest.raises(RuntimeError, match="killed"):
            train_all(tmp_path, data, **RESTARTS)
    folder = tmp_path / "runs" / "run" / "snapshots"
    assert sorted(path.name for path in folder.iterdir()) == ["01", "02"]
    (folder / ".tmp-0").mkdir()
    stopped = train_until(tmp_path, data, 1, **RESTARTS)
    assert isinstance(stopped[-1], Stopped)
    assert sorted(path.name for path in folder.iterdir()) == ["01"]
    resume_all(tmp_path)
    assert files_of(folder) == files_of(work / "runs" / "run" / "snapshots")


def test_a_full_disk_costs_the_snapshot_only(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots, "save_bundle", refuse)
    events = train_all(tmp_path, data, **{**RESTARTS, "epochs": 1})
    warned = [e.text for e in events if isinstance(e, Note) and e.level == "warning"]
    assert warned == ["cannot save the snapshot of cycle 1: No space left on device"]
    assert isinstance(events[-1], Finished)


def test_no_cycles_without_restarts() -> None:
    assert snapshots.cycles_done(Recipe(), 10) == 0


# --- notes --------------------------------------------------------------------------------------------------


def test_the_caveat_of_accumulation_with_batch_norm(tmp_path: Path, data: Path) -> None:
    settings = {"model": "resnet20_cifar", "size": 16, "epochs": 1, "ema": None}
    said = notes(train_all(tmp_path, data, name="bn", accumulate=4, **settings))
    assert said[0] == (
        "batch norm sees 4 images at a time, a batch of 16 cut into 4 parts: everything else is as with the "
        "whole batch, its means and variances are not"
    )
    assert not any("batch norm" in text for text in notes(train_all(tmp_path, data, name="one", **settings)))
    plain = train_all(tmp_path, data, name="without", accumulate=4, epochs=1)
    assert not any("batch norm" in text for text in notes(plain))


def test_the_scaled_rate_is_said_and_stored(tmp_path: Path, data: Path) -> None:
    settings = {
        "optimizer.lr": 0.01,
        "optimizer.reference_batch": 8,
        "schedule.name": "constant",
        "epochs": 1,
    }
    said = notes(train_all(tmp_path, data, **settings))
    assert said[0] == "learning rate 0.02 = 0.01 x 16 / 8, scaled with the batch; no warm-up is set"
    lines = (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(line)["lr"] for line in lines} == {0.02}
    record = json.loads((tmp_path / "runs" / "run" / "recipe.json").read_text())
    assert record["recipe"]["optimizer"]["reference_batch"] == 8


@pytest.mark.usefixtures("with_page")
def test_conventions_are_printed_and_the_penalty_is_logged(tmp_path: Path, data: Path) -> None:
    said = notes(
        train_all(
            tmp_path,
            data,
            epochs=1,
            **{"regularize.l1": 0.001, "regularize.proximal": True, "regularize.l2_plain": 0.005},
        )
    )
    assert said == [
        "L2: 0.005 sum w^2 in the loss, gradient 0.01 w; a weight decay of 0.01 has the same gradient",
        "L1: 0.001 sum |w|, by soft thresholding after each step, which gives exact zeros",
        "averaged weights come close to the zeros of L1, and need not reach them",
    ]
    lines = map(json.loads, (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines())
    penalties = [each["penalty"] for each in lines if each["kind"] == "step"]
    assert len(penalties) == 3
    assert all(value > 0 for value in penalties)


def test_a_drop_of_the_plateau_is_said(tmp_path: Path, data: Path) -> None:
    settings = {"schedule.name": "plateau", "schedule.patience": 0, "optimizer.lr": 1e-9, "epochs": 6}
    said = notes(train_all(tmp_path, data, ema=None, **settings))
    assert len(said) == 3  # at the most
    assert said[0].endswith("for 1 epoch: learning rate 1e-09 -> 1e-10 (drop 1 of 3)")
    assert said[2].endswith("learning rate 1e-11 -> 1e-12 (drop 3 of 3)")


# --- what is kept -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", [None, 0.9])
def test_the_kept_model_has_the_survival_in_its_weights(
    tmp_path: Path, data: Path, average: float | None
) -> None:
    """The bundle, an ordinary network, answers as the trained one in evaluation mode."""
    settings = {"model": "resnet20_cifar", "size": 16, "regularize.stochastic_depth": 0.5, "keep": "last"}
    events = train_all(tmp_path, data, ema=average, **settings)
    assert any("survival probabilities in its weights" in text for text in notes(events))
    run = tmp_path / "runs" / "run"
    bundle = load_bundle(run)
    assert survivals(bundle.network) == {}
    recipe = resolve(base=Recipe(), base_name="quick", flags={**QUICK, **settings}).recipe
    trained = build_network(recipe, 3, bundle.preprocess.geometry).eval()
    last = load_checkpoint(run / "checkpoints" / step_name(6))
    trained.load_state_dict(dict(last.tensors["average" if average else "network"]))
    assert len(survivals(trained)) == 9
    x = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(bundle.network(x), trained(x), rtol=1e-4, atol=1e-5)


def test_evaluations_are_free_of_noise(tmp_path: Path, data: Path) -> None:
    settings = {"regularize.noise": 1.0, "regularize.dropout": 0.4, "epochs": 1, "ema": None}
    train_all(tmp_path, data, **settings)
    bundle = load_bundle(tmp_path / "runs" / "run")
    x = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        assert torch.equal(bundle.network(x), bundle.network(x))
    assert not any(module._forward_hooks for module in bundle.network.modules())


def test_a_setting_that_acts_on_nothing_is_refused_before_training(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ConvworksError, match="no residual unit") as caught:
        train_all(tmp_path, data, **{"regularize.stochastic_depth": 0.2})
    assert caught.value.code == "U212"
    assert not (tmp_path / "runs" / "run").exists()


def test_infinity_travels_as_a_word() -> None:
    best, plateau = Best(), Plateau(1, 3, 0.1)
    assert Best(**unpacked(json.loads(json.dumps(packed(best))))) == best
    assert Plateau(**unpacked(json.loads(json.dumps(packed(plateau), allow_nan=False)))) == plateau


# --- a part that learns -------------------------------------------------------------------------------------


class Features:
    """What the frozen part gives, in two batches."""

    steps = 2

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x, self.y = x, y

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        for number in range(start, 2):
            part = slice(number, None, 2)
            yield Batch(self.x[part], self.y[part], np.arange(len(self.y))[part])


def head_session(work: Path, data: Path, epochs: list[int], **changes: Any) -> tuple[Session, nn.Module]:
    asked = request(work, data, epochs=2, **changes)
    recipe = asked.resolved.recipe
    prepared = prepare_data(asked.data, recipe, expected=None, geometry=None, should_stop=lambda: False)
    network = build_network(recipe, 3, prepared.dataset.geometry)
    body, head = nn.Sequential(*list(network.children())[:-1]).eval(), list(network.children())[-1]
    features = {}
    for split in ("train", "val"):
        rows = torch.from_numpy(prepared.dataset.split_rows(split))
        x = prepared.preprocess.to_input(
            prepared.dataset.images[rows],
            dtype=torch.float32,
            memory_format=torch.contiguous_format,
            device="cpu",
        )
        with torch.no_grad():
            features[split] = Features(body(x), prepared.dataset.labels[rows])
    plan = Plan(
        precision="fp32", memory_format="contiguous", device="cpu", threads=1, workers=0, batch_path="RAM",
        allocator="", checkpoint_every=99, images_per_second=1.0, measured={}, reasons=(), torch="", cpus=1,
    )  # fmt: skip
    run = Run(work)
    session = Session(
        run,
        recipe,
        prepared,
        network,
        plan,
        manifest="",
        trainee=head,
        loader=features["train"],
        validation=OneBatch(features["val"]),
        before_epoch=epochs.append,
    )
    return session, network


class OneBatch:
    """The validation features in their order."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        x, y = self.features.x, self.features.y
        yield Batch(x, y, np.arange(len(y)))


@pytest.mark.parametrize("average", [None, 0.9])
def test_only_the_part_learns_and_its_progress_is_restored(
    tmp_path: Path, data: Path, average: float | None
) -> None:
    epochs: list[int] = []
    whole, network = head_session(tmp_path / "whole", data, epochs, ema=average)
    (tmp_path / "whole").mkdir(exist_ok=True)
    before = copy.deepcopy(network.state_dict())
    whole.begin()
    events = list(whole.train(lambda: False))
    assert epochs == [0, 1]
    head = list(dict(network.named_children()))[-1]
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(head)
    fast = whole.validate(whole.evaluated_network(), lambda: False)
    slow, _, _ = whole.evaluate(whole.evaluated_network(), "val", lambda: False)
    assert fast.top1 == slow.top1
    assert fast.loss == pytest.approx(slow.loss, rel=1e-5)
    assert not notes(events)

    (tmp_path / "again").mkdir()
    again, _ = head_session(tmp_path / "again", data, epochs, ema=average)
    again.begin()
    asked = iter([False, False, False, True])  # in the second epoch
    list(again.train(lambda: next(asked)))
    again_on, restored = head_session(tmp_path / "again", data, epochs, ema=average)
    newest = max((tmp_path / "again" / "checkpoints").glob("step-*"))
    again_on.restore(load_checkpoint(newest))
    list(again_on.train(lambda: False))
    assert epochs[2:] in ([0, 1, 1], [0, 0, 1])
    for name, value in restored.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])


def test_what_does_not_act_in_the_part_is_said(tmp_path: Path, data: Path) -> None:
    (tmp_path / "runs").mkdir()
    session, _ = head_session(tmp_path / "runs", data, [], **{"regularize.noise": 0.1})
    session.begin()
    said = notes(list(session.train(lambda: False)))
    head = session.trainee
    acts = session.settings.regularizers.noise > 0
    assert acts == any(isinstance(module, nn.ReLU) for module in head.modules())
    assert ("regularize.noise has nothing to act on in the part that learns" in said) != acts
