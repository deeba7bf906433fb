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
from convworks.layers.fold import ChannelAffine as ChannelAffine
from convworks.layers.fold import fold_batch_norm as fold_batch_norm
from convworks.layers.locally_connected import LocallyConnected1d as LocallyConnected1d
from convworks.layers.locally_connected import LocallyConnected2d as LocallyConnected2d
from convworks.layers.locally_connected import LocallyConnected3d as LocallyConnected3d
from convworks.layers.normalization import LocalContrastNorm2d as LocalContrastNorm2d
from convworks.layers.normalization import LocalResponseNorm as LocalResponseNorm
from convworks.layers.normalization import Whitening as Whitening
from convworks.layers.normalization import conv_norm_activation as conv_norm_activation
from convworks.layers.pooling import Subsampling as Subsampling
from convworks.layers.rbf import RBFOutput as RBFOutput
