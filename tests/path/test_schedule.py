"""Noise schedules against their closed forms."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import flowprop as fp
from flowprop._path.learnable_schedule import with_fixed_ends, with_fixed_shape


@functools.cache
def single(hidden_dims, gamma_range, trainable_ends):
    with jax.enable_x64(False):
        return fp.LearnableNoiseSchedule(hidden_dims, gamma_range, trainable_ends=trainable_ends, key=jax.random.key(3))


def learnable(hidden_dims=(4, 4), gamma_range=(-4.0, 4.0), trainable_ends=False):
    """A learnable schedule in the precision of the test; made once, because it takes seconds to compile."""
    dtype = jnp.result_type(float)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), single(hidden_dims, gamma_range, trainable_ends))


# Name -> how to make it, alpha^2 in closed form (in NumPy's float64), or None where there is no closed form.
SCHEDULES = {
    "linear": (fp.LinearNoiseSchedule, lambda t: 0.01 + 0.98 * t),
    "cosine": (fp.CosineNoiseSchedule, lambda t: 0.01 + 0.98 * np.sin(np.pi * t / 2)),
    "sigmoid, default": (fp.SigmoidNoiseSchedule, lambda t: 1 / (1 + np.exp(-13.0 * (t - 0.5)))),
    "sigmoid, 4": (lambda: fp.SigmoidNoiseSchedule(4), lambda t: 1 / (1 + np.exp(-4.0 * (t - 0.5)))),
    "exponential": (fp.ExponentialNoiseSchedule, lambda t: np.exp(-10 * (1 - t))),
    "quadratic": (
        fp.QuadraticNoiseSchedule,
        # The integral of (a + b s)^2 from 0 to 1 - t is a difference of cubes.
        lambda t: np.exp(-(((0.1**0.5 + (20**0.5 - 0.1**0.5) * (1 - t)) ** 3) - 0.1**1.5) / (3 * (20**0.5 - 0.1**0.5))),
    ),
    "cauchy": (
        lambda: fp.CauchyNoiseSchedule(0.3, 0.02),
        lambda t: scipy.special.expit(scipy.stats.cauchy.ppf(t, 0.3, 0.02)),
    ),
    "laplace": (
        lambda: fp.LaplaceNoiseSchedule(1, 0.5),
        lambda t: scipy.special.expit(scipy.stats.laplace.ppf(t, 1, 0.5)),
    ),
    "learnable": (learnable, None),
    "learnable, deep": (lambda: learnable((4, 4, 4), (-7.5, 2)), None),
    "learnable, with its ends": (lambda: learnable(trainable_ends=True), None),
}
CLOSED = {name: pair for name, pair in SCHEDULES.items() if pair[1] is not None}
TIMES = np.linspace(0.0, 1.0, 101)
# Some schedules are infinite at an end.
INSIDE = TIMES[1:-1]

# Compiled once a shape; op by op a network takes seconds to compile.
gamma_at = eqx.filter_jit(lambda schedule, t: schedule.gamma(t))
slope_at = eqx.filter_jit(lambda schedule, t: jax.vmap(jax.grad(schedule.gamma))(t))

every_schedule = pytest.mark.parametrize("make", [make for make, _ in SCHEDULES.values()], ids=SCHEDULES)
closed_schedules = pytest.mark.parametrize(("make", "share"), CLOSED.values(), ids=CLOSED)


@closed_schedules
def test_gamma_is_the_log_snr_of_the_closed_form(make, share, x64):
    wanted = np.log(share(INSIDE)) - np.log(1 - share(INSIDE))
    # The logit of 1 - 1e-2 amplifies rounding a hundredfold.
    np.testing.assert_allclose(gamma_at(make(), jnp.asarray(INSIDE)), wanted, rtol=1e-12, atol=1e-12)


@closed_schedules
def test_gamma_in_single_precision(make, share):
    wanted = np.log(share(INSIDE)) - np.log(1 - share(INSIDE))
    gamma = gamma_at(make(), jnp.asarray(INSIDE, jnp.float32))
    assert gamma.dtype == jnp.float32
    # 100 roundings of 6e-8, over a logit of slope 100 at its ends.
    np.testing.assert_allclose(gamma, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("make", "ends"),
    [
        (fp.LinearNoiseSchedule, (-math.log(99), math.log(99))),
        (fp.CosineNoiseSchedule, (-math.log(99), math.log(99))),
        (fp.SigmoidNoiseSchedule, (-6.5, 6.5)),
        (lambda: fp.SigmoidNoiseSchedule(4.0), (-2.0, 2.0)),
        (learnable, (-4.0, 4.0)),
        (lambda: learnable((4, 4, 4), (-7.5, 2)), (-7.5, 2.0)),
        (lambda: learnable(gamma_range=(-7.5, 2), trainable_ends=True), (-7.5, 2.0)),
    ],
)
def test_end_points(make, ends):
    schedule = make()
    np.testing.assert_allclose(gamma_at(schedule, jnp.array([0.0, 1.0])), ends, atol=2e-5)


@every_schedule
def test_gamma_rises(make, x64):
    gamma = np.asarray(gamma_at(make(), jnp.asarray(INSIDE)))
    assert np.all(np.diff(gamma) > 0)


@every_schedule
def test_scalars_vectors_and_transformations_agree(make):
    schedule = make()
    times = jnp.asarray(TIMES[5:100:9], jnp.float32)
    one_by_one = np.stack([gamma_at(schedule, t) for t in times])
    assert one_by_one.shape == (11,)
    # Sums of up to 64 terms may be taken in another order.
    agrees = {"rtol": 1e-5, "atol": 2e-5}
    np.testing.assert_allclose(gamma_at(schedule, times), one_by_one, **agrees)
    np.testing.assert_allclose(jax.jit(jax.vmap(schedule.gamma))(times), one_by_one, **agrees)
    np.testing.assert_allclose(gamma_at(schedule, times.reshape(11, 1)), one_by_one[:, None], **agrees)
    np.testing.assert_allclose(schedule.gamma(TIMES[32]), one_by_one[3], **agrees)
    assert schedule.gamma(TIMES[32]).shape == ()


@every_schedule
def test_the_derivative_is_that_of_finite_differences(make, x64):
    schedule = make()
    times, step = jnp.linspace(0.05, 0.95, 10), 1e-5
    differences = (gamma_at(schedule, times + step) - gamma_at(schedule, times - step)) / (2 * step)
    # Central differences: step^2 of truncation and 1e-16 / step of rounding.
    np.testing.assert_allclose(slope_at(schedule, times), differences, rtol=1e-6)


@every_schedule
def test_the_type_of_the_time_is_kept(make, x64):
    assert gamma_at(make(), jnp.zeros(2, jnp.float64)).dtype == jnp.float64


PLACES = jnp.linspace(0.1, 0.9, 7)


@eqx.filter_jit
def of_the_sum(schedule, fix=lambda schedule: schedule):
    """The gradient of the sum of gamma over some times."""
    return eqx.filter_grad(lambda schedule: jnp.sum(fix(schedule).gamma(PLACES)))(schedule)


class TestLearnable:
    @pytest.mark.parametrize("trainable_ends", [False, True])
    @pytest.mark.parametrize("seed", range(20))
    def test_rises_and_meets_its_ends_for_all_parameters(self, seed, trainable_ends, x64):
        """The end points too, if they are trained."""
        draw = np.random.default_rng(seed)
        before = learnable(trainable_ends=trainable_ends)
        schedule = jax.tree.map(lambda leaf: jnp.asarray(5 * draw.standard_normal(leaf.shape)), before)
        low, log_width = draw.uniform(-9, 3), draw.uniform(-1, 2.2)
        parts = [jnp.asarray(low), jnp.asarray(log_width)]
        schedule = eqx.tree_at(lambda s: jax.tree.leaves(s.end_points), schedule, parts)
        gamma = np.asarray(gamma_at(schedule, jnp.asarray(TIMES)))
        # Saturated units leave the slope of `t` alone, over a range of up to a few hundred.
        assert np.all(np.diff(gamma) > 1e-7)
        ends = low, low + np.exp(log_width)
        near = {"rtol": 0, "atol": 4 * np.spacing(max(map(abs, ends)))}
        assert gamma[0] == ends[0]
        np.testing.assert_allclose(gamma[-1], ends[1], **near)
        np.testing.assert_allclose(schedule.gamma_range, ends, **near)
        np.testing.assert_allclose([gamma_at(schedule, jnp.asarray(t)) for t in (0.0, 1.0)], ends, **near)

    def test_is_not_only_convex(self, x64):
        """With positive weights, softplus or ReLU units give a convex function; tanh units bend both ways."""
        slope = np.asarray(slope_at(learnable(), jnp.asarray(TIMES)))
        turns = np.sign(np.diff(slope))
        assert {-1.0, 1.0} <= set(turns)

    def test_every_parameter_shapes_it(self):
        gradient = of_the_sum(learnable())
        moved = [float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves((gradient.weights, gradient.biases))]
        assert len(moved) == 5
        assert min(moved) > 1e-6

    def test_ends_that_are_fixed_have_no_gradient(self):
        np.testing.assert_array_equal(jax.tree.leaves(of_the_sum(learnable()).end_points), np.zeros(2))

    def test_ends_that_are_trained_have_one(self):
        """The derivative of gamma by the start is 1, and by the logarithm of the rise `gamma - gamma_0`."""
        schedule = learnable(trainable_ends=True)
        gradient = of_the_sum(schedule).end_points
        assert float(gradient.start) == pytest.approx(len(PLACES), rel=1e-5)
        assert float(gradient.log_rise) == pytest.approx(float(np.sum(schedule.gamma(PLACES) + 4)), rel=1e-5)

    @pytest.mark.parametrize("fix", [with_fixed_ends, with_fixed_shape])
    def test_fixing_a_part_changes_no_value_and_no_other_gradient(self, fix):
        schedule = learnable(trainable_ends=True)
        path = fix(fp.VPPath(schedule))
        assert eqx.tree_equal(path, fp.VPPath(schedule))
        fixed, free = of_the_sum(schedule, fix), of_the_sum(schedule)
        shape = (lambda s: s.weights), (lambda s: s.biases)
        ends = ((lambda s: s.end_points),)
        stopped, left = (ends, shape) if fix is with_fixed_ends else (shape, ends)
        for part in left:
            assert eqx.tree_equal(part(fixed), part(free))
        for part in stopped:
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(part(fixed)))
            assert all(np.any(leaf) for leaf in jax.tree.leaves(part(free)))

    def test_keys(self):
        one, same, other = (fp.LearnableNoiseSchedule((4, 4), key=jax.random.key(seed)) for seed in (0, 0, 1))
        assert eqx.tree_equal(one, same)
        assert not eqx.tree_equal(one, other)

    @pytest.mark.parametrize("ends", [(4.0, -4.0), (1.0, 1.0)])
    def test_a_range_that_does_not_rise_is_refused(self, ends, key):
        with pytest.raises(ValueError, match="`gamma_range` is"):
            fp.LearnableNoiseSchedule(gamma_range=ends, key=key)

    @pytest.mark.parametrize("dims", [(), (0,), (8, -1)])
    def test_widths_that_are_not_positive_are_refused(self, dims, key):
        with pytest.raises(ValueError, match="`hidden_dims` is"):
            fp.LearnableNoiseSchedule(dims, key=key)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: fp.SigmoidNoiseSchedule(0.0), "scale"),
        (lambda: fp.SigmoidNoiseSchedule(-3), "scale"),
        (lambda: fp.SigmoidNoiseSchedule(np.nan), "scale"),
        (lambda: fp.CauchyNoiseSchedule(np.inf), "mean"),
        (lambda: fp.CauchyNoiseSchedule(0, 0), "scale"),
        (lambda: fp.LaplaceNoiseSchedule(np.nan), "mean"),
        (lambda: fp.LaplaceNoiseSchedule(scale=-1.0), "scale"),
        (lambda: fp.ExponentialNoiseSchedule(0), "rate"),
        (lambda: fp.QuadraticNoiseSchedule(0), "beta_min"),
        (lambda: fp.QuadraticNoiseSchedule(3, 2), "beta_max"),
    ],
)
def test_numbers_out_of_their_range_are_refused(make, name):
    with pytest.raises(ValueError, match=f"`{name}` is"):
        make()


def test_numbers_may_be_scalars_of_numpy_or_jax():
    for scale in (np.float32(4), np.int64(4), jnp.asarray(4.0)):
        assert fp.SigmoidNoiseSchedule(scale) == fp.SigmoidNoiseSchedule(4.0)
        assert isinstance(fp.LaplaceNoiseSchedule(0, scale).scale, float | int)
