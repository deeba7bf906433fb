"""The range test and the curve of the learning rate."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from convworks.data.loader import Loader
from convworks.errors import ConvworksError
from convworks.evaluation.inference import StoppedEarlyError
from convworks.flows.learning_rate import (
    BETA,
    RateRequest,
    RateTest,
    find_rate,
    rate_curve,
    smooth,
    steps_in_epoch,
    suggest,
)
from convworks.flows.prepare import DataRequest
from convworks.recipes.defaults import resolve_named
from convworks.report.rate_chart import Curve, check_suffix, drawn, text_curve
from tests.flows.helpers import train_all, write_images


def request(work: Path, model: str = "lenet5_modern", **options: object) -> RateRequest:
    settings = {"model": model, "threads": 1, "device": "cpu", **options.pop("flags", {})}  # type: ignore[dict-item]
    resolved = resolve_named(None, flags=settings)
    return RateRequest(
        data=DataRequest(location="digits", cache=work / "cache"),
        resolved=resolved,
        **{"steps": 40, **options},  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RateTest]:
    work = tmp_path_factory.mktemp("rates")
    state = torch.get_rng_state()
    result = find_rate(request(work))
    assert torch.equal(torch.get_rng_state(), state)
    return work, result


def test_rates_rise_exponentially_and_the_seed_decides(found: tuple[Path, RateTest]) -> None:
    work, first = found
    ratio = 10 ** (6 / 39)
    expected = [1e-5 * ratio**n for n in range(len(first.rates))]
    np.testing.assert_allclose(first.rates, expected, rtol=1e-9)
    again = find_rate(request(work))
    assert again.losses.tolist() == first.losses.tolist()
    other = find_rate(request(work, flags={"seed": 5}))
    assert other.losses.tolist() != first.losses.tolist()
    assert list(work.iterdir()) == []  # nothing is written


def test_the_test_is_of_the_recipe_with_its_regularisers(tmp_path: Path) -> None:
    plain = find_rate(request(tmp_path, steps=20, high=0.1))
    noisy = find_rate(request(tmp_path, steps=20, high=0.1, flags={"regularize.noise": 1.0}))
    assert plain.losses[0] != noisy.losses[0]
    assert plain.ended == "all rates were tried"


def test_too_high_a_rate_ends_it(tmp_path: Path) -> None:
    found = find_rate(request(tmp_path, low=0.5, high=1e6, steps=60, model="fastnet"))
    assert len(found.rates) < 60
    assert found.ended.startswith("the loss had risen to 4 times") or "was not finite" in found.ended


def test_rates_must_rise(tmp_path: Path) -> None:
    with pytest.raises(ConvworksError, match="goes up from 1 to 0.1") as caught:
        find_rate(request(tmp_path, low=1.0, high=0.1))
    assert caught.value.code == "U216"
    with pytest.raises(ConvworksError, match="no model called 'lenet'"):
        find_rate(request(tmp_path, model="lenet"))


def test_it_can_be_stopped(tmp_path: Path) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2000  # beyond the reading of the images

    made: list[int] = []
    with pytest.raises(StoppedEarlyError):
        find_rate(
            request(tmp_path, steps=1000),
            should_stop=lambda: len(made) >= 3 or stop(),
            progress=lambda step, rate: made.append(step),
        )
    assert made == [1, 2, 3]


def test_smoothing_by_a_plain_loop() -> None:
    losses = [3.0, 2.0, 4.0, 1.0]
    for n, value in enumerate(smooth(losses), start=1):
        weights = [(1 - BETA) * BETA ** (n - 1 - k) for k in range(n)]
        expected = sum(w * x for w, x in zip(weights, losses, strict=False)) / (1 - BETA**n)
        assert value == pytest.approx(expected)


def test_suggestions_on_a_known_curve() -> None:
    """A loss of a sigmoid in log lr, centred at 1e-2, that turns at 1."""
    rates = np.logspace(-5, 1, 121)
    fall = 2 - 1 / (1 + np.exp(-3 * (np.log10(rates) + 2)))
    loss = np.where(rates <= 1.0, fall, fall + 2 * np.log10(rates))
    steepest, tenth = suggest(rates.tolist(), loss)
    assert steepest == pytest.approx(1e-2, rel=0.2)
    assert tenth == pytest.approx(0.1, rel=0.2)
    assert suggest(rates.tolist(), np.linspace(1, 2, 121)) == (None, None)
    assert suggest([0.1, 0.2], np.array([2.0, 1.0])) == (None, None)


def test_the_setting_undoes_linear_scaling(found: tuple[Path, RateTest]) -> None:
    from dataclasses import replace

    _, result = found
    recipe = replace(result.recipe, batch=64, optimizer=replace(result.recipe.optimizer, reference_batch=32))
    scaled = replace(result, recipe=recipe, tenth=0.5)
    assert scaled.setting == 0.25
    assert replace(scaled, tenth=None).setting is None


@pytest.mark.parametrize(("images", "batch"), [(1, 4), (4, 4), (5, 4), (6, 4), (9, 4), (100, 1), (2, 1)])
def test_steps_are_those_of_the_loader(images: int, batch: int) -> None:
    from convworks.data.preprocess import Geometry, Preprocess

    geometry = Geometry(4, 4, 1, "squash", 4, 4)
    pixels = torch.randint(0, 255, (images, 4, 4, 1), dtype=torch.uint8)
    rows = np.arange(images)
    preprocess = Preprocess.fit(pixels, rows, geometry=geometry, normalize="none")
    loader = Loader(
        pixels,
        torch.zeros(images, dtype=torch.int64),
        rows,
        preprocess,
        batch=batch,
        seed=0,
        augment=None,
        shuffle=True,
        threads=0,
        dtype=torch.float32,
        memory_format=torch.contiguous_format,
        device="cpu",
    )
    assert steps_in_epoch(images, batch) == loader.steps


def test_the_curve_of_a_recipe() -> None:
    curve = rate_curve(
        "tutorial_cnn",
        assignments=("schedule.name=step", "schedule.milestones=[0.5]", "epochs=4", "batch=100"),
        images=1000,
    )
    assert curve.rates.tolist() == pytest.approx([0.01] * 20 + [0.001] * 20)
    assert curve.facts["run"] == "4 epochs of 10 steps, 1,000 images in batches of 100"
    assert curve.facts["drops"] == "by 0.1 after epochs 2"
    long = rate_curve("tutorial_cnn", assignments=("epochs=100",), images=1_281_167)
    assert len(long.rates) <= 20_000


def test_facts_in_words() -> None:
    def facts(*assignments: str) -> dict[str, str]:
        return dict(rate_curve("tutorial_cnn", assignments=assignments).facts)

    restarts = facts("schedule.name=warm-restarts", "schedule.cycle=2", "schedule.cycle_growth=2", "epochs=7")
    assert (
        restarts["cycles"] == "end after epochs 2, 6, with a snapshot each; the last is cut off after 1 epoch"
    )
    plateau = facts("schedule.name=plateau")
    assert plateau["levels"] == "0.01, 0.001, 0.0001, 1e-05"
    assert "4 epochs" in plateau["drops"]
    scaled = facts("optimizer.reference_batch=16", "batch=64", "schedule.warmup=0.1")
    assert scaled["scaled"] == "0.04 = 0.01 x 64 / 16"
    assert scaled["warm-up"].startswith("782 steps, 10% of the run, from 5.1")
    assert "in jumps" in facts("schedule.name=exponential", "schedule.staircase=true")["falls"]


def test_the_curve_of_a_run_has_its_images_and_its_drops(tmp_path: Path) -> None:
    data = write_images(tmp_path / "colours")
    train_all(
        tmp_path,
        data,
        **{"schedule.name": "plateau", "schedule.patience": 0, "epochs": 4, "optimizer.lr": 1e-7},
    )
    run = tmp_path / "runs" / "run"
    curve = rate_curve(str(run))
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rates = [each["lr"] for each in logged if each["kind"] == "epoch"]
    assert curve.images == 48
    assert curve.facts["so far"].startswith("1e-07 from epoch 1")
    assert len(set(rates)) == curve.facts["so far"].count("from epoch")
    with pytest.raises(ConvworksError, match="not a run folder"):
        rate_curve(str(tmp_path / "colours"))
    with pytest.raises(ConvworksError, match="no recipe called 'alexnot'"):
        rate_curve("alexnot")


# --- the drawing --------------------------------------------------------------------------------------------


def line(n: int = 101, **options: object) -> Curve:
    x = np.linspace(0, 10, n)
    return Curve(x=x, y=10 - x, x_name="epoch", y_name="rate", **options)  # type: ignore[arg-type]


def test_text_of_a_falling_line() -> None:
    lines = text_curve(line(), width=21, height=11)
    assert lines[0] == "rate over epoch"
    body = [text.partition("|")[2] for text in lines[1:12]]
    for row, text in enumerate(body):
        assert set(text.strip()) == {"*"}
        assert abs(text.index("*") - 2 * row) <= 1
    assert lines[1].startswith("10 |")
    assert lines[11].startswith(" 0 |")
    assert lines[-1].split() == ["0", "10"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_points(n: int) -> None:
    lines = text_curve(line(n))
    assert any("*" in text for text in lines)
    for suffix in (".svg", ".png", ".csv"):
        assert drawn(line(n), suffix=suffix, title="t")


def test_nothing_to_draw() -> None:
    empty = Curve(x=np.array([1.0]), y=np.array([math.nan]), x_name="a", y_name="b")
    assert text_curve(empty) == ["no numbers of b"]


def test_files_are_the_same_bytes_and_of_their_kind() -> None:
    marked = line(marks={"steepest": 3.0})
    starts = {".svg": b"<?xml", ".png": b"\x89PNG", ".csv": b"epoch,rate\n0,10\n"}
    for suffix, start in starts.items():
        once, twice = (drawn(marked, suffix=suffix, title="t") for _ in range(2))
        assert once == twice
        assert once.startswith(start)
    assert b"steepest" in drawn(marked, suffix=".svg", title="t")
    assert check_suffix("A.SVG") == ".svg"
    with pytest.raises(ConvworksError, match="cannot tell from 'lr.pdf'") as caught:
        check_suffix("lr.pdf")
    assert caught.value.code == "U181"
    assert caught.value.try_ == "--out lr.svg"


def test_from_python(tmp_path: Path) -> None:
    import convworks as cw

    found = cw.find_lr(
        "digits", model="lenet5_modern", cache=tmp_path, rates=(1e-3, 10), steps=100, threads=1, device="cpu"
    )
    assert found.setting is not None
    assert 0 < found.setting < 10
