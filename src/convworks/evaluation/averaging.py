"""The one average: of probabilities over views of an image, over members of an ensemble, over protocols.

Sources are arrays of one shape, such as (N, K), in a sequence or under names. Of every number the terms are
sorted before they are added, and the sum carries its own rounding error along: the result does not depend on
the order of the sources, not by a bit, and is the exact mean but for the last bit. numpy only, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convworks.errors import ConvworksError

Float = NDArray[np.float64]
Sources = Mapping[str, ArrayLike] | Sequence[ArrayLike]
Weights = Mapping[str, float] | Sequence[float] | NDArray[np.floating]
_SPLIT = 2.0**27 + 1  # halves the 53 bits of a float64 (Veltkamp 1968)
_BLOCK = 2**18  # numbers of each source that are sorted and added at once


def average(sources: Sources, weights: Weights | None = None) -> Float:
    """sum_s w_s P_s / sum_s w_s over arrays P_s of one shape; without weights, all count the same.

    Weights go by name where sources do, else by position. With probabilities in, the rows of the result are
    probabilities. Raises U251 where there is no source, where shapes differ, and for weights that are not
    those of the sources, negative, not finite, or all zero.
    """
    names: Sequence[str | int]
    if isinstance(sources, Mapping):
        names, arrays = list(sources), [np.asarray(each) for each in sources.values()]
    else:
        names, arrays = range(len(sources)), [np.asarray(each) for each in sources]
    _check_shapes(names, arrays)
    shares = None if weights is None else _shares(names, weights)
    result = np.empty(arrays[0].shape, dtype=np.float64)
    flat, columns = result.reshape(-1), [array.reshape(-1) for array in arrays]
    for start in range(0, flat.size, _BLOCK):
        terms = np.stack([each[start : start + _BLOCK] for each in columns]).astype(np.float64)  # (S, M)
        if shares is None:
            flat[start : start + _BLOCK] = _total(terms) / len(arrays)
        else:
            products = _products(terms, np.array(shares)[:, None])
            flat[start : start + _BLOCK] = _total(products) / math.fsum(shares)
    return result


def _total(terms: Float) -> Float:
    """(S, M) -> (M,), in any order of the S, with the error of every addition carried (Neumaier 1974)."""
    terms = np.sort(terms, axis=0)
    total, lost = np.zeros(terms.shape[1]), np.zeros(terms.shape[1])
    for term in terms:
        after = total + term
        larger = np.abs(total) >= np.abs(term)
        lost += np.where(larger, (total - after) + term, (term - after) + total)
        total = after
    return np.asarray(total + lost)


def _products(terms: Float, shares: Float) -> Float:
    """terms * shares, and below them the exact error of each product (Dekker 1971)."""
    product = terms * shares
    high, share_high = (_SPLIT * each - (_SPLIT * each - each) for each in (terms, shares))
    low, share_low = terms - high, shares - share_high
    error = ((high * share_high - product) + high * share_low + low * share_high) + low * share_low
    return np.concatenate([product, error])


def _check_shapes(names: Sequence[str | int], arrays: Sequence[NDArray[np.generic]]) -> None:
    if not arrays:
        raise _unfit("there is nothing to average", "give one array of probabilities or more")
    for name, array in zip(names, arrays, strict=True):
        if array.shape != arrays[0].shape:
            what = f"source {name} has the shape {array.shape}, and {names[0]} has {arrays[0].shape}"
            raise _unfit(what, "give probabilities (N, K) of the same images and classes")


def _shares(names: Sequence[str | int], weights: Weights) -> list[float]:
    """One weight for each source, in the order of the sources."""
    if isinstance(weights, Mapping):
        if set(weights) != set(names):
            what = f"the weights are for {', '.join(weights)}; the sources are {', '.join(map(str, names))}"
            raise _unfit(what, "give one weight for each source")
        given = [float(weights[str(name)]) for name in names]
    else:
        given = [float(weight) for weight in weights]
    if len(given) != len(names):
        raise _unfit(f"there are {len(given)} weights for {len(names)} sources", "give one for each source")
    if not all(math.isfinite(share) and share >= 0 for share in given) or math.fsum(given) <= 0:
        raise _unfit(f"weights must be 0 or more, and not all 0: {given}", "for example 0.5 and 0.5")
    return given


def _unfit(what: str, try_: str) -> ConvworksError:
    return ConvworksError("U251", what, why="an average is taken number by number", try_=try_)
