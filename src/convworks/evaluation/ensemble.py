"""Several models as one: members aligned by class name, weights on the simplex, greedy selection.

Shapes: M members, G groups of them, N images, K classes. A group is a model that was trained several times on
parts of the data (folds, bags); a member that stands alone is a group of one. Weights are fitted for groups,
on images that every group can be asked about without having learnt them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convworks.errors import ConvworksError
from convworks.evaluation.averaging import average
from convworks.evaluation.metrics import LOG_CLIP, log_loss

Probabilities = NDArray[np.floating]
ROUNDS = 30  # of greedy selection: a weight is a multiple of one over the number of rounds
_STEPS = 5_000
_GAP = 1e-10  # above the lowest log-loss that there is; certified by the duality gap


def aligned(probabilities: Probabilities, classes: Sequence[str], target: Sequence[str]) -> Probabilities:
    """(N, K) with columns in the order of `classes` -> in the order of `target`, by name.

    Raises U263 where the names are not the same set.
    """
    require_same_classes(classes, target)
    place = {name: column for column, name in enumerate(classes)}
    return probabilities[:, [place[name] for name in target]]


def require_same_classes(classes: Sequence[str], target: Sequence[str], *, who: str = "a member") -> None:
    """Raises U263, with the names, where two models do not know the same classes."""
    missing = [name for name in target if name not in set(classes)]
    extra = [name for name in classes if name not in set(target)]
    if not missing and not extra:
        return
    parts = [
        f"{who} {verb} {', '.join(names[:5])}"
        for verb, names in (("lacks", missing), ("adds", extra))
        if names
    ]
    raise ConvworksError(
        "U263",
        f"the members do not know the same classes: {'; '.join(parts)}",
        why="an average needs an answer of every member for every class",
        try_="train the members on the same classes",
    )


def mean_of(
    sources: Sequence[Probabilities], weights: Sequence[float] | NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """(N, K) average of sources in their order; without weights, all count the same. Raises U251."""
    names = [f"{number:06d}" for number in range(len(sources))]
    shares = None if weights is None else dict(zip(names, map(float, weights), strict=True))
    return average(dict(zip(names, sources, strict=True)), shares)


def groups_of(keys: Sequence[object]) -> list[list[int]]:
    """Positions with equal keys together, in the order of their first appearance."""
    found: dict[object, list[int]] = {}
    for position, key in enumerate(keys):
        found.setdefault(key, []).append(position)
    return list(found.values())


def group_average(members: Sequence[Probabilities], groups: Sequence[Sequence[int]]) -> list[Probabilities]:
    """(N, K) of each group: the mean of its members, as a new image is answered."""
    return [mean_of([members[m] for m in group]) for group in groups]


def out_of_fold(
    members: Sequence[Probabilities], learnt: NDArray[np.bool_], groups: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    """(N, K) of each group, an image answered only by the members that did not learn it.

    `learnt` (M, N) says which member was trained on which image. Raises A477 where an image was learnt by all
    members of a group: a fit on it would trust the member that knows its images by heart.
    """
    found = []
    for number, group in enumerate(groups):
        clean = ~learnt[list(group)]  # (members of the group, N)
        leaks = int((~clean.any(axis=0)).sum())
        if leaks:
            raise ConvworksError(
                "A477",
                f"member {number + 1} was trained on {leaks:,} of {clean.shape[1]:,} images that weights are "
                "to be fitted on",
                why="weights are fitted on out-of-fold predictions only: what was learnt looks too good",
                try_="fit on images that no member learnt, or train the members with --folds 5",
            )
        total = sum(members[m] * clean[i][:, None] for i, m in enumerate(group))
        found.append(np.asarray(total, dtype=np.float64) / clean.sum(axis=0)[:, None])
    return found


def uniform(count: int) -> NDArray[np.float64]:
    return np.full(count, 1 / count)


def fit_weights(sources: Sequence[Probabilities], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(G,) weights, none negative, of sum one, at which the average of (N, K) sources has least log-loss.

    The loss -mean ln(sum_g w_g p_g) is convex in w. Pairwise Frank-Wolfe steps with exact line search from
    the uniform weights go down only, so that the result is never worse than they are on these images; it
    ends where the duality gap max_g mean(p_g / p) - 1 shows that the loss is lowest.
    """
    _require(sources, labels)
    P = np.maximum(_true(sources, labels), LOG_CLIP)  # (N, G)
    w = uniform(P.shape[1])
    for _ in range(_STEPS):
        mix = P @ w
        slope = (P / mix[:, None]).mean(axis=0)  # minus the gradient
        if slope.max() - 1 <= _GAP:
            break
        towards = int(slope.argmax())
        held = np.flatnonzero(w > 0)
        away = int(held[slope[held].argmin()])
        w = _moved(w, towards, away, _best_step(mix, P[:, towards] - P[:, away], w[away]))
    even = uniform(P.shape[1])
    return w if log_loss(mean_of(sources, w), labels) <= log_loss(mean_of(sources, even), labels) else even


def _best_step(mix: NDArray[np.float64], change: NDArray[np.float64], most: float) -> float:
    """The step in [0, most] at which -mean ln(mix + step change) is lowest."""

    def rises(step: float) -> bool:
        return float((change / (mix + step * change)).mean()) < 0

    if not rises(most):
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if rises(middle) else (middle, high)
    return low


def _moved(w: NDArray[np.float64], towards: int, away: int, step: float) -> NDArray[np.float64]:
    w = w.copy()
    w[towards] += step
    w[away] = 0.0 if step >= w[away] else w[away] - step
    found: NDArray[np.float64] = w / w.sum()
    return found


def greedy_weights(
    sources: Sequence[Probabilities], labels: NDArray[np.int64], *, rounds: int = ROUNDS
) -> NDArray[np.float64]:
    """(G,) weights of forward selection with replacement: again and again the source that helps most.

    Caruana et al. 2004, "Ensemble selection from libraries of models". The best of all rounds is kept, so it
    is never worse on these images than the best single source.
    """
    _require(sources, labels)
    P = _true(sources, labels)  # (N, G)
    counts = np.zeros(P.shape[1])
    best, kept = np.inf, counts
    total = np.zeros(len(P))
    for number in range(1, rounds + 1):
        losses = -np.log(np.maximum((total[:, None] + P) / number, LOG_CLIP)).mean(axis=0)
        chosen = int(losses.argmin())
        counts = counts.copy()
        counts[chosen] += 1
        total = total + P[:, chosen]
        if losses[chosen] < best:
            best, kept = float(losses[chosen]), counts
    found: NDArray[np.float64] = kept / kept.sum()
    return found


def _true(sources: Sequence[Probabilities], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, G) the probability that each source gives to the true class."""
    rows = np.arange(len(labels))
    return np.stack([np.asarray(p, dtype=np.float64)[rows, labels] for p in sources], axis=1)


def _require(sources: Sequence[Probabilities], labels: NDArray[np.int64]) -> None:
    """Raises U264 where there is nothing to fit weights to."""
    shapes = {p.shape for p in sources}
    if not sources or not len(labels) or len(shapes) != 1 or next(iter(shapes))[0] != len(labels):
        raise ConvworksError(
            "U264",
            f"weights cannot be fitted to {len(sources)} members and {len(labels)} images "
            f"(shapes {', '.join(map(str, sorted(shapes)))})",
            try_="give probabilities (N, K) of every member for the same labelled images",
        )
