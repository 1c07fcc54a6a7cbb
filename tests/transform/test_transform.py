"""Transforms from the user's units to a flow's coordinates, against closed forms, Jacobians and quadrature."""

import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax import bijections
from scipy.stats import norm

import flowprop as fp
from flowprop._transform import as_transform, log_sum_over_preimages


RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(500, 3))
LOWER = np.array([[2.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-1.0, 0.3, 3.0]])
CORRELATED = NORMAL @ LOWER.T + np.array([1.0, -20.0, 300.0])
UNIFORM = RNG.uniform(size=(500, 3))
TURN = 2 * np.pi


class Doubling(eqx.Module):
    """A bijection without a library, with flowjax's methods only."""

    factor: jax.Array

    def transform_and_log_det(self, x):
        return self.factor * x, x.size * jnp.log(self.factor)

    def inverse_and_log_det(self, y):
        return y / self.factor, -y.size * jnp.log(self.factor)


#: Bijective transforms, each with data that it is for, in double precision.
BIJECTIVE = {
    "identity": (lambda: fp.IdentityTransform(), NORMAL),
    "standardise": (lambda: fp.Standardise.fit(CORRELATED), CORRELATED),
    "standardise by numbers": (lambda: fp.Standardise(1.0, 20), CORRELATED),
    "standardise images": (lambda: fp.Standardise.fit(CORRELATED.reshape(-1, 5, 3)), CORRELATED.reshape(-1, 5, 3)),
    "whiten": (lambda: fp.Whiten.fit(CORRELATED), CORRELATED),
    "whiten by numbers": (lambda: fp.Whiten([1.0, -20.0, 300.0], LOWER), CORRELATED),
    "whiten images": (lambda: fp.Whiten.fit(CORRELATED.reshape(-1, 5, 3)), CORRELATED.reshape(-1, 5, 3)),
    "bounded": (
        lambda: fp.Bounded(np.array([0.0, -1.0, 5.0]), np.array([1.0, 3.0, 7.0])),
        [0, -1, 5] + UNIFORM * [1, 4, 2],
    ),
    "bounded by numbers": (lambda: fp.Bounded(-1, 2.0), 3 * UNIFORM - 1),
    "positive": (lambda: fp.Positive(), np.exp(NORMAL)),
    "chain": (lambda: fp.Chain(fp.Positive(), fp.Standardise.fit(2 * NORMAL + 1)), np.exp(2 * NORMAL + 1)),
    "columns": (lambda: fp.OnColumns((-1, 0), fp.Bounded([0.0, -1.0], [1.0, 1.0])), UNIFORM),
    "chain of columns": (
        lambda: fp.Chain(fp.OnColumns((1,), fp.Positive()), fp.OnColumns((0, 2), fp.Whiten([1.0, 0.5], LOWER[:2, :2]))),
        np.exp(NORMAL),
    ),
    "duck": (lambda: as_transform(Doubling(jnp.array(2.0))), NORMAL),
    "flowjax": (lambda: as_transform(bijections.Affine(jnp.ones(3), jnp.array([1.0, 2.0, 3.0]))), NORMAL),
    "flowjax inverted": (
        lambda: as_transform(bijections.Invert(bijections.Chain([bijections.Exp((3,)), bijections.Tanh((3,))]))),
        np.tanh(np.exp(NORMAL / 2)) * 0.999,
    ),
}
#: Those under which a data point has many places.
MANY = {
    "circular": (lambda: fp.Circular(TURN), TURN * (UNIFORM - 0.5)),
    "circular from": (lambda: fp.Circular(np.array([1.0, 2.0, 24.0]), low=0.0), UNIFORM * [1, 2, 24]),
    "dequantise": (lambda: fp.Dequantise(3), np.floor(256 * UNIFORM)),
    "pixels": (lambda: fp.Chain(fp.Dequantise(), fp.Bounded(0.0, 256.0)), np.floor(256 * UNIFORM)),
    "one angle": (lambda: fp.OnColumns((1,), fp.Circular(1.0)), UNIFORM - 0.5),
    "angle and scale": (
        lambda: fp.Chain(fp.OnColumns((0,), fp.Circular(TURN)), fp.OnColumns((1, 2), fp.Standardise(1.0, 2.0))),
        UNIFORM,
    ),
}
ALL = BIJECTIVE | MANY
DTYPES = [np.float32, np.float64, jnp.bfloat16]

bijective = pytest.mark.parametrize("name", BIJECTIVE)
every = pytest.mark.parametrize("name", ALL)


def made(name, num=20, dtype=None):
    make, data = ALL[name]
    return make(), data[:num] if dtype is None else jnp.asarray(data[:num], dtype)


def within(dtype, transform, data):
    """Some rounding errors of the largest coordinate: whitening adds one for each coordinate."""
    return 60 * float(jnp.finfo(dtype).eps) * np.abs(np.asarray(data, np.float64)).max(axis=0)


class TestEachTransform:
    @pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64", "bfloat16"])
    @bijective
    def test_the_inverse_takes_back(self, name, dtype, x64):
        if dtype == jnp.bfloat16 and "inverted" in name:
            pytest.skip("the sigmoid's end is beyond bfloat16, and not this library's")
        transform, data = made(name, dtype=dtype)
        z = jax.vmap(lambda one: transform.forward_and_log_det(one)[0])(data)
        back, _ = jax.vmap(transform.inverse_and_log_det)(z)
        assert z.dtype == back.dtype == data.dtype
        assert (np.abs(np.asarray(back - data, np.float64)) <= within(dtype, transform, data)).all()

    @bijective
    def test_the_log_determinant_is_that_of_the_jacobian(self, name, x64):
        transform, data = made(name, num=5)
        size = data[0].size

        @jax.jit
        @jax.vmap
        def evaluate(one):
            z, log_det = transform.forward_and_log_det(one)
            jacobian = jax.jacobian(lambda one: transform.forward_and_log_det(one)[0])(one)
            wanted = jnp.linalg.slogdet(jacobian.reshape(size, size))[1]
            # And the same from the other side.
            return wanted, log_det, transform.inverse_and_log_det(z)[1]

        wanted, there, back = evaluate(jnp.asarray(data))
        np.testing.assert_allclose(there, wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(back, wanted, rtol=1e-8, atol=1e-8)

    @bijective
    def test_single_precision_agrees_with_double(self, name):
        """With the same parameters and data, they differ by rounding only, a few units of the seventh digit."""
        transform, data = made(name)
        data = np.asarray(data, np.float32)
        single = jax.vmap(transform.forward_and_log_det)(data)
        with jax.enable_x64(True):
            double = jax.vmap(ALL[name][0]().forward_and_log_det)(jnp.asarray(data, np.float64))
        np.testing.assert_allclose(single[0], double[0], rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(single[1], double[1], rtol=2e-5, atol=2e-5)

    @every
    def test_under_jit_vmap_and_grad(self, name, key):
        transform, data = made(name)
        data = jnp.asarray(data)

        @eqx.filter_jit
        def mean(data, transform):
            z, log_det = jax.vmap(transform.forward_and_log_det)(data)
            draws = jax.vmap(lambda one, key: transform.draw(one, key=key))(data, jax.random.split(key, len(data)))
            back, log_det_back = jax.vmap(transform.inverse_and_log_det)(draws)
            return jnp.mean(z) + jnp.mean(log_det) + jnp.mean(draws) + jnp.mean(back) + jnp.mean(log_det_back)

        value, gradient = eqx.filter_value_and_grad(mean)(data, transform)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        # Nor does any gradient arrive at its parameters.
        gradient = eqx.filter_grad(lambda transform: mean(data, transform))(transform)
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(eqx.filter(gradient, eqx.is_array)))

    @every
    def test_nothing_is_trained(self, name):
        assert not any(jax.tree.leaves(fp.trainable(made(name)[0])))

    @every
    def test_the_inverse_of_a_draw_is_the_data(self, name, key, x64):
        transform, data = made(name)
        keys = jax.random.split(key, len(data))
        z = jax.vmap(lambda one, key: transform.draw(one, key=key))(jnp.asarray(data), keys)
        np.testing.assert_allclose(
            transform.inverse(z) if transform.shape else jax.vmap(transform.inverse)(z), data, 1e-9
        )
        preimages, log_weights = transform.preimages(jnp.asarray(data[0]), key=key)
        assert preimages.shape == (*log_weights.shape, *data[0].shape)
        assert transform.is_bijective == (name in BIJECTIVE)
        assert not transform.is_bijective or len(log_weights) == 1
        back = jax.vmap(transform.inverse)(preimages)
        np.testing.assert_allclose(back, np.broadcast_to(data[0], back.shape), rtol=1e-9)

    @pytest.mark.parametrize(
        "name",
        ["standardise", "standardise images", "whiten", "bounded", "bounded by numbers", "chain", "circular", "pixels"],
    )
    def test_scale_is_about_one(self, name, key):
        """For fitted transforms and those with a scale: a flow needs data of about the scale of its noise."""
        transform, data = made(name, num=None)
        keys = jax.random.split(key, len(data))
        z = jax.vmap(lambda one, key: transform.draw(one, key=key))(jnp.asarray(data), keys)
        # 500 rows: an error of 1 in sqrt(1000), at four standard deviations.
        np.testing.assert_allclose(np.std(z, axis=0), 1.0, atol=0.13)

    @every
    def test_saved_and_loaded(self, name, tmp_path):
        transform, data = made(name)
        fp.save(tmp_path / "transform", transform)
        blank = jax.tree.map(lambda leaf: jnp.ones_like(leaf) if eqx.is_array(leaf) else leaf, transform)
        one = jnp.asarray(data[0])
        copies = [fp.load(tmp_path / "transform", blank)]
        if name != "flowjax":  # whose functions cannot be pickled
            copies.append(pickle.loads(pickle.dumps(transform)))
        for copy in copies:
            for have, want in zip(copy.forward_and_log_det(one), transform.forward_and_log_det(one), strict=True):
                np.testing.assert_array_equal(have, want)

    @every
    def test_numpy_data_and_batches(self, name):
        transform, data = made(name)
        one = transform.forward(data[0])
        np.testing.assert_array_equal(transform(data[0]), one)
        np.testing.assert_allclose(transform.forward(data[0].astype(">f8")), one)
        many, log_dets = jax.vmap(transform.forward_and_log_det)(jnp.asarray(data))
        if transform.shape is not None:
            # XLA adds up in another order for a batch.
            np.testing.assert_allclose(transform.forward(data), many, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(transform.log_det(data), log_dets, rtol=1e-5, atol=1e-5)
            nested = np.reshape(data, (4, 5, *data.shape[1:]))
            assert transform.log_det(nested).shape == (4, 5)
            np.testing.assert_allclose(transform.inverse(many), jax.vmap(transform.inverse)(many), rtol=1e-5, atol=1e-5)

    @every
    def test_good_data_pass_the_check(self, name):
        transform, data = made(name)
        transform.check_data("z1", data)
        transform.check_data("z1", np.asarray(data, np.float32))
        transform.check_shape("transform", data.shape[1:])

    @pytest.mark.parametrize("name", ["bounded", "positive", "chain", "circular", "standardise", "whiten", "columns"])
    def test_nan_stays_nan(self, name):
        transform, data = made(name)
        one = jnp.asarray(data[0]).at[0].set(jnp.nan)
        z, log_det = transform.forward_and_log_det(one)
        assert np.isnan(z[0] + log_det)


@pytest.mark.parametrize(
    ("transform", "low", "high"),
    [
        (fp.Standardise(3.0, 0.5), -3.0, 9.0),
        (fp.Standardise([3.0], [0.5]), -3.0, 9.0),
        (fp.Whiten([1.0], [[2.0]]), -20.0, 22.0),
        (fp.Bounded(-2.0, 5.0), -2.0, 5.0),
        (fp.Positive(), 0.0, 400.0),
        (fp.Chain(fp.Positive(), fp.Standardise(-1.0, 0.5)), 0.0, 8.0),
        (fp.Chain(fp.Bounded(0.0, 1.0), fp.Standardise(0.3, 0.7)), 0.0, 1.0),
        (fp.Chain(fp.Standardise(0.0, 2.0), fp.Bounded(0.0, 1.0)), 0.0, 2.0),
        (as_transform(bijections.Affine(jnp.ones(1), 3 * jnp.ones(1))), -5.0, 5.0),
        (fp.Circular(1.5), -0.75, 0.75),
        (fp.Circular(24.0, low=0.0), 0.0, 24.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_normal_flow_has_a_density_in_data_units(transform, low, high, x64):
    """Its integral is 1, and samples of it have its distribution."""
    grid = np.linspace(low, high, 100_001)
    middles = 0.5 * (grid[1:] + grid[:-1])

    def density(theta):
        z, log_weights = transform.preimages(theta[None])
        return jnp.exp(log_sum_over_preimages(jax.scipy.stats.norm.logpdf(z[:, 0]), log_weights))

    values = np.asarray(jax.jit(jax.vmap(density))(middles)) * np.diff(grid)
    # What the circle's three places leave out: 2 (1 - Phi(1.5 / 0.3615)) = 3.3e-5.
    np.testing.assert_allclose(values.sum(), 1.0, atol=5e-5)
    z = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    samples = np.sort(jax.vmap(transform.inverse)(z[:, None])[:, 0])
    shares = np.searchsorted(samples, grid[1:]) / len(samples)
    assert np.abs(shares - np.cumsum(values)).max() < 2e-4


class TestChain:
    def test_the_order(self):
        transform = fp.Chain(fp.Standardise(1.0, 2.0), fp.Standardise(10.0, 5.0))
        assert float(transform.forward(3.0)) == pytest.approx((1.0 - 10.0) / 5.0)
        assert float(transform.inverse(0.0)) == pytest.approx(21.0)
        assert float(transform.log_det(0.0)) == pytest.approx(-np.log(10.0))

    def test_preimages_multiply_out(self, key, x64):
        transform = fp.Chain(fp.Dequantise(4), fp.Circular(12.0, low=0.0), fp.Standardise([0.0, 0.0], [1.0, 2.0]))
        z, log_weights = transform.preimages(jnp.array([3, 11]), key=key)
        assert z.shape == (4 * 9, 2)
        np.testing.assert_allclose(jax.vmap(transform.inverse)(z), np.tile([[3.0, 11.0]], (36, 1)))
        scale = 12.0 * np.sqrt(1 / 3 - 2 / np.pi**2)
        np.testing.assert_allclose(log_weights, -np.log(4) - 2 * np.log(scale) - np.log(2), rtol=1e-12)

    def test_parts_draw_independently(self, key):
        """With the same noise, two parts would give equal coordinates."""
        columns = [fp.OnColumns((column,), fp.Dequantise()) for column in range(2)]
        z = fp.Chain(*columns).draw(jnp.zeros(2, int), key=key)
        assert z[0] != z[1]

    def test_the_shape_from_all_parts(self):
        assert fp.Chain(fp.Positive(), fp.Bounded(0.0, 1.0)).shape is None
        assert fp.Chain(fp.Positive(), fp.OnColumns([0], fp.Positive())).shape == (None,)
        assert fp.Chain(fp.OnColumns([0], fp.Positive()), fp.Standardise([1.0, 2.0], 3.0)).shape == (2,)


class TestBijections:
    def test_a_transform_is_not_changed(self):
        transform = fp.Positive()
        assert as_transform(transform) is transform

    def test_orientation(self):
        """The method `transform` is the map from data to the flow's coordinates."""
        bijection = bijections.Affine(jnp.array([10.0]), jnp.array([2.0]))
        assert float(as_transform(bijection).forward([3.0] * np.ones(1))[0]) == 16.0
        assert float(as_transform(bijections.Invert(bijection)).forward(np.array([16.0]))[0]) == 3.0

    def test_a_spline_of_many_parameters(self, key, x64):
        """None of its parameters is trained, although flowjax marks them as trainable."""
        spline = bijections.Vmap(
            eqx.filter_vmap(lambda: bijections.RationalQuadraticSpline(knots=5, interval=3.0), axis_size=3)(),
            in_axes=eqx.if_array(0),
        )
        # As a part of a chain it is adapted likewise.
        assert float(fp.Chain(bijections.Exp(), fp.Standardise(1.0, 2.0)).forward(0.0)) == 0.0
        spline = jax.tree.map(lambda leaf: leaf + 0.3 if eqx.is_inexact_array(leaf) else leaf, spline)
        transform = as_transform(spline)
        assert transform.shape == (3,)
        assert not any(jax.tree.leaves(fp.trainable(transform)))
        one = jnp.array([0.3, -1.0, 2.0])
        np.testing.assert_allclose(transform.inverse(transform.forward(one)), one, atol=1e-9)
        np.testing.assert_allclose(transform.forward(one), spline.transform(one), atol=1e-12)

    def test_frozen_arrays_inside_stay_frozen(self):
        class Held(eqx.Module):
            shift: fp.Frozen

            def transform_and_log_det(self, x):
                return x + self.shift.value, jnp.zeros(())

            def inverse_and_log_det(self, y):
                return y - self.shift.value, jnp.zeros(())

        assert float(as_transform(Held(fp.Frozen(jnp.array(2.0)))).forward(1.0)) == 3.0

    def test_another_class_of_transforms(self, x64):
        """The example of the documentation."""

        class Sinh(fp.AbstractBijectiveTransform):
            shape: tuple | None = eqx.field(static=True, default=None)

            def forward_and_log_det(self, data):
                return jnp.arcsinh(data), -0.5 * jnp.sum(jnp.log1p(data**2))

            def inverse_and_log_det(self, z):
                return jnp.sinh(z), -jnp.sum(jnp.log(jnp.cosh(z)))

            def requirements(self, data):
                yield from ()

        transform = fp.Chain(Sinh(), fp.Standardise([0.0, 1.0], 2.0))
        one = jnp.array([3.0, -4.0])
        np.testing.assert_allclose(transform.inverse(transform.forward(one)), one)
        np.testing.assert_allclose(transform.preimages(one)[1], [transform.inverse_and_log_det(transform(one))[1]])


@pytest.mark.parametrize("name", ["standardise", "bounded", "circular"])
def test_parameters_may_be_traced(name):
    """A bound that is computed inside a compiled function. Its value is not known, and not checked."""
    make = {
        "standardise": lambda p: fp.Standardise(p, 2 * p),
        "bounded": lambda p: fp.Bounded(0 * p, 2 * p),
        "circular": lambda p: fp.Circular(p, low=0.0),
    }[name]
    one = jnp.array([0.3, 0.4])
    np.testing.assert_allclose(
        jax.jit(lambda p: make(p).forward(one))(jnp.ones(2)), make(jnp.ones(2)).forward(one), rtol=1e-6
    )


def test_the_sum_over_preimages():
    log_q, log_weights = jnp.array([0.3, -1.0]), jnp.array([0.0, -0.7])
    wanted = np.log(np.exp(0.3) + np.exp(-1.7))
    np.testing.assert_allclose(log_sum_over_preimages(log_q, log_weights), wanted, rtol=1e-6)
    for size in (1, 3):
        value, gradient = jax.value_and_grad(log_sum_over_preimages)(jnp.zeros(size), jnp.full(size, -jnp.inf))
        assert value == -np.inf
        assert np.isfinite(gradient).all()
