"""Layers that torch lacks, as ordinary modules, thin over `convworks.ops`."""

from convworks.layers.activation import ScaledTanh as ScaledTanh
from convworks.layers.auxiliary import WithAuxiliary as WithAuxiliary
from convworks.layers.containers import stage as stage
from convworks.layers.convolution import ConnectionTableConv2d as ConnectionTableConv2d
from convworks.layers.convolution import Conv1d as Conv1d
from convworks.layers.convolution import Conv2d as Conv2d
from convworks.layers.convolution import Conv3d as Conv3d
from convworks.layers.convolution import DepthwiseConv2d as DepthwiseConv2d
from convworks.layers.convolution import SeparableConv2d as SeparableConv2d
from convworks.layers.locally_connected import LocallyConnected1d as LocallyConnected1d
from convworks.layers.locally_connected import LocallyConnected2d as LocallyConnected2d
from convworks.layers.locally_connected import LocallyConnected3d as LocallyConnected3d
from convworks.layers.pooling import Subsampling as Subsampling
from convworks.layers.rbf import RBFOutput as RBFOutput
