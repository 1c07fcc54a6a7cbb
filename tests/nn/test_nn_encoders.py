"""Encoders and the network of a label flow: against NumPy, their sizes, their gradients, and several stacked."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop.nn._mixer import cut_patches


nn = fp.nn
KEY = jax.random.key(3)


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), float)


def filled(make, *args, **kwargs):
    """A module with arbitrary numbers in every array, built without computing initial weights."""

    def fill(leaf):
        return 0.1 + 0.4 * draw(*leaf.shape, seed=leaf.size) if isinstance(leaf, jax.ShapeDtypeStruct) else leaf

    return jax.tree.map(fill, eqx.filter_eval_shape(make, *args, **kwargs))


#: Compiled as one program, which is faster than compiling every operation.
call = eqx.filter_jit(lambda module, *args: module(*args))


def smallest_gradient(module, *args):
    """The largest entry of each parameter's gradient, and the smallest of these. Every parameter must have one."""
    gradient = eqx.filter_jit(eqx.filter_grad(lambda m: jnp.sum(jnp.square(jax.vmap(m)(*args) - 1))))(module)
    leaves = jax.tree.leaves(gradient)
    assert len(leaves) == len(jax.tree.leaves(eqx.filter(module, eqx.is_inexact_array)))
    return min(float(jnp.max(jnp.abs(leaf))) for leaf in leaves)


def group_norm(x, layer):
    """The definition, applied group by group."""
    x, size = np.asarray(x), layer.group_size
    groups = [x[..., start : start + size] for start in range(0, x.shape[-1], size)]
    normal = np.concatenate([(g - np.mean(g)) / np.sqrt(np.var(g) + layer.eps) for g in groups], axis=-1)
    return normal * np.asarray(layer.scale) + np.asarray(layer.bias)


class TestGroupNorm:
    @pytest.mark.parametrize(("shape", "group_size"), [((5, 4, 6), 2), ((3, 6), 3), ((6,), 6)])
    def test_formula(self, shape, group_size, x64):
        layer, x = filled(nn.GroupNorm, 6, group_size), 3 + 2 * draw(*shape)
        np.testing.assert_allclose(call(layer, x), group_norm(x, layer), rtol=1e-12, atol=1e-12)

    def test_before_training_each_group_has_mean_0_and_variance_1(self):
        out = np.asarray(call(nn.GroupNorm(6, 3), 3 + 2 * draw(7, 5, 6)), np.float64).reshape(-1, 2, 3)
        np.testing.assert_allclose(np.mean(out, axis=(0, 2)), 0, atol=1e-5)
        np.testing.assert_allclose(np.var(out, axis=(0, 2)), 1, atol=1e-4)

    def test_a_constant_image_has_a_finite_gradient(self):
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(jnp.square(nn.GroupNorm(2, 2)(x)))))(jnp.ones((3, 3, 2)))
        assert np.all(np.isfinite(gradient))

    def test_other_channels_are_refused(self):
        with pytest.raises(ValueError, match=r"`x` has shape \(4, 4, 3\) where \(4, 4, 2\) is needed.*`channels`"):
            nn.GroupNorm(2, 1)(jnp.zeros((4, 4, 3)))

    @pytest.mark.parametrize(
        ("arguments", "name"), [((0, 1), "channels"), ((4, 0), "group_size"), ((4, 3), "group_size")]
    )
    def test_wrong_sizes_are_refused(self, arguments, name):
        with pytest.raises(ValueError, match=f"`{name}` is"):
            nn.GroupNorm(*arguments)

    @pytest.mark.parametrize("eps", [0, -1e-5, np.nan, np.inf])
    def test_an_eps_that_is_not_positive_is_refused(self, eps):
        with pytest.raises(ValueError, match=f"`eps` is {eps}"):
            nn.GroupNorm(4, 2, eps=eps)

    @pytest.mark.parametrize("gain", [np.nan, np.inf])
    def test_a_gain_that_is_not_finite_is_refused(self, gain):
        with pytest.raises(ValueError, match=f"`gain` is {gain}"):
            nn.GroupNorm(4, 2, gain=gain)
        with pytest.raises(ValueError, match=f"`gain` is {gain}"):
            nn.Linear(4, 2, gain=gain, key=KEY)


def normed_conv(image, layer):
    """With the channels first, the layout of `jax.lax.conv`."""
    kernel = np.transpose(layer.conv.kernel, (3, 2, 0, 1))
    strides = (layer.conv.stride,) * 2
    out = jax.lax.conv(np.transpose(image, (2, 0, 1))[None], kernel, strides, "SAME")
    return group_norm(np.transpose(out[0], (1, 2, 0)), layer.norm)


class TestResidualBlock:
    @pytest.mark.parametrize("make", [nn.basic_block, nn.bottleneck_block])
    def test_formula(self, make, x64):
        block, image = filled(make, 2, 3, 2, key=KEY), draw(6, 4, 2)
        h = normed_conv(image, block.branch[0])
        for layer in block.branch[1:]:
            h = normed_conv(np.maximum(h, 0), layer)
        wanted = np.maximum(h + normed_conv(image, block.shortcut), 0)
        assert wanted.shape == (3, 2, block.out_channels)
        np.testing.assert_allclose(call(block, image), wanted, rtol=1e-10, atol=1e-10)

    def test_sizes_of_the_convolutions(self):
        def kernels(make):
            return [layer.conv.kernel.shape for layer in filled(make, 2, 3, key=KEY).branch]

        assert kernels(nn.basic_block) == [(3, 3, 2, 3), (3, 3, 3, 3)]
        assert kernels(nn.bottleneck_block) == [(1, 1, 2, 3), (3, 3, 3, 3), (1, 1, 3, 12)]

    def test_before_training_a_block_is_its_shortcut(self):
        image = jnp.abs(draw(4, 4, 3))
        np.testing.assert_array_equal(call(lambda image: nn.basic_block(3, 3, key=KEY)(image), image), image)

    @pytest.mark.parametrize("make", [nn.basic_block, nn.bottleneck_block])
    @pytest.mark.parametrize(("arguments", "name"), [((0, 2), "in_channels"), ((2, 0), "out_channels")])
    def test_sizes_that_are_not_positive_are_refused(self, make, arguments, name):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            make(*arguments, key=KEY)

    def test_no_convolution_is_refused(self):
        with pytest.raises(ValueError, match=r"`convolutions` is \(\)"):
            nn.ResidualBlock(2, (), key=KEY)


@functools.cache
def resnet():
    return filled(nn.ResNet, (8, 6, 1), 5, depths=(1, 1), width=4, key=KEY)


class TestResNet:
    @pytest.mark.parametrize(
        ("make", "parameters"),
        [(nn.resnet18, 11_173_962), (nn.resnet50, 23_520_842), (nn.resnet152, 58_156_618)],
    )
    def test_the_number_of_parameters_is_that_of_the_published_networks(self, make, parameters):
        """The usual variants for CIFAR-10. Batch normalisation has as many parameters as group normalisation."""
        network = eqx.filter_eval_shape(make, (32, 32, 3), 10, key=KEY)
        arrays = [leaf for leaf in jax.tree.leaves(network) if isinstance(leaf, jax.ShapeDtypeStruct)]
        assert sum(math.prod(array.shape) for array in arrays) == parameters
        image = jax.ShapeDtypeStruct((32, 32, 3), jnp.uint8)
        assert eqx.filter_eval_shape(call, network, image).shape == (10,)

    @pytest.mark.parametrize(("make", "expansion"), [(nn.resnet18, 1), (nn.resnet50, 4)])
    def test_each_stage_halves_the_image_and_doubles_the_channels(self, make, expansion):
        network = eqx.filter_eval_shape(make, (28, 28, 1), None, width=4, key=KEY)
        shapes = [jax.ShapeDtypeStruct((28, 28, 4), jnp.float32)]
        for block in network.blocks:
            shapes.append(eqx.filter_eval_shape(call, block, shapes[-1]))
        sizes = {28: 4, 14: 8, 7: 16, 4: 32}
        assert {shape.shape for shape in shapes[1:]} == {(n, n, c * expansion) for n, c in sizes.items()}
        # Without a dense layer the output is the mean over all pixels.
        image = jax.ShapeDtypeStruct((28, 28, 1), jnp.float32)
        assert eqx.filter_eval_shape(call, network, image).shape == (32 * expansion,)

    def test_bytes_are_divided_by_255(self):
        image = np.random.default_rng(3).integers(0, 256, (8, 6, 1), np.uint8)
        features = call(resnet(), jnp.asarray(image))
        scaled = call(resnet(), jnp.asarray(image.astype(np.float32) / 255))
        assert (features.shape, features.dtype) == ((5,), jnp.float32)
        np.testing.assert_allclose(features, scaled, rtol=1e-5, atol=1e-5)

    def test_a_gradient_reaches_every_parameter(self):
        assert smallest_gradient(resnet(), draw(4, 8, 6, 1)) > 1e-4

    def test_an_image_of_the_wrong_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"`image` has shape .* where \(8, 6, 1\) is needed"):
            resnet()(jnp.zeros((6, 8, 1)))

    @pytest.mark.parametrize(
        ("wrong", "name"),
        [({"shape": (8, 0, 1)}, "shape"), ({"depths": ()}, "depths"), ({"depths": (1, 0)}, "depths"),
         ({"width": 0}, "width"), ({"features": 0}, "features")],
    )  # fmt: skip
    def test_sizes_that_are_not_positive_are_refused(self, wrong, name):
        with pytest.raises(ValueError, match=f"`{name}`"):
            nn.ResNet(**({"shape": (8, 8, 1), "depths": (1,), "width": 2, "key": KEY} | wrong))


def perceptron(x, module):
    up, down = (
        (np.asarray(layer.weight, np.float64), np.asarray(layer.bias, np.float64)) for layer in (module.up, module.down)
    )
    return np.maximum(x @ up[0] + up[1], 0) @ down[0] + down[1]


def mixer(key=KEY, depth=1):
    return nn.MixerEncoder((8, 6, 2), 5, patch_size=4, stride=2, width=6, depth=depth, key=key)


class TestMixerEncoder:
    @pytest.mark.parametrize(("size", "stride", "count"), [(2, 2, 12), (4, 2, 6), (2, 4, 4)])
    def test_patches(self, size, stride, count):
        image = np.arange(96.0, dtype=np.float32).reshape(8, 6, 2)
        wanted = [
            image[i : i + size, j : j + size].ravel()
            for i in range(0, 9 - size, stride)
            for j in range(0, 7 - size, stride)
        ]
        assert len(wanted) == count
        np.testing.assert_array_equal(cut_patches(jnp.asarray(image), size, stride), wanted)

    def test_formula(self, x64):
        encoder = filled(mixer, depth=2)
        # Bytes are divided by 255.
        image = np.random.default_rng(3).integers(0, 256, (8, 6, 2), np.uint8)
        h = np.stack([image[i : i + 4, j : j + 4].ravel() for i in (0, 2, 4) for j in (0, 2)])
        h = h / 255 @ np.asarray(encoder.embed.weight) + np.asarray(encoder.embed.bias)
        for block in encoder.blocks:
            h = h + perceptron(h.T, block.patches).T
            h = h + perceptron(h, block.channels)
        wanted = np.maximum(h.ravel() @ np.asarray(encoder.dense.weight) + np.asarray(encoder.dense.bias), 0)
        assert np.max(wanted) > 0
        np.testing.assert_allclose(call(encoder, jnp.asarray(image)), wanted, rtol=1e-10, atol=1e-10)

    def test_no_convolution_in_it_or_in_its_gradient(self):
        def program(encoder):
            """The program of the gradient with respect to parameters and image."""
            params, static = eqx.partition(encoder, eqx.is_array)
            gradient = jax.grad(lambda p, images: jnp.sum(jax.vmap(eqx.combine(p, static))(images)), (0, 1))
            return str(jax.make_jaxpr(gradient)(params, jnp.zeros((3, *encoder.shape))))

        text = program(filled(mixer))
        assert "dot_general" in text
        assert "conv_general_dilated" not in text
        assert "conv_general_dilated" in program(filled(nn.ConvEncoder, (4, 4, 1), 2, channels=(2,), key=KEY))

    def test_stacked_encoders_equal_single_ones(self):
        keys, images = jax.random.split(KEY, 3), draw(3, 8, 6, 2)
        stacked = eqx.filter_jit(eqx.filter_vmap(mixer))(keys)
        features = eqx.filter_jit(eqx.filter_vmap(lambda encoder, image: encoder(image)))(stacked, images)
        make = eqx.filter_jit(mixer)
        wanted = [call(make(key), image) for key, image in zip(keys, images, strict=True)]
        assert features.shape == (3, 5)
        # Batched products add in another order.
        np.testing.assert_allclose(features, wanted, rtol=1e-4, atol=1e-5)

    def test_a_gradient_reaches_every_parameter(self):
        assert smallest_gradient(filled(mixer), draw(4, 8, 6, 2)) > 1e-4

    def test_an_image_of_the_wrong_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"`image` has shape .* where \(8, 6, 2\) is needed"):
            filled(mixer)(jnp.zeros((6, 8, 2)))

    @pytest.mark.parametrize(
        ("wrong", "name"),
        [({"shape": (8, 8, 0)}, "shape"), ({"patch_size": 3}, "patch_size"), ({"patch_size": 9}, "patch_size"),
         ({"stride": 3}, "stride"), ({"patch_size": 0}, "patch_size"), ({"stride": 0}, "stride"),
         ({"width": 0}, "width"), ({"depth": 0}, "depth"), ({"features": 0}, "features")],
    )  # fmt: skip
    def test_wrong_sizes_are_refused(self, wrong, name):
        with pytest.raises(ValueError, match=f"`{name}`"):
            nn.MixerEncoder(**({"shape": (8, 8, 1), "key": KEY} | wrong))


class TestLabelEncoder:
    def test_formula(self, x64):
        encoder, z = filled(nn.LabelEncoder, (2, 3), 4, depth=2, key=KEY), draw(2, 3)
        h = np.asarray(z).ravel() @ np.asarray(encoder.first.weight) + np.asarray(encoder.first.bias)
        for layer in encoder.layers:
            pre = h @ np.asarray(layer.weight) + np.asarray(layer.bias)
            h = h + pre / (1 + np.exp(-pre))
        assert len(encoder.layers) == 2
        np.testing.assert_allclose(call(encoder, z), h, rtol=1e-10)

    def test_a_point_of_the_wrong_shape_is_refused(self):
        with pytest.raises(ValueError, match=r"`z` has shape \(3,\) where \(2,\) is needed.*`jax.vmap`"):
            filled(nn.LabelEncoder, (2,), 4, key=KEY)(jnp.zeros(3))

    @pytest.mark.parametrize(
        ("wrong", "name"), [({"shape": (2, 0)}, "shape"), ({"features": 0}, "features"), ({"depth": 0}, "depth")]
    )
    def test_sizes_that_are_not_positive_are_refused(self, wrong, name):
        with pytest.raises(ValueError, match=f"`{name}` is"):
            nn.LabelEncoder(**({"shape": (2,), "key": KEY} | wrong))


SMALL = {"width": 6, "depth": 2, "key": KEY}


def fuse(key=KEY):
    key_label, key = jax.random.split(key)
    return nn.FuseNetwork(nn.LabelEncoder((3,), 4, depth=1, key=key_label), 5, (2, 2), **(SMALL | {"key": key}))


class TestFuseNetwork:
    def test_formula(self, x64):
        network, t, z, x = filled(fuse), 0.3, draw(3), {"a": draw(2, 2), "b": draw(1)}
        condition = np.concatenate([np.ravel(x["a"]), x["b"]])
        time_features = nn.SinusoidalFeatures()(t)
        h = np.concatenate([network.label_encoder(z), time_features, condition])
        *hidden, last = network.mlp.layers
        for layer in hidden:
            h = h @ np.asarray(layer.weight) + np.asarray(layer.bias)
            h = h / (1 + np.exp(-h))
        wanted = (h @ np.asarray(last.weight) + np.asarray(last.bias)).reshape(2, 2)
        assert len(hidden) == 2
        np.testing.assert_allclose(call(network, t, z, x), wanted, rtol=1e-10)

    def test_a_gradient_reaches_every_parameter(self):
        t = jnp.linspace(0.1, 0.9, 4)
        assert smallest_gradient(filled(fuse), t, draw(4, 3), draw(4, 5)) > 1e-4

    def test_image_sized_labels(self):
        encoder = filled(nn.ConvEncoder, (4, 4, 1), 6, channels=(2,), key=KEY)
        network = filled(nn.FuseNetwork, encoder, 2, (10,), **SMALL)
        assert (network.shape, network.out_shape) == ((4, 4, 1), (10,))
        z = jnp.stack([jnp.zeros((4, 4, 1)), draw(4, 4, 1)])
        one, other = jax.jit(jax.vmap(lambda z: network(0.3, z, jnp.ones(2))))(z)
        assert np.all(np.asarray(one) != np.asarray(other))

    def test_any_callable_on_a_point_is_accepted_if_its_shape_is_given(self):
        network = filled(nn.FuseNetwork, lambda z: jnp.outer(z, z), 0, (3,), shape=(3,), **SMALL)
        time_features = nn.SinusoidalFeatures().size
        assert network.mlp.layers[0].weight.shape == (9 + time_features, 6)
        assert eqx.filter_eval_shape(call, network, 0.3, draw(3)).shape == (3,)
        with pytest.raises(TypeError, match=r"`label_encoder` .* no `shape`: give `shape`"):
            nn.FuseNetwork(lambda z: z, 0, (3,), **SMALL)

    def test_stacked_networks_equal_single_ones(self):
        keys, z, x = jax.random.split(KEY, 3), draw(3, 3), draw(3, 5)
        stacked = eqx.filter_jit(eqx.filter_vmap(fuse))(keys)
        out = eqx.filter_jit(eqx.filter_vmap(lambda network, z, x: network(0.3, z, x)))(stacked, z, x)
        make = eqx.filter_jit(fuse)
        wanted = [call(make(key), 0.3, z[i], x[i]) for i, key in enumerate(keys)]
        assert out.shape == (3, 2, 2)
        np.testing.assert_allclose(out, wanted, rtol=1e-4, atol=1e-6)

    def test_points_and_conditions_of_the_wrong_size_are_refused(self):
        with pytest.raises(ValueError, match=r"`z` has shape \(2,\) where \(3,\) is needed"):
            filled(fuse)(0.3, jnp.zeros(2), jnp.zeros(5))
        with pytest.raises(ValueError, match=r"`x` has shape \(4,\) where \(5,\) is needed"):
            filled(fuse)(0.3, jnp.zeros(3), jnp.zeros(4))

    @pytest.mark.parametrize(
        ("wrong", "name"),
        [({"width": 0}, "width"), ({"depth": 0}, "depth"), ({"condition_size": -1}, "condition_size"),
         ({"out_shape": (0,)}, "out_shape")],
    )  # fmt: skip
    def test_sizes_that_are_not_positive_are_refused(self, wrong, name):
        arguments = {"label_encoder": jnp.ravel, "condition_size": 0, "out_shape": (2,), "shape": (2,), "key": KEY}
        with pytest.raises(ValueError, match=f"`{name}` is"):
            nn.FuseNetwork(**(arguments | wrong))
