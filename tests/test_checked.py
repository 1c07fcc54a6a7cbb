"""The arguments that an entry point converts, and its errors for all others."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp
from flowprop._types import Number, Points, PRNGKey, Real, check_number, checked


@checked
def echo(
    count: int = 1,
    number: Real = 1.0,
    setting: Number = 1.0,
    sizes: tuple[int, ...] = (1,),
    points: Points | None = None,
    key: PRNGKey | None = None,
):
    return {"count": count, "number": number, "setting": setting, "sizes": sizes, "points": points}


BIG_ENDIAN = np.arange(6.0).reshape(3, 2).astype(">f4")

MEANT = {
    "a NumPy integer": ("count", np.int64(3), 3),
    "a JAX integer": ("count", jnp.asarray(3), 3),
    "an unsigned byte": ("count", np.uint8(3), 3),
    "a NumPy float": ("number", np.float32(0.5), 0.5),
    "a JAX float": ("number", jnp.asarray(0.5), 0.5),
    "half precision": ("number", jnp.asarray(0.5, jnp.bfloat16), 0.5),
    "a NumPy integer for a number": ("number", np.int64(2), 2),
    "the standard deviation of points": ("number", np.arange(3, dtype=np.float32).std(), (2 / 3) ** 0.5),
    "a list of sizes": ("sizes", [2, np.int64(3)], (2, 3)),
    "one size": ("sizes", 2, (2,)),
    "the size of an array": ("sizes", np.int64(2), (2,)),
}


@pytest.mark.parametrize(("name", "value", "wanted"), MEANT.values(), ids=MEANT)
def test_scalars_and_lists_are_converted(name, value, wanted):
    got = echo(**{name: value})[name]
    assert type(got) is type(wanted)
    assert got == pytest.approx(wanted, rel=1e-6)  # single precision


def test_arguments_by_place_are_converted_too():
    assert echo(np.int64(3), np.float32(0.5), 2.0, [4])["sizes"] == (4,)


def test_foreign_byte_order():
    got = echo(points=BIG_ENDIAN)["points"]
    assert got.dtype.isnative
    np.testing.assert_array_equal(got, BIG_ENDIAN)


def test_a_setting_may_be_traced():
    assert jax.jit(lambda value: echo(setting=value)["setting"] + 1)(0.5) == 1.5


# The argument, what is given for it, and the whole message.
REFUSED = {
    "a float for a count": ("count", 3.0, "`count` is 3.0 where an integer is needed: give 3"),
    "a string for a number": ("number", "1", "`number` is '1' where a number is needed"),
    "a seed": ("key", 0, "`key` is 0 where one typed key or None is needed: make it by `jax.random.key(seed)`"),
    "a raw key": (
        "key",
        np.zeros(2, np.uint32),
        "`key` is a uint32 array of shape (2,) where one typed key or None is needed: "
        "make it by `jax.random.key(seed)`",
    ),
    "rows as lists": (
        "points",
        [[0.0, 1.0]] * 100_000,
        "`points` is a list of 100000 where a floating-point array [batch *shape] or None is needed: "
        "give a NumPy or JAX array",
    ),
    "integers": (
        "points",
        np.zeros((3, 2), np.int32),
        "`points` is an int32 array of shape (3, 2) where a floating-point array [batch *shape] or None is needed: "
        "convert it, `.astype(float)`",
    ),
}


@pytest.mark.parametrize(("name", "value", "message"), REFUSED.values(), ids=REFUSED)
def test_one_sentence_says_what_is_wrong(name, value, message):
    with pytest.raises(TypeError) as caught:
        echo(**{name: value})
    assert str(caught.value) == message


class Frame:
    """The interface of a data frame."""

    def to_numpy(self):
        return np.zeros((3, 2))


FLOW = fp.fm_flow(lambda t, z, x: z, shape=(2,))
TRAINED = fp.fm_flow(fp.nn.MLP((2,), width=2, depth=1, key=jax.random.key(0)), shape=(2,))
REMEDIES = {
    "a class": (lambda: fp.sample(FLOW, 2, key=jax.random.key(0), integrator=fp.ODEIntegrator), "`ODEIntegrator(...)`"),
    "a solver": (lambda: fp.sample(FLOW, 2, key=jax.random.key(0), integrator=dfx.Euler()), "`integrator` is"),
    "a data frame": (lambda: echo(points=Frame()), "`.to_numpy()`"),
    "a factory": (
        lambda: fp.fit(TRAINED, (np.zeros((3, 2)),), optax.adam, steps=1, batch_size=1, key=jax.random.key(0)),
        "call it, as in `adam(1e-3)`",
    ),
}


@pytest.mark.parametrize(("do", "words"), REMEDIES.values(), ids=REMEDIES)
def test_the_remedy_is_named(do, words):
    with pytest.raises(TypeError) as caught:
        do()
    assert words in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 3.0, np.float32("nan"), jnp.asarray(jnp.nan)])
def test_a_number_out_of_range(value):
    with pytest.raises(ValueError, match=r"`scale` is .*: give a number between 0 and 2"):
        check_number("scale", value, above=0, below=2, remedy="give a number between 0 and 2")


def test_a_number_in_range():
    check_number("scale", 0.0, at_least=0, at_most=0, remedy="")
    jax.jit(lambda value: check_number("scale", value, above=0, remedy="") or value)(-1.0)
