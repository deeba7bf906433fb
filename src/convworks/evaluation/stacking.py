"""Stacking: a small model that learns, from the members' probabilities, which class it is.

Wolpert 1992, "Stacked generalization"; with probabilities as inputs, as Ting and Witten 1999 found best. The
model is multinomial logistic regression on log-probabilities:

    logits = mean_g ln p_g + [ln p_1, ..., ln p_G] D + b
    loss = summed cross-entropy + s (|D|^2 + |b|^2) / 2

With D = b = 0 it is the geometric mean of the members: what few images cannot tell falls back to an average.
The strength s is chosen by cross-validation on the images of the fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from convworks.errors import ConvworksError
from convworks.evaluation.ensemble import Probabilities, out_of_fold
from convworks.randomness import permutation

FLOOR = 1e-6  # a smaller probability counts as this, so that one sure mistake does not outweigh all else
MOST_NUMBERS = 10_000_000  # in D
_ITERATIONS = 500
_TRIAL_ITERATIONS = 40  # of a fit that only compares strengths
STRENGTHS = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
FOLDS = 5
MOST_IMAGES = 2_000  # that strengths are compared on: s is the precision of a prior, whatever their number
MOST_TRIED = 250_000  # numbers in D up to which strengths are compared; above, the fourth is taken


@dataclass(frozen=True, slots=True, eq=False)
class Stacking:
    """A fitted meta-model of G groups and K classes."""

    weight: NDArray[np.float64]  # D (G K, K)
    bias: NDArray[np.float64]  # b (K,)

    def combine(self, sources: Sequence[Probabilities]) -> NDArray[np.float64]:
        """(N, K) probabilities of G sources (N, K)."""
        logits, features = _inputs(sources)
        logits = logits + features @ self.weight + self.bias
        raised = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
        found: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
        return found


def fit_stacking(
    members: Sequence[Probabilities],
    labels: NDArray[np.int64],
    *,
    learnt: NDArray[np.bool_],
    groups: Sequence[Sequence[int]],
    strength: float | None = None,
) -> Stacking:
    """The meta-model of M members' (N, K) probabilities, from out-of-fold predictions only.

    `learnt` (M, N) says which member was trained on which image: an image is described by the members of each
    group that did not learn it. Without a strength it is chosen by cross-validation. Raises A477 where a
    group learnt an image with all its members, U264 where there is no image, U265 for a model of too many
    numbers.
    """
    sources = out_of_fold(members, learnt, groups)
    if not len(labels):
        raise ConvworksError("U264", "a meta-model cannot be fitted to no image", try_="convworks check DATA")
    groups_, classes = len(sources), sources[0].shape[1]
    if groups_ * classes * classes > MOST_NUMBERS:
        raise ConvworksError(
            "U265",
            f"stacking {groups_} members of {classes:,} classes takes {groups_ * classes**2:,} numbers",
            why="there would be more of them than images to fit them to",
            try_="--weights fitted",
        )
    offset, features = (torch.from_numpy(each) for each in _inputs(sources))
    target = torch.from_numpy(np.asarray(labels, dtype=np.int64))
    return _fitted(
        offset, features, target, _chosen(offset, features, target) if strength is None else strength
    )


def _chosen(offset: torch.Tensor, features: torch.Tensor, target: torch.Tensor) -> float:
    """The strength with the lowest log-loss on images that were not in the fit."""
    n = len(target)
    if features.shape[1] * offset.shape[1] > MOST_TRIED or n < 2 * FOLDS:
        return STRENGTHS[3]
    tried = torch.from_numpy(permutation(0, "stacking", 0, n))[:MOST_IMAGES]
    offset, features, target = offset[tried], features[tried], target[tried]
    fold = torch.arange(len(tried)) % FOLDS
    losses = []
    for strength in STRENGTHS:
        total = 0.0
        for number in range(FOLDS):
            fit, held = fold != number, fold == number
            found = _fitted(offset[fit], features[fit], target[fit], strength, _TRIAL_ITERATIONS)
            D, b = torch.from_numpy(found.weight), torch.from_numpy(found.bias)
            logits = offset[held] + features[held] @ D + b
            total += float(F.cross_entropy(logits, target[held], reduction="sum"))
        losses.append(total)
    return STRENGTHS[int(np.argmin(losses))]


def _fitted(
    offset: torch.Tensor,
    features: torch.Tensor,
    target: torch.Tensor,
    strength: float,
    iterations: int = _ITERATIONS,
) -> Stacking:
    classes = offset.shape[1]
    D = torch.zeros(features.shape[1], classes, dtype=torch.float64, requires_grad=True)
    b = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [D, b],
        max_iter=iterations,
        history_size=20,
        tolerance_grad=1e-9,
        tolerance_change=1e-14,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(offset + features @ D + b, target, reduction="sum")
        loss = loss + strength / 2 * ((D * D).sum() + (b * b).sum())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return Stacking(D.detach().numpy().copy(), b.detach().numpy().copy())


def _inputs(sources: Sequence[Probabilities]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The geometric mean's logits (N, K) and the log-probabilities of all sources (N, G K)."""
    logs = [np.log(np.maximum(np.asarray(p, dtype=np.float64), FLOOR)) for p in sources]
    return np.mean(logs, axis=0), np.concatenate(logs, axis=1)
