"""Embeddings, prototypes against brute force, and the measure of collapse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


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
            (lambda key: fp.orthogonal_embedding(1, 3, key=key), "num_classes"),
            (lambda key: fp.orthogonal_embedding(3, 0, key=key), "dim"),
        ],
    )
    def test_sizes_that_are_too_small_are_refused(self, make, name, key):
        with pytest.raises(ValueError, match=f"`{name}` is"):
            make(key)


class TestOrthogonal:
    @pytest.mark.parametrize("dim", [4, 9])
    def test_begins_at_right_angles(self, dim, key):
        matrix = np.asarray(fp.orthogonal_embedding(4, dim, norm=1.5, key=key).matrix)
        np.testing.assert_allclose(matrix @ matrix.T, 1.5**2 * np.eye(4), atol=1e-5)

    def test_begins_as_a_tight_frame_where_there_is_no_room(self, key):
        embedding = fp.orthogonal_embedding(7, 3, norm=2.0, key=key)
        np.testing.assert_allclose(embedding.rows.T @ embedding.rows, np.eye(3), atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(embedding.matrix, axis=1), np.full(7, 2.0), rtol=1e-6)

    def test_is_trained(self, key):
        assert all(jax.tree.leaves(fp.trainable(fp.orthogonal_embedding(3, 3, key=key).rows)))


def most_typical(points):
    """By the definition, one point at a time."""
    medians = []
    for i, point in enumerate(points):
        others = np.delete(points, i, axis=0).reshape(len(points) - 1, -1)
        medians.append(np.median(np.linalg.norm(others - point.ravel(), axis=1)))
    return points[np.argmin(medians)]


RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.repeat(np.arange(3), [6, 7, 11]))
IMAGES = RNG.integers(0, 256, size=(24, 4, 3, 2), dtype=np.uint8)
#: What each class is to be found as, in units of the encoder.
PROTOTYPES = np.stack([most_typical(IMAGES[label == LABELS] / np.float32(255)) for label in range(3)])


class TestPrototypes:
    def test_are_the_examples_of_smallest_median_distance(self):
        embedding = fp.prototype_embedding(IMAGES, LABELS, norm=None)
        np.testing.assert_allclose(embedding.matrix, PROTOTYPES, rtol=1e-6)
        assert embedding.matrix.dtype == jnp.float32
        floats = fp.prototype_embedding(jnp.asarray(IMAGES / np.float32(255)), jnp.asarray(LABELS), norm=None)
        np.testing.assert_allclose(floats.matrix, embedding.matrix, rtol=1e-6)

    def test_lie_about_their_mean_at_the_norm(self):
        matrix = np.asarray(fp.prototype_embedding(IMAGES, LABELS).matrix).reshape(3, -1)
        centred = (PROTOTYPES - PROTOTYPES.mean(axis=0)).reshape(3, -1)
        np.testing.assert_allclose(matrix, centred / np.linalg.norm(centred, axis=1, keepdims=True), atol=1e-6)

    def test_in_the_space_of_an_encoder(self):
        """Which is given the bytes, and moves the medians."""

        def encoder(image):
            assert image.dtype == jnp.uint8
            return image[0].astype(jnp.float32) / 7

        features = IMAGES[:, 0].astype(np.float32) / 7
        wanted = np.stack([most_typical(features[label == LABELS]) for label in range(3)])
        found = fp.prototype_embedding(IMAGES, LABELS, encoder=encoder, norm=None)
        np.testing.assert_allclose(found.matrix, wanted, rtol=1e-6)

    def test_many_points_in_blocks(self):
        """One of the third block is in the middle of all; they are far from the origin."""
        points = RNG.normal(size=(1201, 2)) + 50
        points[1100] = 50
        other = np.array([[0.0, 0.0]])
        inputs = np.concatenate([points, other]).astype(np.float32)
        labels = np.repeat([0, 1], [1201, 1])
        found = fp.prototype_embedding(inputs, labels, norm=None, max_per_class=5000)
        np.testing.assert_array_equal(found.matrix, [most_typical(inputs[:1201]), [0.0, 0.0]])

    def test_the_first_ones_count(self):
        """Of 0, 1, 2, 9, 9, 9, 9 the middle is 1 among three, and 9 among all."""
        inputs, labels = np.array([[0.0], [1], [2], [9], [9], [9], [9], [-5]], np.float32), np.array([0] * 7 + [1])
        for limit, wanted in ((3, 1.0), (7, 9.0)):
            found = fp.prototype_embedding(inputs, labels, norm=None, max_per_class=limit)
            np.testing.assert_array_equal(found.matrix, [[wanted], [-5.0]])

    @pytest.mark.parametrize("trainable", [True, False])
    def test_are_trained_or_not(self, trainable):
        embedding = fp.prototype_embedding(IMAGES, LABELS, trainable=trainable)
        assert any(jax.tree.leaves(fp.trainable(embedding))) is trainable

    def test_are_trained_as_images(self):
        embedding = fp.prototype_embedding(IMAGES, LABELS)
        gradient = eqx.filter_grad(lambda embedding: jnp.sum(embedding.matrix * IMAGES[:3]))(embedding).rows
        assert gradient.shape == (3, 4, 3, 2)
        # Along the sphere: at right angles to each image.
        products = np.sum(np.asarray(gradient * embedding.matrix), axis=(1, 2, 3))
        np.testing.assert_allclose(products, np.zeros(3), atol=1e-5 * float(jnp.max(jnp.abs(gradient))))

    @pytest.mark.parametrize(
        ("inputs", "labels", "kwargs", "message"),
        [
            (IMAGES, LABELS - 1, {}, r"`labels` lie in \[-1, 1\]: the classes are 0 to 1"),
            (IMAGES, LABELS, {"num_classes": 2}, r"`labels` lie in \[0, 2\]: the classes are 0 to 1"),
            (IMAGES, LABELS, {"num_classes": 5}, r"no example of the classes \[3, 4\]"),
            (IMAGES, 2 * LABELS.astype(np.uint8), {}, r"no example of the classes \[1, 3\]"),
            (IMAGES[:0], LABELS[:0], {}, "`num_classes` is 0"),
            (IMAGES, LABELS, {"max_per_class": 0}, "`max_per_class` is 0"),
            (np.array([[-1.0], [0], [1]]), np.arange(3), {}, "prototype of class 1 at the mean: use `norm=None`"),
            (np.ones((3, 2)), np.arange(3), {}, "at the mean"),
        ],
    )
    def test_what_is_refused(self, inputs, labels, kwargs, message):
        with pytest.raises(ValueError, match=message):
            fp.prototype_embedding(inputs, labels, **kwargs)

    def test_a_label_for_each_input(self):
        with pytest.raises(Exception, match="labels"):
            fp.prototype_embedding(IMAGES, LABELS[1:])

    @pytest.mark.parametrize("encoder", [lambda image: (image, image), lambda image: image.argmax()])
    def test_an_encoder_returns_one_array_of_floats(self, encoder):
        with pytest.raises(TypeError, match="`encoder` returns"):
            fp.prototype_embedding(IMAGES, LABELS, encoder=encoder)


def embedding_of(rows, norm=None):
    return fp.Embedding(jnp.asarray(rows, jnp.float32), norm)


class TestDiagnostics:
    def test_of_a_triangle(self):
        """Three corners at distances 3, 4 and 5; singular values by hand from the centred Gram matrix."""
        found = fp.embedding_diagnostics(embedding_of([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]))
        assert found.smallest_distance == pytest.approx(3.0)
        assert found.nearest_classes == (0, 1)
        np.testing.assert_allclose(found.norms, [0, 3, 4])
        # The scatter matrix is [[6, -4], [-4, 32/3]].
        values = np.sqrt((50 / 3 + np.array([1, -1]) * np.sqrt((32 / 3 - 6) ** 2 + 4 * 16)) / 2)
        shares = values / values.sum()
        assert found.effective_rank == pytest.approx(np.exp(-np.sum(shares * np.log(shares))), rel=1e-6)
        assert found.largest_rank == 2

    @pytest.mark.parametrize(
        ("embedding", "distance", "rank"),
        [
            (lambda key: fp.one_hot_embedding(10, norm=3), 3 * np.sqrt(2), 9),
            (lambda key: fp.orthogonal_embedding(4, 20, key=key), np.sqrt(2), 3),
            (lambda key: embedding_of([[1.0], [-1.0]]), 2, 1),
            # Images, far from the origin.
            (lambda key: embedding_of(20 + 9 * np.eye(4).reshape(4, 2, 2)), 9 * np.sqrt(2), 3),
        ],
    )
    def test_of_a_simplex(self, embedding, distance, rank, key):
        """All at one distance, all directions alike: the greatest rank there is, and no warning."""
        found = fp.embedding_diagnostics(embedding(key))
        assert found.smallest_distance == pytest.approx(distance, rel=1e-5)
        assert found.effective_rank == pytest.approx(rank, rel=1e-5)
        assert found.largest_rank == rank

    @pytest.mark.parametrize("make", [fp.learned_embedding, fp.orthogonal_embedding])
    def test_initial_embeddings_are_healthy(self, make, key):
        found = fp.embedding_diagnostics(make(10, 10, key=key))
        assert found.smallest_distance > 0.5

    def test_two_classes_that_meet(self):
        rows = np.eye(4)
        rows[3] = rows[1] + 0.01
        with pytest.warns(UserWarning, match=r"the embeddings of two classes nearly coincide.*classes 1 and 3"):
            assert fp.embedding_diagnostics(embedding_of(rows)).smallest_distance == pytest.approx(0.02)

    def test_classes_on_a_line(self):
        rows = np.outer(np.arange(6.0) - 2.5, np.ones(10))
        with pytest.warns(UserWarning, match="differ in few dimensions"):
            found = fp.embedding_diagnostics(embedding_of(rows))
        assert (found.effective_rank, found.largest_rank) == (pytest.approx(1.0), 5)

    def test_classes_in_one_place(self):
        with (
            pytest.warns(UserWarning, match="nearly coincide"),
            pytest.warns(UserWarning, match="differ in few dimensions"),
        ):
            found = fp.embedding_diagnostics(embedding_of(np.full((5, 3), 0.1)))
        assert (found.smallest_distance, found.effective_rank) == (0, 0)

    def test_prints_as_a_line(self):
        line = str(fp.embedding_diagnostics(fp.one_hot_embedding(3)))
        assert line == "3 embeddings of norm 1 to 1, smallest distance 1.41 (classes 0 and 1), effective rank 2 of 2"

    def test_what_is_not_finite_is_refused(self):
        """As a training that diverged leaves them."""
        diverged = eqx.tree_at(lambda embedding: embedding.rows, embedding_of(np.eye(2)), jnp.full((2, 2), jnp.nan))
        with pytest.raises(ValueError, match="not finite"):
            fp.embedding_diagnostics(diverged)


NAN = jnp.array([[1.0, 0.0], [jnp.nan, 1.0]])


class TestRefusals:
    @pytest.mark.parametrize("norm", [0, -1, np.nan, np.inf])
    @pytest.mark.parametrize(
        "make",
        [
            lambda norm, key: fp.one_hot_embedding(3, norm=norm),
            lambda norm, key: fp.learned_embedding(3, 2, norm=norm, key=key),
            lambda norm, key: fp.orthogonal_embedding(3, 2, norm=norm, key=key),
            lambda norm, key: fp.prototype_embedding(IMAGES, LABELS, norm=norm),
            lambda norm, key: fp.Embedding(jnp.eye(3), norm),
        ],
    )
    def test_a_norm_that_is_no_length(self, make, norm, key):
        with pytest.raises(ValueError, match=r"`norm` is .*: give (a|the) positive length"):
            make(norm, key)

    @pytest.mark.parametrize(
        ("rows", "norm", "error", "message"),
        [
            (NAN, None, ValueError, "`rows` holds values that are not finite"),
            (NAN, 1.0, ValueError, "`rows` holds values that are not finite"),
            (fp.Frozen(NAN), None, ValueError, "`rows` holds values that are not finite"),
            (jnp.array([[1.0, 0.0], [0.0, 0.0]]), 1.0, ValueError, "`rows` is 0 for class 1"),
            (jnp.eye(3, dtype=int), None, TypeError, "`rows` is an int32 array"),
            (jnp.asarray(1.0), None, TypeError, "`rows` is a float32 array of shape"),
        ],
    )
    def test_rows_that_are_no_points(self, rows, norm, error, message):
        with pytest.raises(error, match=message):
            fp.Embedding(rows, norm)

    def test_rows_are_not_looked_at_when_traced(self):
        """An ensemble, a shape alone."""
        made = eqx.filter_vmap(lambda key: fp.learned_embedding(3, 2, key=key))(jax.random.split(jax.random.key(0), 4))
        assert made.rows.shape == (4, 3, 2)
        assert eqx.filter_eval_shape(lambda: fp.one_hot_embedding(3)).rows.array.shape == (3, 3)
        # Nor does a concrete one end a trace.
        rows = jnp.eye(3)
        assert eqx.filter_jit(lambda labels: fp.Embedding(rows, 2.0)(labels))(jnp.arange(3)).shape == (3, 3)

    def test_examples_that_are_not_finite(self):
        images = IMAGES.astype(np.float32)
        images[0, 0] = np.nan
        with pytest.raises(ValueError, match="`inputs`, or the outputs of `encoder`, have values that are not finite"):
            fp.prototype_embedding(images, LABELS)
