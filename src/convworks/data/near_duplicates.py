"""Pictures that are nearly the same: resized, compressed again, cropped a little, brightened, mirrored.

1. Every picture becomes 32x32 grey. The signs of its lowest 8x8 cosine coefficients (without the first) are a
   hash of 63 bits: of the whole picture and of 35 parts of it that a tenth of the side or less is cut from,
   so that a picture and a crop of it have a part in common. The signs depend on neither gain nor offset.
2. Hashes that agree in 10 to 20 chosen bits meet in one bucket; a dozen choices are tried. In a bucket each
   meets its nearest neighbours only, so the work grows with n log n, whatever the pictures are.
3. Pairs within DISTANCE bits are laid over each other (`likeness.register`), first at 32 pixels, then at up
   to 64. From a correlation of SAME on they are one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convworks import randomness
from convworks.data.likeness import (
    Doubles,
    Floats,
    Integers,
    Overlay,
    common_part,
    overlay_of,
    register,
    sample,
    saturating,
)
from convworks.data.store import ScanInterrupted

SAME = 0.975  # correlation; on photographs copies have more, and two takes of one thing less
SMALL, SAME_SMALL = 48, 0.98  # stored side below which fewer pixels have to say it, and what they have to say
SMALLEST = 32  # pixels of the stored side; below, unlike pictures can agree in every pixel that is left
FLATTEST = 5.0  # grey levels, standard deviation; less has no signs to speak of
SIDE, FINE = 32, 64
FREQUENCIES = 8
DISTANCE = 9  # of 63 bits
BANDS = 12
NEIGHBOURS = 12  # entries that each entry of a bucket is compared with
MOST = 16  # candidates of one picture that are looked at closely
PROMISING, HOPEFUL = 0.6, 0.9  # correlation before registration, and after it at 32 pixels
COARSE_GRID, FINE_GRID = 24, 56
COARSE_STEPS, FINE_STEPS = 6, 3
AT_ONCE = 256  # pictures or pairs; with their gradients and normal equations they stay below 50 MB
SPANS = ((0.0, 1.0), (0.05, 1.0), (0.0, 0.95), (0.1, 1.0), (0.0, 0.9), (0.05, 0.95))
PARTS = len(SPANS) ** 2
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
SAME_COLOURS = 0.8  # correlation of what is not grey; less is a picture in other colours
GREY = 5.0  # levels, root mean square; a picture with less has no colour to compare

Images = NDArray[np.uint8]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two pictures, by their place, the first before the second, and how the second lies over the first."""

    one: int
    two: int
    likeness: float  # correlation of brightness where both show the same, SAME to 1
    mirrored: bool
    offset: tuple[float, float]  # y and x, as parts of the side of the (mirrored) second
    scale: tuple[float, float]


def near_duplicates(
    images: Images, *, rows: Sequence[int] | None = None, should_stop: Callable[[], bool] = lambda: False
) -> list[NearPair]:
    """Pairs among images (N, H, W, C) of one size, or among some `rows` of them, in order of their places.

    Images below SMALLEST pixels and flat ones have no near duplicates. Pictures that are alike to the last
    pixel are found too. A pair may be missed; every pair that is given was compared pixel by pixel. Raises
    ScanInterrupted.
    """
    if len(images) < 2 or min(images.shape[1:3]) < SMALLEST:
        return []
    small, contrast = _small(images)
    looked_at = np.ones(len(images), dtype=bool) if rows is None else np.isin(np.arange(len(images)), rows)
    kept = np.flatnonzero(looked_at & (contrast >= FLATTEST))
    candidates = _candidates(small[kept], should_stop)
    found: list[NearPair] = []
    for start in range(0, len(candidates), AT_ONCE):
        if should_stop():
            raise ScanInterrupted
        found += _confirmed(images, small, kept, candidates[start : start + AT_ONCE])
    best: dict[tuple[int, int], NearPair] = {}
    for pair in sorted(found, key=lambda pair: -pair.likeness):
        best.setdefault((pair.one, pair.two), pair)
    return [best[key] for key in sorted(best)]


def grey(images: Images) -> Floats:
    """(N, H, W, 1 or 3) -> (N, H, W)"""
    wide = images.astype(np.float32)
    found = wide[..., 0] if images.shape[-1] == 1 else wide @ LUMA
    return np.asarray(found, dtype=np.float32)


def shrinking(size: int, target: int) -> Floats:
    """(target, size): each row averages the pixels below one pixel of the smaller picture."""
    edges = np.arange(target + 1) * size / target
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(size)
    cover = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return np.asarray(cover / cover.sum(axis=1, keepdims=True), dtype=np.float32)


def _small(images: Images) -> tuple[Images, Doubles]:
    """(N, 32, 32) and its standard deviation, in blocks so that a mapped file is read once."""
    down, across = shrinking(images.shape[1], SIDE), shrinking(images.shape[2], SIDE)
    small = np.empty((len(images), SIDE, SIDE), dtype=np.uint8)
    contrast = np.empty(len(images))
    for start in range(0, len(images), AT_ONCE):
        block = grey(images[start : start + AT_ONCE])
        shrunk = down @ block @ across.T
        small[start : start + AT_ONCE] = np.rint(shrunk)
        contrast[start : start + AT_ONCE] = shrunk.std(axis=(1, 2))
    return small, contrast


# Candidates


def cosines(low: float, high: float) -> Floats:
    """(8, 32): the lowest cosines over the part from `low` to `high` of the side, 0 outside of it."""
    edges = np.arange(SIDE + 1) / SIDE
    inside = np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * SIDE
    place = ((edges[1:] + edges[:-1]) / 2 - low) / (high - low)
    waves: Doubles = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * place) * inside
    return waves.astype(np.float32)


def hashes(small: NDArray[np.integer]) -> Hashes:
    """(N, 32, 32) -> (N, 36): signs of 63 coefficients of every part, low frequencies in low bits."""
    waves = np.concatenate([cosines(*span) for span in SPANS])  # (6 * 8, 32)
    frequency = np.add.outer(np.arange(FREQUENCIES), np.arange(FREQUENCIES)).ravel()
    order = np.argsort(frequency, kind="stable")[1:]
    bits = np.uint64(1) << np.arange(len(order), dtype=np.uint64)
    found = np.empty((len(small), PARTS), dtype=np.uint64)
    n, k = len(SPANS), FREQUENCIES
    for start in range(0, len(small), AT_ONCE):
        block = small[start : start + AT_ONCE].astype(np.float32)
        values = (waves @ block @ waves.T).reshape(-1, n, k, n, k).transpose(0, 1, 3, 2, 4)
        signs = values.reshape(len(block), PARTS, k * k)[..., order] > 0
        found[start : start + AT_ONCE] = np.einsum("npb,b->np", signs, bits)
    return found


def _candidates(small: Images, should_stop: Callable[[], bool]) -> Integers:
    """Rows (one, two, part of one, part of two, mirrored): pairs with near hashes, by their nearest parts."""
    n = len(small)
    codes = np.concatenate([hashes(small), hashes(small[:, :, ::-1])]).reshape(-1)
    found: list[Integers] = []
    for chosen in _bands(len(codes)):
        if should_stop():
            raise ScanInterrupted
        found.append(_close(codes, chosen, n))
    return _nearest(np.concatenate(found), n)


def _bands(entries: int) -> Iterator[Integers]:
    """Positions of the bits of each band; permutations of all 63 are cut into bands."""
    width = int(np.clip(np.log2(max(entries, 2)) - 3, 10, 20))
    per_order = 63 // width
    for band in range(BANDS):
        order = randomness.permutation(0, "near-duplicates", band // per_order, 63)
        yield order[band % per_order * width :][:width]


def _close(codes: Hashes, chosen: Integers, n: int) -> Integers:
    """Rows (one, two, part of one, part of two, mirrored, distance) of entries that meet in one band."""
    key = np.zeros(len(codes), dtype=np.uint64)
    for place, bit in enumerate(chosen.tolist()):
        key |= ((codes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(place)
    owner = np.arange(len(codes), dtype=np.uint64) // np.uint64(PARTS)
    _, first = np.unique(
        key * np.uint64(2 * n) + owner, return_index=True
    )  # one part of each picture is enough
    order = first[np.lexsort((codes[first], key[first]))]
    keys, values = key[order], codes[order]
    found = [np.empty((0, 6), dtype=np.int64)]
    for away in range(1, NEIGHBOURS + 1):
        same = keys[away:] == keys[:-away]
        if not same.any():
            break
        distance = np.bitwise_count(values[away:] ^ values[:-away])
        at = np.flatnonzero(same & (distance <= DISTANCE))
        found.append(_rows(order[at], order[at + away], distance[at].astype(np.int64), n))
    return np.concatenate(found)


def _rows(left: Integers, right: Integers, distance: Integers, n: int) -> Integers:
    """Pairs of entries as rows, the picture with the lower place first.

    Only the second may be mirrored: the mirror of one on two is the mirror of two on one.
    """
    swap = left // PARTS % n > right // PARTS % n
    left, right = np.where(swap, right, left), np.where(swap, left, right)
    one, two = left // PARTS, right // PARTS
    keep = (one < n) & (one != two % n)
    columns = (one, two % n, left % PARTS, right % PARTS, two >= n, distance)
    return np.stack([column[keep].astype(np.int64) for column in columns], axis=1)


def _nearest(rows: Integers, n: int) -> Integers:
    """Each pair once, with its nearest parts; of a picture with many candidates the MOST nearest ones."""
    rows = rows[np.lexsort((rows[:, 5], rows[:, 4], rows[:, 1], rows[:, 0]))]
    pair = (rows[:, 0] * n + rows[:, 1]) * 2 + rows[:, 4]
    rows = rows[np.flatnonzero(np.diff(pair, prepend=-1))]
    rows = rows[np.argsort(rows[:, 5], kind="stable")]
    keep = (_rank(rows[:, 0], n) < MOST) | (_rank(rows[:, 1], n) < MOST)
    return rows[keep][:, :5]


def _rank(values: Integers, n: int) -> Integers:
    """How many equal values stand before each one."""
    order = np.argsort(values, kind="stable")
    starts = np.searchsorted(values[order], np.arange(n))
    rank = np.empty_like(values)
    rank[order] = np.arange(len(values)) - starts[values[order]]
    return rank


# Confirmation


def _confirmed(images: Images, small: Images, kept: Integers, rows: Integers) -> list[NearPair]:
    """The candidates that are one picture. `kept` are the places of the rows' pictures among the images."""
    one, two, mirrored = kept[rows[:, 0]], kept[rows[:, 1]], rows[:, 4].astype(bool)
    ends = np.array(SPANS, dtype=np.float64)
    span_one, span_two = (
        np.stack([ends[rows[:, c] // len(SPANS)], ends[rows[:, c] % len(SPANS)]], axis=1) for c in (2, 3)
    )
    a, b = small[one].astype(np.float32), _turned(small[two], mirrored).astype(np.float32)
    offset, scale = overlay_of(span_one, span_two)
    first = register(a, b, offset, scale, grid=COARSE_GRID, steps=0)
    keep = np.flatnonzero(first.correlation >= PROMISING)
    if not len(keep):
        return []
    coarse = register(a[keep], b[keep], offset[keep], scale[keep], grid=COARSE_GRID, steps=COARSE_STEPS)
    near = coarse.correlation >= HOPEFUL
    keep, coarse = keep[near], coarse.take(near)
    pairs: list[NearPair] = []
    for start in range(0, len(keep), AT_ONCE // 4):
        part = keep[start : start + AT_ONCE // 4]
        pairs += _fine(
            images, one[part], two[part], mirrored[part], coarse.take(slice_rows(start, len(part)))
        )
    return pairs


def slice_rows(start: int, count: int) -> Integers:
    return np.arange(start, start + count)


def _fine(
    images: Images, one: Integers, two: Integers, mirrored: NDArray[np.bool_], coarse: Overlay
) -> list[NearPair]:
    """Registration at up to 64 pixels, and the colours."""
    left, right = images[one], _turned(images[two], mirrored)
    a, b = (_shrunk(grey(each)) for each in (left, right))
    grid = min(FINE_GRID, a.shape[1] * FINE_GRID // FINE)
    fine = register(a, b, coarse.offset, coarse.scale, grid=grid, steps=FINE_STEPS)
    likeness = saturating(a, b, fine, grid=grid)
    enough = SAME if min(a.shape[1:]) >= SMALL else SAME_SMALL
    same = (likeness >= enough) & _same_colours(left, right, fine)
    return [
        NearPair(
            int(one[i]),
            int(two[i]),
            float(likeness[i]),
            bool(mirrored[i]),
            (float(fine.offset[i, 0]), float(fine.offset[i, 1])),
            (float(fine.scale[i, 0]), float(fine.scale[i, 1])),
        )
        for i in np.flatnonzero(same)
    ]


def _turned(images: Images, mirrored: NDArray[np.bool_]) -> Images:
    images = images.copy()
    images[mirrored] = images[mirrored][:, :, ::-1]
    return images


def _shrunk(pictures: Floats) -> Floats:
    height, width = (min(side, FINE) for side in pictures.shape[1:])
    if pictures.shape[1:] == (height, width):
        return pictures
    across = shrinking(pictures.shape[2], width)
    found = shrinking(pictures.shape[1], height) @ pictures @ across.T
    return np.asarray(found, dtype=np.float32)


def _same_colours(one: Images, two: Images, under: Overlay) -> NDArray[np.bool_]:
    """Whether pictures agree in colour as in brightness; one without colour agrees with all."""
    fits = np.ones(len(one), dtype=bool)
    if one.shape[-1] == 1:
        return fits
    low, high = common_part(under.offset, under.scale)
    u = low[..., None] + (high - low)[..., None] * (np.arange(16) + 0.5) / 16
    w = under.offset[..., None] + under.scale[..., None] * u
    colours: list[Doubles] = []
    for pictures, places in ((one, u), (two, w)):
        planes = [sample(pictures[..., c].astype(np.float32), places[:, 0], places[:, 1]) for c in range(3)]
        stacked = np.stack(planes, axis=-1).astype(np.float64)
        colours.append(stacked - (stacked @ LUMA)[..., None])
    size = [np.sqrt((each**2).mean(axis=(1, 2, 3))) for each in colours]
    alike = (colours[0] * colours[1]).mean(axis=(1, 2, 3)) / np.maximum(size[0] * size[1], 1e-9)
    found: NDArray[np.bool_] = (alike >= SAME_COLOURS) | (np.minimum(*size) < GREY)
    return found
