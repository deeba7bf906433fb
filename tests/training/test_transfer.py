"""Stages, frozen backbones and staged unfreezing, on networks of the registry and on one of plain code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from convworks import models
from convworks.errors import ConvworksError
from convworks.layers import stage
from convworks.training.optimizer import load_state_tensors, make_optimizer, state_tensors
from convworks.training.transfer import (
    StagedUnfreezing,
    freeze_backbone,
    head_inputs,
    head_names,
    head_of,
    learning_stages,
    lr_scales,
    require_in_a_row,
    resting_after,
    stages,
)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return stage(
        conv1=stage(conv=nn.Conv2d(1, 4, 3), norm=nn.BatchNorm2d(4), relu=nn.ReLU(), drop=nn.Dropout(0.5)),
        pool=nn.MaxPool2d(2),
        conv2=stage(conv=nn.Conv2d(4, 6, 3), norm=nn.BatchNorm2d(6), relu=nn.ReLU()),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.5),
        fc=nn.Linear(6, 3),
    )


SIZES = {"lenet5": (1, 32), "maxout_mnist": (1, 28), "mlp128": (1, 28), "lecun1989": (1, 16)}
NETWORKS = (
    "fastnet",
    "lenet5",
    "lenet5_modern",
    "resnet20_cifar",
    "nin",
    "mlp128",
    "maxout_mnist",
    "lecun1989",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_head_on_its_inputs_gives_the_networks_outputs(name: str) -> None:
    channels, size = SIZES.get(name, (3, 32))
    torch.manual_seed(0)
    made = models.create(name, num_classes=4, in_channels=channels, input_size=(size, size)).eval()
    x = torch.randn(2, channels, size, size)
    features, outputs = head_inputs(made, x)
    torch.testing.assert_close(head_of(made).eval()(features), outputs, rtol=0, atol=0)
    require_in_a_row(made, features, outputs)
    names = dict(made.named_parameters())
    for each, parameter in head_of(made).named_parameters():
        assert names[each] is parameter


def test_auxiliary_classifiers_are_no_stages() -> None:
    with torch.device("meta"):
        made = models.create("googlenet", num_classes=5)
    assert all(not name.startswith("auxiliary_") for name in stages(made))
    assert head_names(made) == ("dropout", "linear")


def test_the_head_begins_with_the_dropout_before_the_last_stage() -> None:
    assert stages(network()) == ("conv1", "conv2", "fc")
    assert head_names(network()) == ("drop", "fc")


def test_only_the_head_learns() -> None:
    made = network()
    freeze_backbone(made)
    assert [name for name, p in made.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("made", [nn.Linear(3, 2), stage(fc=nn.Linear(3, 2)), stage(relu=nn.ReLU())])
def test_a_network_without_backbone_cannot_be_frozen(made: nn.Module) -> None:
    with pytest.raises(ConvworksError, match="no part that could be frozen") as caught:
        freeze_backbone(made)
    assert caught.value.code == "U230"


class Skips(nn.Module):
    """Its last layer's output is not the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return self.fc(y) + y[:, :2]  # type: ignore[no-any-return]


def test_a_network_whose_head_is_not_in_a_row_is_refused() -> None:
    made, x = Skips().eval(), torch.randn(3, 4)
    features, outputs = head_inputs(made, x)
    with pytest.raises(ConvworksError, match="cannot be trained on stored features") as caught:
        require_in_a_row(made, features, outputs)
    assert caught.value.code == "U231"


class Twice(Skips):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x)) + self.fc(x)  # type: ignore[no-any-return]


def test_a_head_that_is_used_twice_is_refused() -> None:
    with pytest.raises(ConvworksError) as caught:
        head_inputs(Twice(), torch.randn(3, 4))
    assert caught.value.code == "U231"


def test_rates_fall_with_the_distance_from_the_last_stage() -> None:
    assert lr_scales(network(), 0.5) == {"conv1": 0.25, "conv2": 0.5, "fc": 1.0}


def test_one_stage_more_after_every_so_many_epochs() -> None:
    assert [learning_stages(3, every=2, epoch=epoch) for epoch in range(7)] == [1, 1, 2, 2, 3, 3, 3]


def learning(made: nn.Module) -> list[str]:
    return [name for name, child in made.named_children() if any(p.requires_grad for p in child.parameters())]


def test_stages_join_from_the_end_and_rest_in_evaluation_mode() -> None:
    made = network()
    unfreezing = StagedUnfreezing(made, every=2)
    for epoch, expected in ((0, ["fc"]), (2, ["conv2", "fc"]), (5, ["conv1", "conv2", "fc"])):
        made.train()
        unfreezing.begin_epoch(epoch)
        assert learning(made) == expected
        assert [each for each in ("conv1", "conv2", "fc") if made.get_submodule(each).training] == expected
    assert made.get_submodule("drop").training


def step(made: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad(set_to_none=True)
    made(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "sgd_alexnet", "nesterov", "adam", "adamw"])
def test_what_rests_keeps_its_bits_and_a_resumed_training_ends_in_the_same(name: str) -> None:
    """The oracle for resting: weights, running statistics and decay leave not a bit changed."""

    def trained(first: int, last: int, made: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        unfreezing = StagedUnfreezing(made, every=1)
        for epoch in range(first, last):
            made.train()
            unfreezing.begin_epoch(epoch)
            torch.manual_seed(epoch)
            step(made, optimizer, epoch)

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        made = network()
        return made, make_optimizer(name, made, lr=0.01, weight_decay=0.1)

    begun = {key: value.clone() for key, value in network().state_dict().items()}
    whole, optimizer = fresh()
    trained(0, 1, whole, optimizer)
    changed = [key for key, value in whole.state_dict().items() if not torch.equal(value, begun[key])]
    assert changed == ["fc.weight", "fc.bias"]
    assert {each.partition(".")[0] for each in state_tensors(whole, optimizer)} == {"fc"}
    trained(1, 4, whole, optimizer)
    assert not torch.equal(whole.state_dict()["conv1.conv.weight"], begun["conv1.conv.weight"])
    for stop in (1, 2, 3):
        part, first = fresh()
        trained(0, stop, part, first)
        again, second = fresh()
        again.load_state_dict(part.state_dict())
        load_state_tensors(again, second, state_tensors(part, first))
        trained(stop, 4, again, second)
        for key, value in whole.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), (stop, key)


def test_what_a_network_keeps_fixed_stays_fixed_while_stages_thaw() -> None:
    network = models.create("airbench94", num_classes=10)
    fixed = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert "whiten.conv.weight" in fixed
    staged = StagedUnfreezing(network, every=1, fixed=fixed)
    for epoch in (0, 3, 20):
        staged.begin_epoch(epoch)
        assert all(not p.requires_grad for name, p in network.named_parameters() if name in fixed)
    assert {name for name, p in network.named_parameters() if not p.requires_grad} == fixed


def test_parts_rest_after_their_epochs_and_what_came_before_goes_on() -> None:
    net, seen = network(), list[int]()
    begin = resting_after(net, {"conv1.conv.weight": 1, "conv1.norm": 2}, seen.append)
    assert begin is not None
    resting: list[set[str]] = []
    for epoch in range(3):
        net.get_parameter("conv1.conv.weight").grad = torch.ones(4, 1, 3, 3)
        begin(epoch)
        resting.append({name for name, p in net.named_parameters() if not p.requires_grad})
    assert resting == [
        set(),
        {"conv1.conv.weight"},
        {"conv1.conv.weight", "conv1.norm.weight", "conv1.norm.bias"},
    ]
    assert net.get_parameter("conv1.conv.weight").grad is None
    assert seen == [0, 1, 2]
    assert resting_after(net, {}) is None
    assert resting_after(net, {}, begin) is begin


def test_parts_that_cannot_rest() -> None:
    with pytest.raises(ConvworksError, match="no part of the network called 'conv9'") as caught:
        resting_after(network(), {"conv9": 1})
    assert caught.value.code == "U101"
    with pytest.raises(ConvworksError, match="no parameter would learn after epoch 4") as caught:
        resting_after(network(), dict.fromkeys(stages(network()), 4))
    assert caught.value.code == "U231"
