"""InfoBatch against its definition: who may be left out, the expected gradient, what is counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convworks.data.loader import Batch, Thinned
from convworks.errors import ConvworksError
from convworks.flows.prepare import infobatch_for
from convworks.flows.technique_notes import technique_notes
from convworks.recipes.recipe import AugmentSpec, InfobatchSpec, Recipe
from convworks.training.infobatch import InfoBatch
from convworks.training.loop import Numerics, StepSettings, accumulate_gradients
from convworks.training.optimizer import make_optimizer
from convworks.training.regularizers import Regularizers

LOSSES = np.array([0.1, 3.0, 0.2, 0.9, 5.0, 0.3, 0.1, 0.4])  # mean 1.25: six are below it


def seen(*, ratio: float = 0.5, last: int = 10, seed: int = 0, losses: np.ndarray = LOSSES) -> InfoBatch:
    thinning = InfoBatch(len(losses), ratio=ratio, last=last, seed=seed)
    record(thinning, range(len(losses)), losses)
    return thinning


def record(thinning: InfoBatch, rows: Iterable[int], losses: Iterable[float], of: int | None = None) -> None:
    """As the training loop does, for a batch that stands for `of` images."""
    known, each = np.array(list(rows)), torch.tensor(list(losses))
    y = torch.zeros(len(known), dtype=torch.int64)
    whole = Thinned(torch.ones(len(known)), torch.zeros(of or len(known), dtype=torch.int64))
    thinning.record(Batch(torch.zeros(len(known), 1), y, known, thinned=whole), each)


def test_only_images_below_the_mean_are_left_out() -> None:
    thinning, rows = seen(), np.arange(8)
    left_out: set[int] = set()
    for epoch in range(1, 10):
        thinning.begin(epoch)
        stay, weights = thinning.choose(epoch, rows)
        assert {1, 4} <= set(stay)
        np.testing.assert_array_equal(weights, np.where(LOSSES[stay] < LOSSES.mean(), 2.0, 1.0))
        left_out |= set(rows) - set(stay)
    assert left_out == {0, 2, 3, 5, 6, 7}


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.8])
def test_every_image_counts_once_in_the_mean_over_epochs(ratio: float) -> None:
    losses = np.random.default_rng(0).exponential(size=400)
    thinning, epochs, rows = seen(ratio=ratio, last=10_000, losses=losses), 400, np.arange(400)
    counted = np.zeros(400)
    for epoch in range(1, epochs + 1):
        thinning.begin(epoch)
        stay, weights = thinning.choose(epoch, rows)
        counted[stay] += weights
    counted /= epochs
    low = losses < losses.mean()
    np.testing.assert_array_equal(counted[~low], 1.0)
    error = math.sqrt(ratio / (1 - ratio) / epochs)  # of a mean of 1/(1-r) with chance 1-r
    assert np.abs(counted[low] - 1).max() < 4.5 * error
    assert counted[low].std() == pytest.approx(error, rel=0.2)


def test_the_first_epoch_and_the_last_ones_see_all() -> None:
    fresh = InfoBatch(8, ratio=0.9, last=3, seed=0)
    fresh.begin(0)
    for epoch, thins in ((0, False), (1, True), (2, True), (3, False), (4, False)):
        thinning = fresh if epoch == 0 else seen(ratio=0.9, last=3)
        thinning.begin(epoch)
        stay, weights = thinning.choose(epoch, np.arange(8))
        assert (len(stay) < 8) is thins, epoch
        assert thins or (weights == 1).all()


def test_an_image_that_was_never_seen_stays_and_says_nothing_about_the_mean() -> None:
    thinning = InfoBatch(4, ratio=0.9, last=10, seed=0)
    record(thinning, [0, 1], [1.0, 3.0])
    thinning.begin(1)
    assert float(thinning.threshold) == 2.0
    for epoch in range(1, 10):
        assert {1, 2, 3} <= set(thinning.choose(epoch, np.arange(4))[0])


def test_the_choice_depends_on_seed_epoch_and_image_and_not_on_the_batch() -> None:
    def chosen(seed: int, epoch: int, *batches: range) -> list[int]:
        thinning = seen(seed=seed)
        thinning.begin(epoch)
        return [int(row) for batch in batches for row in thinning.choose(epoch, np.array(batch))[0]]

    whole = range(8)
    assert chosen(0, 1, whole) == chosen(0, 1, whole) == chosen(0, 1, range(5), range(5, 8))
    assert len({tuple(chosen(seed, epoch, whole)) for seed in range(4) for epoch in range(1, 5)}) > 8


def test_what_is_learnt_in_an_epoch_does_not_change_its_threshold() -> None:
    thinning = seen()
    thinning.begin(1)
    before = thinning.choose(1, np.arange(4, 8))
    record(thinning, range(4), [100.0] * 4)
    for one, other in zip(before, thinning.choose(1, np.arange(4, 8)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_was_left_out_of_all_batches() -> None:
    thinning = InfoBatch(8, ratio=0.5, last=10, seed=0)
    assert thinning.left_out == 0
    record(thinning, range(8), LOSSES)
    record(thinning, [1, 4], [1.0, 1.0], of=8)
    assert thinning.left_out == pytest.approx(6 / 16)


def test_a_batch_is_never_left_with_fewer_than_two_images() -> None:
    sizes = set()
    for epoch in range(1, 200):
        thinning = seen(ratio=0.9, last=1000, losses=np.array([0.1, 0.1, 0.1, 50.0]))
        thinning.begin(epoch)
        stay, weights = thinning.choose(epoch, np.arange(3))
        sizes.add(len(stay))
        assert len(stay) < 3 or (weights == 1).all() or (weights == 10).all()
    assert sizes == {2, 3}


# --- in the loss --------------------------------------------------------------------------------------------


def small() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(3, 4).double(), torch.randn(6, 3).double(), torch.arange(6) % 4


def gradient(x: torch.Tensor, y: torch.Tensor, thinned: Thinned | None, **changes: object) -> torch.Tensor:
    network = small()[0]
    settings = replace(StepSettings(seed=0, lr=0.1, regularizers=Regularizers()), **changes)  # type: ignore[arg-type]
    optimizer = make_optimizer("sgd", network, lr=0.1)
    batch = Batch(x, y, np.arange(len(y)), thinned=thinned)
    accumulate_gradients(network, optimizer, batch, settings, Numerics())
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    "changes",
    [{}, {"label_smoothing": 0.1}, {"class_weights": torch.tensor([0.5, 2.0, 1.0, 3.0])}],
    ids=["plain", "smoothed", "weighted"],
)
def test_the_expected_gradient_is_that_of_all_images(changes: dict[str, object]) -> None:
    """All 2^3 outcomes for three images that may be left out, with their probabilities."""
    _, x, y = small()
    ratio, may = 0.3, [0, 2, 5]
    expected = torch.zeros_like(gradient(x, y, None, **changes))
    for stays in itertools.product([False, True], repeat=len(may)):
        out = [row for row, stay in zip(may, stays, strict=True) if not stay]
        rows = [row for row in range(6) if row not in out]
        weights = torch.tensor([1 / (1 - ratio) if row in may else 1.0 for row in rows])
        chance = math.prod(1 - ratio if stay else ratio for stay in stays)
        expected += chance * gradient(x[rows], y[rows], Thinned(weights, y), **changes)
    torch.testing.assert_close(expected, gradient(x, y, None, **changes), rtol=1e-6, atol=1e-8)


def test_loss_accuracy_and_the_losses_of_a_thinned_batch() -> None:
    network, x, y = small()
    rows, weights = [0, 1, 3, 4], torch.tensor([2.0, 1.0, 2.0, 1.0])
    each = F.cross_entropy(network(x), y, reduction="none").detach()
    right = (network(x).argmax(1) == y).double()
    for parts in (1, 2, 3):
        found = accumulate_gradients(
            network,
            make_optimizer("sgd", network, lr=0.1),
            Batch(x[rows], y[rows], np.array(rows), thinned=Thinned(weights, y)),
            StepSettings(seed=0, lr=0.1, accumulate=parts),
            Numerics(),
        )
        assert found.loss == pytest.approx(float((weights * each[rows]).sum()) / 6, rel=1e-6)
        assert found.correct == pytest.approx(6 * float((weights * right[rows]).sum() / weights.sum()))
        assert found.losses is not None
        torch.testing.assert_close(found.losses.double(), each[rows], rtol=1e-5, atol=1e-6)


def test_parts_of_a_thinned_batch_add_up() -> None:
    _, x, y = small()
    thinned = Thinned(torch.tensor([2.0, 1.0, 2.0, 1.0, 4.0]), y)
    whole, parts = (gradient(x[:5], y[:5], thinned, accumulate=n) for n in (1, 3))
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-8)


# --- in a recipe --------------------------------------------------------------------------------------------


def test_the_recipe_says_until_when() -> None:
    assert infobatch_for(Recipe(), 100) is None
    found = infobatch_for(Recipe(epochs=20, seed=3, infobatch=InfobatchSpec(ratio=0.5)), 100)
    assert found is not None
    assert (found.ratio, found.last, found.seed, len(found.losses)) == (0.5, 18, 3, 100)
    always = infobatch_for(Recipe(epochs=20, infobatch=InfobatchSpec(ratio=0.5, until=1.0)), 100)
    assert always is not None
    assert always.last == 20


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_images_have_no_loss_of_their_own(mix: str) -> None:
    with pytest.raises(ConvworksError, match=f"infobatch.ratio and augment.{mix}") as caught:
        Recipe(augment=AugmentSpec(**{mix: 0.4}), infobatch=InfobatchSpec(ratio=0.5))
    assert caught.value.code == "U291"


@pytest.mark.parametrize(("epochs", "said"), [(20, "from epoch 2 to 18"), (1, "leaves nothing out")])
def test_the_run_says_so(epochs: int, said: str) -> None:
    recipe = Recipe(epochs=epochs, infobatch=InfobatchSpec(ratio=0.5))
    assert any(said in note.text for note in technique_notes(recipe, nn.Identity(), Regularizers()))
    assert not any(
        "InfoBatch" in note.text for note in technique_notes(Recipe(), nn.Identity(), Regularizers())
    )
