"""Recalibration against all data at once, layer by layer, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convworks.errors import ConvworksError
from convworks.training.loop import Numerics
from convworks.training.recalibrate import StoppedRecalibrationError, recalibrate

DATA = torch.randn(37, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1


def network(*, seed: int = 0) -> nn.Sequential:
    """Two convolutions and a linear layer, each with batch norm; dropout would spoil statistics if it ran."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Conv2d(4, 5, 3, bias=False),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(20, 6),
            nn.BatchNorm1d(6),
        )


def batches(*sizes: int) -> Callable[[], Iterator[Tensor]]:
    return lambda: iter(torch.split(DATA, list(sizes)))


def trained(*, steps: int = 12) -> nn.Sequential:
    """A few steps of training, so that the moving averages belong to weights that are gone."""
    made = network()
    optimizer = torch.optim.SGD(made.parameters(), lr=0.05)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for step in range(steps):
            optimizer.zero_grad()
            made(DATA[step : step + 8]).square().sum(dim=1).mean().backward()
            optimizer.step()
    return made


def brute_force(made: nn.Sequential) -> dict[int, tuple[Tensor, Tensor]]:
    """All data at once in float64 through one layer after the other: NumPy's mean and unbiased variance."""
    found = {}
    x = DATA.double()
    for number, layer in enumerate(made):
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            axes = (0,) if x.ndim == 2 else (0, 2, 3)
            values = x.numpy()
            m = values.size // values.shape[1]
            mean, var = values.mean(axis=axes), values.var(axis=axes) * m / (m - 1)
            found[number] = torch.from_numpy(mean), torch.from_numpy(var)
            scale = layer.weight.detach().double() / (found[number][1] + layer.eps).sqrt()
            view = (1, -1, *[1] * (x.ndim - 2))
            x = (x - found[number][0].view(view)) * scale.view(view) + layer.bias.detach().double().view(view)
        elif not isinstance(layer, nn.Dropout):
            with torch.no_grad():
                x = torch.func.functional_call(
                    layer, {n: p.detach().double() for n, p in layer.named_parameters()}, (x,)
                )
    return found


def statistics(made: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in made.state_dict().items() if "running" in name}


def check_against_all_data(made: nn.Sequential) -> None:
    for number, (mean, var) in brute_force(made).items():
        layer = made[number]
        assert isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        np.testing.assert_allclose(layer.running_mean.numpy(), mean.numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.running_var.numpy(), var.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", [(37,), (16, 16, 5), (1,) * 37])
def test_statistics_are_those_of_all_data_with_the_unbiased_factor(sizes: tuple[int, ...]) -> None:
    made = trained()
    found = recalibrate(made, batches(*sizes))
    assert [(each.name, each.values) for each in found] == [("1", 37 * 16), ("5", 37 * 4), ("9", 37)]
    check_against_all_data(made)


def test_the_factor_matters_and_would_be_missed() -> None:
    """37 values of each feature: without 37/36 the variance of the last layer is 2.7 % too small."""
    made = trained()
    recalibrate(made, batches(37))
    last = made[9]
    assert isinstance(last, nn.BatchNorm1d)
    assert last.running_var is not None
    last.running_var *= 36 / 37
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_against_all_data(made)


def test_it_differs_from_the_moving_averages() -> None:
    made = trained()
    before = statistics(made)
    found = recalibrate(made, batches(16, 16, 5))
    for name, value in statistics(made).items():
        assert float((value - before[name]).abs().max()) > 1e-3, name
    old_mean, old_var = before["9.running_mean"].double(), before["9.running_var"].double() + 1e-5
    new_mean, new_var = brute_force(made)[9]
    shift = float(((new_mean - old_mean).square() / old_var).mean().sqrt())
    ratio = float(((new_var + 1e-5) / old_var).sqrt().log().mean().exp())
    assert found[2].mean_shift == pytest.approx(shift, rel=1e-3)
    assert found[2].std_ratio == pytest.approx(ratio, rel=1e-3)


def test_twice_is_once() -> None:
    made = trained()
    recalibrate(made, batches(16, 16, 5))
    before = statistics(made)
    again = recalibrate(made, batches(10, 27))
    assert max(each.mean_shift for each in again) < 1e-5
    for name, value in statistics(made).items():
        torch.testing.assert_close(value, before[name], rtol=1e-5, atol=1e-6)


def test_earlier_layers_are_in_their_final_state_already() -> None:
    """All layers measured in one pass, with the old statistics before them, would be something else."""
    made = trained()
    seen: list[Tensor] = []
    handle = made[9].register_forward_pre_hook(lambda _layer, args: seen.append(args[0]))
    made.eval()(DATA)
    handle.remove()
    recalibrate(made, batches(37))
    last = made[9]
    assert isinstance(last, nn.BatchNorm1d)
    assert last.running_mean is not None
    assert float((last.running_mean - seen[0].detach().mean(dim=0)).abs().max()) > 1e-3


def test_nothing_but_running_statistics_changes() -> None:
    made = trained().train()
    made[4].eval()  # a flag of its own
    flags = [each.training for each in made.modules()]
    before = {name: value.clone() for name, value in made.state_dict().items()}
    generator = torch.get_rng_state()
    recalibrate(made, batches(16, 16, 5))
    assert [each.training for each in made.modules()] == flags
    assert all(not each._forward_pre_hooks for each in made.modules())
    torch.testing.assert_close(torch.get_rng_state(), generator)
    for name, value in made.state_dict().items():
        if "running" not in name:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0, msg=name)
    assert all(p.grad is None or p.requires_grad for p in made.parameters())


class Crossed(nn.Module):
    """Defined in another order than it is executed in; one batch norm is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.second, self.first = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.idle, self.plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.plain(self.first(x)).square())
        return y


def test_the_order_is_that_of_execution() -> None:
    made = Crossed()
    done: list[tuple[int, int]] = []
    found = recalibrate(made, batches(16, 16, 5), progress=lambda n, of: done.append((n, of)))
    assert [each.name for each in found] == ["first", "second"]
    assert done == [(0, 2), (1, 2), (2, 2)]
    assert made.idle.running_mean is not None
    assert not made.idle.running_mean.any()
    assert made.first.running_mean is not None
    np.testing.assert_allclose(made.first.running_mean.numpy(), DATA.numpy().mean(axis=(0, 2, 3)), rtol=1e-5)


def test_under_bfloat16_what_the_network_sees_is_measured() -> None:
    made = trained()
    recalibrate(made, batches(37), numerics=Numerics(precision="bf16"))
    with torch.no_grad(), Numerics(precision="bf16").autocast():
        y = made[0](DATA)
    assert y.dtype == torch.bfloat16
    first = made[1]
    assert isinstance(first, nn.BatchNorm2d)
    assert first.running_mean is not None
    np.testing.assert_allclose(first.running_mean.numpy(), y.double().mean(dim=(0, 2, 3)).numpy(), rtol=1e-5)


class StopAt:
    def __init__(self, asked: int) -> None:
        self.left = asked

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def test_stopped_in_the_middle_it_leaves_the_network_as_it_was() -> None:
    made = trained().train()
    before = statistics(made)
    with pytest.raises(StoppedRecalibrationError):
        recalibrate(made, batches(16, 16, 5), should_stop=StopAt(4))  # the first layer is done
    for name, value in statistics(made).items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    assert made.training
    assert all(not each._forward_pre_hooks for each in made.modules())


def test_numbers_that_are_not_finite() -> None:
    made = trained()
    before = statistics(made)
    with pytest.raises(ConvworksError, match="the input of the batch norm '1' is not finite") as caught:
        recalibrate(made, lambda: [DATA * torch.inf])
    assert caught.value.code == "N602"
    torch.testing.assert_close(statistics(made)["1.running_mean"], before["1.running_mean"], rtol=0, atol=0)


def test_a_network_without_batch_norm() -> None:
    with pytest.raises(ConvworksError, match="has no batch norm with running statistics") as caught:
        recalibrate(nn.Sequential(nn.Linear(3, 2)), batches(37))
    assert caught.value.code == "U161"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (list, "no image reached a batch norm"),
        (lambda: [DATA[:1]], "the batch norm '9' saw 1 value of each feature"),
    ],
)
def test_too_little_data(inputs: Callable[[], list[Tensor]], message: str) -> None:
    with pytest.raises(ConvworksError, match=message) as caught:
        recalibrate(trained(), inputs)
    assert caught.value.code == "U163"


def test_a_batch_norm_that_is_used_twice() -> None:
    norm = nn.BatchNorm2d(3)
    with pytest.raises(ConvworksError, match="'0' is called 2 times in one pass") as caught:
        recalibrate(nn.Sequential(norm, nn.ReLU(), norm), batches(37))
    assert caught.value.code == "U163"
