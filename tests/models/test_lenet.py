"""LeNet-5 against the paper: Table I, the counts of every layer, the codes, the initial weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convworks import anatomy, models
from convworks.errors import ConvworksError
from convworks.layers import RBFOutput
from convworks.models.lenet import TABLE_I, digit_codes, hadamard_codes
from tests.papers import facts


def connected() -> list[set[int]]:
    """For each of the sixteen maps of C3 the maps of S2 that it sees."""
    rows = [row.split() for row in TABLE_I]
    return [{i for i in range(6) if rows[i][o] == "X"} for o in range(16)]


def test_table_one_is_as_the_text_describes_it() -> None:
    # "The first six C3 feature maps take inputs from every contiguous subset of three feature maps in S2. The
    # next six take input from every contiguous subset of four. The next three take input from some
    # discontinuous subsets of four. Finally the last one takes input from all S2 feature maps."
    maps = connected()
    assert maps[:6] == [{(i + k) % 6 for k in range(3)} for i in range(6)]
    assert maps[6:12] == [{(i + k) % 6 for k in range(4)} for i in range(6)]
    assert maps[12:15] == [{0, 1, 3, 4}, {1, 2, 4, 5}, {0, 2, 3, 5}]
    assert maps[15] == set(range(6))


def test_trainable_parameters_of_each_layer_are_those_printed() -> None:
    stages = {row.name: row for row in anatomy.stages(anatomy.trace(models.lenet5(), (1, 32, 32)))}
    printed = {name: stages[name].parameters for name in facts.LENET5_PARAMETERS}
    assert printed == facts.LENET5_PARAMETERS
    assert sum(printed.values()) == facts.LENET5.parameters
    assert (stages["output"].parameters, stages["output"].fixed) == (0, facts.LENET5_RBF_WEIGHTS)


def test_connections_are_those_printed() -> None:
    # A connection is a multiply-add or a bias of one unit; the output units have no bias.
    stages = {row.name: row for row in anatomy.stages(anatomy.trace(models.lenet5(), (1, 32, 32)))}
    connections = {
        name: row.macs + (int(np.prod(row.output)) if name != "output" else 0) for name, row in stages.items()
    }
    assert {name: connections[name] for name in facts.LENET5_CONNECTIONS} == facts.LENET5_CONNECTIONS
    assert sum(connections.values()) == facts.LENET5_ALL_CONNECTIONS


def test_the_linear_output_has_850_more() -> None:
    net = models.lenet5(output="linear")
    assert sum(p.numel() for p in net.parameters()) == facts.LENET5_LINEAR_OUTPUT
    assert net(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_an_output_that_is_not_there() -> None:
    with pytest.raises(
        ConvworksError, match=r"error\[U123\]: option 'output' of lenet5 cannot be 'softmax'"
    ) as caught:
        models.create("lenet5", num_classes=10, output="softmax")
    assert caught.value.where == "allowed: rbf, linear"
    assert caught.value.hint == "convworks train DATA --model lenet5 --set model_options.output=rbf"


def test_more_classes_than_codes() -> None:
    models.lenet5(num_classes=168)
    with pytest.raises(ConvworksError, match="cannot be 'rbf with 169 classes'") as caught:
        models.lenet5(num_classes=169)
    assert caught.value.hint.endswith("--set model_options.output=linear")
    models.lenet5(num_classes=169, output="linear")


def test_ten_classes_take_the_bitmaps() -> None:
    codes = digit_codes()
    assert codes.shape == (10, 84)
    assert codes.unique().tolist() == [-1.0, 1.0]
    apart = (codes[:, None] != codes).sum(dim=2) + 84 * torch.eye(10, dtype=torch.int64)
    assert apart.min().item() >= 8
    output = models.lenet5().output
    assert isinstance(output, RBFOutput)
    torch.testing.assert_close(output.codes, codes)


def test_bitmaps_are_digits_of_seven_by_twelve() -> None:
    one, seven = (digit_codes()[d].reshape(12, 7) for d in (1, 7))
    assert (one[2:9, 3] == 1).all()  # the stem of the 1 stands in the middle column
    assert (seven[1] == 1).all()  # the bar of the 7 fills its row
    assert (digit_codes().reshape(10, 12, 7)[:, [0, 11]] == -1).all()  # empty rows above and below


def test_other_numbers_of_classes_take_hadamard_codes() -> None:
    codes = hadamard_codes(168).numpy()
    np.testing.assert_array_equal(codes[:84] @ codes[:84].T, 84 * np.eye(84))
    np.testing.assert_array_equal(codes[84:], -codes[:84])
    output = models.lenet5(num_classes=7).output
    assert isinstance(output, RBFOutput)
    np.testing.assert_array_equal(output.codes.numpy(), codes[:7])


def test_initial_weights_are_uniform_within_their_fan_in() -> None:
    # appendix A: between -2.4/F and 2.4/F
    torch.manual_seed(0)
    weights = dict(models.lenet5(output="linear").named_parameters())
    fan_in = {"c1.conv": 25, "c5.conv": 400, "f6.linear": 120, "output": 84, "s2.pool": 4, "s4.pool": 4}
    for layer, f in fan_in.items():
        for name, weight in weights.items():
            if name.startswith(layer):
                assert weight.abs().max().item() <= 2.4 / f
    for layer in ("c5.conv", "f6.linear"):  # enough numbers to see that they are uniform
        drawn = weights[f"{layer}.weight"].detach().numpy().ravel() * fan_in[layer] / 2.4
        np.testing.assert_allclose(np.histogram(drawn, 4, (-1, 1))[0] / drawn.size, 0.25, atol=0.01)


def test_c3_takes_the_fan_in_of_each_map() -> None:
    torch.manual_seed(0)
    weight = models.lenet5().c3.conv.weight  # type: ignore[union-attr]
    of_map = np.repeat(np.arange(16), [len(maps) for maps in connected()])
    for o, maps in enumerate(connected()):
        largest = np.abs(weight.detach().numpy()[of_map == o]).max()
        assert 0.9 < largest * 25 * len(maps) / 2.4 <= 1


def test_children_are_the_layers_of_the_paper() -> None:
    assert [name for name, _ in models.lenet5().named_children()] == [
        "c1",
        "s2",
        "c3",
        "s4",
        "c5",
        "f6",
        "output",
    ]
