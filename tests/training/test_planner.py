"""The planner chooses by what it measured: here the clock is ours, so that the choice can be checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from convworks.data.loader import Batch
from convworks.errors import ConvworksError
from convworks.training import planner, step_timing
from convworks.training.loop import StepSettings
from convworks.training.optimizer import make_optimizer
from convworks.training.planner import (
    Plan,
    candidates,
    choose,
    choose_device,
    choose_workers,
    make_plan,
    measuring_seconds,
    plan_from_dict,
)
from convworks.training.step_timing import Candidate, Trainee, measure


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def batch() -> Batch:
    return Batch(x=torch.randn(8, 1, 8, 8), y=torch.arange(8) % 3, rows=np.arange(8))


def plan(**wanted: object) -> Plan:
    settings: dict[str, object] = {"precision": "auto", "memory_format": "auto", "threads": 0, **wanted}
    return make_plan(
        network(),
        batch(),
        make_optimizer=lambda trainee: make_optimizer("sgd", trainee, lr=0.1),
        settings=StepSettings(seed=0, lr=0.1),
        device="cpu",
        batch_path="RAM",
        allocator="test",
        steps=10,
        **settings,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("bf16", "expected"), [(0.50, "bf16"), (0.90, "bf16"), (0.97, "fp32"), (1.0, "fp32"), (2.0, "fp32")]
)
def test_bf16_must_win_by_a_margin(bf16: float, expected: str) -> None:
    # On a machine where bf16 loses, fp32 is picked.
    tried = candidates(device="cpu", precision="auto", memory_format="channels_last", threads=2, cpus=2)
    taken = {c.name: bf16 if c.numerics.precision == "bf16" else 1.0 for c in tried}
    chosen, reason = choose(tried, taken)
    assert chosen.numerics.precision == expected
    assert f"{1 / bf16:.2f}x" in reason


def test_the_fastest_memory_format_and_thread_count_win() -> None:
    tried = candidates(device="cpu", precision="fp32", memory_format="auto", threads=0, cpus=4)
    assert {c.threads for c in tried} == {4, 2}
    taken = {c.name: 1.0 for c in tried} | {"fp32 channels_last 2 threads": 0.4}
    assert choose(tried, taken)[0].name == "fp32 channels_last 2 threads"


def test_what_the_user_fixed_is_not_measured_against() -> None:
    tried = candidates(device="cpu", precision="bf16", memory_format="contiguous", threads=3, cpus=8)
    assert [c.name for c in tried] == ["bf16 contiguous 3 threads"]
    assert [
        c.threads
        for c in candidates(device="cpu", precision="fp32", memory_format="contiguous", threads=0, cpus=1)
    ] == [1]


def test_a_slow_candidate_is_tried_once_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    counts = {"quick": 0, "slow": 0}
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now)

    def timer(name: str, cost: float):
        def step() -> float:
            nonlocal now
            now += cost
            counts[name] += 1
            return cost

        return step

    taken = measure({"quick": timer("quick", 0.01), "slow": timer("slow", 0.1)}, seconds=0.6)
    assert taken == {"quick": pytest.approx(0.01), "slow": pytest.approx(0.1)}
    assert counts["slow"] <= 3
    assert counts["quick"] > 3 * counts["slow"]


def slow_network(now: list[float], *, seconds_each: float) -> nn.Module:
    """A network whose every training image takes so long on our own clock."""

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            now[0] += seconds_each * len(x)
            return self.linear(x.flatten(1))  # type: ignore[no-any-return]

    return Slow()


@pytest.mark.parametrize(
    ("seconds_each", "accumulate", "images"),
    [(0.001, 1, 64), (0.3 / 64, 1, 64), (0.03, 1, 10), (5.0, 1, 4), (5.0, 3, 12), (5.0, 20, 64)],
)
def test_a_slow_step_is_measured_on_a_part_of_the_batch(
    seconds_each: float, accumulate: int, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now[0])
    full = Batch(x=torch.randn(64, 1, 8, 8), y=torch.arange(64) % 3, rows=np.arange(64))
    trainee = Trainee(
        slow_network(now, seconds_each=seconds_each),
        lambda trained: make_optimizer("sgd", trained, lr=0.1),
        full,
        StepSettings(seed=0, lr=0.1, accumulate=accumulate),
    )
    candidate = Candidate(planner.Numerics("fp32", "contiguous", "cpu"), 1)
    trainee.shorten(candidate)
    assert trainee.share * 64 == images
    assert trainee.timer(candidate)() == pytest.approx(images * seconds_each)


def trainee_of(network: nn.Module, images: int) -> Trainee:
    full = Batch(x=torch.randn(images, 1, 8, 8), y=torch.arange(images) % 3, rows=np.arange(images))
    return Trainee(
        network, lambda trained: make_optimizer("sgd", trained, lr=0.1), full, StepSettings(seed=0, lr=0.1)
    )


class Costly(nn.Module):
    """A step costs `fixed` seconds and more for each image; some steps are disturbed."""

    def __init__(
        self, now: list[float], *, fixed: float, each: float, disturbed: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 3)
        self.now, self.fixed, self.each, self.disturbed, self.steps = now, fixed, each, disturbed, 0

    def __deepcopy__(self, memo: object) -> Costly:
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        self.now[0] += (self.fixed + self.each * len(x)) * (10 if self.steps in self.disturbed else 1)
        return self.linear(x.flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("fixed", "each", "disturbed", "least", "most"),
    [
        (0.1, 0.002, (), 70, 100),  # of few images what a step costs anyway is most
        (0.0, 0.003, (2,), 90, 101),  # the step that is timed first takes ten times as long
        (0.0, 0.003, (3, 4, 5, 8), 90, 101),
        (0.0, 0.0019, (), 200, 200),  # nearly all of them are all
        (0.5, 0.1, (), 4, 4),
    ],
)
def test_a_part_is_as_large_as_can_be_afforded(
    fixed: float,
    each: float,
    disturbed: tuple[int, ...],
    least: int,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now[0])
    trainee = trainee_of(Costly(now, fixed=fixed, each=each, disturbed=disturbed), images=200)
    trainee.shorten(Candidate(planner.Numerics("fp32", "contiguous", "cpu"), 1))
    assert least <= trainee.share * 200 <= most
    assert now[0] < 40 * step_timing.LONG


@pytest.mark.parametrize("margin", [None, 1.02])
@pytest.mark.parametrize("gains", [(1.5,), (0.8,), (1.5, 0.7), (1.01, 1.03)], ids=str)
def test_a_comparison_goes_on_while_its_answer_is_not_clear(
    margin: float | None, gains: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, pairs = [0.0], [0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now[0])

    def first() -> float:
        pairs[0] += 1
        now[0] += 0.1
        return gains[pairs[0] % len(gains)]

    def second() -> float:
        now[0] += 0.1
        return 1.0

    found = step_timing.ratio(first, second, seconds=2.0, margin=margin)
    assert found == pytest.approx(np.median(gains), abs=0.41)
    unclear = margin is not None and max(gains) - min(gains) > 2 * step_timing.AS_GOOD
    assert pairs[0] == pytest.approx(31 if unclear else 11, abs=1)  # the first pair does not count


class Host:
    """A host that takes processors away while the steps of these numbers run, from 0."""

    def __init__(self, *busy: int) -> None:
        self.busy, self.asked = busy, -1

    def taken(self) -> float:
        self.asked += 1  # before a step that is timed, and after each
        return 0.5 if self.asked - 1 in self.busy else step_timing.DISTURBED


@pytest.mark.parametrize(
    ("busy", "steps"), [((), 1), ((0,), 2), ((0, 1, 2), 4), (tuple(range(100)), 5), ((1,), 1)], ids=str
)
def test_a_step_is_timed_again_where_the_host_took_processors_away(
    busy: tuple[int, ...], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now[0])
    costly = Costly(now, fixed=1.0, each=0.0)
    trainee = trainee_of(costly, images=4)
    one_step = trainee.timer(Candidate(planner.Numerics("fp32", "contiguous", "cpu"), 1))
    one_step()
    before, trainee._host = costly.steps, Host(*busy)  # type: ignore[assignment]
    assert one_step() == 1.0
    assert costly.steps - before == steps
    assert trainee._lost == pytest.approx(min(steps - 1, step_timing.MOST_LOST))


@pytest.mark.parametrize("taken", [0.0, 0.04, 0.37])
def test_the_plan_says_what_the_host_took(taken: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner.HostShare, "taken", lambda self: taken)
    reasons = plan(precision="fp32").reasons
    said = "the host gave 37% of the processors' time to others while this was measured"
    assert (reasons[-1] == said) == (taken > 0.05)
    assert sum("the host" in reason for reason in reasons) == (taken > 0.05)


def test_a_plan_from_a_part_tells_of_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now[0])
    found = make_plan(
        slow_network(now, seconds_each=0.1),
        Batch(x=torch.randn(32, 1, 8, 8), y=torch.arange(32) % 3, rows=np.arange(32)),
        make_optimizer=lambda trainee: make_optimizer("sgd", trainee, lr=0.1),
        settings=StepSettings(seed=0, lr=0.1),
        device="cpu",
        batch_path="RAM",
        allocator="test",
        steps=10,
    )
    assert found.images_per_second == pytest.approx(10)
    assert found.checkpoint_every == round(planner.SAVE_SECONDS / 3.2)  # of whole batches
    assert set(found.measured.values()) == {10.0}
    assert "measured with 4 of a batch's 32 images" in found.reasons[0]
    assert now[0] < 32 * 0.1 * 5, "in less than five whole steps"


def test_measuring_takes_a_small_share_of_the_run() -> None:
    assert measuring_seconds(1.0) == planner.SHORTEST
    assert measuring_seconds(60.0) == pytest.approx(1.8)
    assert measuring_seconds(1e6) == planner.LONGEST


def test_a_plan_leaves_the_network_and_the_threads_alone() -> None:
    trained = network()
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    found = plan()
    for key, value in network().state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    assert torch.get_num_threads() == threads
    assert len(state) == len(torch.random.get_rng_state())
    assert found.measured
    assert found.images_per_second > 0
    assert found.checkpoint_every >= 1


def test_a_plan_is_kept_and_comes_back() -> None:
    found = plan(precision="fp32", memory_format="contiguous", threads=1)
    assert plan_from_dict(found.to_dict()) == found
    assert found.lines()[0] == "fp32, contiguous, cpu (1 thread), 0 batch threads, images in RAM"
    assert any("as asked" in line for line in found.lines())


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp8"},
        {"threads": 0},
        {"memory_format": "os.system"},
        {"device": "toaster"},
        {"checkpoint_every": 0},
    ],
)
def test_a_damaged_plan_is_refused(change: dict[str, object]) -> None:
    good = plan(precision="fp32", memory_format="contiguous", threads=1).to_dict()
    with pytest.raises(ConvworksError, match="A416"):
        plan_from_dict({**good, **change})
    with pytest.raises(ConvworksError, match="A416"):
        plan_from_dict({k: v for k, v in good.items() if k not in change})


def test_batch_threads_are_added_only_for_a_gain() -> None:
    base = plan(precision="fp32", memory_format="contiguous", threads=1)
    assert choose_workers(base, {0: 100.0, 1: 100.2, 2: 99}, batch_seconds=1, step_seconds=9).workers == 0
    chosen = choose_workers(base, {0: 100.0, 1: 120.0, 2: 119.9}, batch_seconds=1, step_seconds=9)
    assert chosen.workers == 1
    assert "10% of a step's time" in chosen.reasons[-1]


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConvworksError, match="R520.*there is no device 'cuda:99'"):
        choose_device("cuda:99")
    with pytest.raises(ConvworksError, match="R520.*'gpu'"):
        choose_device("gpu")
