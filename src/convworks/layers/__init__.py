"""Layers that torch lacks, as ordinary modules."""

from convworks.layers.activation import ScaledTanh as ScaledTanh
from convworks.layers.containers import stage as stage
from convworks.layers.convolution import ConnectionTableConv2d as ConnectionTableConv2d
from convworks.layers.pooling import Subsampling as Subsampling
from convworks.layers.rbf import RBFOutput as RBFOutput
