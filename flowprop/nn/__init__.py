"""Neural networks: callables `network(t, z, x)`, encoders, features, and layers.

Each works on one example; use `jax.vmap` for a batch. Images have the shape `(height, width, channels)`.
"""

from ._conv import Conv as Conv, ConvEncoder as ConvEncoder
from ._features import (
    FourierFeatures as FourierFeatures,
    PositionalFeatures as PositionalFeatures,
    SinusoidalFeatures as SinusoidalFeatures,
)
from ._fuse import FuseNetwork as FuseNetwork, LabelEncoder as LabelEncoder
from ._image_mixer import ImageMixer as ImageMixer
from ._linear import Linear as Linear
from ._linear_gaussian import LinearGaussian as LinearGaussian
from ._low_precision import LowPrecision as LowPrecision
from ._mixer import MixerEncoder as MixerEncoder
from ._mlp import MLP as MLP, ConcatSquashMLP as ConcatSquashMLP
from ._norm import GroupNorm as GroupNorm
from ._residual import ResidualMLP as ResidualMLP
from ._resnet import (
    ResidualBlock as ResidualBlock,
    ResNet as ResNet,
    basic_block as basic_block,
    bottleneck_block as bottleneck_block,
    resnet18 as resnet18,
    resnet50 as resnet50,
    resnet152 as resnet152,
)
from ._series_encoder import SeriesEncoder as SeriesEncoder
from ._set_encoder import SetEncoder as SetEncoder
from ._stateful import Stateful as Stateful
