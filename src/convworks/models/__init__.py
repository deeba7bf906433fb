"""Networks, one file for each paper; `create(name, ...)` builds any of them."""

from convworks.models.fastnet import fastnet as fastnet
from convworks.models.lenet import LeNet5 as LeNet5
from convworks.models.lenet import lenet5 as lenet5
from convworks.models.lenet import lenet5_modern as lenet5_modern
from convworks.models.mlp import mlp128 as mlp128
from convworks.models.registry import ModelInfo as ModelInfo
from convworks.models.registry import create as create
from convworks.models.registry import info as info
from convworks.models.registry import names as names
from convworks.models.tutorial import tutorial_cnn as tutorial_cnn
