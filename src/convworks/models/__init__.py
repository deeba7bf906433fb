"""Networks, one file for each paper; `create(name, ...)` builds any of them.

Every registered name is also a function here: `from convworks.models import resnet34`.
"""

from collections.abc import Callable as _Callable

from torch import nn as _nn

from convworks.models.airbench import airbench94 as airbench94
from convworks.models.airbench import airbench95 as airbench95
from convworks.models.alexnet import alexnet_torchvision as alexnet_torchvision
from convworks.models.bn_inception import bn_inception as bn_inception
from convworks.models.builder import network_from_line as network_from_line
from convworks.models.builder import network_of as network_of
from convworks.models.builder import stack as stack
from convworks.models.cifar_quick import cifar_quick as cifar_quick
from convworks.models.dropconnect import dropconnect_cifar as dropconnect_cifar
from convworks.models.fastnet import fastnet as fastnet
from convworks.models.googlenet import GoogLeNetConfig as GoogLeNetConfig
from convworks.models.googlenet import inception as inception
from convworks.models.googlenet import naive_inception as naive_inception
from convworks.models.inception_resnet import InceptionResNetConfig as InceptionResNetConfig
from convworks.models.inception_v3 import inception_v3 as inception_v3
from convworks.models.inception_v4 import inception_v4 as inception_v4
from convworks.models.lecun1989 import lecun1989 as lecun1989
from convworks.models.lenet import LeNet5 as LeNet5
from convworks.models.lenet import lenet5 as lenet5
from convworks.models.lenet import lenet5_modern as lenet5_modern
from convworks.models.maxout import maxout_cifar as maxout_cifar
from convworks.models.maxout import maxout_mnist as maxout_mnist
from convworks.models.mlp import mlp128 as mlp128
from convworks.models.mobilenet import mobilenet_layer as mobilenet_layer
from convworks.models.nin import nin as nin
from convworks.models.preact_resnet import PreActConfig as PreActConfig
from convworks.models.prelu_net import SpatialPyramidPooling as SpatialPyramidPooling
from convworks.models.registry import ModelInfo as ModelInfo
from convworks.models.registry import create as create
from convworks.models.registry import info as info
from convworks.models.registry import names as names
from convworks.models.resnet import ResNetConfig as ResNetConfig
from convworks.models.sequence import one_hot as one_hot
from convworks.models.sequence import series_fcn as series_fcn
from convworks.models.tutorial import tutorial_cnn as tutorial_cnn
from convworks.models.vgg import initialise_from_a as initialise_from_a
from convworks.models.wavenet import wavenet as wavenet
from convworks.models.zfnet import zfnet as zfnet


def __getattr__(name: str) -> _Callable[..., _nn.Module]:
    """A network of a family's table by its name, as a function."""
    if name in names():
        return info(name).build
    raise AttributeError(f"convworks.models has no network '{name}'")


globals().update({_name: info(_name).build for _name in names()})  # before files of the same name
