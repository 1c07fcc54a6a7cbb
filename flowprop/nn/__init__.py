"""Networks: callables `network(t, z, x)` and encoders, each on one example; channels come last."""

from ._conv import Conv as Conv, ConvEncoder as ConvEncoder
from ._features import (
    FourierFeatures as FourierFeatures,
    PositionalFeatures as PositionalFeatures,
    SinusoidalFeatures as SinusoidalFeatures,
)
from ._linear import Linear as Linear
from ._mlp import MLP as MLP, ConcatSquashMLP as ConcatSquashMLP
