"""Flows: the losses of their constructors, conditions, and training."""

import dataclasses
import re
from pathlib import Path

import closed_forms as exact
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
from flowprop._path.span import derivative


SCHEDULE = fp.SigmoidNoiseSchedule(8.0)
Z0, Z1 = jnp.array([0.7, -1.2]), jnp.array([0.4, 0.9])


def network(t, z, x=None):
    return jnp.sin(z + t)


def snr_slope(path, t):
    return derivative(lambda t: jnp.exp(path.gamma(t)), t)


# The weighted error of each constructor, written out from the design's table.
CONSTRUCTORS = {
    "fm": (fp.fm_flow(network, shape=(2,)), lambda path, t, z: jnp.sum((network(t, z) - (Z1 - Z0)) ** 2)),
    "ct": (
        fp.ct_flow(network, shape=(2,), schedule=SCHEDULE),
        lambda path, t, z: snr_slope(path, t) / 2 * jnp.sum((network(t, z) - Z1) ** 2),
    ),
    "df": (
        fp.df_flow(network, shape=(2,), schedule=SCHEDULE),
        lambda path, t, z: jnp.sum((network(t, z) - Z0) ** 2),
    ),
    "df elbo": (
        fp.df_flow(network, shape=(2,), schedule=SCHEDULE, weighting=fp.ELBOWeighting()),
        lambda path, t, z: derivative(path.gamma, t) / 2 * jnp.sum((network(t, z) - Z0) ** 2),
    ),
}
each_constructor = pytest.mark.parametrize("name", CONSTRUCTORS)


@each_constructor
def test_the_error_is_that_of_the_design(name):
    flow, wanted = CONSTRUCTORS[name]
    for t in (0.1, 0.5, 0.9):
        z = flow.path.interpolate(t, Z0, Z1)
        np.testing.assert_allclose(flow.error(t, Z0, Z1), wanted(flow.path, t, z), rtol=1e-5)


@each_constructor
def test_the_loss_is_the_mean_error_over_noise_and_time(name, key):
    """Compared with the integral of the error over time, with many draws of the noise."""
    flow, _ = CONSTRUCTORS[name]
    n = 200_000
    batch = jnp.broadcast_to(Z1, (n, 2))
    value = flow.loss(batch, key=key)
    key_t, key_z = jax.random.split(jax.random.key(7))
    errors = jax.vmap(lambda t, z0: flow.error(t, z0, Z1))(
        jax.random.uniform(key_t, (n,)), jax.random.normal(key_z, (n, 2))
    )
    # Two independent estimates, the loss's with stratified times; five standard errors.
    assert abs(value - errors.mean()) < 5 * np.sqrt(2) * errors.std() / np.sqrt(n)


def test_conditions_reach_their_examples(key):
    flow = fp.fm_flow(lambda t, z, x: x["a"] + x["b"][0], shape=(2,), time_sampling=fp.UniformTimeSampling())
    seen = jnp.arange(8.0).reshape(4, 2)
    z1 = jax.random.normal(key, (4, 2))
    # The best condition is the velocity itself; shuffled among the examples it is not.
    key_z = jax.random.split(key)[1]
    velocity = z1 - jax.random.normal(key_z, (4, 2))
    condition = {"a": velocity - seen, "b": seen[:, None]}
    assert flow.loss(z1, condition, key=key) < 1e-10
    assert flow.loss(z1, jax.tree.map(lambda leaf: leaf[::-1], condition), key=key) > 0.1


def test_the_weighting_is_given_the_whole_batch(key):
    """Weights with mean 1 do not change a mean of equal errors."""
    flow = fp.ct_flow(lambda t, z, x: x + 1, shape=(2,), weighting=fp.BatchNormalisedELBOWeighting())
    z1 = jax.random.normal(key, (8, 2))
    np.testing.assert_allclose(flow.loss(z1, z1, key=key), 2.0, rtol=1e-5)


def test_wrong_shapes_name_the_argument(key):
    flow = fp.fm_flow(network, shape=(2,))
    condition = jnp.zeros((4, 1))
    with pytest.raises(ValueError, match=r"`z` has shape \(3,\) where \(2,\) is needed"):
        flow.velocity(0.5, jnp.zeros(3))
    with pytest.raises(ValueError, match=r"`z1` has shape \(5, 3\) where \(n, 2\) is needed"):
        flow.loss(jnp.zeros((5, 3)), key=key)
    with pytest.raises(ValueError, match=r"`x` has a leaf of shape \(4, 1\) where the batch has 5"):
        flow.loss(jnp.zeros((5, 2)), condition, key=key)
    with pytest.raises(ValueError, match=r"`z0` has shape \(3,\)"):
        flow.error(0.5, jnp.zeros(3), Z1)
    with pytest.raises(ValueError, match=r"`network\(t, z, x\)` has shape \(1,\) where \(2,\) is needed"):
        # Would broadcast, and train to the wrong mean.
        fp.fm_flow(lambda t, z, x: z[:1], shape=(2,)).loss(jnp.zeros((5, 2)), key=key)
    with pytest.raises(ValueError, match=r"`shape` is \(0,\)"):
        fp.fm_flow(network, shape=(0,))


def test_the_public_members_are_those_of_the_reference():
    page = (Path(__file__).parents[2] / "docs" / "api" / "flows.md").read_text()
    listed = re.search(r"flowprop\.Flow\n    options:\n      members: \[(.*)\]", page)
    fields = {field.name for field in dataclasses.fields(fp.Flow)}
    public = {name for name in vars(fp.Flow) if not name.startswith("_")} - fields
    assert set(listed.group(1).split(", ")) == public


def test_double_precision_stays(x64, key):
    for name in CONSTRUCTORS:
        flow = CONSTRUCTORS[name][0]
        z = jnp.zeros(2, jnp.float64)
        assert flow.velocity(0.5, z).dtype == jnp.float64
        assert flow.velocity(0.5, z.astype(jnp.float32)).dtype == jnp.float32
        assert flow.loss(z[None].astype(jnp.float32), key=key).dtype == jnp.float32


def test_the_loss_trains_a_learnable_schedule_by_its_variance_only(key):
    """The mean error has no gradient in the schedule's shape, and the end points do not move."""
    schedule = exact.learnable()
    net = fp.nn.MLP(shape=(2,), width=16, key=key)
    flow = fp.ct_flow(net, shape=(2,), schedule=schedule)
    z1 = jax.random.normal(key, (64, 2))
    gradient = eqx.filter_grad(lambda flow: flow.loss(z1, key=key))(flow)
    weight = gradient.path.schedule.weights[0]
    assert np.abs(weight).max() > 1e-6
    doubled = eqx.tree_at(lambda f: f.weighting, flow, fp.NormalisedELBOWeighting())
    other = eqx.filter_grad(lambda flow: flow.loss(z1, key=key))(doubled)
    np.testing.assert_allclose(other.path.schedule.weights[0], weight, rtol=1e-3, atol=1e-7)
    trained, _ = fp.fit(flow, (z1,), optax.adamw(1e-2), steps=20, batch_size=64, key=key, progress=False)
    ends = np.array([trained.path.gamma(t) for t in (0.0, 1.0)])
    np.testing.assert_array_equal(ends, [schedule.gamma(0.0), schedule.gamma(1.0)])
    assert not np.allclose(trained.path.gamma(0.5), schedule.gamma(0.5), atol=1e-3)


@pytest.mark.parametrize("name", ["fm", pytest.param("ct", marks=pytest.mark.slow)])
def test_a_trained_density_integrates_to_one(name, key):
    prediction = fp.PreconditionedPrediction(0.7)
    net = fp.nn.MLP(shape=(2,), width=32, depth=2, key=key)
    flow = fp.fm_flow(net, shape=(2,)) if name == "fm" else fp.ct_flow(net, shape=(2,), prediction=prediction)
    points, _ = fp.data.two_moons(5_000, key=key)
    flow, history = fp.fit(flow, (points,), optax.adam(3e-3), steps=400, batch_size=256, key=key, progress=False)
    assert history["loss"][-50:].mean() < history["loss"][:10].mean()
    grid, area = fp.plot.grid_points(((-3.5, 4.5), (-3.5, 4.0)), resolution=64)
    integral = jnp.exp(fp.log_prob(flow, grid)).sum() * area
    assert abs(integral - 1) < 0.01
    samples = fp.sample(flow, 1_000, key=key)
    # Far from trained out, but there: nearer to the data than a gaussian of its moments.
    truth = fp.data.TwoMoons(0.1)
    gaussian = np.asarray(points).mean(0) + np.asarray(points).std(0) * np.asarray(jax.random.normal(key, (1_000, 2)))
    assert truth.log_prob(samples).mean() > truth.log_prob(gaussian).mean() + 1
