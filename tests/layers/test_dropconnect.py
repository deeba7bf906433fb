"""DropConnect: masks of connections for each example; Gaussian inference against the paper's sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from convworks.layers.dropconnect import DropConnect, expected_relu
from convworks.ops.arguments import BadArgument


def layer(**options: object) -> DropConnect:
    torch.manual_seed(0)
    return DropConnect(6, 4, **options).double()  # type: ignore[arg-type]


def inputs(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def masks(count: int, keep: float, seed: int) -> np.ndarray:
    uniform = torch.rand((count, 4, 7), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return (uniform < keep).double().numpy()


def test_training_by_loops_with_the_same_masks() -> None:
    net = layer(keep_probability=0.3, generator=torch.Generator().manual_seed(5)).train()
    v = inputs().requires_grad_()
    r = net(v)
    m = masks(3, 0.3, seed=5)
    w, b = net.weight.detach().numpy(), net.bias.detach().numpy()
    expected = np.zeros((3, 4))
    for n in range(3):
        for o in range(4):
            total = m[n, o, 6] * b[o] + sum(m[n, o, i] * w[o, i] * v[n, i].item() for i in range(6))
            expected[n, o] = max(0.0, total)
    np.testing.assert_allclose(r.detach().numpy(), expected)
    r.sum().backward()
    alive = expected > 0
    gradient = np.einsum("no,noi,ni->oi", alive, m[:, :, :6], v.detach().numpy())
    assert net.weight.grad is not None
    np.testing.assert_allclose(net.weight.grad.numpy(), gradient)  # dropped connections get none
    assert v.grad is not None
    np.testing.assert_allclose(v.grad.numpy(), np.einsum("no,noi,oi->ni", alive, m[:, :, :6], w))


def test_every_example_has_masks_of_its_own() -> None:
    net = layer(activation="linear").train()
    same = inputs(1).expand(50, 6)
    assert net(same).unique(dim=0).shape[0] > 40


def test_the_mean_over_masks_is_that_of_inference() -> None:
    net = layer(activation="linear", keep_probability=0.7).train()
    v = inputs(1)
    drawn = net(v.expand(200_000, 6)).detach()
    mean, variance = drawn.mean(dim=0), drawn.var(dim=0)
    torch.testing.assert_close(net.eval()(v)[0].detach(), mean, rtol=0, atol=0.01)
    expected = 0.21 * (v.square() @ net.weight.square().T + net.bias.square())[0]
    torch.testing.assert_close(variance, expected.detach(), rtol=0.02, atol=0)


def test_the_expectation_is_the_integral() -> None:
    for mean, variance in ((0.3, 0.5), (-1.2, 0.8), (2.0, 0.01), (-3.0, 0.2)):
        u = stats.norm(mean, variance**0.5)
        integral, _ = integrate.quad(lambda t, u=u: t * u.pdf(t), 0, mean + 20 * variance**0.5)
        found = expected_relu(
            torch.tensor(mean, dtype=torch.float64), torch.tensor(variance, dtype=torch.float64)
        )
        assert found.item() == pytest.approx(integral, rel=1e-5, abs=1e-7)


def test_without_variance_it_is_relu() -> None:
    mean = torch.tensor([-1.0, 0.0, 2.0])
    torch.testing.assert_close(expected_relu(mean, torch.zeros(3)), torch.tensor([0.0, 0.0, 2.0]))
    net = layer().eval()
    zero = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    net(zero).sum().backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()


def test_sampling_approaches_the_gaussian_inference() -> None:
    net = layer().eval()
    v = inputs()
    exact = net(v).detach()
    few, many = (net.sample(v, z, generator=torch.Generator().manual_seed(2)) for z in (10, 20_000))
    torch.testing.assert_close(many, exact, rtol=0, atol=0.01)
    assert (many - exact).abs().max() < (few - exact).abs().max()


def test_mean_inference_is_another() -> None:
    gaussian, mean = layer().eval(), layer(inference="mean").eval()
    v = inputs()
    expected = torch.relu(0.5 * (v @ mean.weight.T + mean.bias))
    torch.testing.assert_close(mean(v), expected)
    assert (gaussian(v) > mean(v)).all()  # E[max(0, u)] > max(0, E[u])


def test_keeping_all_is_a_linear_layer() -> None:
    net = layer(keep_probability=1.0)
    v = inputs()
    expected = torch.relu(v @ net.weight.T + net.bias)
    torch.testing.assert_close(net.train()(v), expected)
    torch.testing.assert_close(net.eval()(v), expected)


def test_bfloat16_and_meta() -> None:
    net = DropConnect(6, 4).eval()
    with torch.autocast("cpu", torch.bfloat16):
        assert net(inputs().float()).isfinite().all()
    with torch.device("meta"):
        assert DropConnect(6, 4)(torch.zeros(2, 6)).shape == (2, 4)
    assert net.macs((4,)) == 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_probability": 1.5}, "keep_probability = 1.5 does not fit"),
        ({"activation": "tanh"}, "it is one of relu, linear"),
        ({"inference": "sample"}, "it is one of gaussian, mean"),
    ],
)
def test_values_that_do_not_fit(options: dict[str, object], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        DropConnect(6, 4, **options)  # type: ignore[arg-type]
