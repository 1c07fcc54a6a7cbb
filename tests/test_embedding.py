"""Embeddings, and the readout against its formula."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
from flowprop._embedding import nearest_class


class TestEmbedding:
    @pytest.mark.parametrize(("num_classes", "norm"), [(2, 1.0), (10, 3)])
    def test_one_hot(self, num_classes, norm):
        embedding = fp.one_hot_embedding(num_classes, norm=norm)
        np.testing.assert_array_equal(embedding.matrix, norm * np.eye(num_classes))
        assert not any(jax.tree.leaves(fp.trainable(embedding)))

    @pytest.mark.parametrize("norm", [1.0, 2.5])
    def test_learned_lie_on_a_sphere(self, norm, key):
        matrix = fp.learned_embedding(7, 5, norm=norm, key=key).matrix
        assert matrix.shape == (7, 5)
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), np.full(7, norm), rtol=1e-6)
        assert np.linalg.matrix_rank(matrix) == 5

    def test_learned_stay_on_their_sphere_and_move_along_it(self, key):
        class Repelled(eqx.Module):
            embedding: fp.Embedding

            def loss(self, rows, *, key):
                matrix = self.embedding.matrix
                return jnp.sum(jnp.square(matrix @ matrix.T))

        model = Repelled(fp.learned_embedding(3, 3, norm=2.0, key=key))
        trained, _ = fp.fit(model, (jnp.zeros(1),), optax.adamw(0.1), steps=200, batch_size=1, key=key, progress=False)
        # The loss is least for orthogonal rows; their lengths do not take part.
        gram = np.asarray(trained.embedding.matrix @ trained.embedding.matrix.T)
        np.testing.assert_allclose(gram, 4 * np.eye(3), atol=1e-2)

    def test_keys(self):
        one, same, other = (fp.learned_embedding(3, 2, key=jax.random.key(seed)) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one.matrix, same.matrix)
        assert np.all(np.asarray(one.matrix) != np.asarray(other.matrix))

    def test_rows_are_kept_as_they_are_without_a_norm(self):
        rows = jnp.arange(12.0).reshape(3, 2, 2)
        np.testing.assert_array_equal(fp.Embedding(rows).matrix, rows)

    def test_the_norm_of_a_row_of_any_shape(self):
        matrix = fp.Embedding(1 + jnp.arange(12.0).reshape(3, 2, 2), norm=1.5).matrix
        np.testing.assert_allclose(np.sqrt(np.sum(np.square(matrix), axis=(1, 2))), np.full(3, 1.5), rtol=1e-6)

    @pytest.mark.parametrize("labels", [np.array([2, 0, 2]), np.array([1, 1], np.uint8), np.zeros(0, int)])
    def test_looks_up_rows(self, labels):
        rows = np.arange(6.0, dtype=np.float32).reshape(3, 2)
        np.testing.assert_array_equal(fp.Embedding(fp.Frozen(jnp.asarray(rows)))(labels), rows[labels])

    @pytest.mark.parametrize("label", [3, 100, -1])
    def test_a_label_out_of_range_is_nan(self, label):
        found = fp.one_hot_embedding(3)(jnp.array([0, label]))
        np.testing.assert_array_equal(found[0], [1.0, 0.0, 0.0])
        assert np.all(np.isnan(found[1]))

    @pytest.mark.parametrize(
        ("make", "name"),
        [
            (lambda key: fp.one_hot_embedding(1), "num_classes"),
            (lambda key: fp.learned_embedding(0, 3, key=key), "num_classes"),
            (lambda key: fp.learned_embedding(3, 0, key=key), "dim"),
        ],
    )
    def test_sizes_that_are_too_small_are_refused(self, make, name, key):
        with pytest.raises(ValueError, match=f"`{name}` is"):
            make(key)


ROWS = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 5.0]])


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

    def test_points_of_any_shape(self):
        rows, z = jnp.arange(12.0).reshape(3, 2, 2), jnp.ones((2, 2))
        flat = fp.RadialReadout()(z.ravel(), rows.reshape(3, 4))
        np.testing.assert_array_equal(fp.RadialReadout()(z, rows), flat)

    def test_each_embedding_reads_as_its_class(self):
        matrix = fp.learned_embedding(10, 20, key=jax.random.key(4)).matrix
        log_probabilities = jax.vmap(lambda z: fp.RadialReadout()(z, matrix))(matrix)
        np.testing.assert_array_equal(nearest_class(log_probabilities), np.arange(10))
        # Of the other classes each is at least 5 scales off: exp(-12.5) a piece.
        assert float(jnp.min(jnp.exp(jnp.diag(log_probabilities)))) > 1 - 9 * np.exp(-12.5) - 1e-6

    def test_far_away_it_still_is_a_distribution(self):
        log_probabilities = fp.RadialReadout()(jnp.array([1e3, -1e3]), jnp.asarray(ROWS, jnp.float32))
        assert np.sum(np.exp(np.asarray(log_probabilities))) == pytest.approx(1.0, abs=1e-6)

    @pytest.mark.parametrize("scale", [0, -0.5])
    def test_a_scale_that_is_not_positive_is_refused(self, scale):
        with pytest.raises(ValueError, match="`scale` is"):
            fp.RadialReadout(scale)
