"""Initial weights: one function, a scheme for each rule of the lectures, and copies from a trained network.

    initialize(network, "he", seed=0)
    initialize(network, He(mode="fan_out", slope=0.01), seed=0)

A layer's weights are drawn in float32 by a generator of their own, seeded by the seed and the layer's name,
and rounded to its type: they depend neither on other layers, nor on torch's global generator, nor on the
number of threads or processes. Biases become 0 unless the scheme says otherwise. Normalisation and other
parameters that are no weights of a dense or convolutional layer stay as they are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError, unknown_name
from convworks.layers import ConnectionTableConv2d
from convworks.ops.activation import ACTIVATIONS
from convworks.ops.arguments import bad_argument, one_of
from convworks.randomness import derive_seed
from convworks.training.unit_variance import one_thread, scale_to_unit_variance

CAFFE_BIAS = 0.1  # for AlexNet(bias=...)
Fan = float | Tensor  # of all weights of a layer, or one that broadcasts to them


class Scheme(ABC):
    """A rule for the weights of one layer, and for the biases of all."""

    @abstractmethod
    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        """New weights of the layer's shape, in float32 on the CPU."""

    def biases(self, layers: Sequence[str]) -> dict[str, float]:
        """The biases that are not 0, by layer."""
        return {}

    def finish(self, network: nn.Module, layers: Mapping[str, nn.Module]) -> None:  # noqa: B027
        """What is left when every layer is filled."""


@dataclass(frozen=True)
class Zeros(Scheme):
    """All weights 0. Every unit of a layer then has the same output and the same gradient, and stays equal to
    the others for ever: the weight updates have rank 1 at most. Source: lectures, weights initialization."""

    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        return torch.zeros(_shape(layer))


@dataclass(frozen=True)
class Gaussian(Scheme):
    """N(0, std^2), biases 0. Source: lectures, weights initialization ("small random numbers")."""

    std: float = 0.01

    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        return self.std * _normal(layer, generator)


@dataclass(frozen=True)
class AlexNet(Scheme):
    """N(0, 0.01^2); biases 1 in the second, fourth and fifth convolution and the hidden dense layers, else 0.

    `ones` are the layers with that bias: names, or places among the dense and convolutional layers counted
    from 0, by default those of the paper's eight. With biases of 1 Caffe's authors saw a flat loss at the
    start and took 0.1: AlexNet(bias=CAFFE_BIAS). Source: Krizhevsky, Sutskever, Hinton 2012, section 5;
    lectures, AlexNet; Caffe's pull request 327.
    """

    ones: tuple[str | int, ...] = (1, 3, 4, 5, 6)
    bias: float = 1.0

    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        return 0.01 * _normal(layer, generator)

    def biases(self, layers: Sequence[str]) -> dict[str, float]:
        for each in self.ones:
            if isinstance(each, int) and not 0 <= each < len(layers):
                why = f"the network has {len(layers)} dense and convolutional layers"
                raise bad_argument("ones", each, why=why, fits=f"0 to {len(layers) - 1}, or names")
            if isinstance(each, str) and each not in layers:
                raise unknown_name("dense or convolutional layer", each, layers)
        return {layers[each] if isinstance(each, int) else each: self.bias for each in self.ones}


@dataclass(frozen=True)
class VGG(Scheme):
    """N(0, variance 0.01), which is a standard deviation of 0.1, biases 0.

    Source: Simonyan, Zisserman 2015, section 3.1; lectures, VGGNet.
    """

    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        return 0.1 * _normal(layer, generator)


@dataclass(frozen=True)
class Xavier(Scheme):
    """Variance 2 / (fan_in + fan_out): N(0, that), or uniform within +-sqrt(6 / (fan_in + fan_out)).

    Source: Glorot, Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
    equation 16.
    """

    distribution: Literal["uniform", "normal"] = "uniform"

    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        fan_in, fan_out = fans(layer)
        return _drawn(layer, generator, (2 / (fan_in + fan_out)) ** 0.5, self.distribution)


@dataclass(frozen=True)
class He(Scheme):
    """Variance 2 / ((1 + slope^2) n) with n = fan_in (default) or fan_out.

    fan_in keeps the variance of the signal through layers of ReLU, fan_out that of the gradient. The lectures
    write n = "the number of outputs"; the paper's forward case, equation 10, has the inputs. `slope` is
    that of a leaky ReLU. Source: He et al., "Delving deep into rectifiers", 2015, section 2.2; lectures.
    """

    mode: Literal["fan_in", "fan_out"] = "fan_in"
    slope: float = 0.0
    distribution: Literal["uniform", "normal"] = "normal"

    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        n = fans(layer)[("fan_in", "fan_out").index(one_of("mode", self.mode, ("fan_in", "fan_out")))]
        return _drawn(layer, generator, (2 / ((1 + self.slope**2) * n)) ** 0.5, self.distribution)


@dataclass(frozen=True)
class Orthogonal(Scheme):
    """Weights (O, ...) as a matrix (O, rest) with orthonormal rows, or columns where O is larger, times gain.

    Source: Saxe, McClelland, Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep linear
    neural networks", 2014.
    """

    gain: float = 1.0

    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        drawn = _normal(layer, generator)
        matrix = drawn.flatten(1).double()
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        with one_thread():
            q, r = torch.linalg.qr(tall)
        q = q * r.diagonal().sign()  # the signs that make the draw uniform over orthogonal matrices
        oriented: Tensor = q if tall is matrix else q.T
        return self.gain * oriented.reshape(drawn.shape).float()


@dataclass(frozen=True)
class LSUV(Scheme):
    """Orthonormal weights, then each layer's divided by the standard deviation of its outputs for `batch`.

    Layer by layer in the order of the forward pass, until the variance over all outputs is 1 +- `tolerance`,
    in evaluation mode. Raises U173 for a layer whose outputs do not vary (its inputs are all dead) or that is
    not within the tolerance after `max_iterations`. A layer that is not run keeps orthonormal weights.
    Source: Mishkin, Matas, "All you need is a good init", 2016, algorithm 1; lectures, initializers.
    """

    batch: Tensor
    tolerance: float = 0.01
    max_iterations: int = 10

    def weight(self, layer: nn.Module, generator: torch.Generator) -> Tensor:
        return Orthogonal().weight(layer, generator)

    def finish(self, network: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        scale_to_unit_variance(
            network, layers, self.batch, tolerance=self.tolerance, max_iterations=self.max_iterations
        )


SCHEMES: dict[str, Scheme] = {
    "zeros": Zeros(),
    "gaussian": Gaussian(),
    "alexnet": AlexNet(),
    "vgg": VGG(),
    "xavier": Xavier(),
    "he": He(),
    "orthogonal": Orthogonal(),
}


@torch.no_grad()
def initialize(network: nn.Module, scheme: Scheme | str, *, seed: int) -> None:
    """Fill every dense and convolutional layer in place. A word stands for the scheme's usual settings.

    The same seed gives the same bits in one process or many, with any number of threads. Raises BadArgument
    for an unknown word and for a network without such layers.
    """
    if isinstance(scheme, str):
        if scheme not in SCHEMES:
            words = ", ".join(SCHEMES)
            raise bad_argument("scheme", scheme, why=f"it is one of {words}", fits="'he', or LSUV(batch=x)")
        scheme = SCHEMES[scheme]
    layers = weighted_layers(network)
    if not layers:
        kind = type(network).__name__
        raise bad_argument(
            "network", kind, why="it has no dense or convolutional layer", fits="nn.Linear(8, 2)"
        )
    biases = scheme.biases(tuple(layers))
    for name, layer in layers.items():
        generator = torch.Generator().manual_seed(derive_seed(seed, f"initialize/{name}"))
        layer.weight.copy_(scheme.weight(layer, generator))
        if layer.bias is not None:
            layer.bias.fill_(biases.get(name, 0.0))
    scheme.finish(network, layers)


def weighted_layers(network: nn.Module) -> dict[str, Any]:
    """Dense, convolutional (also transposed) and locally connected layers by name, in the network's order."""
    found = {}
    for name, module in network.named_modules():
        weight = getattr(module, "weight", None)
        fits = hasattr(module, "kernel_size") or isinstance(module, nn.Linear)
        if isinstance(weight, nn.Parameter) and weight.ndim > 1 and fits:
            found[name] = module
    return found


def fans(layer: Any) -> tuple[Fan, Fan]:
    """(fan_in, fan_out): inputs of one unit, and units that one input reaches, at stride 1 away from borders.

    A dense layer (O, I) has I and O. A convolution has prod(kernel) times C_in / groups and C_out / groups.
    With a connection table there is a number for each kernel.
    """
    if isinstance(layer, nn.Linear):
        return float(layer.in_features), float(layer.out_features)
    area = math.prod(layer.kernel_size)
    if isinstance(layer, ConnectionTableConv2d):
        source = layer.position % layer.in_channels
        reached = torch.bincount(source, minlength=layer.in_channels)[source].float() * area
        return layer.fan_in()[0].cpu()[:, None, None], reached.cpu()[:, None, None]
    groups = getattr(layer, "groups", 1)
    return float(area * (layer.in_channels // groups)), float(area * (layer.out_channels // groups))


@torch.no_grad()
def copy_layers(source: nn.Module, target: nn.Module, layers: Mapping[str, str]) -> tuple[str, ...]:
    """Copy layers {name in source: name in target} with their buffers; the target's tensors that were set.

    Staged initialisation: train VGG's network A, then begin a deeper one with A's first four convolutions and
    three dense layers. A name may stand for a whole part of a network. Nothing is copied unless all fits:
    raises U101 for a name that is not there and U174 where tensors differ in name or shape.
    Source: Simonyan, Zisserman 2015, section 3.1; lectures, VGGNet.
    """
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    theirs, ours = dict(source.named_modules()), dict(target.named_modules())
    for there, here in layers.items():
        for name, modules, what in ((there, theirs, "source"), (here, ours, "target")):
            if name not in modules:
                raise unknown_name(f"layer of the {what}", name, [each for each in modules if each])
        old, new = theirs[there].state_dict(), ours[here].state_dict()
        shapes = [{key: tuple(t.shape) for key, t in state.items()} for state in (old, new)]
        if shapes[0] != shapes[1]:
            key = next(k for k in {**shapes[0], **shapes[1]} if shapes[0].get(k) != shapes[1].get(k))
            raise ConvworksError(
                "U174",
                f"{there} cannot be copied to {here}: {key} is {shapes[0].get(key, 'missing')} in the source "
                f"and {shapes[1].get(key, 'missing')} in the target",
                why="nothing was copied",
                try_="leave this pair out; the layer then keeps its random weights",
            )
        pairs.update({f"{here}.{key}": (old[key], new[key]) for key in old})
    for value, place in pairs.values():
        place.copy_(value)
    return tuple(pairs)


def signal_propagation(
    *,
    scales: Sequence[float | str] = (0.01, "he", 1.0),
    depth: int = 30,
    width: int = 512,
    examples: int = 512,
    activation: str = "relu",
    seed: int = 0,
) -> dict[str, list[float]]:
    """Standard deviation of the activations after each of `depth` dense layers, for weights of each scale.

    A scale is the standard deviation of N(0, scale^2) weights, or "he" for sqrt(2 / width). The inputs are
    N(0, 1). Too small and "the signal shrinks as it passes through each layer", too large and it grows. In
    float64. Raises BadArgument. Source: lectures, weights initialization.
    """
    squash = ACTIVATIONS[one_of("activation", activation, ACTIVATIONS)].forward
    found = {}
    for scale in scales:
        if isinstance(scale, str):
            one_of("scale", scale, ("he",))
        std = math.sqrt(2 / width) if isinstance(scale, str) else scale
        generator = torch.Generator().manual_seed(derive_seed(seed, "signal"))
        x = torch.randn(examples, width, generator=generator, dtype=torch.float64)
        row = []
        for _ in range(depth):
            weight = torch.randn(width, width, generator=generator, dtype=torch.float64)
            x = squash(x @ (std * weight))
            row.append(float(x.std()))
        found[scale if isinstance(scale, str) else f"{scale:g}"] = row
    return found


def _shape(layer: Any) -> torch.Size:
    shape: torch.Size = layer.weight.shape
    return shape


def _normal(layer: nn.Module, generator: torch.Generator) -> Tensor:
    return torch.randn(_shape(layer), generator=generator, dtype=torch.float32)


def _drawn(layer: nn.Module, generator: torch.Generator, std: Fan, distribution: str) -> Tensor:
    if one_of("distribution", distribution, ("uniform", "normal")) == "normal":
        return _normal(layer, generator) * std
    drawn = torch.rand(_shape(layer), generator=generator, dtype=torch.float32)
    return (2 * drawn - 1) * math.sqrt(3) * std  # uniform in +-b has the variance b^2 / 3
