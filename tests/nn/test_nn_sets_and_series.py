"""Encoders of sets and of series: invariance, the convolution of `jax.lax`, gradients, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


KEY = jax.random.key(0)
SETS = fp.nn.SetEncoder((2, 3), 5, width=8, key=KEY)
ELEMENTS = jax.random.normal(jax.random.key(1), (6, 2, 3))


def test_the_order_of_a_set_does_not_matter():
    np.testing.assert_allclose(SETS(ELEMENTS), SETS(ELEMENTS[::-1]), atol=1e-5)
    assert float(jnp.abs(SETS(ELEMENTS) - SETS(ELEMENTS.at[0].add(1.0))).max()) > 1e-3


@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_absent_elements_do_not_count(count):
    present = jnp.arange(6) < count
    found = SETS((jnp.where(present[:, None, None], ELEMENTS, 7.0), present))
    if count:
        np.testing.assert_allclose(found, SETS(ELEMENTS[:count]), atol=1e-5)
    assert np.isfinite(found).all()


def test_the_number_of_elements_matters():
    """Four times the same element say more than one."""
    once, often = ELEMENTS[:1], jnp.repeat(ELEMENTS[:1], 4, axis=0)
    assert float(jnp.abs(SETS(once) - SETS(often)).max()) > 1e-3


def test_convolutions_are_those_of_lax():
    encoder = fp.nn.SeriesEncoder((7, 2), 4, channels=(3,), kernel_size=5, key=KEY)
    series = jax.random.normal(jax.random.key(2), (7, 2))
    (layer,) = encoder.convolutions
    kernel = layer.weight.reshape(5, 2, 3)
    layout = ("NWC", "WIO", "NWC")
    hidden = jax.lax.conv_general_dilated(series[None], kernel, (2,), [(2, 2)], dimension_numbers=layout)[0]
    expected = jax.nn.silu(encoder.dense(jax.nn.silu(hidden).ravel()))
    np.testing.assert_allclose(encoder(series), expected, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 9, 32])
def test_series_of_any_length(length):
    encoder = fp.nn.SeriesEncoder((length, 1), 4, channels=(2, 3), kernel_size=4, key=KEY)
    assert encoder(jnp.ones((length, 1))).shape == (4,)


@pytest.mark.parametrize(
    ("encoder", "x"),
    [(SETS, ELEMENTS), (fp.nn.SeriesEncoder((9, 2), 4, channels=(3, 3), key=KEY), jnp.ones((9, 2)))],
    ids=["set", "series"],
)
def test_every_parameter_has_a_gradient(encoder, x):
    gradient = eqx.filter_grad(lambda module: jnp.sum(jnp.square(module(x) - 1)))(encoder)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 0


def test_a_posterior_from_sets_of_any_size():
    """The encoder and the flow are trained together; an encoder takes a pair of arrays."""
    theta = jax.random.normal(jax.random.key(3), (64, 1))
    values = theta[:, None] + jax.random.normal(jax.random.key(4), (64, 5, 1))
    present = jnp.arange(5)[None] < jnp.arange(64)[:, None] % 5 + 1
    posterior, _ = fp.fit_posterior(
        theta,
        (values, present),
        prior=fp.BoxUniform(-9 * jnp.ones(1), 9 * jnp.ones(1)),
        encoder=fp.nn.SetEncoder((1,), 4, width=8, key=KEY),
        network=lambda key: fp.nn.ResidualMLP((1,), 4, width=8, depth=1, key=key),
        steps=3,
        key=KEY,
        progress=False,
    )
    assert posterior.log_prob(theta[:2], (values[0], present[0]), acceptance=1.0).shape == (2,)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: fp.nn.SetEncoder((0,), key=KEY), "`shape` is"),
        (lambda: fp.nn.SetEncoder((2,), 0, key=KEY), "`features` is 0"),
        (lambda: SETS(jnp.ones((4, 3, 3))), "`x` has shape"),
        (lambda: fp.nn.SeriesEncoder((4, 0), key=KEY), "`shape` is"),
        (lambda: fp.nn.SeriesEncoder((4, 1), channels=(), key=KEY), "`channels` is"),
        (lambda: fp.nn.SeriesEncoder((4, 1), kernel_size=0, key=KEY), "`kernel_size` is 0"),
        (lambda: fp.nn.SeriesEncoder((4, 1), key=KEY)(jnp.ones((5, 1))), "`x` has shape"),
    ],
)
def test_wrong_sizes_are_refused(do, message):
    with pytest.raises(ValueError, match=message):
        do()
