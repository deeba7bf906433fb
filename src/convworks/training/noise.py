"""Noise on activations while a network trains: N(0, std^2) is added to what each activation layer gives.

Source: lectures, noise regularisation: N(0, 1), active in training only, best together with batch norm, after
which activations have about variance 1 and a standard deviation means the same in every layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from convworks.layers.activation import Activate, Maxout, ScaledTanh, SteppedSigmoid
from convworks.layers.pooling import MaxoutPool
from convworks.ops.dropout import gaussian_noise

ACTIVATION_LAYERS = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Softplus, nn.Softsign, nn.Tanhshrink,
    nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Threshold,
    Activate, Maxout, MaxoutPool, ScaledTanh, SteppedSigmoid,
)  # fmt: skip


def activation_layers(network: nn.Module) -> list[nn.Module]:
    """The modules of a network that are activations, each once; functions that `forward` calls are none."""
    return [module for module in network.modules() if isinstance(module, ACTIVATION_LAYERS)]


@contextmanager
def noisy_activations(network: nn.Module, std: float) -> Iterator[None]:
    """Add N(0, std^2) to the outputs of all activation layers that are in training mode, while this is open.

    The draws are torch's generator's. Copies that are made outside have no noise, and those made inside none
    in evaluation mode.
    """

    def add(module: nn.Module, _: object, output: Tensor) -> Tensor | None:
        return gaussian_noise(output, std=std, generator=None) if module.training else None

    layers = activation_layers(network) if std > 0 else []
    handles = [layer.register_forward_hook(add) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
