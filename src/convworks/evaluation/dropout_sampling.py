"""Dropout at work when predicting: the mean over many thinned networks that share their weights.

In training, dropout draws another network for every step; scaling the weights is the cheap approximation of
their average, and drawing networks is the other (Srivastava et al. 2014, section 7.5; Gal and Ghahramani
2016, "Dropout as a Bayesian approximation"). Only dropout is set to work, not batch norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convworks.errors import ConvworksError
from convworks.evaluation.inference import EvaluationBatches, StoppedEarlyError
from convworks.layers.dropconnect import DropConnect
from convworks.layers.dropout import GaussianDropout, KeepDropout
from convworks.layers.fold import DROPOUTS
from convworks.randomness import derive_seed
from convworks.training.loop import Numerics, seed_draws

SAMPLED: tuple[type[nn.Module], ...] = (*DROPOUTS, KeepDropout, GaussianDropout, DropConnect)
SAMPLES = 30


def dropout_layers(network: nn.Module) -> list[nn.Module]:
    """The layers that draw."""
    return [each for each in network.modules() if isinstance(each, SAMPLED)]


def require_dropout(network: nn.Module, *, name: str) -> None:
    """Raises U269 where a network has nothing to draw."""
    if not dropout_layers(network):
        raise ConvworksError(
            "U269",
            f"{name} has no dropout layer, so every forward pass would be the same",
            try_="leave --mc-dropout out, or train alexnet, vgg_d, nin or another network with dropout",
        )


@contextmanager
def dropping(network: nn.Module) -> Iterator[None]:
    """The network in evaluation, with its dropout layers as in training; afterwards as it was."""
    layers = dropout_layers(network)
    before = [each.training for each in layers]
    try:
        for each in layers:
            each.training = True
        yield
    finally:
        for each, was in zip(layers, before, strict=True):
            each.training = was


@torch.inference_mode()
def sampled_probabilities(
    network: nn.Module,
    loader: EvaluationBatches,
    numerics: Numerics,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> NDArray[np.float32]:
    """(N, K): the mean of the softmax of `samples` passes of each batch, in the loader's order.

    Draws follow from the seed, the number of the batch and the number of the pass: the same images in the
    same batches get the same answer. Raises U269 (no dropout layer) and StoppedEarlyError.
    """
    require_dropout(network, name=type(network).__name__)
    parts: list[NDArray[np.float32]] = []
    devices = [numerics.device] if numerics.device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices), dropping(network):
        for number, batch in enumerate(loader.epoch(0)):
            if should_stop():
                raise StoppedEarlyError
            total: torch.Tensor | None = None
            for sample in range(samples):
                seed_draws(derive_seed(seed, "mc-dropout", number * samples + sample), numerics.device)
                with numerics.autocast():
                    logits = network(batch.x)
                p = torch.softmax(logits.double(), dim=1)
                total = p if total is None else total + p
            assert total is not None
            parts.append((total / samples).float().cpu().numpy())
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32)
