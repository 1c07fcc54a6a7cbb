"""Networks: shapes, conditions and gradients. Features and layers against direct computations."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop.nn._conv import max_pool


nn = fp.nn
KEY = jax.random.key(2)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), float)


SMALL = {"width": 6, "depth": 2, "key": KEY}

# Name -> constructor, shape of a point, condition, shape of the output.
NETWORKS = {
    "MLP": (lambda: nn.MLP((2,), **SMALL), (2,), None, (2,)),
    "MLP, image": (lambda: nn.MLP((2, 3), 4, **SMALL), (2, 3), np.ones(4, np.float32), (2, 3)),
    "MLP, logits": (lambda: nn.MLP((2,), 1, out_shape=(5,), **SMALL), (2,), 0.5, (5,)),
    "MLP, tree": (lambda: nn.MLP((2,), 7, **SMALL), (2,), {"a": np.ones((2, 3), np.float32), "b": 3}, (2,)),
    "MLP, other parts": (
        lambda: nn.MLP(
            (2,), 0, 6, 1, out_shape=(), activation=jnp.sin, time_features=nn.SinusoidalFeatures(3, 1, 4), key=KEY
        ),
        (2,),
        None,
        (),
    ),
    "ConcatSquash": (lambda: nn.ConcatSquashMLP((2,), **SMALL), (2,), None, (2,)),
    "ConcatSquash, logits of an image": (
        lambda: nn.ConcatSquashMLP((2, 3), 2, out_shape=(5,), **SMALL),
        (2, 3),
        (np.float32(1), 2),
        (5,),
    ),
    "Residual": (lambda: nn.ResidualMLP((2,), **SMALL), (2,), None, (2,)),
    "Residual, logits of an image": (
        lambda: nn.ResidualMLP((2, 3), 2, out_shape=(5,), **SMALL),
        (2, 3),
        (np.float32(1), 2),
        (5,),
    ),
}


call = eqx.filter_jit(lambda network, t, z, x: network(t, z, x))


@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks:
    def test_the_output_has_the_right_shape_and_every_parameter_a_gradient(self, name):
        make, shape, x, out_shape = NETWORKS[name]

        @eqx.filter_jit
        @functools.partial(eqx.filter_grad, has_aux=True)
        def gradient(network):
            # Several points, because the gradient of a unit may be 0 at one of them.
            outputs = jax.vmap(lambda t, z: network(t, z, x))(jnp.linspace(0.2, 0.9, 4), draw(4, *shape))
            return jnp.sum(jnp.square(outputs - 1)), outputs

        network = make()
        leaves, outputs = gradient(network)
        leaves = jax.tree.leaves(leaves)
        assert outputs.shape == (4, *network.out_shape) == (4, *out_shape)
        assert outputs.dtype == jnp.float32
        # Weight and bias of each layer, gate and shift.
        assert len(leaves) >= 4
        assert min(float(jnp.max(jnp.abs(leaf))) for leaf in leaves) > 1e-6


@pytest.mark.parametrize("make", [nn.MLP, nn.ConcatSquashMLP, nn.ResidualMLP])
class TestPerceptrons:
    def test_the_output_depends_on_time_point_and_condition(self, make):
        network = make((2,), 1, **SMALL)
        base = call(network, jnp.asarray(0.3), jnp.zeros(2), jnp.zeros(1))
        for t, z, x in ((0.7, 0.0, 0.0), (0.3, 1.0, 0.0), (0.3, 0.0, 1.0)):
            assert np.all(np.asarray(call(network, jnp.asarray(t), jnp.full(2, z), jnp.full(1, x))) != base)

    def test_double_precision(self, make, x64):
        with jax.enable_x64(False):
            single = make((2,), 1, **SMALL)
        network = jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_array(a) else a, single)
        double = call(network, jnp.asarray(0.3), draw(2), jnp.ones(1))
        assert double.dtype == jnp.float64
        # A network in single precision accepts points in double precision, which an exact likelihood uses.
        mixed = call(single, jnp.asarray(0.3), draw(2), jnp.ones(1))
        assert mixed.dtype == jnp.float64
        np.testing.assert_allclose(mixed, double, rtol=1e-4, atol=1e-6)

    def test_the_same_key_gives_the_same_weights(self, make):
        one, same, other = (make((2,), width=6, depth=2, key=jax.random.key(seed)) for seed in (0, 0, 1))
        assert eqx.tree_equal(one, same)
        pairs = zip(one.layers, other.layers, strict=True)
        assert all(np.all(np.asarray(a.weight) != np.asarray(b.weight)) for a, b in pairs)

    def test_layers_have_different_weights(self, make):
        leaves = jax.tree.leaves(eqx.filter(make((6,), width=6, depth=3, key=KEY), eqx.is_array))
        first, second, *_ = [np.asarray(leaf) for leaf in leaves if leaf.shape == (6, 6)]
        assert np.all(first != second)

    def test_vmap_equals_a_loop(self, make):
        network = make((2,), 1, **SMALL)
        t, z, x = jnp.linspace(0.1, 0.9, 5), draw(5, 2), draw(5, 1)
        batched = jax.jit(jax.vmap(network))(t, z, x)
        one_by_one = np.stack([call(network, t[i], z[i], x[i]) for i in range(5)])
        # A product of two matrices adds in another order than a product of a matrix and a vector.
        np.testing.assert_allclose(batched, one_by_one, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("z", [(3,), (), (1, 2)])
    def test_a_point_of_the_wrong_shape_is_refused(self, make, z):
        with pytest.raises(ValueError, match=r"`z` has shape .* where \(2,\) is needed.*`jax.vmap`"):
            make((2,), 1, **SMALL)(0.5, jnp.zeros(z), jnp.zeros(1))

    @pytest.mark.parametrize("x", [None, np.zeros(2, np.float32), (1.0, 2.0)])
    def test_a_condition_of_the_wrong_size_is_refused(self, make, x):
        with pytest.raises(ValueError, match=r"`x` has shape .* where \(1,\) is needed.*`condition_size`"):
            make((2,), 1, **SMALL)(0.5, jnp.zeros(2), x)

    @pytest.mark.parametrize(
        "wrong", [{"width": 0}, {"depth": 0}, {"condition_size": -1}, {"shape": (0,)}, {"out_shape": (2, -1)}]
    )
    def test_sizes_that_are_not_positive_are_refused(self, make, wrong):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` is"):
            make(**({"shape": (2,), "key": KEY} | wrong))


def test_an_untrained_mlp_returns_values_near_zero():
    """For inputs of standard deviation 1 the outputs have about 0.1, so that the flow hardly moves a point."""
    network = nn.MLP((4,), width=64, depth=3, key=KEY)
    out = jax.jit(jax.vmap(network))(jnp.linspace(0, 1, 200), draw(200, 4))
    assert 0.02 < float(jnp.std(out)) < 0.3


class TestTimeFeatures:
    def test_formula(self, x64):
        t, frequencies = 0.37, np.geomspace(0.5, 6.0, 4)
        angles = 2 * np.pi * frequencies * t
        wanted = np.concatenate([[t], np.cos(angles), np.sin(angles)])
        features = nn.SinusoidalFeatures(4, 0.5, 6)
        assert features.size == 9
        np.testing.assert_allclose(features(t), wanted, rtol=1e-12)

    def test_any_two_times_have_different_features(self):
        """On a grid of 1,001 times the difference is far larger than rounding."""
        features = nn.SinusoidalFeatures()
        assert features.max_frequency > 1.0
        values = np.asarray(jax.jit(jax.vmap(features))(jnp.linspace(0, 1, 1001)), np.float64)[:, 1:]
        square = np.sum(values**2, axis=1)
        gaps = square[:, None] + square[None] - 2 * values @ values.T
        np.fill_diagonal(gaps, np.inf)
        # Neighbours differ by 0.001 periods of 8: by 0.05 in that feature alone.
        assert np.sqrt(np.min(gaps)) > 0.05

    def test_the_highest_frequency_has_8_periods(self):
        features = nn.SinusoidalFeatures()
        cosine = np.asarray(jax.jit(jax.vmap(features))(jnp.linspace(0, 1, 1001)))[:, features.num_frequencies]
        assert np.sum(np.diff(np.sign(cosine)) != 0) == 16  # twice in each of its 8 periods

    def test_one_frequency(self):
        assert nn.SinusoidalFeatures(1)(0.25).shape == (3,)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((0,), "`num_frequencies` is 0"),
            ((2, 0.0, 1.0), "`min_frequency` is 0.0"),
            ((2, np.nan, 1.0), "`min_frequency` is nan"),
            ((2, 2.0, 1.0), "`max_frequency` is 1.0: .* at least `min_frequency`, 2.0"),
            ((2, 2.0, np.inf), "`max_frequency` is inf"),
            ((2, 2.0, np.nan), "`max_frequency` is nan"),
        ],
    )
    def test_wrong_ranges_are_refused(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            nn.SinusoidalFeatures(*arguments)


class TestFourierFeatures:
    def test_formula(self):
        features = nn.FourierFeatures(2, 5, scale=3, key=KEY)
        z = np.array([0.2, -0.1], np.float32)
        angles = 2 * np.pi * np.asarray(features.frequencies.array) @ z
        assert features.size == 10
        np.testing.assert_allclose(
            features(jnp.asarray(z)), np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-5
        )

    def test_frequencies_are_normal_and_frozen(self):
        features = nn.FourierFeatures(4, 500, scale=3.0, key=KEY)
        frequencies = np.asarray(features.frequencies.array)
        # 2,000 numbers of standard deviation 3: 4 standard errors of the mean and of the standard deviation.
        assert abs(np.mean(frequencies)) < 4 * 3 / np.sqrt(2000)
        assert abs(np.std(frequencies) - 3) < 4 * 3 / np.sqrt(4000)
        assert not any(jax.tree.leaves(fp.trainable(features)))
        gradient = eqx.filter_grad(lambda f: jnp.sum(jnp.square(f(jnp.ones(4)) - 1)))(features)
        np.testing.assert_array_equal(gradient.frequencies.array, np.zeros((500, 4)))

    @pytest.mark.parametrize(("sizes", "name"), [((0, 3), "in_size"), ((2, 0), "num_frequencies")])
    def test_sizes_that_are_not_positive_are_refused(self, sizes, name):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            nn.FourierFeatures(*sizes, key=KEY)

    @pytest.mark.parametrize("scale", [0, -1.0, np.nan, np.inf])
    def test_a_scale_that_is_not_positive_is_refused(self, scale):
        with pytest.raises(ValueError, match=f"`scale` is {scale}"):
            nn.FourierFeatures(2, 3, scale=scale, key=KEY)


class TestPositionalFeatures:
    def test_formula(self, x64):
        features, z = nn.PositionalFeatures(2, 3), np.array([0.2, -0.7])
        angles = np.concatenate([np.pi * 2**k * z for k in range(3)])
        assert features.size == 14
        np.testing.assert_allclose(
            features(jnp.asarray(z)), np.concatenate([z, np.cos(angles), np.sin(angles)]), rtol=1e-10
        )

    @pytest.mark.parametrize(("sizes", "name"), [((0, 3), "in_size"), ((2, 0), "num_octaves")])
    def test_sizes_that_are_not_positive_are_refused(self, sizes, name):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            nn.PositionalFeatures(*sizes)


@pytest.mark.parametrize("make", [lambda: nn.FourierFeatures(2, 3, key=KEY), lambda: nn.PositionalFeatures(2)])
@pytest.mark.parametrize("size", [1, 3])
def test_features_of_a_vector_of_the_wrong_size_are_refused(make, size):
    with pytest.raises(ValueError, match=r"`z` has shape .* where \(2,\) is needed"):
        make()(jnp.zeros(size))


class TestLinear:
    def test_formula(self):
        layer = nn.Linear(3, 2, key=KEY)
        layer = eqx.tree_at(lambda m: m.bias, layer, jnp.array([1.0, -1.0]))
        x = np.array([0.5, 2.0, -1.0], np.float32)
        np.testing.assert_allclose(layer(jnp.asarray(x)), x @ np.asarray(layer.weight) + [1, -1], rtol=1e-6)

    def test_scale_of_the_weights(self):
        weight = np.asarray(nn.Linear(100, 100, gain=2, key=KEY).weight)
        # 10,000 numbers of variance 4 / 100: 4 standard errors.
        assert abs(np.std(weight) - 0.2) < 4 * 0.2 / np.sqrt(20_000)

    def test_a_vector_of_the_wrong_size_is_refused(self):
        with pytest.raises(ValueError, match=r"`x` has shape \(4,\) where \(3,\) is needed"):
            nn.Linear(3, 2, key=KEY)(jnp.zeros(4))


def convolve(image, kernel, stride):
    """The definition: each output is a sum over the window around its pixel, with zeros outside of the image."""
    size = kernel.shape[0]
    out_shape = [-(-side // stride) for side in image.shape[:2]]
    # XLA's "SAME": the padding is divided between both sides, and an odd row goes to the end.
    total = [max(0, (out - 1) * stride + size - side) for out, side in zip(out_shape, image.shape[:2], strict=True)]
    padded = np.pad(image, [*((t // 2, t - t // 2) for t in total), (0, 0)])
    out = np.zeros((*out_shape, kernel.shape[3]))
    for i in range(out_shape[0]):
        for j in range(out_shape[1]):
            window = padded[i * stride : i * stride + size, j * stride : j * stride + size]
            out[i, j] = np.einsum("abc,abcd->d", window, kernel)
    return out


class TestConv:
    @pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (2, 2)])
    def test_equals_a_sum_over_windows(self, kernel_size, stride):
        layer = nn.Conv(2, 3, kernel_size, stride=stride, key=KEY)
        layer = eqx.tree_at(lambda m: m.bias, layer, jnp.array([1.0, -2.0, 0.5]))
        image = np.random.default_rng(0).standard_normal((5, 4, 2)).astype(np.float32)
        wanted = convolve(image, np.asarray(layer.kernel), stride) + np.array([1.0, -2.0, 0.5])
        np.testing.assert_allclose(layer(jnp.asarray(image)), wanted, rtol=1e-4, atol=1e-5)

    def test_scale_of_the_weights(self):
        kernel = np.asarray(nn.Conv(16, 32, 3, key=KEY).kernel)
        deviation = np.sqrt(2 / (9 * 16))
        assert abs(np.std(kernel) - deviation) < 4 * deviation / np.sqrt(2 * kernel.size)

    def test_a_wrong_number_of_channels_is_refused(self):
        with pytest.raises(ValueError, match=r"`image` has shape \(4, 4, 3\) where \(n, n, 2\) is needed"):
            nn.Conv(2, 3, key=KEY)(jnp.zeros((4, 4, 3)))

    @pytest.mark.parametrize("name", ["in_channels", "out_channels", "kernel_size", "stride"])
    def test_sizes_that_are_not_positive_are_refused(self, name):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            nn.Conv(**({"in_channels": 1, "out_channels": 1, "key": KEY} | {name: 0}))


class TestMaxPool:
    def test_equals_a_windowed_maximum(self):
        image = draw(6, 4, 3)
        window = jax.lax.reduce_window(image, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")
        np.testing.assert_array_equal(max_pool(image), window)

    def test_an_odd_last_row_or_column_is_dropped(self):
        image = draw(5, 7, 2)
        np.testing.assert_array_equal(max_pool(image), max_pool(image[:4, :6]))


@functools.cache
def encoder():
    return nn.ConvEncoder((8, 6, 1), 5, channels=(3, 4), key=KEY)


class TestConvEncoder:
    IMAGE = np.random.default_rng(3).integers(0, 256, (8, 6, 1), np.uint8)

    def test_bytes_are_divided_by_255(self):
        features = eqx.filter_jit(encoder())(jnp.asarray(self.IMAGE))
        assert features.shape == (5,)
        assert features.dtype == jnp.float32
        scaled = jnp.asarray(self.IMAGE.astype(np.float32) / 255)
        np.testing.assert_allclose(features, eqx.filter_jit(encoder())(scaled), rtol=1e-5, atol=1e-6)
        # Floating-point values are not divided.
        assert np.any(np.abs(features - eqx.filter_jit(encoder())(255 * scaled)) > 1.0)

    def test_vmap_equals_a_loop(self):
        images = draw(4, 8, 6, 1)
        batched = jax.jit(jax.vmap(encoder()))(images)
        one_by_one = np.stack([eqx.filter_jit(encoder())(image) for image in images])
        np.testing.assert_allclose(batched, one_by_one, rtol=1e-4, atol=1e-5)

    def test_a_gradient_reaches_every_parameter(self):
        images = draw(8, 8, 6, 1)
        gradient = eqx.filter_jit(eqx.filter_grad(lambda e: jnp.sum(jax.vmap(e)(images))))(encoder())
        leaves = jax.tree.leaves(gradient)
        assert len(leaves) == 6
        assert min(float(jnp.max(jnp.abs(leaf))) for leaf in leaves) > 1e-6

    @pytest.mark.parametrize("shape", [(6, 8, 1), (8, 6, 3)])
    def test_an_image_of_the_wrong_shape_is_refused(self, shape):
        with pytest.raises(ValueError, match=r"`image` has shape .* where \(8, 6, 1\) is needed"):
            encoder()(jnp.zeros(shape))

    @pytest.mark.parametrize(
        ("wrong", "name"),
        [
            ({"shape": (2, 2, 1)}, "shape"),
            ({"shape": (8, 8, 0)}, "shape"),
            ({"channels": ()}, "channels"),
            ({"channels": (4, 0)}, "channels"),
            ({"features": 0}, "features"),
            ({"kernel_size": 0}, "kernel_size"),
        ],
    )
    def test_wrong_sizes_are_refused(self, wrong, name):
        with pytest.raises(ValueError, match=f"`{name}`"):
            nn.ConvEncoder(**({"shape": (8, 8, 1), "key": KEY} | wrong))
