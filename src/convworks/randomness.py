"""Every random draw is a function of (seed, purpose, epoch, index): there is no generator state to save.

The counter-based generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011), vectorised over numpy arrays. A resumed run needs nothing but the step number, and the
number of loader threads cannot change a result.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_MASK = np.uint64(0xFFFFFFFF)
_ROUNDS = 10


def philox4x32(counter: NDArray[np.uint64], key: tuple[int, int]) -> NDArray[np.uint64]:
    """Ten rounds of Philox. `counter` is (..., 4) of 32-bit words held in uint64; so is the result."""
    c0, c1, c2, c3 = (counter[..., i].astype(np.uint64) & _MASK for i in range(4))
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _M0 * c0, _M1 * c2  # 64-bit products of 32-bit words
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            p1 & _MASK,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            p0 & _MASK,
        )
        k0, k1 = (k0 + _W0) & 0xFFFFFFFF, (k1 + _W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1)


def derive_key(seed: int, purpose: str) -> tuple[int, int]:
    """The 64-bit Philox key of a seed and a purpose such as 'order' or 'augment'."""
    digest = hashlib.sha256(f"convworks/{purpose}/{seed}".encode()).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def words(seed: int, purpose: str, epoch: int, indices: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
    """(B, count) uniform 32-bit words for B indices of one epoch."""
    blocks = -(-count // 4)
    index = np.asarray(indices, dtype=np.uint64)
    counter = np.empty((*index.shape, blocks, 4), dtype=np.uint64)
    counter[..., 0] = (index & _MASK)[..., None]
    counter[..., 1] = (index >> np.uint64(32))[..., None]
    counter[..., 2] = np.uint64(epoch)
    counter[..., 3] = np.arange(blocks, dtype=np.uint64)
    return philox4x32(counter, derive_key(seed, purpose)).reshape(*index.shape, blocks * 4)[..., :count]


def uniform(
    seed: int, purpose: str, epoch: int, indices: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """(B, count) numbers in [0, 1), one row for each index."""
    return words(seed, purpose, epoch, indices, count).astype(np.float64) * 2.0**-32


def permutation(seed: int, purpose: str, epoch: int, n: int) -> NDArray[np.int64]:
    """A permutation of range(n): a stable sort by 64-bit keys."""
    pair = words(seed, purpose, epoch, np.arange(n, dtype=np.int64), 2)
    return np.argsort((pair[:, 0] << np.uint64(32)) | pair[:, 1], kind="stable").astype(np.int64)


def derive_seed(seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit seed for torch, for draws inside a network such as dropout: one for each step."""
    digest = hashlib.sha256(f"convworks/{purpose}/{seed}/{step}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
