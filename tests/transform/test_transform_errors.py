"""Errors of transforms and their data are one sentence: the argument, the columns, the remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax import bijections

import flowprop as fp
from flowprop._transform import as_transform


RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(500, 3))
CORRELATED = np.cumsum(NORMAL, axis=1)


class Wrong(fp.AbstractBijectiveTransform):
    """A transform that does not keep the shape."""

    shape = None

    def forward_and_log_det(self, data):
        return data[:1], data

    def inverse_and_log_det(self, z):
        return z, z

    def requirements(self, data):
        yield from ()


def frame():
    class DataFrame:
        def to_numpy(self):
            return CORRELATED

    return DataFrame()


def with_value(value, row=3, column=1):
    points = CORRELATED.copy()
    points[row, column] = value
    return points


NAN = float("nan")
INF = float("inf")
CONSTANT = np.stack([NORMAL[:, 0], np.full(500, 0.1), NORMAL[:, 1], np.full(500, -7.0)], axis=1)
DEPENDENT = np.concatenate([NORMAL, NORMAL[:, :1] - 2 * NORMAL[:, 2:]], axis=1)
ONE_ULP = np.float32(1e3) + np.float32(6.1e-5) * RNG.integers(0, 2, size=(100, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: fp.Standardise(0.0, 0.0), ValueError, "`std` is 0 where a finite number above zero is needed"),
        (lambda: fp.Standardise([0.0, 1.0], [1.0, -1.0]), ValueError, "`std` is -1 in column 1 where"),
        (lambda: fp.Standardise(0.0, NAN), ValueError, "`std` is nan where a finite number above zero"),
        (lambda: fp.Standardise([0.0, NAN], 1.0), ValueError, "`mean` is nan in column 1 where a finite number"),
        (lambda: fp.Standardise(0.0, 1e-50), ValueError, "`std` is 1e-50 where a finite number above zero"),
        (lambda: fp.Standardise(1e50, 1.0), ValueError, r"`mean` is 1e\+50 where a finite number"),
        (
            lambda: fp.Standardise(np.zeros(2), np.ones(3)),
            ValueError,
            r"`mean` has shape \(2,\) and `std` has shape \(3,\)",
        ),
        (lambda: fp.Standardise("a", 1.0), TypeError, "`mean` is a str where an array of numbers is needed"),
        (lambda: fp.Standardise(None, 1.0), TypeError, "`mean` is a NoneType where"),
        (lambda: fp.Standardise(np.array([1j]), 1.0), TypeError, "`mean` has dtype complex128 where real numbers"),
        (lambda: fp.Standardise([[1.0], [1.0, 2.0]], 1.0), TypeError, "`mean` has rows of different lengths"),
        (lambda: fp.Standardise.fit(frame()), TypeError, r"`points` is a DataFrame .*`.to_numpy\(\)`"),
        (lambda: fp.Standardise.fit(np.ma.masked_array(CORRELATED)), TypeError, "`points` is a MaskedArray where"),
        (
            lambda: fp.Standardise.fit(CORRELATED[:, 0]),
            ValueError,
            r"`points` has shape \(500,\): .*`points\[:, None\]`",
        ),
        (lambda: fp.Standardise.fit(CORRELATED[:1]), ValueError, r"`points` has shape \(1, 3\): .*at least two rows"),
        (lambda: fp.Standardise.fit(CORRELATED[:0]), ValueError, r"`points` has shape \(0, 3\): .*at least two rows"),
        (lambda: fp.Standardise.fit(np.zeros((5, 0))), ValueError, r"`points` has shape \(5, 0\): .*one column"),
        (
            lambda: fp.Standardise.fit(with_value(NAN)),
            ValueError,
            r"`points` has NaN or infinite values in column 1, first in row 3 \(1 of 500 rows\): drop",
        ),
        (lambda: fp.Standardise.fit(with_value(-INF)), ValueError, "NaN or infinite values in column 1"),
        (lambda: fp.Standardise.fit(CONSTANT), ValueError, "`points` is constant, .* in columns 1, 3: .*drop these"),
        (lambda: fp.Standardise.fit(CONSTANT.astype(np.float32)), ValueError, "in columns 1, 3: "),
        (lambda: fp.Standardise.fit(CONSTANT.reshape(500, 2, 2)), ValueError, r"in entries \(0, 1\), \(1, 1\): "),
        (lambda: fp.Standardise.fit(np.zeros((5, 20), int)), ValueError, "in columns 0, 1, 2, 3, 4, 5 and 14 more"),
        (lambda: fp.Standardise.fit(ONE_ULP), ValueError, "varies only by rounding, in column 0"),
        (lambda: jax.jit(fp.Standardise.fit)(CORRELATED), TypeError, "`points` is traced: .*outside `jax.jit`"),
        (
            lambda: fp.Standardise.fit(CORRELATED).forward(np.zeros(2)),
            ValueError,
            r"`data` has shape \(2,\) where \(3,\)",
        ),
        (lambda: fp.Standardise.fit(CORRELATED).forward(2.0), ValueError, r"`data` has shape \(\) where \(3,\)"),
        (lambda: fp.Standardise.fit(CORRELATED).inverse(np.zeros((4, 2))), ValueError, r"`z` has shape \(2,\) where"),
        (lambda: fp.Whiten.fit(DEPENDENT), ValueError, "dependent values: column 3 .* columns 0, 2, 3, .*drop one"),
        (lambda: fp.Whiten.fit(DEPENDENT.astype(np.float32)), ValueError, "column 3 .* columns 0, 2, 3, "),
        (lambda: fp.Whiten.fit(CORRELATED[:3]), ValueError, "`points` has 3 rows of 3 coordinates, .*more than 3 rows"),
        (lambda: fp.Whiten.fit(CONSTANT), ValueError, "`points` is constant"),
        (lambda: fp.Whiten(0.0, [[1.0]]), ValueError, "`mean` is a number: give an array"),
        (lambda: fp.Whiten([0.0, 0.0], np.eye(3)), ValueError, r"`matrix` has shape \(3, 3\) where \(2, 2\)"),
        (lambda: fp.Whiten([0.0, 0.0], np.ones((2, 2))), ValueError, "`matrix` is not lower-triangular .*cholesky"),
        (lambda: fp.Whiten([0.0, 0.0], np.diag([1.0, 0.0])), ValueError, "`matrix` is not lower-triangular with a pos"),
        (lambda: fp.Whiten([0.0, 0.0], np.full((2, 2), NAN)), ValueError, "`matrix` is nan in entries "),
        (lambda: fp.Bounded(1.0, 1.0), ValueError, "`low` is not below `high`: "),
        (lambda: fp.Bounded([0.0, 3.0], [1.0, 2.0]), ValueError, "`low` is not below `high` in column 1: "),
        (lambda: fp.Bounded(1.0, 1.0 + 1e-12), ValueError, "`low` is not below `high`"),
        (
            lambda: fp.Bounded(0.0, INF),
            ValueError,
            r"`high` is inf where a finite number is needed: .*`fp.Positive\(\)`",
        ),
        (lambda: fp.Bounded(NAN, 1.0), ValueError, "`low` is nan where a finite number"),
        (
            lambda: fp.Bounded(np.zeros(2), np.ones(3)),
            ValueError,
            r"`low` has shape \(2,\) and `high` has shape \(3,\)",
        ),
        (lambda: fp.Circular(0.0), ValueError, "`period` is 0 where a finite number above zero"),
        (lambda: fp.Circular(INF), ValueError, "`period` is inf where a finite number above zero"),
        (lambda: fp.Circular(1.0, NAN), ValueError, "`low` is nan where a finite number"),
        (
            lambda: fp.Circular(1.0).draw(jnp.zeros(1)),
            ValueError,
            "`key` is None where `Circular` draws .*jax.random.key",
        ),
        (lambda: fp.Circular(1.0).draw(jnp.zeros(1), key=np.zeros(2, np.uint32)), TypeError, "`key` is"),
        (lambda: fp.Dequantise(0), ValueError, "`num_draws` is 0"),
        (lambda: fp.Dequantise().draw(jnp.zeros(1)), ValueError, "`key` is None where `Dequantise` draws its noise"),
        (lambda: fp.Dequantise().preimages(jnp.zeros(1)), ValueError, "`key` is None where `Dequantise` draws"),
        (lambda: fp.Chain(), ValueError, "`transforms` is empty"),
        (lambda: fp.Chain(fp.Positive(), None), TypeError, "`transform` is a NoneType where a transform"),
        (
            lambda: fp.Chain(fp.Standardise([0.0], 1.0), fp.Standardise([0.0, 0.0], 1.0)),
            ValueError,
            r"`transforms\[1\]` is for examples of shape \(2,\) where those before it are for \(1,\)",
        ),
        (lambda: fp.OnColumns((), fp.Positive()), ValueError, r"`columns` is \(\): give the index"),
        (lambda: fp.OnColumns((1, 1), fp.Positive()), ValueError, r"`columns` is \(1, 1\): give the index"),
        (lambda: fp.OnColumns((0,), fp.Bounded([0.0, 0.0], 1.0)), ValueError, r"`transform` is for .* \(2,\) .*\(1,\)"),
        (lambda: fp.OnColumns((3,), fp.Positive()).forward(np.ones(3)), ValueError, "`columns` is .* from 0 to 2"),
        (lambda: fp.OnColumns((-1, 2), fp.Positive()).forward(np.ones(3)), ValueError, "`columns` is .* from 0 to 2"),
        (lambda: fp.OnColumns((0,), fp.Positive()).forward(1.0), ValueError, r"`data` has shape \(\) where \(n,\)"),
        (
            lambda: as_transform(np.tanh),
            TypeError,
            r"`transform` is a ufunc where .*give `fp.Standardise.fit\(points\)`",
        ),
        (
            lambda: as_transform(fp.Standardise),
            TypeError,
            r"`transform` is the class Standardise .*`Standardise\(...\)`",
        ),
        (lambda: as_transform(bijections.Exp), TypeError, "`transform` is the class Exp where"),
        (
            lambda: as_transform(bijections.AdditiveCondition(lambda x: x, (2,), (2,))),
            ValueError,
            r"`transform` is a AdditiveCondition with a condition of shape \(2,\)",
        ),
        (
            lambda: fp.Standardise([0.0, 0.0], 1.0).check_shape("transform", (3,)),
            ValueError,
            r"`transform` is for examples of shape \(2,\) where the flow's `shape` is \(3,\)",
        ),
        (
            lambda: as_transform(bijections.Exp((2,))).check_shape("transform", (3,)),
            ValueError,
            r"`transform` is for examples of shape \(2,\) where",
        ),
        (
            lambda: Wrong().check_shape("transform", (3,)),
            ValueError,
            r"returns shape \(1,\) and a `log_det`",
        ),
        (lambda: jax.jit(lambda m: fp.Whiten(m, np.eye(2)))(np.ones(2)), TypeError, "`mean` is traced: "),
        (lambda: fp.OnColumns((5,), fp.Positive()).check_shape("transform", (3,)), ValueError, "`columns` is"),
        (
            lambda: fp.Bounded(0.0, 1.0).check_data("z1", np.array([[0.5, 2.0], [0.1, NAN], [0.0, 1.0]])),
            ValueError,
            r"`z1` has values outside of the bounds of `Bounded` \(column 1, 2 of 3 rows: 0, 1\): move the bounds",
        ),
        (
            lambda: fp.Positive().check_data("z1", np.array([1.0, 0.0, -1.0, 0.0, 0.0])),
            ValueError,
            r"`z1` has values that are not above zero .* \(4 of 5 rows: 1, 2, 3, ...\): drop",
        ),
        (
            lambda: fp.Dequantise().check_data("z1", np.array([[0.5, 2.0]])),
            ValueError,
            r"`z1` has values that are not whole numbers .* \(column 0, 1 of 1 rows: 0\): give levels or counts",
        ),
        (lambda: fp.Dequantise().check_data("z1", np.array([[-1]])), ValueError, "not whole numbers from 0 on"),
        (lambda: fp.Dequantise().check_data("z1", np.array([[NAN]])), ValueError, "not whole numbers from 0 on"),
        (lambda: fp.Dequantise().check_data("z1", np.array([[2**25]])), ValueError, "float32 has no fractions"),
        (
            lambda: fp.OnColumns((2, 1), fp.Positive()).check_data("z1", np.array([[-1.0, -1.0, 1.0]])),
            ValueError,
            r"\(column 1, 1 of 1 rows: 0\)",
        ),
        (
            lambda: fp.Chain(fp.Dequantise(), fp.Bounded(0.0, 16.0)).check_data("z1", np.array([[3, 16]])),
            ValueError,
            r"outside of the bounds of `Bounded` \(column 1, ",
        ),
        (
            lambda: fp.Standardise([0.0, 0.0], 1.0).check_data("z1", np.zeros((5, 3))),
            ValueError,
            r"`z1` has shape \(5, 3\)",
        ),
    ],
)
def test_errors_name_the_argument_and_the_remedy(call, error, message):
    with pytest.raises(error, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400
