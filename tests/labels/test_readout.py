"""Readouts compared with their formulas, and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop._labels.readout import smallest_gap


ROWS = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
READOUTS = {
    "radial": lambda shape, key: fp.RadialReadout(),
    "nearest": lambda shape, key: fp.NearestReadout(),
    "linear": lambda shape, key: fp.LinearReadout(shape, 3, key=key),
}


@pytest.mark.parametrize("make", READOUTS.values(), ids=READOUTS)
class TestAll:
    def test_give_a_distribution(self, make, key):
        readout, matrix = make((2,), key), jnp.asarray(ROWS, jnp.float32)
        for z in ([0.3, 0.1], [1e3, -1e3]):
            log_probabilities = readout(jnp.array(z), matrix)
            assert log_probabilities.shape == (3,)
            assert np.sum(np.exp(np.asarray(log_probabilities))) == pytest.approx(1.0, abs=1e-6)

    def test_points_of_any_shape(self, make, key):
        rows, z = jnp.arange(12.0).reshape(3, 2, 2), jnp.full((2, 2), 3.0)
        flat = make((4,), key)(z.ravel(), rows.reshape(3, 4))
        np.testing.assert_array_equal(make((2, 2), key)(z, rows), flat)

    def test_nan_gives_no_class(self, make, key):
        found = make((2,), key)(jnp.array([jnp.nan, 0.0]), jnp.asarray(ROWS, jnp.float32))
        assert np.any(np.isnan(found))

    def test_a_point_of_another_shape_is_refused(self, make, key):
        with pytest.raises(Exception, match="matrix"):
            make((2,), key)(jnp.zeros(3), jnp.asarray(ROWS, jnp.float32))


def by_differences(z, matrix, scale=0.2):
    """The radial readout by its formula, in NumPy's float64."""
    z, matrix = np.ravel(z), np.reshape(matrix, (len(matrix), -1))
    gaps = np.stack([np.sum((row - matrix) ** 2, axis=1) for row in matrix])
    nearest = np.min(gaps[gaps > np.finfo(float).eps * gaps.max()])
    logits = -np.sum((z - matrix) ** 2, axis=1) / (2 * scale**2 * nearest)
    return logits - np.max(logits) - np.log(np.sum(np.exp(logits - np.max(logits))))


RNG = np.random.default_rng(5)
CLOUD = RNG.normal(size=(150, 60))
# So many embeddings that their distances are computed by a matrix product.
MANY = {
    "a cloud": CLOUD,
    "far from the origin": CLOUD + 100,
    "one-hot": np.eye(150),
    "images": CLOUD.reshape(150, 5, 4, 3),
    "two that coincide": np.concatenate([CLOUD[:-1], CLOUD[:1]]),
    "two that nearly do": np.concatenate([CLOUD[:-1], CLOUD[:1] + 1e-6]),
    "all of three": CLOUD[np.arange(150) % 3],
}


class TestManyClasses:
    @pytest.mark.parametrize("name", MANY)
    def test_equal_the_result_from_all_differences(self, name, x64):
        matrix = MANY[name]
        z = matrix[3] + 0.1 * RNG.normal(size=matrix.shape[1:])
        found = fp.RadialReadout()(jnp.asarray(z), jnp.asarray(matrix))
        np.testing.assert_allclose(found, by_differences(z, matrix), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("name", ["a cloud", "far from the origin", "one-hot", "two that coincide"])
    def test_in_single_precision(self, name):
        matrix = MANY[name].astype(np.float32)
        found = smallest_gap(jnp.asarray(matrix))
        gaps = np.stack([np.sum((row.astype(float) - matrix) ** 2, axis=1) for row in matrix])
        assert float(found) == pytest.approx(np.min(gaps[gaps > 1e-6 * np.max(gaps)]), rel=3e-6)

    def test_all_in_one_place(self):
        found = fp.RadialReadout()(jnp.ones(60), jnp.ones((150, 60)))
        np.testing.assert_allclose(np.exp(found), np.full(150, 1 / 150), rtol=1e-5)

    def test_have_the_gradient_of_gaussians_of_fixed_scale(self, x64):
        matrix, z = jnp.asarray(MANY["a cloud"]), jnp.asarray(CLOUD[3] + 1)
        scale = 0.2**2 * float(smallest_gap(matrix))

        def plain(rows):
            return jax.nn.log_softmax(-jnp.sum((z[None] - rows) ** 2, axis=1) / (2 * scale))[3]

        found = jax.grad(lambda rows: fp.RadialReadout()(z, rows)[3])(matrix)
        np.testing.assert_allclose(found, jax.grad(plain)(matrix), rtol=1e-8, atol=1e-12)

    def test_do_not_compute_all_differences(self):
        """For 2000 classes, these would take 8 GB and minutes of work."""
        read = jax.jit(jax.vmap(fp.RadialReadout(), in_axes=(0, None)))
        cost = read.lower(jnp.zeros((4, 500)), jnp.eye(500)).compile().cost_analysis()
        # The product takes 2 K^3 operations, the branch not taken here 3 K^3, and the distances to `z` 12 K^2.
        assert cost["flops"] < 7 * 500**3


class TestRadialReadout:
    @pytest.mark.parametrize("scale", [0.2, 1])
    def test_is_a_softmax_of_squared_distances(self, scale, x64):
        z = np.array([0.7, 1.1])
        # The nearest two embeddings are 2 apart.
        logits = -np.sum((z - ROWS) ** 2, axis=1) / (2 * (scale * 2.0) ** 2)
        wanted = logits - np.log(np.sum(np.exp(logits)))
        found = fp.RadialReadout(scale)(jnp.asarray(z), jnp.asarray(ROWS))
        np.testing.assert_allclose(found, wanted, rtol=1e-12)

    def test_does_not_depend_on_units_or_place(self, x64):
        readout, z = fp.RadialReadout(), np.array([0.9, 0.4])
        plain = readout(jnp.asarray(z), jnp.asarray(ROWS))
        moved = readout(jnp.asarray(7 * z + 3), jnp.asarray(7 * ROWS + 3))
        np.testing.assert_allclose(moved, plain, rtol=1e-10)

    def test_each_embedding_is_decoded_as_its_class(self):
        matrix = fp.learned_embedding(10, 20, key=jax.random.key(4)).matrix
        log_probabilities = jax.vmap(lambda z: fp.RadialReadout()(z, matrix))(matrix)
        np.testing.assert_array_equal(jnp.argmax(log_probabilities, axis=-1), np.arange(10))
        # Each of the other classes is at least 5 scales away: exp(-12.5) each.
        assert float(jnp.min(jnp.exp(jnp.diag(log_probabilities)))) > 1 - 9 * np.exp(-12.5) - 1e-6

    def test_the_gradient_is_that_of_gaussians_of_fixed_scale(self, x64):
        """For class y: `((z - u_k) p_k - (z - u_y) [k = y]) / s^2` is minus the gradient of row k, by hand."""
        z, label, variance = np.array([0.7, 1.1]), 2, (0.5 * 2.0) ** 2
        logits = -np.sum((z - ROWS) ** 2, axis=1) / (2 * variance)
        probabilities = np.exp(logits) / np.sum(np.exp(logits))
        wanted = (np.eye(3)[label] - probabilities)[:, None] * (z - ROWS) / variance
        found = jax.grad(lambda rows: fp.RadialReadout(0.5)(jnp.asarray(z), rows)[label])(jnp.asarray(ROWS))
        np.testing.assert_allclose(found, wanted, rtol=1e-10)

    @pytest.mark.parametrize(
        ("rows", "wanted"),
        [
            # The nearest two different embeddings are 3 apart, five times the scale 0.6.
            ([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]], [0.5, 0.5, 0.0]),
            ([[1.0, 1.0]] * 3, [1 / 3] * 3),
        ],
    )
    def test_embeddings_that_coincide_share(self, rows, wanted):
        readout, rows = fp.RadialReadout(), jnp.array(rows)
        np.testing.assert_allclose(jnp.exp(readout(rows[0], rows)), wanted, atol=1e-5)
        gradient = jax.grad(lambda rows: readout(jnp.array([0.2, 0.1]), rows)[0])(rows)
        assert np.all(np.isfinite(gradient))

    @pytest.mark.parametrize("scale", [0, -0.5])
    def test_a_scale_that_is_not_positive_is_refused(self, scale):
        with pytest.raises(ValueError, match="`scale` is"):
            fp.RadialReadout(scale)


class TestNearestReadout:
    @pytest.mark.parametrize(
        ("z", "label"),
        [([0.4, 0.4], 0), ([1.1, 0.0], 1), ([-9.0, 7.0], 2), ([1.0, 0.0], 0), ([1.0, -3.0], 0)],
        ids=["0", "1", "2", "tie", "another tie"],
    )
    def test_all_to_the_nearest(self, z, label):
        found = fp.NearestReadout()(jnp.array(z), jnp.asarray(ROWS, jnp.float32))
        np.testing.assert_array_equal(found, np.where(np.arange(3) == label, 0.0, -np.inf))

    def test_no_gradient(self):
        gradient = jax.grad(lambda rows: fp.NearestReadout()(jnp.array([0.4, 0.4]), rows)[0])
        np.testing.assert_array_equal(gradient(jnp.asarray(ROWS, jnp.float32)), np.zeros((3, 2)))


class TestLinearReadout:
    def test_is_a_softmax_of_a_linear_map(self, key):
        readout = fp.LinearReadout((2, 2), 3, key=key)
        z = np.arange(4.0, dtype=np.float32).reshape(2, 2)
        logits = np.asarray(readout.linear.weight) @ z.ravel() + np.asarray(readout.linear.bias)
        wanted = logits - np.log(np.sum(np.exp(logits)))
        for matrix in (jnp.zeros((3, 2, 2)), jnp.ones((3, 2, 2))):
            np.testing.assert_allclose(readout(jnp.asarray(z), matrix), wanted, rtol=1e-5)

    def test_keys(self):
        one, same, other = (fp.LinearReadout((2,), 3, key=jax.random.key(seed)).linear.weight for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert np.all(np.asarray(one) != np.asarray(other))

    def test_is_trained(self, key):
        """The gradient of its log-likelihood in weight and bias is `(e_y - p) z^T` and `e_y - p`."""
        readout, z, label = fp.LinearReadout((2,), 3, key=key), jnp.array([0.5, -2.0]), 1
        assert all(jax.tree.leaves(fp.trainable(readout)))
        gradient = jax.grad(lambda readout: readout(z, jnp.zeros((3, 2)))[label])(readout).linear
        rest = np.eye(3)[label] - np.exp(np.asarray(readout(z, jnp.zeros((3, 2)))))
        np.testing.assert_allclose(gradient.bias, rest, rtol=1e-5)
        np.testing.assert_allclose(gradient.weight, np.outer(rest, z), rtol=1e-5)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda key: fp.LinearReadout((2, 0), 3, key=key), r"`shape\[1\]` is 0"),
            (lambda key: fp.LinearReadout((2,), 0, key=key), "`num_classes` is 0"),
            (
                lambda key: fp.LinearReadout((2,), 3, key=key)(jnp.zeros(2), jnp.zeros((4, 2))),
                r"\(4, 2\) where \(3, 2\)",
            ),
            (
                lambda key: fp.LinearReadout((2,), 3, key=key)(jnp.zeros(4), jnp.zeros((3, 4))),
                r"\(3, 4\) where \(3, 2\)",
            ),
        ],
    )
    def test_sizes_that_do_not_fit_are_refused(self, make, message, key):
        with pytest.raises(ValueError, match=message):
            make(key)


@pytest.mark.parametrize("scale", [0, -1, np.nan, np.inf])
def test_a_scale_that_is_not_positive_and_finite_is_refused(scale):
    with pytest.raises(ValueError, match="`scale` is"):
        fp.RadialReadout(scale)
