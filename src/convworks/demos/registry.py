"""The demonstrations by name. Each module is imported when its demonstration is run."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from convworks.demos.result import Result
from convworks.errors import unknown_name


@dataclass(frozen=True, slots=True)
class Demo:
    """A demonstration: `convworks.demos.MODULE.NAME(seed=..., quick=...)` runs it."""

    name: str
    title: str
    module: str

    def run(self, *, seed: int, quick: bool) -> Result:
        """The measured table, on one thread: networks this small are slower on more.

        torch's generators and number of threads are as before afterwards.
        """
        import torch

        function = getattr(import_module(f"convworks.demos.{self.module}"), self.name)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            with torch.random.fork_rng():
                result: Result = function(seed=seed, quick=quick)
        finally:
            torch.set_num_threads(threads)
        return result


DEMOS: dict[str, Demo] = {
    row.name: row
    for row in (
        Demo("initialization", "the signal through thirty layers, for three sizes of weights", "signals"),
        Demo("zeros", "why weights that are all zero, or all equal, do not learn", "signals"),
        Demo("gradients", "gradients by depth: plain, batch norm, residual", "signals"),
        Demo("activations", "one convnet with each activation function", "comparisons"),
        Demo("normalization", "none, response normalisation, batch norm, dropout", "comparisons"),
        Demo("dropout", "weight scaling against the mean over many masks", "comparisons"),
        Demo("relu", "ReLU and tanh to 25 % training error, on raw and standardised pixels", "speed"),
        Demo("batch_norm", "layers of sigmoids with and without batch norm: steps to accuracies", "speed"),
        Demo("norm_order", "batch norm before and after ReLU, beside CaffeNet's numbers", "speed"),
        Demo("regularization", "128 units, with L2, with sparsity: weights and activations", "regularizing"),
        Demo("ablation", "what dropout, moved images and mixup bring, with intervals", "regularizing"),
        Demo("optimizers", "five update rules on eight layers, at the same budget", "optimizers"),
        Demo("shifts", "shifted digits: a perceptron and a convnet", "translation"),
        Demo("pooling", "what pooling leaves unchanged, sees and saves", "translation"),
        Demo("equivariance", "a shifted input gives a shifted map", "translation"),
        Demo("series", "a one-dimensional convnet on sensor series", "sequences"),
        Demo("transfer", "few images: random weights, and features of other classes", "transfer"),
        Demo("threads", "a batch split over threads", "parallel"),
    )
}


def demo(name: str) -> Demo:
    """The demonstration of that name. Raises U101 with the closest."""
    if name not in DEMOS:
        raise unknown_name("demonstration", name, DEMOS, try_="convworks demo {near}")
    return DEMOS[name]
