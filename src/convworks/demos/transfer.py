"""Few training examples: from random weights, and from weights that were learnt on other classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convworks.demos.experiment import Examples, Shuffled, accuracy, convnet, digits
from convworks.demos.result import Result
from convworks.randomness import permutation
from convworks.training.initialize import initialize
from convworks.training.loop import Numerics, Position, StepSettings, train_epoch
from convworks.training.optimizer import make_optimizer
from convworks.training.schedule import constant
from convworks.training.transfer import freeze_backbone, stages

SOURCE = (0, 1, 2, 3, 4, 5, 6)  # classes that the weights are learnt on
TARGET = (7, 8, 9)
EACH = (1, 2, 5, 10, 20)  # training images of every new class
NOISE = 1.0  # standard deviation, as large as that of the pixels: so features are worth something
COPIES = 4  # of each image of the known classes, every one with noise of its own
LR = 0.01


def transfer(*, seed: int, quick: bool) -> Result:
    """Accuracy on noisy digits 7 to 9 by their number of training images: from random weights, and from a
    network that knows the noisy digits 0 to 6, at rest but for its last layer, and fine-tuned."""
    draws, sizes, steps = (1, (1, 5, 20), 100) if quick else (3, EACH, 150)
    scores = {each: [0.0, 0.0, 0.0] for each in sizes}
    known = 0.0
    for draw in range(draws):
        tried = _one(seed=seed + draw, sizes=sizes, steps=steps, pretraining=250 if quick else 400)
        known += tried.pop(0)[0] / draws
        for each, row in tried.items():
            scores[each] = [total + score / draws for total, score in zip(scores[each], row, strict=True)]
    rows = tuple((each, *row) for each, row in scores.items())
    few, many = rows[0], rows[-1]
    return Result(
        columns=("images of a class", "random weights", "frozen backbone", "fine-tuned"),
        rows=rows,
        lecture="with little training data, weights learnt on other images beat random ones",
        found=f"with {few[0]} of a class {few[3]:.3f} fine-tuned and {few[2]:.3f} frozen against "
        f"{few[1]:.3f} from "
        f"random weights, with {many[0]} {many[3]:.3f} and {many[2]:.3f} against {many[1]:.3f}; the "
        "network that "
        f"the weights come from has {known:.3f} of its own {len(SOURCE)} classes right",
    )


def _one(*, seed: int, sizes: tuple[int, ...], steps: int, pretraining: int) -> dict[int, list[float]]:
    """Images of a class -> accuracies of the three ways; 0 -> that of the teacher on its own classes."""
    train, test = digits(seed=seed)
    generator = torch.Generator().manual_seed(seed)
    teacher = _network(len(SOURCE), seed=seed)
    _fit(teacher, _noisy(_only(train, SOURCE), COPIES, generator), steps=pretraining, seed=seed)
    new_train, new_test = (_noisy(_only(part, TARGET), 1, generator) for part in (train, test))
    found = {0: [accuracy(teacher, _noisy(_only(test, SOURCE), 1, generator))]}
    for each in sizes:
        found[each] = []
        for way in ("random", "frozen", "fine-tuned"):
            network = _network(len(TARGET), seed=seed + 1)
            if way != "random":
                _take_backbone(teacher, network)
            if way == "frozen":
                freeze_backbone(network)
            _fit(network, _first(new_train, each, seed=seed), steps=steps, seed=seed)
            found[each].append(accuracy(network, new_test))
    return found


def _network(classes: int, *, seed: int) -> nn.Sequential:
    network = convnet()
    network.fc2 = nn.Linear(64, classes)
    initialize(network, "he", seed=seed)
    return network


def _only(part: Examples, classes: tuple[int, ...]) -> Examples:
    """The images of neighbouring classes, numbered from 0."""
    places = torch.tensor([label in classes for label in part.y.tolist()])
    return Examples(part.x[places], part.y[places] - classes[0])


def _noisy(part: Examples, copies: int, generator: torch.Generator) -> Examples:
    x = torch.cat([part.x + NOISE * torch.randn(part.x.shape, generator=generator) for _ in range(copies)])
    return Examples(x, part.y.repeat(copies))


def _first(part: Examples, each: int, *, seed: int) -> Examples:
    """`each` images of every class, drawn so that fewer are always among more."""
    order = torch.from_numpy(permutation(seed, "demos/few", 0, len(part.y)))
    rows: list[Tensor] = [order[part.y[order] == label][:each] for label in range(len(TARGET))]
    chosen = torch.cat(rows)
    return Examples(part.x[chosen], part.y[chosen])


@torch.no_grad()
def _take_backbone(source: nn.Module, target: nn.Module) -> None:
    """All stages but the last."""
    for name in stages(source)[:-1]:
        target.get_submodule(name).load_state_dict(source.get_submodule(name).state_dict())


def _fit(network: nn.Module, train: Examples, *, steps: int, seed: int) -> None:
    """SGD with momentum 0.9 for `steps` steps, in batches of at most 50."""
    optimizer = make_optimizer("sgd", network, lr=LR, momentum=0.9)
    batches, position = Shuffled(train, min(50, len(train.y)), seed), Position()
    while position.step < steps:
        for step in train_epoch(
            network, batches, optimizer, position=position, schedule=constant(),
            settings=StepSettings(seed=seed, lr=LR), numerics=Numerics(),
        ):  # fmt: skip
            if step.step >= steps:
                break
        position.next_epoch()
