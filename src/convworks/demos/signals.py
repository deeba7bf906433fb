"""What initial weights and depth do to the signal and to the gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convworks.demos.experiment import accuracy, digits, fit
from convworks.demos.result import Cell, Result
from convworks.insight.health import gradient_norms
from convworks.layers import stage
from convworks.layers.residual import Residual
from convworks.training.initialize import Gaussian, initialize, signal_propagation


def initialization(*, seed: int, quick: bool) -> Result:
    """Standard deviation of the activations by layer, for weights of 0.01, He's and 1.0."""
    depth = 30
    table = signal_propagation(depth=depth, width=512, examples=64 if quick else 512, seed=seed)
    shown = [1, 2, 5, 10, 15, 20, 25, 30]
    rows = tuple((layer, *(row[layer - 1] for row in table.values())) for layer in shown)
    kept = table["he"][-1] / table["he"][0]
    return Result(
        columns=("layer", "N(0, 0.01^2)", "He, sqrt(2/n)", "N(0, 1)"),
        rows=rows,
        lecture="too small: the signal shrinks as it passes through each layer; too large: it grows",
        found=f"after {depth} layers of ReLU He's weights keep {kept:.2f} of the first layer's deviation, "
        f"0.01 leaves {table['0.01'][-1]:.0e}, 1.0 makes {table['1'][-1]:.0e}",
    )


def zeros(*, seed: int, quick: bool) -> Result:
    """Distinct hidden units, rank of the updates and accuracy: from zeros, equal weights, He's."""
    train, test = digits(seed=seed)
    steps = 60 if quick else 120
    rows: list[tuple[str, int, int, float]] = []
    for name in ("zeros", "all 0.1", "He"):
        network = stage(
            flatten=nn.Flatten(), fc1=nn.Linear(64, 32), tanh=nn.Tanh(), fc2=nn.Linear(32, 10)
        ).double()
        initialize(network, "he" if name == "He" else "zeros", seed=seed)
        if name == "all 0.1":
            with torch.no_grad():
                network.get_parameter("fc1.weight").fill_(0.1)
                network.get_parameter("fc2.weight").fill_(0.1)
        before = network.get_parameter("fc1.weight").detach().clone()
        _descend(network, train.x.double(), train.y, steps=steps)
        after = network.get_parameter("fc1.weight").detach()
        distinct = len(set(map(tuple, (1000 * after).round().tolist())))  # rounding grows in training
        rank = int(torch.linalg.matrix_rank((after - before).float(), rtol=1e-5))
        network.float()
        rows.append((name, distinct, rank, accuracy(network, test)))
    return Result(
        columns=("initial weights", "distinct units of 32", "rank of all updates", "accuracy"),
        rows=tuple(rows),
        lecture="all zero initialization: every unit has the same output and the same gradient",
        found=f"from zeros {rows[0][1]} distinct unit and an update of rank {rows[0][2]}: accuracy "
        f"{rows[0][3]:.3f}, from He's weights {rows[2][3]:.3f}",
    )


def _descend(network: nn.Module, x: Tensor, y: Tensor, *, steps: int) -> None:
    """Full-batch gradient descent."""
    for _ in range(steps):
        gradients = torch.autograd.grad(F.cross_entropy(network(x), y), list(network.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                parameter.sub_(0.5 * gradient)


def deep_network(kind: str, depth: int, *, width: int = 12) -> nn.Sequential:
    """`depth` 3x3 convolutions of one width: plain, with batch norm, or in residual pairs with it."""

    def block(maps: int) -> list[nn.Module]:
        norm = [] if kind == "plain" else [nn.BatchNorm2d(width)]
        return [nn.Conv2d(maps, width, 3, padding=1), *norm, nn.ReLU()]

    parts = block(1)
    if kind == "residual":
        for _ in range((depth - 1) // 2):
            branch = nn.Sequential(*block(width), *block(width)[:-1])
            parts.append(Residual(branch, activation=nn.ReLU()))
    else:
        for _ in range(depth - 1):
            parts += block(width)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def gradients(*, seed: int, quick: bool) -> Result:
    """Gradient norms of the convolutions from first to last, and the accuracy after a short training."""
    depth = 21
    train, test = digits(seed=seed)
    kinds = ("plain", "batch norm", "residual")
    columns, scores = {}, []
    for kind in kinds:
        network = deep_network(kind, depth)
        initialize(network, Gaussian(std=0.1), seed=seed)
        x, y = train.x[:100], train.y[:100]
        norms = gradient_norms(network, x, lambda logits, y=y: F.cross_entropy(logits, y))  # type: ignore[misc]
        columns[kind] = [norm.parameters for norm in norms if norm.kind == "Conv2d"]
        steps = 40 if quick else 200
        scores.append(
            fit(network, train, test, steps=steps, lr=0.05, seed=seed, scheme=Gaussian(std=0.1)).accuracy
        )
    places = [1, 6, 11, 16, 21]
    rows: list[tuple[Cell, ...]] = [(str(at), *(columns[kind][at - 1] for kind in kinds)) for at in places]
    shrink = {kind: columns[kind][0] / columns[kind][-1] for kind in kinds}
    rows.append(("first / last", *(shrink[kind] for kind in kinds)))
    rows.append(("accuracy after", *scores))
    return Result(
        columns=("convolution", "plain", "batch norm", "residual"),
        rows=tuple(rows),
        lecture="gradients vanish or explode with depth; residual units and batch norm let them through",
        found=f"the first of {depth} layers has {shrink['plain']:.0e} of the last layer's gradient if plain, "
        f"{shrink['batch norm']:.1f} with batch norm, {shrink['residual']:.1f} with residual units",
    )
