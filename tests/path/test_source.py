"""Flows that start from other distributions than Gaussian noise."""

from dataclasses import dataclass

import equinox as eqx
import flowjax.distributions as flowjax_dist
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as numpyro_dist
import optax
import pytest
import scipy.special
import scipy.stats
from cases import all_but
from flowjax.bijections import AdditiveCondition

import flowprop as fp


POINTS = np.array([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]], np.float32)


def translation(source, coupling=None):
    """A velocity of (3, -1) everywhere."""
    return fp.fm_flow(lambda t, z, x: jnp.array([3.0, -1.0]) + 0 * z, shape=(2,), source=source, coupling=coupling)


def test_samples_start_at_rows_of_the_data(key):
    samples = fp.sample(translation(fp.EmpiricalSource(POINTS)), 3_000, key=key)
    moved = POINTS + np.array([3.0, -1.0], np.float32)
    distances = np.linalg.norm(np.asarray(samples)[:, None] - moved[None], axis=-1)
    assert distances.min(axis=1).max() < 1e-4
    # Each as likely: a third of 3,000 has a standard deviation of 26.
    np.testing.assert_allclose(np.bincount(distances.argmin(axis=1)), 1_000, atol=4 * 26)


def test_the_loss_draws_from_the_source(key):
    """Between two points the velocity is their difference, with the error 0. Any other noise has an error."""
    flow = fp.fm_flow(lambda t, z, x: jnp.array([2.0, 1.0]) + 0 * z, shape=(2,), source=fp.EmpiricalSource(POINTS[:1]))
    assert float(flow.loss(np.array([[3.0, 1.0]] * 5, np.float32), key=key)) == 0.0


def test_the_rows_are_not_trained():
    assert not any(jax.tree.leaves(fp.trainable(fp.EmpiricalSource(POINTS))))


def test_a_gaussian_source_is_the_default(key):
    flow = fp.fm_flow(lambda t, z, x: 0 * z, shape=(2,))
    z = jnp.array([[0.3, -1.2]])
    np.testing.assert_allclose(fp.log_prob(flow, z), jax.scipy.stats.norm.logpdf(z).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(flow.source.log_prob(z[0]), jax.scipy.stats.norm.logpdf(z[0]).sum(), rtol=1e-6)


def other_coupling():
    return fp.OTCoupling()


@pytest.mark.parametrize(
    "flow",
    [lambda: translation(fp.EmpiricalSource(POINTS)), lambda: translation(None, other_coupling())],
    ids=["source", "coupling"],
)
def test_there_is_no_score_where_noise_is_not_gaussian(flow, key):
    with pytest.raises(ValueError, match=r"of the flow is .*a score needs"):
        flow().score(0.5, jnp.zeros(2))
    for integrator in (fp.SDEIntegrator(3), fp.AncestralIntegrator(3)):
        with pytest.raises(ValueError, match="the ODE does not"):
            fp.sample(flow(), 2, key=key, integrator=integrator)


def test_errors_name_the_argument(key):
    flow = translation(fp.EmpiricalSource(POINTS))
    with pytest.raises(ValueError, match="`source` is an EmpiricalSource, which has no density"):
        fp.log_prob(flow, POINTS)
    with pytest.raises(ValueError, match="`source` is EmpiricalSource and `path` a VPPath"):
        fp.Flow(
            flow.network, fp.VPPath(fp.CosineNoiseSchedule()), fp.VelocityPrediction(), shape=(2,), source=flow.source
        )
    with pytest.raises(ValueError, match="`points` has shape"):
        fp.sample(translation(fp.EmpiricalSource(np.zeros((4, 3), np.float32))), 2, key=key)
    with pytest.raises(ValueError, match="`points` is 0"):
        fp.EmpiricalSource(np.zeros((0, 2), np.float32))


class TestEmpiricalSource:
    @pytest.mark.parametrize("dtype", all_but(["f2", ">f8", "bfloat16"], ["f2", "f4", "f8", ">f4", ">f8", "bfloat16"]))
    def test_takes_floats_of_any_kind(self, dtype, key):
        points = jnp.asarray(POINTS, "bfloat16") if dtype == "bfloat16" else POINTS.astype(dtype)
        samples = fp.sample(translation(fp.EmpiricalSource(points)), 20, key=key)
        assert samples.dtype == jnp.float32
        np.testing.assert_allclose(samples, fp.sample(translation(fp.EmpiricalSource(POINTS)), 20, key=key))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
    def test_refuses_numbers_that_are_not_finite(self, bad):
        points = np.array([[1.0, 2.0], [3.0, bad], [bad, bad], [0.0, 1.0]])
        with pytest.raises(ValueError, match=r"`points` has NaN or infinity in 2 of 4 rows \(the first is row 1\)"):
            fp.EmpiricalSource(points)

    def test_rows_may_be_traced(self, key):
        rows = jax.jit(lambda points: fp.EmpiricalSource(points).sample(5, (2,), key=key))(POINTS)
        np.testing.assert_array_equal(rows, fp.EmpiricalSource(POINTS).sample(5, (2,), key=key))

    def test_refuses_anything_but_an_array_of_floats(self):
        for wrong in (POINTS.astype(int), POINTS.tolist(), None):
            with pytest.raises(TypeError, match="`points` is "):
                fp.EmpiricalSource(wrong)


LOC, SCALE = np.array([0.5, -1.0], np.float32), np.array([0.6, 1.4], np.float32)
WEIGHTS, CENTRES = np.array([0.3, 0.7], np.float32), np.array([[-1.0, 0.5], [2.0, -1.0]], np.float32)


def laplace(z):
    return scipy.stats.laplace.logpdf(np.asarray(z, float), LOC, SCALE).sum(axis=-1)


def mixture(z):
    parts = scipy.stats.norm.logpdf(np.asarray(z, float)[..., None, :], CENTRES).sum(axis=-1)
    return scipy.special.logsumexp(parts + np.log(WEIGHTS), axis=-1)


@dataclass(frozen=True)
class WithASeed:
    """A distribution with the method names of distrax, which is not a PyTree."""

    event_shape: tuple = (2,)
    batch_shape: tuple = ()

    def sample(self, *, seed, sample_shape=()):
        return jnp.asarray(LOC) + jnp.asarray(SCALE) * jax.random.laplace(seed, (*sample_shape, 2))

    def log_prob(self, value):
        return jax.scipy.stats.laplace.logpdf(value, LOC, SCALE).sum()


def distrax_laplace():
    distrax = pytest.importorskip("distrax")
    return distrax.Independent(distrax.Laplace(jnp.asarray(LOC), jnp.asarray(SCALE)), 1)


def distrax_mixture():
    distrax = pytest.importorskip("distrax")
    components = distrax.MultivariateNormalDiag(jnp.asarray(CENTRES), jnp.ones((2, 2)))
    return distrax.MixtureSameFamily(distrax.Categorical(probs=jnp.asarray(WEIGHTS)), components)


def numpyro_mixture():
    components = numpyro_dist.Normal(jnp.asarray(CENTRES), 1.0).to_event(1)
    return numpyro_dist.MixtureSameFamily(numpyro_dist.Categorical(jnp.asarray(WEIGHTS)), components)


def flowjax_mixture():
    components = eqx.filter_vmap(flowjax_dist.Normal)(jnp.asarray(CENTRES))
    return flowjax_dist.VmapMixture(components, jnp.asarray(WEIGHTS))


# Every library's distributions, with their log-densities by SciPy. NumPyro's may hold NumPy arrays and plain numbers.
DISTRIBUTIONS = {
    "flowjax": (lambda: flowjax_dist.Laplace(jnp.asarray(LOC), jnp.asarray(SCALE)), laplace),
    "flowjax mixture": (flowjax_mixture, mixture),
    "numpyro": (lambda: numpyro_dist.Laplace(LOC, SCALE).to_event(1), laplace),
    "numpyro mixture": (numpyro_mixture, mixture),
    "numpyro numbers": (
        lambda: numpyro_dist.Laplace(0.0, 1.0).expand([2]).to_event(1),
        lambda z: scipy.stats.laplace.logpdf(np.asarray(z, float)).sum(axis=-1),
    ),
    "distrax": (distrax_laplace, laplace),
    "distrax mixture": (distrax_mixture, mixture),
    "distrax names": (WithASeed, laplace),
    "flow": (
        lambda: fp.as_distribution(translation(None)),
        lambda z: scipy.stats.norm.logpdf(np.asarray(z, float), np.array([3.0, -1.0])).sum(axis=-1),
    ),
}


class Stretch(eqx.Module):
    """The velocity `a z + b`, which takes `z_0` to `e^a z_0 + (e^a - 1) b / a`."""

    a: jax.Array
    b: jax.Array

    def __call__(self, t, z, x):
        return self.a.astype(z.dtype) * z + self.b.astype(z.dtype)


def stretched(source):
    return fp.fm_flow(Stretch(jnp.array([0.5, -0.7]), jnp.array([1.0, 0.3])), shape=(2,), source=source)


@pytest.fixture
def loose():
    """The code of the other libraries uses rank promotion."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.usefixtures("loose")
class TestDistributionSource:
    @pytest.mark.parametrize("name", DISTRIBUTIONS)
    def test_has_the_density_and_the_draws_of_the_distribution(self, name, key):
        make, log_prob = DISTRIBUTIONS[name]
        source = fp.DistributionSource(make())
        points = source.sample(5, (2,), key=key)
        assert (points.shape, points.dtype) == ((5, 2), jnp.float32)
        np.testing.assert_allclose(jax.vmap(source.log_prob)(points), log_prob(points), rtol=1e-4)
        seeded = {"seed": key, "sample_shape": (5,)} if "distrax" in name else {"key": key, "sample_shape": (5,)}
        np.testing.assert_array_equal(points, make().sample(**seeded))

    @pytest.mark.parametrize("name", ["flowjax", "numpyro mixture", "distrax mixture", "distrax names"])
    def test_the_flow_has_the_density_of_its_pushforward(self, name, key):
        make, log_prob = DISTRIBUTIONS[name]
        flow = stretched(fp.DistributionSource(make()))
        samples = fp.sample(flow, 6, key=key)
        factor = np.exp(np.array([0.5, -0.7]))
        start = (np.asarray(samples) - (factor - 1) * np.array([1.0, 0.3]) / np.array([0.5, -0.7])) / factor
        # The solver's tolerance of 1e-5.
        np.testing.assert_allclose(fp.log_prob(flow, samples), log_prob(start) - np.log(factor).sum(), atol=1e-3)

    def test_an_uneven_source_shows_in_the_samples(self):
        """The mean of 4,000 draws of a mixture, within four standard errors."""
        flow = stretched(fp.DistributionSource(numpyro_mixture()))
        samples = np.asarray(fp.sample(flow, 4_000, key=jax.random.key(3)))
        factor = np.exp(np.array([0.5, -0.7]))
        mean = factor * (WEIGHTS @ CENTRES) + (factor - 1) * np.array([1.0, 0.3]) / np.array([0.5, -0.7])
        np.testing.assert_array_less(np.abs(samples.mean(axis=0) - mean), 4 * samples.std(axis=0) / np.sqrt(4_000))

    @pytest.mark.parametrize("name", all_but(["flowjax", "numpyro mixture", "flow"], DISTRIBUTIONS))
    def test_is_not_trained_and_is_saved(self, name, key, tmp_path):
        make, _ = DISTRIBUTIONS[name]
        flow = stretched(fp.DistributionSource(make()))
        assert not any(jax.tree.leaves(fp.trainable(flow.source)))
        # Weight decay would move what has no gradient.
        options = {"steps": 2, "batch_size": 3, "key": key, "progress": False}
        trained, _ = fp.fit(flow, (POINTS,), optax.adamw(1e-2, weight_decay=0.5), **options)
        assert np.abs(trained.network.a - flow.network.a).min() > 1e-3
        before, after = (jax.tree.leaves(eqx.filter(f.source, eqx.is_array)) for f in (flow, trained))
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(old, new)
        fp.save(tmp_path / "flow", trained)
        again = fp.load(tmp_path / "flow", stretched(fp.DistributionSource(make())))
        np.testing.assert_array_equal(fp.sample(again, 3, key=key), fp.sample(trained, 3, key=key))

    def test_no_gradient_flows_into_the_distribution(self, key):
        def likelihood(source):
            return fp.log_prob(stretched(source), jnp.asarray(POINTS)).sum() + source.sample(2, (2,), key=key).sum()

        for name in ("flowjax", "numpyro"):
            gradient = eqx.filter_grad(likelihood)(fp.DistributionSource(DISTRIBUTIONS[name][0]()))
            assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(gradient))

    def test_there_is_no_score(self, key):
        flow = stretched(fp.DistributionSource(numpyro_dist.Normal(jnp.zeros(2), 1.0).to_event(1)))
        with pytest.raises(ValueError, match="`source` of the flow is DistributionSource: a score needs"):
            flow.score(0.5, jnp.zeros(2))
        with pytest.raises(ValueError, match="the ODE does not"):
            fp.sample(flow, 2, key=key, integrator=fp.SDEIntegrator(3))
        path = fp.VPPath(fp.CosineNoiseSchedule())
        with pytest.raises(ValueError, match="`source` is DistributionSource and `path` a VPPath"):
            fp.Flow(flow.network, path, fp.VelocityPrediction(), shape=(2,), source=flow.source)

    def test_works_in_double_precision(self, x64, key):
        source = fp.DistributionSource(numpyro_dist.Laplace(jnp.asarray(LOC), jnp.asarray(SCALE)).to_event(1))
        points = source.sample(3, (2,), key=key)
        assert points.dtype == jnp.float64
        np.testing.assert_allclose(jax.vmap(source.log_prob)(points), laplace(points), rtol=1e-6)

    def test_errors_name_the_argument(self, key):
        normal = numpyro_dist.Normal
        with pytest.raises(TypeError, match=r"`distribution` is the class Normal where .*: make one, `Normal"):
            fp.DistributionSource(normal)
        for wrong in (None, 3.0, POINTS, lambda key: key):
            with pytest.raises(TypeError, match=r"`distribution` is .* where a distribution of flowjax"):
                fp.DistributionSource(wrong)
        with pytest.raises(ValueError, match=r"`distribution` is a Normal of batch shape \(2,\), several .*to_event"):
            fp.DistributionSource(normal(jnp.zeros(2), 1.0))
        with pytest.raises(TypeError, match="`distribution` is a Poisson, which draws int32 numbers"):
            fp.DistributionSource(numpyro_dist.Poisson(3.0))
        with pytest.raises(ValueError, match=r"`distribution` of the source has shape \(3,\) where the flow's `shape`"):
            fp.sample(stretched(fp.DistributionSource(normal(jnp.zeros(3), 1.0).to_event(1))), 2, key=key)
        conditional = flowjax_dist.Transformed(
            flowjax_dist.Normal(jnp.zeros(2)), AdditiveCondition(lambda x: x, (2,), (2,))
        )
        with pytest.raises(ValueError, match=r"`distribution` is a Transformed with a condition of shape \(2,\)"):
            fp.DistributionSource(conditional)
        with pytest.raises(ValueError, match="`key`"):
            fp.DistributionSource(fp.as_distribution(translation(None), divergence=fp.HutchinsonDivergence()))
