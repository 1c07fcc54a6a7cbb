"""Networks and encoders accept points of every floating-point dtype, for parameters of every dtype."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


nn = fp.nn
KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
SMALL = {"width": 4, "key": KEY}

NETWORKS = {
    "MLP": lambda: nn.MLP(SHAPE, 3, depth=1, **SMALL),
    "ConcatSquash": lambda: nn.ConcatSquashMLP(SHAPE, 3, depth=1, **SMALL),
    "Residual": lambda: nn.ResidualMLP(SHAPE, 3, depth=1, **SMALL),
    "ImageMixer": lambda: nn.ImageMixer(SHAPE, 3, patch_size=2, depth=1, **SMALL),
    "Fuse, labels": lambda: nn.FuseNetwork(nn.LabelEncoder(SHAPE, 3, key=KEY), 3, SHAPE, **SMALL),
    "Fuse, images": lambda: nn.FuseNetwork(nn.ConvEncoder(SHAPE, 3, channels=(2,), key=KEY), 3, SHAPE, **SMALL),
}
ENCODERS = {
    "ConvEncoder": lambda: nn.ConvEncoder(SHAPE, 3, channels=(2,), key=KEY),
    "ResNet": lambda: nn.ResNet(SHAPE, 3, depths=(1, 1), width=2, key=KEY),
    "ResNet, bottlenecks": lambda: nn.ResNet(SHAPE, 3, depths=(1,), width=2, block=nn.bottleneck_block, key=KEY),
    "MixerEncoder": lambda: nn.MixerEncoder(SHAPE, 3, patch_size=2, depth=1, **SMALL),
    "LabelEncoder": lambda: nn.LabelEncoder(SHAPE, 3, key=KEY),
    "GroupNorm": lambda: nn.GroupNorm(1, 1),
    "Conv": lambda: nn.Conv(1, 2, key=KEY),
}
POINT = np.random.default_rng(0).standard_normal(SHAPE)
# The rounding error relative to 1, times the number of operations between point and output: about ten layers.
ROUNDING = {"float16": 2e-2, "bfloat16": 1.5e-1, "float32": 2e-5, "float64": 1e-6}
# The dtypes of the parameters and of the point.
PAIRS = [*(("float32", kind) for kind in ROUNDING), ("bfloat16", "float32"), ("float64", "float16")]


@pytest.mark.parametrize("name", [*NETWORKS, *ENCODERS])
def test_every_dtype_of_point_and_parameters(name, x64):
    """The output agrees with that of the same network in double precision."""

    def output(network, z):
        return network(jnp.asarray(0.3, z.dtype), z, jnp.ones(3, z.dtype)) if name in NETWORKS else network(z)

    with jax.enable_x64(False):
        made = (NETWORKS | ENCODERS)[name]()
    exact = output(jax.tree.map(lambda a: a.astype(float) if eqx.is_array(a) else a, made), jnp.asarray(POINT))
    for parameters, kind in PAIRS:
        network = jax.tree.map(lambda a, kind=parameters: a.astype(kind) if eqx.is_array(a) else a, made)
        out = output(network, jnp.asarray(POINT, kind))
        assert out.dtype == jnp.promote_types(kind, parameters)
        rounding = max(ROUNDING[kind], ROUNDING[parameters])
        np.testing.assert_allclose(np.asarray(out, float), exact, rtol=0, atol=rounding * np.max(np.abs(exact)))
