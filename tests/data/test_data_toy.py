"""Every toy density against its own samples, against sums over a grid, and against independent formulas."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

import flowprop as fp
import flowprop.data


MIXTURE = (
    np.array([[0.0, 1.0], [2.0, -1.0]]),
    np.array([[[1.0, 0.3], [0.3, 0.5]], [[0.3, 0.0], [0.0, 0.2]]]),
    np.array([1.0, 3.0]),
)
DENSITIES = {
    "two_moons": (fp.data.TwoMoons, fp.data.two_moons, ()),
    "eight_gaussians": (fp.data.EightGaussians, fp.data.eight_gaussians, ()),
    "checkerboard": (fp.data.Checkerboard, fp.data.checkerboard, ()),
    "pinwheel": (fp.data.Pinwheel, fp.data.pinwheel, (3,)),
    "spirals": (fp.data.Spirals, fp.data.spirals, (0.2,)),
    "s_curve": (fp.data.SCurve, fp.data.s_curve, (0.2,)),
    "gaussian_mixture": (fp.data.GaussianMixture, fp.data.gaussian_mixture, MIXTURE),
}
NUM_SAMPLES = 20_000


class Case:
    """A density, its samples, and its values at the samples and on a grid. No edge of the checkerboard cuts a cell."""

    def __init__(self, name):
        constructor, self.function, self.arguments = DENSITIES[name]
        self.density = constructor(*self.arguments)
        self.points, self.labels = map(np.asarray, self.density.sample(NUM_SAMPLES, key=jax.random.key(1)))
        side = 0.1
        axis = np.arange(-6 + side / 2, 6, side)
        self.grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
        everywhere = np.concatenate([self.grid, self.points])
        class_log_prob = np.asarray(self.density.class_log_prob(everywhere), np.float64)
        log_prob = np.asarray(self.density.log_prob(everywhere), np.float64)
        self.classified = np.asarray(self.density.bayes_classify(everywhere))[len(self.grid) :]
        self.priors = np.asarray(self.density.priors)
        self.class_log_prob, self.points_class_log_prob = np.split(class_log_prob, [len(self.grid)])
        self.log_prob, self.points_log_prob = np.split(log_prob, [len(self.grid)])
        self.class_mass = np.exp(self.class_log_prob) * side**2
        self.mass = self.class_mass @ self.priors


@pytest.fixture(params=DENSITIES, scope="module")
def case(request):
    return Case(request.param)


def assert_mean(values, expected):
    """Means agree within 4.5 standard errors: one of these 60 comparisons fails by chance for one key in 2,500."""
    values = np.asarray(values, np.float64)
    error = values.std(axis=0) / np.sqrt(len(values))
    np.testing.assert_array_less(np.abs(values.mean(axis=0) - expected), 4.5 * error + 1e-5)


def entropy(mass, log_prob):
    return -np.sum(mass * np.where(mass > 0, log_prob, 0))


def test_each_class_integrates_to_one(case):
    np.testing.assert_allclose(case.class_mass.sum(axis=0), 1.0, atol=2e-5)
    assert len(case.priors) == case.density.num_classes == case.class_mass.shape[1]


def test_log_prob_mixes_the_classes(case):
    with np.errstate(divide="ignore"):
        expected = special.logsumexp(case.class_log_prob, axis=1, b=case.priors)
    np.testing.assert_allclose(case.log_prob, expected, rtol=2e-6, atol=1e-5)


def test_samples_have_the_density(case):
    mean = case.mass @ case.grid
    assert_mean(case.points, mean)
    points, grid = case.points - mean, case.grid - mean
    assert_mean(points[:, :, None] * points[:, None, :], np.einsum("n,ni,nj->ij", case.mass, grid, grid))
    assert_mean(case.points_log_prob, -entropy(case.mass, case.log_prob))


def test_labels_have_the_class_densities(case):
    np.testing.assert_allclose(np.bincount(case.labels) / NUM_SAMPLES, case.priors, atol=4.5 * 0.5 / NUM_SAMPLES**0.5)
    given = np.take_along_axis(case.points_class_log_prob, case.labels[:, None], axis=1)
    assert_mean(given, -entropy(case.class_mass * case.priors, case.class_log_prob))


def test_bayes_classify_has_the_highest_accuracy(case):
    best = np.sum(np.max(case.class_mass * case.priors, axis=1))
    assert_mean(case.classified == case.labels, best)


def test_functions_draw_the_same_samples(case):
    points, labels = case.function(NUM_SAMPLES, *case.arguments, key=jax.random.key(1))
    np.testing.assert_array_equal(points, case.points)
    np.testing.assert_array_equal(labels, case.labels)
    assert not np.array_equal(points, case.density.sample(NUM_SAMPLES, key=jax.random.key(2))[0])


def test_a_density_has_no_parameters(case):
    assert jax.tree.leaves(case.density) == []


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtypes(case, dtype, x64):
    z = jax.ShapeDtypeStruct((3, 2), dtype)
    assert jax.eval_shape(case.density.log_prob, z).dtype == dtype
    assert jax.eval_shape(case.density.class_log_prob, z).dtype == dtype
    points, labels = jax.eval_shape(lambda key: case.density.sample(3, key=key), jax.random.key(0))
    assert (points.dtype, labels.dtype) == (jnp.float64, jnp.int32)


def test_leading_axes():
    density = fp.data.EightGaussians()
    z = density.sample(6, key=jax.random.key(0))[0]
    expected = density.log_prob(z)
    assert density.log_prob(z[:0]).shape == (0,)
    np.testing.assert_allclose(density.log_prob(z[0]), expected[0], rtol=1e-5)
    for other in (
        density.log_prob(z.reshape(3, 2, 2)).reshape(6),
        jax.vmap(density.log_prob)(z),
        jax.jit(density.log_prob)(z),
        density.log_prob(np.asarray(z, np.float64)),
    ):
        assert other.dtype == expected.dtype
        np.testing.assert_allclose(other, expected, rtol=1e-5)
    assert density.class_log_prob(z.reshape(3, 2, 2)).shape == (3, 2, 8)
    assert density.class_log_prob(z[0]).shape == (8,)
    assert density.bayes_classify(z.reshape(3, 2, 2)).shape == (3, 2)
    assert density.bayes_classify(z[0]).shape == ()


def trapezoid(z, curve, density_of_parameter, length, noise):
    t = np.linspace(0, length, 500_001)
    log_weight = np.log(np.maximum(density_of_parameter(t), 1e-300) * length / 500_000)
    log_weight[[0, -1]] -= np.log(2)
    square = sum((z[i] - coordinate) ** 2 for i, coordinate in enumerate(curve(t)))
    return special.logsumexp(log_weight - square / (2 * noise**2)) - np.log(2 * np.pi * noise**2)


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.5])
def test_two_moons_against_a_trapezoid(noise, x64):
    moons = (lambda a: (np.cos(a), np.sin(a)), lambda a: (1 - np.cos(a), 0.5 - np.sin(a)))
    points = np.array([[1.0, 0.0], [0.0, 1.02], [0.5, 0.25], [-1.1, -0.1], [1.5, -0.3], [2.05, 0.55]])
    expected = [[trapezoid(z, m, lambda a: np.full_like(a, 1 / np.pi), np.pi, noise) for m in moons] for z in points]
    computed = np.asarray(fp.data.TwoMoons(noise).class_log_prob(points))
    near = np.array(expected) > -50  # below this the error of the trapezoid rule exceeds 1e-6
    assert near.any()
    np.testing.assert_allclose(computed[near], np.array(expected)[near], atol=1e-6)


def test_spirals_against_a_trapezoid(x64):
    arms = (lambda t: (-t * np.cos(t) / 3, t * np.sin(t) / 3), lambda t: (t * np.cos(t) / 3, -t * np.sin(t) / 3))
    length = 3 * np.pi
    points = np.array([[0.0, 0.0], [1.0, 0.3], [-2.0, 1.0], [3.1, 0.2]])
    expected = [[trapezoid(z, arm, lambda t: 2 * t / length**2, length, 0.1) for arm in arms] for z in points]
    near = np.array(expected) > -50
    computed = np.asarray(fp.data.Spirals(0.1).class_log_prob(points))
    np.testing.assert_allclose(computed[near], np.array(expected)[near], atol=1e-6)


def test_the_moons_are_those_of_scikit_learn():
    from sklearn.datasets import make_moons

    points, labels = make_moons(200, noise=None)
    density = fp.data.TwoMoons(0.02)
    np.testing.assert_array_equal(density.bayes_classify(points), labels)
    # On a straight line the density would be 1/(pi sqrt(2 pi) noise), and half of that at its ends.
    given = np.take_along_axis(np.asarray(density.class_log_prob(points)), labels[:, None], axis=1)
    np.testing.assert_allclose(np.median(given), -np.log(np.pi * np.sqrt(2 * np.pi) * 0.02), atol=0.01)


def test_the_s_curve_is_that_of_scikit_learn():
    from sklearn.datasets import make_s_curve

    points, place = make_s_curve(500, noise=0, random_state=0)
    density = fp.data.SCurve(0.02)
    np.testing.assert_array_equal(density.bayes_classify(points[:, [0, 2]]), place > 0)
    # On a straight line of length 3 pi the density would be this.
    given = np.asarray(density.log_prob(points[:, [0, 2]]))
    np.testing.assert_allclose(np.median(given), -np.log(3 * np.pi * np.sqrt(2 * np.pi) * 0.02), atol=0.01)


def bend(e1, e2):
    """A point of the third arm of five, and its log-density."""
    f1, f2 = 1 + 0.3 * e1, 0.1 * e2
    angle = -(2 * np.pi * 3 / 5 + 0.25 * np.exp(f1))
    z = 2 * np.stack([f1 * np.cos(angle) - f2 * np.sin(angle), f1 * np.sin(angle) + f2 * np.cos(angle)], -1)
    base = stats.norm.logpdf(f1, 1, 0.3) + stats.norm.logpdf(f2, 0, 0.1)
    return z, base - np.log(4 * (1 + 0.25 * np.exp(f1) * f2))


def test_pinwheel_against_the_forward_map(x64):
    # Up to 5 standard deviations, on the side where the arm does not fold.
    e1, e2 = map(np.ravel, np.meshgrid(np.linspace(-5, 5, 21), np.linspace(-2, 5, 15)))
    z, expected = bend(e1, e2)
    far = np.array([[0.0, 0.0], [30.0, -20.0], [0.0, 1e4]])
    density = fp.data.Pinwheel()
    value_and_gradient = jax.vmap(jax.value_and_grad(lambda z: density.class_log_prob(z)[3]))
    computed, gradient = value_and_gradient(np.concatenate([z, far]))
    assert np.isfinite(computed).all()
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(computed[:-3], expected, atol=1e-9)
    for d1, d2 in ((1e-5, 0), (0, 1e-5)):
        (z_up, up), (z_down, down) = bend(e1 + d1, e2 + d2), bend(e1 - d1, e2 - d2)
        slope = np.sum(gradient[:-3] * (z_up - z_down), axis=-1) / 2e-5
        np.testing.assert_allclose(slope, (up - down) / 2e-5, rtol=1e-6, atol=1e-6)


def test_gaussian_mixture_of_any_dimension(x64):
    means = np.array([[0.0, 1.0, 2.0], [3.0, -1.0, 0.5]])
    covariances = np.array([np.diag([1.0, 0.2, 0.5]) + 0.1, np.eye(3) * 0.4])
    mixture = fp.data.GaussianMixture(means, covariances, [3, 1])
    z = np.random.default_rng(0).normal(size=(50, 3)) * 2
    expected = [stats.multivariate_normal(m, c).logpdf(z) for m, c in zip(means, covariances, strict=True)]
    np.testing.assert_allclose(mixture.class_log_prob(z), np.stack(expected, -1), rtol=1e-12)
    np.testing.assert_allclose(mixture.log_prob(z), special.logsumexp(expected, axis=0, b=[[0.75], [0.25]]), rtol=1e-12)
    points = np.asarray(mixture.sample(20_000, key=jax.random.key(0))[0])
    assert_mean(points, mixture.mean)
    centred = points - mixture.mean
    assert_mean(centred[:, :, None] * centred[:, None, :], mixture.covariance)


def test_isotropic_mixture_is_the_eight_gaussians():
    ring = fp.data.EightGaussians(5, 0.5)
    angle = np.arange(8) * np.pi / 4
    mixture = fp.data.GaussianMixture.isotropic(5 * np.stack([np.cos(angle), np.sin(angle)], -1), 0.5)
    z = ring.sample(100, key=jax.random.key(0))[0]
    np.testing.assert_allclose(mixture.class_log_prob(z), ring.class_log_prob(z), rtol=1e-4, atol=1e-4)
    assert mixture.covariance[0, 0] == pytest.approx(0.5**2 + 5**2 / 2)


@pytest.mark.parametrize("method", ["log_prob", "class_log_prob", "bayes_classify"])
@pytest.mark.parametrize("z", [np.zeros((4, 3)), np.zeros(()), np.zeros((4, 2), np.int32)])
def test_wrong_points_are_refused(method, z):
    with pytest.raises((ValueError, TypeError), match=r"(?s)`z` has shape \(4, 3\) where \(\.\.\., 2\)|`z` is an?"):
        getattr(fp.data.TwoMoons(), method)(z)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fp.data.TwoMoons(0.0), "`noise` is 0.0: give a positive"),
        (lambda: fp.data.Spirals(float("nan")), "`noise` is nan: give a positive"),
        (lambda: fp.data.EightGaussians(std=-1.0), "`std` is -1.0"),
        (lambda: fp.data.EightGaussians(radius=float("inf")), "`radius` is inf"),
        (lambda: fp.data.Pinwheel(0), "`num_arms` is 0"),
        (lambda: fp.data.GaussianMixture([[float("nan")]], [[[1.0]]]), "`means` holds values that are not finite"),
        (lambda: fp.data.GaussianMixture([0.0], [[[1.0]]]), r"`means` has shape \(1,\)"),
        (lambda: fp.data.GaussianMixture([[0.0]], [1.0]), r"`covariances` has shape \(1,\) where \(1, 1, 1\)"),
        (lambda: fp.data.GaussianMixture([[0.0]], [[[-1.0]]]), "`covariances` has a matrix that is not"),
        (lambda: fp.data.GaussianMixture([[0.0]], [[[1.0]]], [0.0]), r"`weights` are \[0.0\] where positive"),
        (lambda: fp.data.GaussianMixture([[0.0]], [[[1.0]]], [0.5, 0.5]), r"`weights` has shape \(2,\) where \(1,\)"),
        (lambda: fp.data.GaussianMixture.isotropic([[0.0]], [1.0, 2.0]), r"`stds` has shape \(2,\) where \(1,\)"),
        (lambda: fp.data.two_moons(-1, key=jax.random.key(0)), "`n` is -1: give"),
        (lambda: fp.data.two_moons(1.5, key=jax.random.key(0)), "`n` is 1.5"),
        (lambda: fp.data.two_moons(1, key=jnp.zeros(2, jnp.uint32)), "`key` is"),
    ],
)
def test_wrong_arguments_are_refused(make, words):
    with pytest.raises((ValueError, TypeError), match=rf"(?s){words}"):
        make()


def test_the_import_loads_no_heavy_package():
    heavy = "{'pooch', 'sklearn', 'matplotlib', 'requests', 'scipy.stats'}"
    program = f"import sys, flowprop.data; print(*({heavy} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == ""
