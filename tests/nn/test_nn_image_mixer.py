"""`ImageMixer`: against NumPy, before training, its gradients, and wrong arguments."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


SHAPE, T = (4, 6, 2), 0.3


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), float)


def make(key):
    return fp.nn.ImageMixer(SHAPE, 3, patch_size=2, width=5, depth=2, key=key)


def filled(key):
    """A network with arbitrary numbers in every array, because many arrays are 0 before training."""

    def fill(leaf):
        return 0.3 * draw(*leaf.shape, seed=leaf.size) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf

    return jax.tree.map(fill, eqx.filter_eval_shape(make, key))


call = eqx.filter_jit(lambda network, *args: network(*args))


def silu(x):
    return x / (1 + np.exp(-x))


def affine(x, layer):
    return x @ np.asarray(layer.weight) + np.asarray(layer.bias)


def modulated(h, scale, shift):
    return h / np.sqrt(np.mean(h**2) + 1e-5) * (1 + scale) + shift


def test_formula(key, x64):
    network, z, x = filled(key), np.asarray(draw(*SHAPE)), {"a": draw(2), "b": draw(1)}
    corners = [(i, j) for i in (0, 2) for j in (0, 2, 4)]
    features = np.concatenate([fp.nn.SinusoidalFeatures()(T), x["a"], x["b"]])
    context = silu(affine(features, network.context))
    h = affine(np.stack([z[i : i + 2, j : j + 2].ravel() for i, j in corners]), network.embed)
    for block in network.blocks:
        m = np.split(affine(context, block.modulation), 4)
        h = h + affine(modulated(h, *m[:2]).T, block.patches).T
        h = h + affine(silu(affine(modulated(h, *m[2:]), block.up)), block.down)
    m = affine(context, network.modulation)
    patches = affine(modulated(h, m[:5], m[5:10]), network.out)
    wanted = m[10] * z
    for (i, j), patch in zip(corners, patches, strict=True):
        wanted[i : i + 2, j : j + 2] += patch.reshape(2, 2, 2)
    assert len(network.blocks) == 2
    np.testing.assert_allclose(call(network, T, jnp.asarray(z), x), wanted, rtol=1e-10, atol=1e-10)


def test_every_parameter_has_a_gradient_which_uses_no_convolution(key):
    params, static = eqx.partition(filled(key), eqx.is_inexact_array)

    def loss(params, t, z, x):
        return jnp.sum(jnp.square(jax.vmap(eqx.combine(params, static))(t, z, x) - 1))

    gradient = jax.jit(jax.grad(loss)).trace(params, jnp.linspace(0.1, 0.9, 4), draw(4, *SHAPE), draw(4, 3))
    assert "conv_general_dilated" not in str(gradient.jaxpr)
    leaves = jax.tree.leaves(gradient.lower().compile()(params, jnp.linspace(0.1, 0.9, 4), draw(4, *SHAPE), draw(4, 3)))
    assert len(leaves) == 2 * (4 + 4 * 2)
    assert min(float(jnp.max(jnp.abs(leaf))) for leaf in leaves) > 1e-4


def test_before_training_the_output_is_small_and_does_not_depend_on_the_condition(key):
    network, z = eqx.filter_jit(make)(key), draw(*SHAPE)
    one, other = (call(network, T, z, x) for x in (jnp.zeros(3), jnp.ones(3)))
    np.testing.assert_array_equal(one, other)
    assert 0 < float(jnp.std(one)) < 0.3
    assert network.out_shape == one.shape == SHAPE


def test_an_image_or_a_condition_of_the_wrong_size_is_refused(key):
    with pytest.raises(ValueError, match=r"`z` has shape \(6, 4, 2\) where \(4, 6, 2\) is needed.*`jax.vmap`"):
        filled(key)(T, jnp.zeros((6, 4, 2)), jnp.zeros(3))
    with pytest.raises(ValueError, match=r"`x` has shape \(2,\) where \(3,\) is needed.*`condition_size`"):
        filled(key)(T, jnp.zeros(SHAPE), jnp.zeros(2))


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"shape": (4, 0, 1)}, "shape"), ({"shape": (4, 6, 1)}, "patch_size"), ({"patch_size": 0}, "patch_size"),
     ({"condition_size": -1}, "condition_size"), ({"width": 0}, "width"), ({"depth": 0}, "depth")],
)  # fmt: skip
def test_wrong_sizes_are_refused(wrong, name, key):
    with pytest.raises(ValueError, match=f"`{name}` is"):
        fp.nn.ImageMixer(**({"shape": (8, 8, 1), "key": key} | wrong))
