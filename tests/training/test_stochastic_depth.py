"""Stochastic depth: the paper's probabilities, its expectation, and the form in which a network is kept."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.layers import Residual
from convworks.training.loop import Numerics, StepSettings, accumulate_gradients
from convworks.training.optimizer import make_optimizer
from convworks.training.regularizers import Regularizers
from convworks.training.stochastic_depth import (
    fold_survival_,
    last_affine,
    residual_units,
    set_survival_,
    survivals,
)
from tests.training.test_regularizers import batch_of

NETWORKS = ("resnet20_cifar", "preact_resnet110_cifar", "resnet18", "inception_resnet_v1")


def units(count: int, *, activation: nn.Module | None = None) -> nn.Sequential:
    torch.manual_seed(0)
    made = [
        Residual(
            nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 3)), nn.Identity(), activation=activation
        )
        for _ in range(count)
    ]
    return nn.Sequential(*made).double()


def test_survival_falls_linearly() -> None:
    """p_l = 1 - l/L (1 - p_L): with L = 54 and p_L = 1/2 the paper's 110 layers."""
    network = models.create("resnet110_cifar", num_classes=10, input_size=(32, 32))
    assert set_survival_(network, 0.5) == 54
    found = list(survivals(network).values())
    assert found == pytest.approx([1 - number / 54 * 0.5 for number in range(1, 55)])
    assert found[-1] == 0.5
    assert sum(found) == pytest.approx(54 * 0.75, rel=0.01)  # section 4: three quarters on average
    assert next(iter(residual_units(network))) == "conv2_x.block1"


def test_the_expectation_of_training_is_the_test_output() -> None:
    """One unit without an activation after it: E[b F(x) + x] = p F(x) + x."""
    network = units(1)
    network[0].survival = 0.7
    x = torch.randn(2, 3, dtype=torch.float64)
    torch.manual_seed(1)
    with torch.no_grad():
        outputs = torch.stack([network.train()(x) for _ in range(4000)])
        expected = network.eval()(x)
        torch.testing.assert_close(expected, 0.7 * network[0].branch(x) + x)
    skipped = (outputs == x).all(dim=(1, 2)).double().mean()
    assert float(skipped) == pytest.approx(0.3, abs=0.02)
    torch.testing.assert_close(outputs.mean(dim=0), expected, rtol=0, atol=0.05)


def test_a_branch_that_is_left_out_is_not_computed_and_has_no_gradient() -> None:
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    network = units(1, activation=nn.ReLU())
    network[0].branch.register_forward_hook(count)
    network[0].survival = 1e-12
    x = torch.randn(2, 3, dtype=torch.float64)
    y = network.train()(x)
    assert calls == 0
    assert torch.equal(y, x.relu())


def test_skipped_weights_have_the_gradient_zero_and_momentum_goes_on() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), *units(3)).double()
    wanted = StepSettings(seed=0, lr=0.1, regularizers=Regularizers(stochastic_depth=0.999999))
    wanted.regularizers.prepare(network.train())
    network[-1].survival = 1e-12
    accumulate_gradients(network, make_optimizer("sgd", network, lr=0.1), batch_of(), wanted, Numerics())
    gradient = network[-1].branch[0].weight.grad
    assert gradient is not None
    assert float(gradient.abs().max()) == 0


def test_a_fitted_shortcut_keeps_the_shape() -> None:
    network = Residual(nn.Conv2d(2, 4, 3, stride=2, padding=1))
    network.survival = 1e-12
    x = torch.randn(1, 2, 5, 5)
    y = network.train()(x)
    assert y.shape == (1, 4, 3, 3)
    assert torch.equal(y[:, :2], x[:, :, ::2, ::2])
    assert float(y[:, 2:].abs().max()) == 0


@pytest.mark.parametrize("name", NETWORKS)
def test_the_folded_network_is_the_same_function(name: str) -> None:
    size = models.info(name).input_size if name.startswith("inception") else (32, 32)
    torch.manual_seed(0)
    network = models.create(name, num_classes=5, in_channels=3, input_size=size).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 1:  # biases begin at 0, where it does not matter what they are multiplied by
                parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(1, 3, *size)
    set_survival_(network, 0.5)
    keys = list(network.state_dict())
    folded = copy.deepcopy(network)
    fold_survival_(folded, survivals(network))
    with torch.inference_mode():
        before, after = network(x), folded(x)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)
    assert survivals(folded) == {}
    assert list(folded.state_dict()) == keys
    plain = copy.deepcopy(network)
    for unit in residual_units(plain).values():
        unit.survival = 1.0
    with torch.inference_mode(), pytest.raises(AssertionError):  # without the probabilities it is another one
        torch.testing.assert_close(plain(x), before, rtol=1e-3, atol=1e-4)


def test_a_branch_that_ends_otherwise_is_refused() -> None:
    for end in (nn.Sigmoid(), nn.BatchNorm1d(3, affine=False)):
        unit = Residual(nn.Sequential(nn.Linear(3, 3), end), nn.Identity())
        with pytest.raises(ConvworksError, match="the residual unit '0' cannot be left out") as caught:
            set_survival_(nn.Sequential(unit), 0.5)
        assert caught.value.code == "U213"
    fine = Residual(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Dropout(0.5)), nn.Identity())
    assert last_affine(fine, "x") is fine.branch[0]


def test_off_is_off() -> None:
    network = units(2)
    set_survival_(network, 0.5)
    assert len(survivals(network)) == 2
    set_survival_(network, 0.0)
    assert survivals(network) == {}
    x = torch.randn(2, 3, dtype=torch.float64)
    state = torch.get_rng_state()
    network.train()(x)
    assert torch.equal(torch.get_rng_state(), state)  # and draws nothing
