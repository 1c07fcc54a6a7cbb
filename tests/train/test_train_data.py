"""Data of many types: which `fit` accepts, which it refuses, and its messages."""

import datetime

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import flowprop as fp
import flowprop._train.fit as fit_module
from flowprop._train.data import collect, example_weights, finite_rows, named_arrays, to_device


KEY = jax.random.key(5)
X = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
C = np.arange(20)


class Given(eqx.Module):
    """A model with one weight, whose loss is a given function of the weight and the batch."""

    function: object
    w: jax.Array

    def loss(self, *batch, key):
        return self.function(self.w, *batch)


def mean(w, *batch):
    """A loss that uses every array, and reports its mean."""
    arrays = jax.tree.leaves(batch)
    return w**2 + sum(jnp.mean(a.astype(float)) for a in arrays), {"mean": jnp.mean(arrays[0].astype(float))}


def fit(data, **kwargs):
    settings = {"steps": 2, "batch_size": 20, "key": KEY, "progress": False} | kwargs
    return fp.fit(Given(mean, jnp.ones(())), data, optax.sgd(0.1), **settings)[1]


class Frame:
    """Like a data frame of pandas or polars."""

    def __init__(self, array):
        self.array = array

    def to_numpy(self):
        return self.array


class Tensor:
    """Like a tensor of another library, which converts itself to a NumPy array."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


# Data that `fit` accepts -> the same data as a tuple of arrays.
TAKEN = {
    "one array": (X, (X,)),
    "a list": ([X, C], (X, C)),
    "JAX": ((jnp.asarray(X), C), (X, C)),
    "a JAX array alone": (jnp.asarray(X), (X,)),
    "float64": (X.astype(np.float64), (X,)),
    "longdouble": (X.astype(np.longdouble), (X,)),
    "big-endian": (X.astype(">f4"), (X,)),
    "big-endian integers": ((X, C.astype(">i2")), (X, C)),
    "a view with strides": (np.repeat(X, 2, axis=0)[::2], (X,)),
    "a data frame": (Frame(X), (X,)),
    "a data frame in a tuple": ((X, Frame(C)), (X, C)),
    "a tensor": ((Tensor(X), Tensor(C)), (X, C)),
    "a dict as condition": ((X, {"a": C, "b": X}), (X, C, X)),
    "a nested tree": ((X, {"a": [C, (Frame(X),)]}), (X, C, X)),
    "a list of arrays as condition": ((X, [C, X]), (X, C, X)),
    "booleans": ((X, C > 5), (X, C > 5)),
}


@pytest.mark.parametrize(("data", "same"), TAKEN.values(), ids=TAKEN)
def test_taken_like_arrays(data, same):
    np.testing.assert_allclose(fit(data)["loss"], fit(same)["loss"], rtol=1e-6)


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, np.uint8, np.int8, np.int32, np.uint32, np.bool_, ml_dtypes.bfloat16],
)
def test_types_are_kept(dtype):
    seen = []

    def loss(w, x):
        seen.append(x.dtype)
        return w

    model = Given(loss, jnp.ones(()))
    fp.fit(model, X.astype(dtype), optax.sgd(0.1), steps=1, batch_size=5, key=KEY, progress=False)
    assert set(seen) == {np.dtype(dtype)}


def test_keys_are_data_too():
    def loss(w, keys):
        return w * jnp.mean(jax.vmap(jax.random.normal)(keys))

    keys = jax.random.split(KEY, 6)
    model = Given(loss, jnp.ones(()))
    _, history = fp.fit(model, keys, optax.sgd(0.0), steps=1, batch_size=6, key=KEY, progress=False)
    np.testing.assert_allclose(history["loss"], jnp.mean(jax.vmap(jax.random.normal)(keys)), rtol=1e-5)


def test_memory_mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(fit(mapped)["loss"], fit(X)["loss"])


def test_the_callers_arrays_are_not_copied_on_the_host():
    entries = collect((X, {"a": jnp.asarray(C)}))
    assert entries[0] is X
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(to_device(entries)))
    assert [name for name, _ in named_arrays(entries)] == ["data[0]", "data[1]['a']"]


def test_double_precision_is_kept(x64):
    [array] = jax.tree.leaves(to_device(collect(X.astype(np.float64))))
    assert array.dtype == jnp.float64


ROWS = [[1.0, 2.0]] * 100_000
MASKED = np.ma.MaskedArray(X, mask=X > 2)
DATES = np.array([datetime.date(2020, 1, 1)] * 20, "datetime64[D]")
# What is wrong -> the data, and the error message.
REFUSED = {
    "nothing": ((), "`data` is empty: give an array, or a tuple"),
    "None": (None, "`data` is None: give an array, or a tuple"),
    "a generator": ((float(x[0]) for x in X), r"`data\[0\]` is 0.1.*: give a NumPy or JAX array"),
    "a dict": ({"a": X}, "`data` is a dict of 1: give an array, or a tuple"),
    "a number": (1.0, "`data` is 1.0: give an array"),
    "a string": ("data.npy", "`data` is 'data.npy': give an array"),
    "a class": (np.ndarray, "`data` is the class ndarray: give an array"),
    "rows as lists": (ROWS, r"`data` is a list of 100000, not an array: convert it, `numpy.asarray\(data\)`"),
    "rows as lists in a tuple": ((ROWS,), r"`data\[0\]` is a list of 100000, not an array: convert it"),
    "rows as tuples": ((X, [(1.0,)] * 20), r"`data\[1\]` is a list of 20, not an array"),
    "labels as a list": ((X, [0, 1] * 10), r"`data\[1\]` is a list of 20, not an array"),
    "a list in a dict": ((X, {"a": [0, 1] * 10}), r"`data\[1\]\['a'\]` is a list of 20, not an array"),
    "two numbers": ((1.0, 2.0), r"`data\[0\]` is 1.0: give a NumPy or JAX array"),
    "an entry that is None": ((X, None), r"`data\[1\]` is None, which has no arrays: leave it out"),
    "an empty dict": ((X, {}), r"`data\[1\]` is a dict of 0, which has no arrays"),
    "an array of no dimension": ((X, np.float64(3)), r"`data\[1\]` is a single number: give an array whose first axis"),
    "no examples": (X[:0], r"`data\[0\]` has shape \(0, 3\): it has no examples"),
    "other lengths": ((X, X[:5]), r"`data\[1\]` has 5 examples where `data\[0\]` has 20"),
    "other lengths in a dict": (
        (X, {"a": C, "b": C[:3]}),
        r"`data\[1\]\['b'\]` has 3 examples where `data\[0\]`",
    ),
    "objects": (X.astype(object), r"`data\[0\]` has the type object: convert it, `.astype\(float\)`"),
    "a frame of objects": ((X, Frame(C.astype(object))), r"`data\[1\]` has the type object: convert it"),
    "strings": ((X, np.full(20, "cat")), r"`data\[1\]` has the type <U3: .* `numpy.unique\(names, return_inverse"),
    "bytes": ((X, np.full(20, b"cat")), r"`data\[1\]` has the type \|S3: give numbers"),
    "dates": ((X, DATES), r"`data\[1\]` has the type datetime64\[D\]: give numbers, such as the seconds"),
    "lengths of time": ((X, DATES - DATES[0]), r"`data\[1\]` has the type timedelta64\[D\]: give numbers"),
    "complex numbers": ((X, 1j * X), r"`data\[1\]` has the type complex64: give its real and imaginary parts"),
    "complex numbers of JAX": ((X, jnp.asarray(1j * X)), r"`data\[1\]` has the type complex64: give its real"),
    "columns": (np.zeros(20, [("a", float), ("b", int)]), r"`data\[0\]` has the type .*: give its columns as an array"),
    "a masked array": ((X, MASKED), r"`data\[1\]` is a masked array: fill it, `.filled\(value\)`"),
    "a masked array alone": (MASKED, r"`data\[0\]` is a masked array"),
    "NaN": (np.where(C[:, None] == 17, np.nan, X), r"`data\[0\]` has NaN in row 17: remove such rows, or fill"),
    "NaN in several rows": (np.where(C[:, None] > 15, np.nan, X), r"`data\[0\]` has NaN in row 16 \(and 3 more\)"),
    "infinity": ((X, np.where(C == 3, -np.inf, 0.0)), r"`data\[1\]` has infinity in row 3:"),
    "NaN in a dict": ((X, {"a": np.where(C == 0, np.nan, 0.0)}), r"`data\[1\]\['a'\]` has NaN in row 0:"),
    "NaN of JAX": (jnp.asarray(X).at[4, 1].set(jnp.nan), r"`data\[0\]` has NaN in row 4:"),
    "NaN in half precision": (np.where(C == 9, np.nan, 0).astype(ml_dtypes.bfloat16), r"has NaN in row 9:"),
    "too large": (np.where(C == 2, 1e300, 0.0), r"`data\[0\]` has a number too large for float32 in row 2:"),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_the_first_step(data, message, monkeypatch):
    monkeypatch.setattr(fit_module, "Loop", lambda *_, **__: pytest.fail("training was prepared"))
    # This loss accepts any number of entries.
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        fit(data)
    assert len(str(caught.value)) < 200


def test_a_long_list_is_refused_at_once(monkeypatch):
    """Only the first number is read: reading another one raises an error."""

    class Untouched(list):
        def __getitem__(self, index):
            assert index == 0
            return list.__getitem__(self, index)

        def __iter__(self):
            raise AssertionError

    with pytest.raises(TypeError, match="`data` is a Untouched of 2, not an array"):
        collect(Untouched([Untouched([1.0, 2.0]), Untouched([3.0, 4.0])]))


class TestFiniteRows:
    @pytest.mark.parametrize("shape", [(7,), (1000, 3), (5, 300, 2000), (3, 2**20 + 1), (4, 0)])
    def test_in_pieces(self, shape):
        """Arrays that are smaller and larger than a piece of 2^20 numbers."""
        array = np.zeros(shape, np.float32)
        bad = np.random.default_rng(0).random(len(array)) < 0.3
        if array.size:
            array.reshape(len(array), -1)[bad, -1] = np.nan
        np.testing.assert_array_equal(finite_rows(array), ~bad if array.size else np.ones(4, bool))

    def test_numpy_and_jax_agree(self):
        array = np.where(np.random.default_rng(0).random((50, 4)) < 0.1, np.inf, 1.0).astype(np.float32)
        np.testing.assert_array_equal(finite_rows(array), finite_rows(jnp.asarray(array)))

    def test_large_numbers_are_fine_in_double_precision(self, x64):
        assert finite_rows(np.array([1e300])).all()


def test_integers_are_not_checked():
    fit((X, np.full(20, np.iinfo(np.int64).max)))


def test_weights_have_mean_one():
    weights = example_weights(np.array([1, 2, 6], np.uint8), 3)
    np.testing.assert_allclose(weights, [1 / 3, 2 / 3, 2.0])


@pytest.mark.parametrize("steps", [np.int64(3), np.uint8(3), jnp.asarray(3)])
def test_sizes_of_numpy(steps):
    history = fit(X, steps=steps, batch_size=np.int32(5), ema=np.float32(0.5), steps_per_call=np.int64(2))
    np.testing.assert_array_equal(history["step"], [1, 2, 3])


@pytest.mark.parametrize("key", [0, None, jax.random.PRNGKey(0), jax.random.split(KEY), np.random.default_rng(0)])
def test_a_wrong_key_is_named(key):
    with pytest.raises(TypeError, match=r"`key` is .*: make it by `jax.random.key\(seed\)`") as caught:
        fit(X, key=key)
    assert len(str(caught.value)) < 150
