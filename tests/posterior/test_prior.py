"""Priors: the box, and distributions of other libraries with their supports."""

import flowjax.distributions as flowjax_dist
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro_dist
import pytest

import flowprop as fp


class DistraxUniform:
    """The interface of distrax: the key is the keyword `seed`."""

    event_shape, batch_shape = (2,), ()

    def sample(self, *, seed, sample_shape=()):
        return jax.random.uniform(seed, (*sample_shape, 2), minval=LOW, maxval=HIGH)

    def log_prob(self, value):
        return jnp.where(jnp.all((value >= LOW) & (value <= HIGH), axis=-1), -jnp.log(6.0), -jnp.inf)


LOW, HIGH = np.array([-1.0, 2.0], np.float32), np.array([1.0, 5.0], np.float32)

# Name -> a uniform distribution on the same box.
BOXES = {
    "flowprop": lambda: fp.BoxUniform(LOW, HIGH),
    "NumPyro": lambda: numpyro_dist.Uniform(LOW, HIGH).to_event(1),
    "flowjax": lambda: flowjax_dist.Uniform(jnp.asarray(LOW), jnp.asarray(HIGH)),
    "distrax": DistraxUniform,
}
POINTS = np.array([[0.0, 3.0], [1.0, 5.0], [-1.0, 2.0], [1.01, 3.0], [0.0, 1.9], [np.nan, 3.0]])
INSIDE = [True, True, True, False, False, False]


@pytest.fixture
def promotion():
    """flowjax relies on rank promotion, which is an error in these tests."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.usefixtures("promotion")
class TestBoxes:
    def test_support_and_density(self, name):
        prior = fp.Prior(BOXES[name]())
        assert prior.event_shape == (2,)
        assert prior.batch_shape == ()
        np.testing.assert_array_equal(prior.in_support(POINTS), INSIDE)
        np.testing.assert_allclose(prior.log_prob(POINTS), np.where(INSIDE, -np.log(6), -np.inf), rtol=1e-6)
        assert prior.log_prob(POINTS[0]).shape == ()
        assert prior.in_support(POINTS.reshape(2, 3, 2)).shape == (2, 3)

    def test_samples(self, name, key):
        prior = fp.Prior(BOXES[name]())
        samples = np.asarray(prior.sample(key, (2000, 2)))
        assert samples.shape == (2000, 2, 2)
        assert np.all(prior.in_support(samples))
        flat = samples.reshape(-1, 2)
        np.testing.assert_allclose(flat.mean(axis=0), (LOW + HIGH) / 2, atol=4 * 3 / 12**0.5 / 4000**0.5)
        np.testing.assert_allclose(flat.std(axis=0), (HIGH - LOW) / 12**0.5, rtol=0.05)


def test_a_support_that_the_log_density_does_not_show():
    """NumPyro's distributions say where their support is; this density is finite everywhere."""

    class Everywhere(numpyro_dist.LogNormal):
        def log_prob(self, value):
            return jnp.zeros(())

    prior = fp.Prior(Everywhere(0.0, 1.0))
    np.testing.assert_array_equal(prior.in_support(np.array([2.0, -2.0])), [True, False])
    np.testing.assert_array_equal(prior.log_prob(np.array([2.0, -2.0])), [0, -np.inf])


@pytest.mark.usefixtures("promotion")
def test_a_density_that_is_nan_outside():
    """Then the density is 0 there."""
    prior = fp.Prior(numpyro_dist.LogNormal(jnp.zeros(2), jnp.ones(2)).to_event(1))
    np.testing.assert_array_equal(prior.in_support(np.array([[1.0, 2.0], [1.0, -2.0]])), [True, False])
    assert prior.log_prob(np.array([1.0, -2.0])) == -np.inf


def test_a_box_of_one_number(key):
    prior = fp.BoxUniform(0.0, 2.0)
    assert prior.sample(key).shape == ()
    assert prior.sample(key, (3,)).shape == (3,)
    np.testing.assert_allclose(prior.log_prob(np.array([1.0, 3.0])), [-np.log(2), -np.inf])


def test_a_box_as_the_source_of_a_flow(key):
    flow = fp.fm_flow(lambda t, z, x: 0 * z, shape=(2,), source=fp.DistributionSource(fp.BoxUniform(LOW, HIGH)))
    assert np.all(fp.BoxUniform(LOW, HIGH).in_support(fp.sample(flow, 5, key=key)))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (np.zeros(2), np.array([1.0, 0.0]), "`low` is not below `high` in column 1"),
        (np.zeros(2), np.ones(3), r"`low` has shape \(2,\) and `high` has shape \(3,\)"),
        (0.0, np.inf, "`high` is inf where a finite number is needed"),
    ],
)
def test_wrong_bounds(low, high, message):
    with pytest.raises(ValueError, match=message):
        fp.BoxUniform(low, high)


@pytest.mark.parametrize("method", ["log_prob", "in_support"])
@pytest.mark.parametrize("prior", [fp.BoxUniform(LOW, HIGH), fp.Prior(fp.BoxUniform(LOW, HIGH))])
def test_a_point_of_the_wrong_shape(prior, method):
    with pytest.raises(ValueError, match=r"`theta` has shape \(3,\) where \(2,\) is needed"):
        getattr(prior, method)(np.zeros(3))


def test_no_distribution():
    with pytest.raises(TypeError, match="where a distribution of flowjax, NumPyro or distrax is needed"):
        fp.Prior(3.0)
    with pytest.raises(ValueError, match="several distributions where one is needed"):
        fp.Prior(numpyro_dist.Uniform(LOW, HIGH))


def test_under_jit(key):
    prior = fp.Prior(fp.BoxUniform(LOW, HIGH))
    np.testing.assert_array_equal(jax.jit(lambda points: prior.in_support(points))(POINTS), INSIDE)
