"""Update rules at the same budget: the same deep network, steps and number of rates tried for each."""

from __future__ import annotations

from torch import nn

from convworks.demos.experiment import Examples, Shuffled, accuracy, digits
from convworks.demos.result import Result
from convworks.layers import stage
from convworks.training.initialize import initialize
from convworks.training.loop import NotFiniteError, Numerics, Position, StepSettings, train_epoch
from convworks.training.optimizer import make_optimizer
from convworks.training.schedule import cosine

# Rule -> (name of the rule, momentum, rates that are tried): three for each, a factor of about three apart.
RULES: dict[str, tuple[str, float, tuple[float, ...]]] = {
    "SGD": ("sgd", 0.0, (0.1, 0.3, 1.0)),
    "SGD with momentum": ("sgd", 0.9, (0.01, 0.03, 0.1)),
    "Nesterov": ("nesterov", 0.9, (0.01, 0.03, 0.1)),
    "RMSprop": ("rmsprop", 0.0, (0.001, 0.003, 0.01)),
    "Adam": ("adam", 0.9, (0.001, 0.003, 0.01)),
}
HELD_OUT = 200  # of the training digits, to choose the rate on
LAYERS = 8


def optimizers(*, seed: int, quick: bool) -> Result:
    """Final accuracy and loss of each rule at its best of three rates, chosen on held-out training digits."""
    train, test = digits(seed=seed)
    chosen_on = Examples(train.x[:HELD_OUT], train.y[:HELD_OUT])
    learnt = Examples(train.x[HELD_OUT:], train.y[HELD_OUT:])
    steps = 60 if quick else 300
    rows = []
    for name, (rule, momentum, rates) in RULES.items():
        tried = []
        for lr in rates:
            network, loss = _trained(rule, momentum, lr, learnt, steps=steps, seed=seed)
            tried.append((accuracy(network, chosen_on), -lr, accuracy(network, test), loss))
        best = max(tried)
        rows.append((name, -best[1], best[0], best[2], best[3]))
    order = sorted(rows, key=lambda row: -float(row[2]))
    return Result(
        columns=("rule", "rate", "held out", "test", "training loss"),
        rows=tuple(rows),
        lecture="optimizers as one remedy for depth: SGD with momentum, Nesterov, Adam, RMSprop",
        found=f"{LAYERS} layers without batch norm, {steps} steps and three rates each; on held-out digits "
        + ", ".join(f"{row[0]} {row[2]:.3f}" for row in order),
    )


def deep(width: int = 32) -> nn.Sequential:
    """A perceptron of eight layers of tanh: the gradient passes through all of them."""
    parts: dict[str, nn.Module] = {"flatten": nn.Flatten()}
    inputs = 64
    for number in range(1, LAYERS):
        parts[f"fc{number}"] = stage(linear=nn.Linear(inputs, width), act=nn.Tanh())
        inputs = width
    return stage(**parts, out=nn.Linear(inputs, 10))


def _trained(
    rule: str, momentum: float, lr: float, train: Examples, *, steps: int, seed: int
) -> tuple[nn.Module, float]:
    """(network, mean training loss of the last tenth of the steps); as far as it came where it diverged."""
    network = deep()
    initialize(network, "xavier", seed=seed)
    optimizer = make_optimizer(rule, network, lr=lr, momentum=momentum, beta2=0.99)
    batches, position, losses = Shuffled(train, 50, seed), Position(), [float("inf")]
    try:
        while position.step < steps:
            for step in train_epoch(
                network, batches, optimizer, position=position, schedule=cosine(steps),
                settings=StepSettings(seed=seed, lr=lr), numerics=Numerics(),
            ):  # fmt: skip
                losses.append(step.loss)
                if step.step >= steps:
                    break
            position.next_epoch()
    except NotFiniteError:
        pass
    last = losses[1:][-max(1, steps // 10) :] or losses
    return network, sum(last) / len(last)
