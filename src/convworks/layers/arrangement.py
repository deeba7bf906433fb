"""How a network's layers compute in training: fused kernels, Winograd's algorithm, matrix units, or torch's.

The classes of layers change in place, and nothing else: neither names, parameters, the state_dict nor hooks.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from convworks.layers.amx import use_amx, without_amx
from convworks.layers.fused import fuse, plain
from convworks.layers.replay import use_replay, without_replay
from convworks.layers.winograd import use_winograd, without_winograd


def arrange(
    network: nn.Module, *, fused: bool, winograd: Collection[str] = (), amx: Collection[str] = ()
) -> nn.Module:
    """Fuse what can be fused, or nothing; the convolutions named train so, and no others.

    `winograd` names those that train by Winograd's algorithm, `amx` those on matrix units; of one that is in
    both it is the former. Returns the same network. Whatever it was before, it is so afterwards.
    """
    as_torch(network)
    if fused:
        fuse(network)
    use_winograd(network, winograd)
    use_amx(network, amx)
    use_replay(network)
    return network


def as_torch(network: nn.Module) -> nn.Module:
    """The same network with torch's own operators everywhere, in place."""
    return plain(without_winograd(without_amx(without_replay(network))))
