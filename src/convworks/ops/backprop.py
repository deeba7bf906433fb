"""Back-propagation without autograd: modules of three boxes, and a chain that runs them.

Every module has the boxes of the lecture, each a formula of its input x and of the gradient dy = dC/dy:

    forward      y = F(x, w)
    to_input     dC/dx = dC/dy . dF/dx
    to_weights   dC/dw = dC/dy . dF/dw

The energy of a network is the SUM of the costs of its examples, E = sum_m C(x_n^m, y^m), so its gradient is
the sum of theirs: dE/dw = sum_m dC^m/dw. (The slide prints C/dw: the sign of the derivative before C is
missing.) Convolution, pooling and batch norm are in `backprop_spatial`, training in `backprop_trainer`.
Sources: lectures, introduction to convolutional networks (back-propagation); Rumelhart, Hinton, Williams,
"Learning representations by back-propagating errors", 1986.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from convworks.ops.activation import ACTIVATIONS, Activation
from convworks.ops.arguments import bad_argument, one_of


def numbers(value: Any) -> Tensor:
    """A tensor as it is, without its graph; anything else, such as nested lists, as float64."""
    if isinstance(value, Tensor):
        return value.detach() if value.requires_grad else value
    return torch.tensor(value, dtype=torch.float64)


class BackpropModule(ABC):
    """One layer: its parameters by name, the gradients of the last backward pass, and the three boxes.

    The parameters are held, not copied: two modules given the same tensor share it, and an update moves it
    by the sum of both gradients, as for tied weights.
    """

    def __init__(self, **parameters: Tensor) -> None:
        self.parameters = parameters
        self.gradients: dict[str, Tensor] = {}
        self.x: Tensor | None = None  # the input of the last forward pass

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """y = F(x, w)."""

    @abstractmethod
    def to_input(self, x: Tensor, dy: Tensor) -> Tensor:
        """dC/dx, of the shape of x."""

    def to_weights(self, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        """dC/dw for each parameter, of its shape, summed over the examples; nothing without parameters."""
        return {}

    def __call__(self, x: Tensor) -> Tensor:
        """The forward box; the input is kept for the backward pass."""
        with torch.no_grad():
            self.x = numbers(x)
            return self.forward(self.x)

    def backward(self, dy: Tensor) -> Tensor:
        """Both backward boxes at the last input: `gradients` is replaced, dC/dx is returned.

        Raises ValueError before the first forward pass.
        """
        if self.x is None:
            raise ValueError(f"{type(self).__name__}.backward before a forward pass: there is no input yet")
        with torch.no_grad():
            self.gradients = self.to_weights(self.x, dy)
            return self.to_input(self.x, dy)


class Linear(BackpropModule):
    """y = W x, plus b where a bias is given. (N, I) -> (N, O) for W (O, I) and b (O,).

    dC/dx = dC/dy W; dC/dW is the outer product of dC/dy and x; dC/db = dC/dy. A row of x is one example.
    Source: lectures, back-propagation, linear module.
    """

    def __init__(self, weight: Any, bias: Any = None) -> None:
        w = numbers(weight)
        if w.ndim != 2:
            raise bad_argument("weight", tuple(w.shape), why="a linear module has a matrix (outputs, inputs)")
        given = {} if bias is None else {"bias": numbers(bias)}
        super().__init__(weight=w, **given)

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.parameters["weight"].T
        return y + self.parameters["bias"] if "bias" in self.parameters else y

    def to_input(self, x: Tensor, dy: Tensor) -> Tensor:
        return dy @ self.parameters["weight"]

    def to_weights(self, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        outer = dy.T @ x  # (O, I): the sum over examples of dy_i x_j
        return {"weight": outer, "bias": dy.sum(dim=0)} if "bias" in self.parameters else {"weight": outer}


class Pointwise(BackpropModule):
    """y = h(x + b), elementwise, with h a row of ACTIVATIONS; without a bias y = h(x).

    (N, ...) -> (N, ...); b has any shape that broadcasts to x: (F,) for (N, F), (C, 1, 1) for maps.
    dC/dx = dC/dy h'(x + b), and dC/db is the same, summed over the examples and places that share the bias.
    Source: lectures, back-propagation, pointwise function. Raises BadArgument for an unknown activation.
    """

    def __init__(self, activation: str | Activation, bias: Any = None) -> None:
        if isinstance(activation, str):
            activation = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)]
        self.activation = activation
        given = {} if bias is None else {"bias": numbers(bias)}
        super().__init__(**given)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation.forward(self._shifted(x))

    def to_input(self, x: Tensor, dy: Tensor) -> Tensor:
        return dy * self.activation.derivative(self._shifted(x))

    def to_weights(self, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
        if "bias" not in self.parameters:
            return {}
        return {"bias": self.to_input(x, dy).sum_to_size(self.parameters["bias"].shape)}

    def _shifted(self, x: Tensor) -> Tensor:
        return x + self.parameters["bias"] if "bias" in self.parameters else x


class Flatten(BackpropModule):
    """(N, C, ...) -> (N, C * ...): the same numbers in another shape, and back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), -1)

    def to_input(self, x: Tensor, dy: Tensor) -> Tensor:
        return dy.reshape(x.shape)


class Cost(ABC):
    """The last box: a number for outputs x and targets y, summed over the examples, and its gradient."""

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """(N,) costs, one for each example."""

    @abstractmethod
    def to_input(self, x: Tensor, y: Tensor) -> Tensor:
        """dC/dx, of the shape of x."""


class EuclideanCost(Cost):
    """C = 1/2 |x - y|^2, with gradient x - y. x and y are (N, ...).

    Source: lectures, back-propagation, Euclidean cost module.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (x - y).square().flatten(1).sum(dim=1)

    def to_input(self, x: Tensor, y: Tensor) -> Tensor:
        return x - y


class SoftmaxCrossEntropy(Cost):
    """C = -log softmax(x)_y, with gradient softmax(x) - onehot(y). x is (N, K) scores, y (N,) classes.

    The largest score is subtracted first, which changes nothing but keeps exp finite.
    Source: Bridle, "Probabilistic interpretation of feedforward classification network outputs", 1990.
    """

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        shifted = x - x.amax(dim=1, keepdim=True)
        log_sum = shifted.exp().sum(dim=1).log()
        return log_sum - shifted.gather(1, y[:, None]).squeeze(1)

    def to_input(self, x: Tensor, y: Tensor) -> Tensor:
        exponent = (x - x.amax(dim=1, keepdim=True)).exp()
        gradient = exponent / exponent.sum(dim=1, keepdim=True)
        gradient[torch.arange(len(y), device=y.device), y] -= 1
        return gradient


class Chain:
    """Modules in a row with a cost at the end: forward, backward, update.

    Names of parameters are "0.weight": the place of the module and the name there; a tensor that several
    modules hold has the name of the first, and the sum of their gradients (a shared weight's gradient is the
    sum over its untied copies).
    """

    def __init__(self, modules: Sequence[BackpropModule], cost: Cost) -> None:
        if not modules:
            raise bad_argument("modules", "[]", why="a chain has at least one module")
        self.modules, self.cost = tuple(modules), cost
        self.dx: Tensor | None = None  # dE/dx_0 of the last backward pass

    def outputs(self, x: Any) -> Tensor:
        """x_n, the output of the last module: x_i = F_i(x_{i-1}, w_i)."""
        y = numbers(x)
        for module in self.modules:
            y = module(y)
        return y

    def costs(self, x: Any, y: Any) -> Tensor:
        """(N,) costs C(x_n, y), one for each example."""
        with torch.no_grad():
            return self.cost.forward(self.outputs(x), numbers(y))

    def forward_backward(self, x: Any, y: Any) -> Tensor:
        """E = the sum of the costs of all examples; leaves dE/dw in `gradients` and dE/dx_0 in `dx`.

        From top to bottom: dC/dx_{i-1} = dC/dx_i . dF_i/dx_{i-1}.
        """
        target = numbers(y)
        with torch.no_grad():
            top = self.outputs(x)
            energy = self.cost.forward(top, target).sum()
            gradient = self.cost.to_input(top, target)
            for module in reversed(self.modules):
                gradient = module.backward(gradient)
            self.dx = gradient
        return energy

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Every weight once, by name."""
        found: dict[int, tuple[str, Tensor]] = {}
        for name, tensor, _ in self._held():
            found.setdefault(id(tensor), (name, tensor))
        return dict(found.values())

    @property
    def gradients(self) -> dict[str, Tensor]:
        """dE/dw of the last backward pass, under the names of `parameters`."""
        names = {id(tensor): name for name, tensor in self.parameters.items()}
        total: dict[str, Tensor] = {}
        for _, tensor, gradient in self._held():
            if gradient is not None:
                name = names[id(tensor)]
                total[name] = total[name] + gradient if name in total else gradient
        return total

    def update(self, *, eta: float) -> None:
        """w <- w + eta dE/dw, as the lecture writes it: eta is NEGATIVE to go down ("eta = -0.2").

        The other sign convention is `descend`. The weights change in place.
        """
        gradients = self.gradients
        with torch.no_grad():
            for name, weight in self.parameters.items():
                if name in gradients:
                    weight.add_(gradients[name], alpha=eta)

    def descend(self, *, learning_rate: float) -> None:
        """w <- w - learning_rate dE/dw, as most texts and libraries write it: the rate is positive.

        The same as `update(eta=-learning_rate)`. Raises BadArgument for a rate that is not positive.
        """
        if not learning_rate > 0:
            raise bad_argument(
                "learning_rate",
                learning_rate,
                why="here the minus stands in the formula",
                fits="a positive number, or update(eta=...) with a negative one",
            )
        self.update(eta=-learning_rate)

    def _held(self) -> Iterator[tuple[str, Tensor, Tensor | None]]:
        for place, module in enumerate(self.modules):
            for name, tensor in module.parameters.items():
                yield f"{place}.{name}", tensor, module.gradients.get(name)
