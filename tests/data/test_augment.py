"""Augmentations against slicing, flipping, rotating and rolling with NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
import flowprop.data
from flowprop.data._augment import affine


NUM_KEYS = 4000
DTYPES = [np.uint8, np.float32]
STEPS = {
    "crop": fp.data.RandomCrop(),
    "flip": fp.data.RandomFlip(),
    "affine": fp.data.RandomAffine(degrees=20, scale=(0.8, 1.2), translate=2),
    "several": fp.data.Augmentation(fp.data.RandomCrop(2), fp.data.RandomFlip()),
    "none": fp.data.Augmentation(),
}


def an_image(shape=(6, 5, 2)):
    """An image in which all pixels differ from each other and from zero."""
    return np.random.default_rng(0).permutation(np.arange(1, np.prod(shape) + 1)).astype(np.uint8).reshape(shape)


def step_on(step, image):
    return lambda key: step(jnp.asarray(image), key=key)


def draws(step, image, key, n=NUM_KEYS):
    return np.asarray(jax.jit(jax.vmap(step_on(step, image)))(jax.random.split(key, n)))


def counts(results, outcomes):
    """The number of results equal to each outcome. Every result must equal exactly one outcome."""
    same = np.stack([np.all(results == outcome, axis=(1, 2, 3)) for outcome in outcomes])
    np.testing.assert_array_equal(same.sum(axis=0), 1)
    return same.sum(axis=1)


def assert_equally_often(times):
    """All counts agree within five standard deviations; one of a hundred exceeds them with probability 6e-5."""
    p = 1 / len(times)
    assert np.abs(times - p * times.sum()).max() <= 5 * np.sqrt(p * (1 - p) * times.sum())


@pytest.mark.parametrize("padding", [0, 2])
def test_crops_are_the_padded_image_at_every_offset(padding, key):
    image = an_image()
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    height, width, _ = image.shape
    offsets = itertools.product(range(2 * padding + 1), repeat=2)
    crops = [padded[row : row + height, column : column + width] for row, column in offsets]
    assert_equally_often(counts(draws(fp.data.RandomCrop(padding), image, key), crops))


def test_half_of_the_images_are_flipped(key):
    image = an_image()
    assert_equally_often(counts(draws(fp.data.RandomFlip(), image, key), [image, np.flip(image, axis=1)]))


def test_steps_are_applied_in_order_with_different_keys(key):
    def twice(image, *, key):
        return 2 * image

    image = an_image((2, 3, 1))
    flip = fp.data.RandomFlip()
    results = draws(fp.data.Augmentation(flip, lambda image, *, key: image.at[0].set(0), twice, flip), image, key)
    expected = 2 * image
    expected[0] = 0
    # With one key for both flips, the image would never change.
    assert_equally_often(counts(results, [expected, np.flip(expected, axis=1)]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("step", STEPS)
def test_shape_and_dtype_do_not_change_and_the_key_decides(step, dtype, key):
    image = an_image().astype(dtype)
    change = jax.jit(step_on(STEPS[step], image))
    first, second, *others = map(change, [key, key, *jax.random.split(key, 8)])
    assert (first.shape, first.dtype) == (image.shape, image.dtype)
    np.testing.assert_array_equal(first, second)
    assert all(np.array_equal(first, other) for other in others) == (step == "none")


# Bilinear interpolation at whole pixels, where it must be exact

TURN = {"zero": (0.0, 0), "quarter": (np.pi / 2, 1), "half": (np.pi, 2), "clockwise": (-np.pi / 2, -1)}
transformed = jax.jit(affine)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("turn", TURN)
@pytest.mark.parametrize("size", [6, 7])
def test_quarter_turns(size, turn, dtype):
    angle, quarters = TURN[turn]
    image = an_image((size, size, 3)).astype(dtype)
    result = transformed(image, jnp.asarray(angle), jnp.ones(()), jnp.zeros(2))
    # Coordinates have errors of some 1e-6 pixels, and neighbours differ by up to 150.
    np.testing.assert_allclose(result, np.rot90(image, quarters), atol=0 if dtype == np.uint8 else 1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", [(0, 0), (2, 0), (0, -1), (-3, 2)])
def test_shifts_by_whole_pixels(shift, dtype):
    image = an_image((6, 7, 3)).astype(dtype)
    frame = np.pad(image, ((3, 3), (3, 3), (0, 0)))
    result = transformed(image, jnp.zeros(()), jnp.ones(()), jnp.asarray(shift, jnp.float32))
    np.testing.assert_array_equal(result, np.roll(frame, shift, axis=(0, 1))[3:-3, 3:-3])


def test_between_pixels():
    """A shift by half a pixel gives the rounded mean of two neighbours, with zeros outside of the image."""
    image = an_image((6, 7, 3))
    left = np.pad(image, ((0, 0), (1, 0), (0, 0)))[:, :-1]
    result = transformed(image, jnp.zeros(()), jnp.ones(()), jnp.asarray([0.0, 0.5]))
    np.testing.assert_allclose(result, (image.astype(np.float32) + left) / 2, atol=0.5)
    assert result.dtype == np.uint8


def test_scale_enlarges_about_the_centre():
    """With a scale of 3, a linear image stays linear, with a third of the slope."""
    row, column = np.meshgrid(np.arange(7.0), np.arange(9.0), indexing="ij")
    image = (10 + row + 5 * column)[..., None].astype(np.float32)
    result = transformed(image, jnp.zeros(()), jnp.asarray(3.0), jnp.zeros(2))
    np.testing.assert_allclose(result[..., 0], 10 + 3 + (row - 3) / 3 + 5 * (4 + (column - 4) / 3), rtol=1e-6)


def test_affine_draws_fill_their_ranges(key):
    """Angle, scale and shift are computed from the values of a linear image at and near its centre."""
    row, column = np.meshgrid(np.arange(-10.0, 11), np.arange(-10.0, 11), indexing="ij")
    image = np.stack([row, column], axis=-1).astype(np.float32)
    step = fp.data.RandomAffine(degrees=30, scale=(0.8, 1.2), translate=3)
    results = draws(step, image, key)[:, 9:12, 9:12].astype(np.float64)
    down, right = (results[:, 2, 1] - results[:, 0, 1]) / 2, (results[:, 1, 2] - results[:, 1, 0]) / 2
    angle = np.arctan2(right[:, 0], right[:, 1]) / np.pi * -180
    scale = 1 / np.hypot(right[:, 0], right[:, 1])
    np.testing.assert_allclose(np.linalg.det(np.stack([down, right], axis=-1)), scale**-2, rtol=1e-4)
    inverse = np.linalg.inv(np.stack([down, right], axis=-1))
    shift = -np.einsum("nij,nj->ni", inverse, results[:, 1, 1])
    draws_of = [angle / 30, (scale - 1) / 0.2, *shift.T / 3]
    for values in draws_of:
        assert np.abs(values).max() < 1 + 1e-4
        assert_equally_often(np.histogram(values, bins=8, range=(-1 - 1e-4, 1 + 1e-4))[0])
    # Independent draws: the standard deviation of a correlation is 1 / sqrt(n).
    assert np.abs(np.corrcoef(draws_of) - np.eye(4)).max() < 5 / np.sqrt(NUM_KEYS)


def test_affine_without_ranges_is_the_identity(key):
    image = an_image()
    np.testing.assert_array_equal(jax.jit(step_on(fp.data.RandomAffine(), image))(key), image)


WRONG = {
    "padding": (lambda: fp.data.RandomCrop(-1), ValueError, "`padding` is -1: give"),
    "half a pixel": (lambda: fp.data.RandomCrop(0.5), TypeError, "padding"),
    "degrees": (lambda: fp.data.RandomAffine(degrees=-1), ValueError, "`degrees` is -1: give"),
    "translate": (lambda: fp.data.RandomAffine(translate=np.inf), ValueError, "`translate` is inf: give"),
    "scale": (lambda: fp.data.RandomAffine(scale=(0, 1)), ValueError, r"`scale` is \(0, 1\): give"),
    "range": (lambda: fp.data.RandomAffine(scale=(1.1, 0.9)), ValueError, r"`scale` is \(1.1, 0.9\): give"),
    "one scale": (lambda: fp.data.RandomAffine(scale=1.1), TypeError, "scale"),
    "step": (lambda: fp.data.Augmentation(fp.data.RandomFlip(), 3), TypeError, "steps"),
    "batch": (lambda: fp.data.RandomFlip()(jnp.zeros((2, 4, 4, 3)), key=jax.random.key(0)), TypeError, "image"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_refused(case):
    make, kind, words = WRONG[case]
    with pytest.raises(kind, match=words):
        make()
