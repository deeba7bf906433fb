"""Dense layers that train on matrix units: the class changes, nothing else, and only in training."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convworks.layers.amx import AmxLinear, suitable_amx, use_amx, without_amx
from convworks.ops.native import library
from tests.layers.fake_amx import fake_amx
from tests.layers.trial import alike, run, vectors
from tests.ops.native.kernels import with_amx


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return fake_amx(monkeypatch)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 33),
        nn.Tanh(),
        nn.Sequential(nn.Linear(33, 17, bias=False), nn.Tanh()),
        nn.Linear(17, 10),
    )


NAMES = ["0", "2.0", "3"]


def both(net: nn.Module | None = None) -> tuple[nn.Module, nn.Module]:
    """A network and its copy, whose layers are ours."""
    net = network() if net is None else net
    other = copy.deepcopy(net)
    use_amx(other, suitable_amx(other))
    return net, other


def test_there_and_back() -> None:
    net = network()
    state, text = {name: value.clone() for name, value in net.state_dict().items()}, str(net)
    assert suitable_amx(net) == NAMES
    use_amx(net, ["2.0", "no such layer", "1"])
    assert [type(net[0]), type(net[2][0]), type(net[1])] == [nn.Linear, AmxLinear, nn.Tanh]
    use_amx(net, ["3"])
    assert [type(net[2][0]), type(net[3])] == [nn.Linear, AmxLinear]
    assert suitable_amx(net) == NAMES
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert isinstance(net[3], nn.Linear)
    assert without_amx(net) is net
    assert str(net) == text


def test_other_classes_of_layers_are_left_alone() -> None:
    class Mine(nn.Linear):
        """Computes in a way of its own."""

    attention = nn.MultiheadAttention(8, 2)  # its last layer's forward is never called
    net = nn.Sequential(
        Mine(3, 4), nn.LazyLinear(4), nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), attention
    )
    kinds = [type(each) for each in net.modules()]
    assert suitable_amx(net) == []
    use_amx(net, [name for name, _ in net.named_modules()])
    assert [type(each) for each in net.modules()] == kinds


def check_that_it_trains_as_torch_does(x: Tensor) -> None:
    net, other = both()
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    y, want = run(other, inputs[0]), run(net, inputs[1])
    assert (y.dtype, y.shape) == (want.dtype, want.shape)
    assert alike(y, want)
    y.square().sum().backward(), want.square().sum().backward()
    found = [
        (name, p.grad, q.grad)
        for (name, p), q in zip(other.named_parameters(), net.parameters(), strict=True)
    ]
    for name, a, b in (*found, ("x", inputs[0].grad, inputs[1].grad)):
        assert a is not None
        assert b is not None
        assert a.dtype == torch.float32
        assert alike(a, b, 0.03), name


SHAPES: list[Callable[[], Tensor]] = [
    vectors,
    lambda: vectors()[:1],
    lambda: vectors()[0],
    lambda: vectors().reshape(3, 2, 20),
    lambda: vectors().T.contiguous().T,
    lambda: vectors().bfloat16(),
]


@pytest.mark.parametrize("make", SHAPES, ids=["rows", "one", "a vector", "sequences", "turned", "bf16"])
def test_training_is_on_matrix_units(make: Callable[[], Tensor], called: list[str]) -> None:
    x = make()
    if x.dtype == torch.float32:
        check_that_it_trains_as_torch_does(x)
    else:
        run(both()[1], x).sum().backward()
    assert called == ["dense"] * 3 + ["dense back"] * 3


def test_training_by_the_kernels_themselves() -> None:
    with with_amx():
        for make in SHAPES[:-1]:
            check_that_it_trains_as_torch_does(make())


@pytest.mark.parametrize("case", ["eval", "no autocast", "half", "no kernels", "no rows"])
def test_everything_else_is_as_torch_does_it_to_the_bit(
    called: list[str], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (net, other), x = both(), vectors()[: 0 if case == "no rows" else 6]
    if case == "eval":
        net.eval(), other.eval()
    if case == "no kernels":
        monkeypatch.setattr(library, "amx_available", lambda: False)
    dtype = torch.float16 if case == "half" else torch.bfloat16
    with torch.autocast("cpu", dtype=dtype, enabled=case != "no autocast"):
        assert torch.equal(net(x), other(x))
    assert called == []


def test_weights_of_another_type_are_torchs(called: list[str]) -> None:
    net, other = both(network().bfloat16())
    assert torch.equal(run(net, vectors()), run(other, vectors()))
    assert called == []


def test_a_wrong_number_of_inputs_is_torchs_error(called: list[str]) -> None:
    _, other = both()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(other, vectors()[:, :7])
    assert called == []


@pytest.mark.parametrize("frozen", ["weights", "bias", "both", "everything"])
def test_frozen_parameters(frozen: str, called: list[str]) -> None:
    net, other = both()
    for each in (net, other):
        layer = each[3]  # type: ignore[index]
        if frozen == "everything":
            each.requires_grad_(False)
        layer.weight.requires_grad_(frozen == "bias")
        layer.bias.requires_grad_(frozen == "weights")
    y, want = run(other, vectors()), run(net, vectors())
    assert y.requires_grad is want.requires_grad is (frozen != "everything")
    if frozen != "everything":
        y.sum().backward(), want.sum().backward()
    for (name, a), b in zip(other.named_parameters(), net.parameters(), strict=True):
        assert (a.grad is None) is (b.grad is None), name
        assert a.grad is None or b.grad is None or alike(a.grad, b.grad, 0.03), name


def test_hooks_see_what_they_saw(called: list[str]) -> None:
    _, other = both()
    seen: list[tuple[str, tuple[int, ...]]] = []
    layer = other.get_submodule("2.0")
    layer.register_forward_pre_hook(lambda _, inputs: seen.append(("before", tuple(inputs[0].shape))))
    layer.register_forward_hook(lambda _, inputs, y: seen.append(("after", tuple(y.shape))))
    layer.register_full_backward_hook(lambda _, dx, dy: seen.append(("back", tuple(dx[0].shape))))
    run(other, vectors()).sum().backward()
    assert seen == [("before", (6, 33)), ("after", (6, 17)), ("back", (6, 33))]


def test_a_layer_in_two_places(called: list[str]) -> None:
    shared = nn.Linear(20, 20)
    net, other = both(nn.Sequential(shared, nn.ReLU(), shared))
    y, want = run(other, vectors()), run(net, vectors())
    y.sum().backward(), want.sum().backward()
    assert called == ["dense"] * 2 + ["dense back"] * 2
    for a, b in zip(other.parameters(), net.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert alike(a.grad, b.grad)


def test_gradients_add_up_over_parts(called: list[str]) -> None:
    _, other = both(nn.Sequential(nn.Linear(20, 9)))
    run(other, vectors()).sum().backward()
    weight = other.get_parameter("0.weight")
    assert weight.grad is not None
    once = weight.grad.clone()
    run(other, vectors()).sum().backward()
    assert torch.equal(weight.grad, 2 * once)
