"""Networks, one file for each paper; `create(name, ...)` builds any of them.

Every registered name is also a function here: `from convworks.models import resnet34`.
"""

from collections.abc import Callable as _Callable

from torch import nn as _nn

from convworks.models.fastnet import fastnet as fastnet
from convworks.models.lenet import lenet5 as lenet5
from convworks.models.lenet import LeNet5 as LeNet5
from convworks.models.lenet import lenet5_modern as lenet5_modern
from convworks.models.mlp import mlp128 as mlp128
from convworks.models.preact_resnet import PreActConfig as PreActConfig
from convworks.models.prelu_net import SpatialPyramidPooling as SpatialPyramidPooling
from convworks.models.registry import create as create
from convworks.models.registry import info as info
from convworks.models.registry import ModelInfo as ModelInfo
from convworks.models.registry import names as names
from convworks.models.resnet import ResNetConfig as ResNetConfig
from convworks.models.sequence import one_hot as one_hot
from convworks.models.sequence import series_fcn as series_fcn
from convworks.models.tutorial import tutorial_cnn as tutorial_cnn
from convworks.models.wavenet import wavenet as wavenet


def __getattr__(name: str) -> _Callable[..., _nn.Module]:
    """A network of a family's table by its name, as a function."""
    if name in names():
        return info(name).build
    raise AttributeError(f"convworks.models has no network '{name}'")


globals().update({_name: info(_name).build for _name in names()})  # before files of the same name
