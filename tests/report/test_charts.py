"""The drawings: deterministic, without colours of their own, ids apart, and right about epochs."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from matplotlib.backend_bases import RendererBase

from convworks.report import charts as drawing
from convworks.report.charts import INKS, POINTS, Axis, Chart, curves, thin, units
from convworks.report.read import EpochRecord, RunRecord, read_run
from tests.report.helpers import fake_run


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return read_run(fake_run(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def charts(record: RunRecord) -> list[Chart]:
    return curves(record)


def parsed(chart: Chart) -> ET.Element:
    return ET.fromstring(chart.svg.replace("xlink:href", "href"))


def test_the_curves(charts: list[Chart]) -> None:
    assert [each.title for each in charts] == [
        "Loss",
        "Accuracy",
        "Learning rate",
        "Gradient norm",
        "Images a second",
    ]
    legends = " ".join(parsed(charts[0]).itertext())
    assert "training, each step" in legends
    assert "run resumed" in legends
    assert "kept weights" in legends


def test_the_same_numbers_give_the_same_bytes(record: RunRecord, charts: list[Chart]) -> None:
    assert [each.svg for each in curves(record)] == [each.svg for each in charts]


def test_a_figure_is_drawn_once_and_looks_as_if_drawn_twice(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    draw, drawn = Figure.draw, []

    def counted(figure: Figure, renderer: RendererBase) -> None:
        drawn.append(figure)
        draw(figure, renderer)

    monkeypatch.setattr(Figure, "draw", counted)
    once = curves(record)
    assert len(drawn) == len(once)
    drawn.clear()
    monkeypatch.setattr(drawing, "lay_out", lambda figure: None)
    twice = curves(record)
    assert len(drawn) == 2 * len(twice)
    assert [each.svg for each in once] == [each.svg for each in twice]


def test_texts_are_texts_and_the_page_gives_font_and_colour(charts: list[Chart]) -> None:
    for chart in charts:
        assert "<text" in chart.svg
        assert "font-family" not in chart.svg
        assert "<style" not in chart.svg
        assert not re.search(r"#[0-9a-fA-F]{6}\b", chart.svg)
        assert set(re.findall(r"var\((--\w+)\)", chart.svg)) <= set(INKS.values())
        assert "http" not in chart.svg


def test_ids_are_used_and_differ_between_drawings(charts: list[Chart]) -> None:
    ids = [found for chart in charts for found in re.findall(r' id="([^"]*)"', chart.svg)]
    assert len(ids) == len(set(ids)) > 0
    for chart in charts:
        own = set(re.findall(r' id="([^"]*)"', chart.svg))
        assert set(re.findall(r"#([\w-]+)", chart.svg)) == own


def test_the_curves_are_told_in_words(charts: list[Chart]) -> None:
    label = parsed(charts[1]).attrib["aria-label"]
    assert re.fullmatch(
        r"Accuracy\. Training goes from 0\.\d+ to 0\.\d+, lowest 0\.\d+, highest 0\.\d+\. Validation goes .*",
        label,
    )
    assert parsed(charts[1]).attrib["role"] == "img"


def test_tick_labels_keep_their_digits(record: RunRecord) -> None:
    small = tuple(replace(each, lr=0.05 * (each.lr or 0)) for each in record.steps)
    chart = next(each for each in curves(replace(record, steps=small)) if each.title == "Learning rate")
    labels = [text for text in parsed(chart).itertext() if text.startswith("0.")]
    assert labels == ["0.0000", "0.0005", "0.0010", "0.0015", "0.0020", "0.0025"]


def epoch_at(step: int, number: int) -> EpochRecord:
    return EpochRecord(number, step, None, None, None, None, None, None, best=False)


def test_steps_lie_between_the_ends_of_epochs() -> None:
    axis = Axis([epoch_at(10, 0), epoch_at(30, 1)])
    np.testing.assert_allclose(axis.place([0, 5, 10, 20, 30, 40]), [0, 0.5, 1, 1.5, 2, 2.5])
    np.testing.assert_allclose(axis.ends, [1, 2])
    assert axis.unit == "epoch"


def test_before_the_first_epoch_has_ended_the_axis_is_in_steps() -> None:
    axis = Axis([])
    np.testing.assert_allclose(axis.place([0, 7]), [0, 7])
    assert (axis.unit, len(axis.ends)) == ("step", 0)


@pytest.mark.parametrize("n", [0, 1, POINTS, POINTS + 1, 5 * POINTS + 3])
def test_thinning_keeps_means(n: int) -> None:
    x, y = np.arange(n, dtype=np.float64), np.random.default_rng(n).normal(size=n)
    (thin_x, thin_y), per_point = thin(x, y)
    assert len(thin_x) == len(thin_y) <= POINTS
    parts = [slice(i, i + per_point) for i in range(0, n, per_point)]
    np.testing.assert_allclose(thin_x, [x[part].mean() for part in parts])
    np.testing.assert_allclose(thin_y, [y[part].mean() for part in parts])


def test_curves_without_numbers_are_not_drawn(record: RunRecord) -> None:
    young = replace(
        record, epochs=(), steps=tuple(replace(each, gradient_norm=None) for each in record.steps[:5])
    )
    assert [each.title for each in curves(young)] == ["Loss", "Learning rate"]
    assert curves(replace(record, epochs=(), steps=())) == []


def test_a_single_epoch_is_a_dot(record: RunRecord) -> None:
    chart = curves(replace(record, epochs=record.epochs[:1], steps=()))[0]
    assert "<use" in chart.svg


def test_no_global_state_of_pyplot(tmp_path: Path) -> None:
    fake_run(tmp_path, epochs=2)
    code = (
        "import sys; from pathlib import Path; import matplotlib\n"
        "from convworks.report.charts import curves; from convworks.report.read import read_run\n"
        "before = matplotlib.rcParams.copy(); curves(read_run(Path(sys.argv[1])))\n"
        "assert matplotlib.rcParams.copy() == before; assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "flowers-resnet18-01")], check=True)


def test_steps_and_minutes_are_axes_too(record: RunRecord) -> None:
    assert units(record) == ("epoch", "step", "minute")
    assert record.timing is not None
    steps = Axis(record.epochs, unit="step")
    assert steps.place([7, 100]).tolist() == [7.0, 100.0]
    minutes = Axis(record.epochs, unit="minute", timing=record.timing)
    whole = record.timing.epochs[-1][2] / 60
    assert minutes.ends[-1] == pytest.approx(whole)
    assert np.all(np.diff(minutes.ends) > 0)
    timed = replace(record.timing, epochs=record.timing.epochs[:3])
    assert units(replace(record, timing=timed)) == ("epoch", "step")
    assert units(replace(record, epochs=())) == ("step",)


def test_drawings_of_two_axes_have_ids_apart(record: RunRecord) -> None:
    svgs = [each.svg for unit in ("epoch", "step", "minute") for each in curves(record, unit=unit)]
    ids = [found for svg in svgs for found in re.findall(r' id="([^"]*)"', svg)]
    assert len(ids) == len(set(ids))


def test_speed_is_steps_times_batch_by_the_clock(record: RunRecord) -> None:
    chart = next(each for each in curves(record) if each.title == "Images a second")
    assert "lowest" in chart.svg
    # 12 steps of 32 images in 10 s; of the epoch that was stopped after three, nine in its second part
    assert "highest 38.4" in chart.svg
    assert "lowest 28.8" in chart.svg


def test_people_are_a_level_in_the_accuracy(record: RunRecord) -> None:
    plain, level = curves(record)[1], curves(record, human_error=0.0116)[1]
    assert "people" not in plain.svg
    assert "people" in level.svg
