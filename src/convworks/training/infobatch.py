"""InfoBatch: a part of the images that are learnt already is left out, and the rest of them counts for more.

An image whose last loss is below the mean of all is left out of an epoch with probability r, and counts
1 / (1 - r) times in epochs in which it stays: the expected gradient is that of all images. The first epoch
and the last ones see every image.

Source: Qin et al., "InfoBatch: lossless training speed up by unbiased dynamic data pruning", ICLR 2024,
section 2. Departure: every batch of the epoch's order is thinned, where the paper cuts the epoch into fewer
batches. So the number of steps, and with it the schedule, weight decay and averaged weights, is as without.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convworks.data.loader import Batch
from convworks.randomness import uniform

FEWEST = 2  # images in a batch: batch normalisation cannot train on one


class InfoBatch:
    """The last loss of every image, and the images of a batch that are worth a step.

    `images` is the number of rows of the data set, `last` the first of the epochs, from 0, that see all
    images again. What decides about an image in an epoch is known when the epoch begins: threads may ask for
    batches ahead, and a resumed run chooses the same.
    """

    def __init__(self, images: int, *, ratio: float, last: int, seed: int) -> None:
        self.ratio, self.last, self.seed = ratio, last, seed
        self.losses = torch.full((images,), math.inf)  # of images not seen yet
        self.threshold = torch.full((), -math.inf, dtype=torch.float64)  # of the epoch that is under way
        self.counts = torch.zeros(2, dtype=torch.int64)  # images computed, and those that they stand for

    def begin(self, epoch: int) -> None:
        """The threshold of an epoch: the mean loss of the images seen so far, or none."""
        known = self.losses[self.losses.isfinite()]
        thins = 0 < epoch < self.last and len(known) > 0
        self.threshold.fill_(known.double().mean() if thins else -math.inf)

    def choose(self, epoch: int, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Which of a batch's rows stay, and how often each of them counts, (B',) float32.

        A batch of which fewer than two would stay is left whole.
        """
        low = self.losses.numpy()[rows] < float(self.threshold)
        stays = ~(low & (uniform(self.seed, "infobatch", epoch, rows, 1)[:, 0] < self.ratio))
        if stays.sum() < FEWEST:
            return rows, np.ones(len(rows), dtype=np.float32)
        weights = np.where(low, 1.0 / (1.0 - self.ratio), 1.0).astype(np.float32)
        return rows[stays], weights[stays]

    def record(self, batch: Batch, losses: Tensor) -> None:
        """The losses (B,) of a batch, before its step."""
        self.losses[torch.from_numpy(batch.rows)] = losses.detach().float().cpu()
        self.counts += torch.tensor([len(batch.rows), len(batch.labels)])

    @property
    def left_out(self) -> float:
        """Share of the images of all batches so far."""
        computed, of = int(self.counts[0]), int(self.counts[1])
        return (of - computed) / max(of, 1)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs: the tensors themselves."""
        return {"losses": self.losses, "threshold": self.threshold, "counts": self.counts}
