"""A flow as a distribution: the methods that samplers of other libraries call, against closed forms."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC, NUTS, Predictive, init_to_value

import flowprop as fp
from flowprop._transform import Bounded, Positive


MEAN, SCALE = np.array([0.7, -0.4]), np.array([0.5, 1.5])


class Affine(eqx.Module):
    """The exact velocity to `N(MEAN + x, SCALE^2)` on `z_t = t z_1 + (1 - t) z_0`."""

    def __call__(self, t, z, x):
        mean, variance = jnp.asarray(MEAN, z.dtype) + (0.0 if x is None else x), jnp.asarray(SCALE, z.dtype) ** 2
        return mean + (t * variance - (1 - t)) / (t**2 * variance + (1 - t) ** 2) * (z - t * mean)


FLOW = fp.fm_flow(Affine(), shape=(2,))
#: It compiles fast. 16 steps of Heun change no standard deviation by more than 1 %.
CHEAP = fp.ODEIntegrator(solver=dfx.Heun(), dt0=1 / 16)


def gaussian(z, x=0.0):
    return jax.scipy.stats.norm.logpdf(z, MEAN + x, SCALE).sum(axis=-1)


@pytest.mark.parametrize("batch", [(), (5,), (2, 1, 3)], ids=str)
def test_takes_any_axes_in_front_of_the_point(batch, key):
    distribution = fp.as_distribution(FLOW)
    points = distribution.sample(key, batch)
    assert points.shape == (*batch, 2)
    count = int(np.prod(batch))
    np.testing.assert_array_equal(points.reshape(-1, 2), fp.sample(FLOW, count, key=key))
    log_probs = distribution.log_prob(points)
    assert log_probs.shape == batch
    # The solver's tolerance is 1e-5, and the values are up to 6.
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(log_probs, gaussian(points), atol=3e-4)
    both = distribution.sample_and_log_prob(key, batch)
    assert (both[0].shape, both[1].shape) == (points.shape, batch)
    np.testing.assert_allclose(both[0], points, atol=1e-3)
    np.testing.assert_allclose(both[1], log_probs, atol=3e-4)


def test_lists_and_numpy_arrays_are_points():
    distribution = fp.as_distribution(FLOW)
    wanted = distribution.log_prob(jnp.array([0.3, 0.4]))
    for point in ([0.3, 0.4], (0.3, 0.4), np.array([0.3, 0.4]), np.array([0.3, 0.4], ">f4")):
        np.testing.assert_allclose(distribution.log_prob(point), wanted, rtol=1e-6)
    assert (distribution.shape, distribution.event_shape, distribution.batch_shape) == ((2,), (2,), ())


def test_points_may_be_scalars_or_images(key):
    for shape in ((), (2, 3, 1)):
        distribution = fp.as_distribution(fp.fm_flow(lambda t, z, x: 0 * z, shape=shape))
        points = distribution.sample(key, (4,))
        assert points.shape == (4, *shape)
        wanted = jax.scipy.stats.norm.logpdf(points).reshape(4, -1).sum(axis=1)
        np.testing.assert_allclose(distribution.log_prob(points), wanted, rtol=1e-5)
        assert distribution.log_prob(points[0]).shape == ()


def test_has_the_gradient_of_the_closed_form(x64):
    tight = fp.ODEIntegrator(stepsize_controller=dfx.PIDController(rtol=1e-9, atol=1e-9))
    log_prob = fp.as_distribution(FLOW, integrator=tight).log_prob
    points = jnp.array([[0.3, 0.4], [2.0, -3.0]])
    gradients = jax.jit(jax.vmap(jax.grad(log_prob)))(points)
    np.testing.assert_allclose(gradients, (MEAN - np.asarray(points)) / SCALE**2, rtol=1e-7)
    # All points at once: the density of a point does not depend on the others.
    np.testing.assert_allclose(jax.grad(lambda z: log_prob(z).sum())(points), gradients, rtol=1e-9)


def test_has_a_hessian_by_a_direct_adjoint():
    distribution = fp.as_distribution(FLOW, integrator=fp.ODEIntegrator(dt0=0.05, adjoint=dfx.DirectAdjoint()))
    # The tolerance allows for rounding in single precision.
    np.testing.assert_allclose(jax.hessian(distribution.log_prob)(jnp.ones(2)), -np.diag(1 / SCALE**2), atol=1e-3)


def test_one_condition_serves_all_points(key):
    x = jnp.array([0.5, 2.0])
    distribution = fp.as_distribution(FLOW, x)
    points = distribution.sample(key, (3, 2))
    np.testing.assert_allclose(points.reshape(6, 2), fp.sample(FLOW, 6, jnp.tile(x, (6, 1)), key=key), atol=1e-6)
    with jax.numpy_rank_promotion("allow"):
        np.testing.assert_allclose(distribution.log_prob(points), gaussian(points, x), atol=3e-4)


@pytest.mark.parametrize(
    ("transform", "outside"),
    [(Bounded(0.0, 1.0), [[-0.3, 0.4], [-5.0, 9.0]]), (Positive(), [[-0.3, 0.4], [0.0, 1.0]])],
    ids=["bounded", "positive"],
)
def test_outside_of_the_support_the_density_is_zero_and_its_gradient_too(transform, outside):
    """A NaN there would break a chain, because samplers add the gradient to the momentum."""
    log_prob = fp.as_distribution(
        fp.Flow(Affine(), fp.CondOTPath(), fp.VelocityPrediction(), shape=(2,), transform=transform)
    ).log_prob
    points = jnp.array([*outside, [0.3, 0.4]])
    values, gradients = jax.vmap(jax.value_and_grad(log_prob))(points)
    np.testing.assert_array_equal(values[:2], -np.inf)
    np.testing.assert_array_equal(gradients[:2], 0.0)
    z, log_det = transform.forward_and_log_det(points[2])
    np.testing.assert_allclose(values[2], gaussian(z) + log_det, atol=3e-4)
    wanted = jax.grad(lambda d: gaussian(transform.forward_and_log_det(d)[0]) + transform.log_det(d))(points[2])
    np.testing.assert_allclose(gradients[2], wanted, rtol=2e-3)


def test_a_stochastic_divergence_needs_a_key(key):
    distribution = fp.as_distribution(FLOW, divergence=fp.HutchinsonDivergence())
    with pytest.raises(ValueError, match="`key`"):
        distribution.log_prob(jnp.zeros(2))
    # Exact, because the Jacobian of this velocity is diagonal.
    np.testing.assert_allclose(distribution.log_prob(jnp.zeros(2), key=key), gaussian(np.zeros(2)), atol=3e-4)


def test_a_solve_that_fails_is_an_error_or_nan(key):
    short = fp.ODEIntegrator(max_steps=2)
    with pytest.raises(RuntimeError, match="max_steps"):
        fp.as_distribution(FLOW, integrator=short).log_prob(jnp.zeros(2))
    distribution = fp.as_distribution(FLOW, integrator=short, throw=False)
    assert np.isnan(distribution.log_prob(jnp.zeros(2)))
    assert np.isnan(distribution.sample(key)).all()
    # A point whose solve fails does not change the other results.
    values = fp.as_distribution(FLOW).log_prob(jnp.array([[np.nan, 0.0], [0.3, 0.4]]))
    assert np.isnan(values[0])
    np.testing.assert_allclose(values[1], gaussian(np.array([0.3, 0.4])), atol=3e-4)


def test_an_old_style_key_draws_the_same_points():
    distribution = fp.as_distribution(FLOW)
    old, new = distribution.sample(jax.random.PRNGKey(3), (2,)), distribution.sample(jax.random.key(3), (2,))
    np.testing.assert_array_equal(old, new)


def test_errors_name_the_argument(key):
    distribution = fp.as_distribution(FLOW)
    for wrong in (jnp.zeros(3), jnp.zeros((2, 3)), jnp.zeros(()), jnp.zeros((0, 2))):
        with pytest.raises(ValueError, match=r"`z1` has shape .* where \(2,\) is needed"):
            distribution.log_prob(wrong)
    with pytest.raises(TypeError, match="`z1` holds int32 numbers"):
        distribution.log_prob(jnp.zeros(2, int))
    with pytest.raises(ValueError, match=r"`sample_shape` is \(3, 0\): give positive sizes"):
        distribution.sample(key, (3, 0))
    with pytest.raises(TypeError, match="`key` is 0 where one typed key is needed"):
        distribution.sample(0)
    with pytest.raises(TypeError, match="`integrator` is SDEIntegrator: a likelihood needs the ODE"):
        fp.as_distribution(FLOW, integrator=fp.SDEIntegrator(10))
    with pytest.raises(ValueError, match="`x` holds no array"):
        fp.as_distribution(FLOW, {})


class NumPyroFlow(dist.Distribution):
    """The adapter that the reference shows."""

    support = dist.constraints.real_vector

    def __init__(self, distribution):
        self.distribution = distribution
        super().__init__(event_shape=distribution.shape)

    def sample(self, key, sample_shape=()):
        return self.distribution.sample(key, sample_shape)

    def log_prob(self, value):
        return self.distribution.log_prob(value)


def check_draws(points):
    """Moments of a chain of 400 with an effective size of at least 100, within four standard errors."""
    np.testing.assert_allclose(points.mean(axis=0), MEAN, atol=4 * SCALE.max() / np.sqrt(100))
    np.testing.assert_allclose(points.std(axis=0) / SCALE, 1.0, atol=4 / np.sqrt(2 * 100))


@pytest.fixture
def loose():
    """The other libraries' code relies on rank promotion."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.slow
def test_nuts_of_numpyro_samples_it(loose):
    distribution = fp.as_distribution(FLOW, integrator=CHEAP, throw=False)

    def model():
        z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
        numpyro.factor("flow", distribution.log_prob(z))

    # The step size and the start are fixed, because their search would need more compilation.
    start = init_to_value(values={"z": jnp.zeros(2)})
    kernel = NUTS(model, step_size=0.6, adapt_step_size=False, max_tree_depth=3, init_strategy=start)
    chain = MCMC(kernel, num_warmup=20, num_samples=400, progress_bar=False)
    chain.run(jax.random.key(0))
    check_draws(np.asarray(chain.get_samples()["z"]))


def test_numpyro_samples_it_with_a_short_adapter(loose):
    model = lambda: numpyro.sample("z", NumPyroFlow(fp.as_distribution(FLOW, integrator=CHEAP)))  # noqa: E731
    points = Predictive(model, num_samples=400)(jax.random.key(1))["z"]
    check_draws(np.asarray(points))
    trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace()
    density, _ = numpyro.infer.util.log_density(model, (), {}, {"z": trace["z"]["value"]})
    np.testing.assert_allclose(density, gaussian(trace["z"]["value"]), atol=0.02)


def test_nuts_of_blackjax_samples_it(loose):
    blackjax = pytest.importorskip("blackjax")
    distribution = fp.as_distribution(FLOW, integrator=CHEAP, throw=False)
    nuts = blackjax.nuts(distribution.log_prob, step_size=0.6, inverse_mass_matrix=jnp.ones(2), max_num_doublings=3)

    def step(state, key):
        state, _ = nuts.step(key, state)
        return state, state.position

    keys = jax.random.split(jax.random.key(2), 420)
    _, points = jax.lax.scan(step, nuts.init(jnp.zeros(2)), keys)
    check_draws(np.asarray(points[20:]))
