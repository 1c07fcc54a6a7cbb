"""A model is read back bit for bit. For another model the error names the places that differ."""

import enum
import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


KEY = jax.random.key(0)


def mlp(**kwargs):
    return fp.nn.MLP(shape=(2,), width=4, depth=1, key=KEY, **kwargs)


def schedule():
    return fp.LearnableNoiseSchedule((4,), key=KEY)


@functools.cache
def blocks():
    """Three networks stacked, with an encoder for each, and all optional trained parts."""
    keys = jax.random.split(KEY, 3)
    return fp.NoPropDT(
        [fp.nn.MLP(shape=(2,), condition_size=3, width=4, depth=1, key=key) for key in keys],
        encoder=[fp.nn.Linear(2, 3, key=key) for key in keys],
        embedding=fp.learned_embedding(2, 2, key=KEY),
        objective=fp.ELBOObjective(0.1),
    )


MODELS = {
    "typed keys": lambda: (jax.random.key(3), jax.random.split(jax.random.key(4, impl="rbg"), 2)),
    "bfloat16": lambda: jnp.array([1.5, -2.25, jnp.nan], jnp.bfloat16),
    "float8": lambda: jnp.array([0.5, 2.0], jnp.float8_e4m3fn),
    "float16": lambda: jnp.array(0.1, jnp.float16),
    "complex": lambda: jnp.array([1 + 2j, -3j]),
    "numbers": lambda: [True, 7, -0.1, float("inf"), 2**80, 1 + 2j, complex("nan")],
    "none": lambda: {"a": None, "b": 2.0},
    "numpy": lambda: (
        np.arange(6.0).reshape(2, 3).T,
        np.array(["a", "bc"]),
        np.float32(0.1),
        np.float64(0.1),
        np.arange(3, dtype=">i2"),
        np.zeros((2, 0)),
        np.array(7),
        np.array(["2020-01-01"], "datetime64[D]"),
    ),
    "empty": lambda: (jnp.zeros((0, 3)), jnp.ones(2)),
    "integers": lambda: (jnp.arange(3, dtype=jnp.int8), jnp.array([True, False])),
    "large": lambda: jnp.arange(2**22 + 3.0).reshape(-1, 1),
    "frozen": lambda: fp.Frozen(jnp.array([1e-45, -0.0])),
    "function": lambda: (jnp.tanh, jnp.add, functools.partial(jax.nn.leaky_relu, negative_slope=0.2), 2),
    "function of NumPy": lambda: (np.tanh, 2),
    "settings": lambda: (
        np.dtype("int8"),
        np.float32,
        jnp.bfloat16,
        jax.lax.Precision.HIGH,
        b"abc",
        frozenset({1, "a"}),
        2,
    ),
    "keys of a dict": lambda: {3: jnp.ones(2), 1: {"b": {(1, "x"): 2.0}}},
    "optimiser": lambda: (optax.adam(1e-3).init({"a": jnp.ones(2)}), 2.0),
    "equinox": lambda: [
        eqx.nn.MLP(2, 2, 3, 1, final_activation=jnp.tanh, key=KEY),
        eqx.nn.Sequential([eqx.nn.Conv2d(1, 2, 3, key=KEY), eqx.nn.MaxPool2d(2), eqx.nn.Lambda(jax.nn.gelu)]),
        eqx.nn.MultiheadAttention(2, 4, key=KEY),
        eqx.nn.GRUCell(2, 3, key=KEY),
        eqx.nn.LayerNorm(3),
        eqx.nn.Dropout(0.5),
    ],
    "integrator": lambda: (fp.ODEIntegrator(), jnp.ones(2)),
    "path of functions": lambda: fp.variance_exploding_path(),
    "text": lambda: {"text": "abc", "choices": frozenset({"b", "a"}), "class": jnp.float32, "value": 2.0},
    "learnable": lambda: fp.ct_flow(mlp(), shape=(2,), schedule=schedule()),
    "NoProp-DT": blocks,
}


def bits(leaf):
    """The type, the shape and every bit of a leaf."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (str(leaf.dtype), bits(jax.random.key_data(leaf)))
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        array = np.asarray(leaf)
        return (isinstance(leaf, jax.Array), isinstance(leaf, np.generic), array.dtype, array.shape, array.tobytes())
    if isinstance(leaf, functools.partial):
        return (leaf.func, leaf.args, leaf.keywords)
    return (type(leaf), repr(leaf) if isinstance(leaf, complex) else leaf)


def blank(leaf):
    """Another value of the same kind."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.zeros_like(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array):
        return jnp.zeros_like(leaf)
    if isinstance(leaf, np.ndarray | np.generic):
        return type(leaf)(0) if isinstance(leaf, np.generic) else np.zeros_like(leaf)
    return type(leaf)(1) if isinstance(leaf, bool | int | float | complex) else leaf


@functools.cache
def model():
    return fp.fm_flow(mlp(), shape=(2,))


@pytest.mark.parametrize("name", MODELS)
def test_round_trip(name, tmp_path):
    saved = MODELS[name]()
    fp.save(tmp_path / "model", saved)
    like = jax.tree.map(blank, saved)
    for given in [like] if name == "function of NumPy" else [like, None]:
        loaded = fp.load(tmp_path / "model", given)
        assert jax.tree.structure(loaded) == jax.tree.structure(saved)
        assert [bits(leaf) for leaf in jax.tree.leaves(loaded)] == [bits(leaf) for leaf in jax.tree.leaves(saved)]
    assert [bits(leaf) for leaf in jax.tree.leaves(like)] != [bits(leaf) for leaf in jax.tree.leaves(saved)]


def test_double_precision(tmp_path, x64):
    saved = {"a": jnp.array([0.1, 1e-300])}
    fp.save(tmp_path / "model", saved)
    loaded = fp.load(tmp_path / "model", {"a": jnp.zeros(2)})
    assert bits(loaded["a"]) == bits(saved["a"])


def test_a_loaded_flow_does_what_the_saved_one_did(tmp_path):
    path = tmp_path / "model"
    fp.save(path, model())
    other = fp.fm_flow(fp.nn.MLP(shape=(2,), width=4, depth=1, key=jax.random.key(9)), shape=(2,))
    z = jnp.array([0.3, -1.0])
    assert np.all(other.velocity(0.5, z) != model().velocity(0.5, z))
    np.testing.assert_array_equal(fp.load(str(path), other).velocity(0.5, z), model().velocity(0.5, z))


def test_loaded_blocks_predict_what_the_saved_ones_did(tmp_path):
    """The file is loaded into a model with other parameters."""
    fp.save(tmp_path / "model", blocks())
    like = jax.tree.map(lambda leaf: leaf + 1 if eqx.is_inexact_array(leaf) else leaf, blocks())
    inputs = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    saved, other, loaded = (
        model.predict_proba(inputs, key=KEY) for model in (blocks(), like, fp.load(tmp_path / "model", like))
    )
    np.testing.assert_array_equal(loaded, saved)
    assert np.all(other != saved)


class Unit(eqx.Module):
    """A module with settings of many kinds."""

    value: float = 1.0
    setting: object = eqx.field(static=True, default=None)


def made_by(scale):
    """A local function, described by its name alone."""

    def scaled(x):
        return scale * x

    return scaled


class Plain:
    """An object whose `repr` is its address."""


class Kind(enum.Enum):
    ONE = 1
    TWO = 2


def unit(setting):
    return Unit(setting=setting)


def difference(saved, like, path):
    """The lines of the error after the first."""
    fp.save(path, saved)
    with pytest.raises(
        ValueError, match=r"^`like` is not the model in .*model.*: make `like` with the same code"
    ) as error:
        fp.load(path, like)
    return [line.strip() for line in str(error.value).splitlines()[1:]]


class TestAnotherModel:
    @pytest.mark.parametrize(
        ("like", "lines"),
        [
            (lambda: {"a": jnp.zeros(3)}, ["the model itself is dict in `like` and flowprop.Flow in the file"]),
            (
                lambda: fp.fm_flow(fp.nn.MLP(shape=(2,), width=4, depth=2, key=KEY), shape=(2,)),
                [
                    "`.network.layers[1].weight` is float32[4, 4] in `like` and float32[4, 2] in the file",
                    "`.network.layers[1].bias` is float32[4] in `like` and float32[2] in the file",
                    "`.network.layers[2]` is missing in the file",
                ],
            ),
            (
                lambda: fp.df_flow(mlp(), shape=(2,)),
                [
                    "`.path` is flowprop.VPPath in `like` and flowprop.CondOTPath in the file",
                    "`.prediction` is flowprop.NoisePrediction in `like` and flowprop.VelocityPrediction in the file",
                ],
            ),
            (
                lambda: fp.fm_flow(
                    mlp(activation=jnp.tanh, time_features=fp.nn.SinusoidalFeatures(max_frequency=64)), shape=(2,)
                ),
                [
                    "`.network.time_features.max_frequency` is 64 in `like` and 8 in the file",
                    "`.network.activation` is jax.tanh in `like` and jax.silu in the file",
                ],
            ),
            (
                lambda: jax.tree.map(lambda a: a.astype(jnp.float16) if eqx.is_array(a) else a, model()),
                [
                    f"`.network.layers[{layer}].{part}` is float16[{size}] in `like` and float32[{size}] in the file"
                    for layer, part, size in (
                        (0, "weight", "19, 4"),
                        (0, "bias", "4"),
                        (1, "weight", "4, 2"),
                        (1, "bias", "2"),
                    )
                ],
            ),
        ],
        ids=["class", "depth", "path", "functions and static fields", "type"],
    )
    def test_is_refused_by_every_place_that_differs(self, like, lines, tmp_path):
        assert difference(model(), like(), tmp_path / "model") == lines

    @pytest.mark.parametrize(
        ("saved", "like", "line"),
        [
            (1.0, 1, "an int in `like` and a float in the file"),
            (1, True, "a bool in `like` and an int in the file"),
            (1.0, 1j, "a complex number in `like` and a float in the file"),
            (1.0, np.float64(1), "float64[] in `like` and a float in the file"),
            (jax.random.key(0), jax.random.key(0, impl="rbg"), "key<rbg>[] in `like` and key<fry>[] in the file"),
            (jax.random.key(0), jnp.zeros(2, jnp.uint32), "uint32[2] in `like` and key<fry>[] in the file"),
            (1.0, jnp.zeros(()), "float32[] in `like` and a float in the file"),
            (None, 1.0, "a float in `like` and None in the file"),
            (1.0, jnp.tanh, "jax.tanh in `like` and a float in the file"),
            (jnp.tanh, jnp.sin, "jax.sin in `like` and jax.tanh in the file"),
            ((), [], "list in `like` and tuple in the file"),
            ("abc", "x", "'x' in `like` and 'abc' in the file"),
            (
                functools.partial(jnp.clip, max=1.0),
                functools.partial(jnp.clip, max=2.0),
                "functools.partial(jax.clip, max=2) in `like` and functools.partial(jax.clip, max=1) in the file",
            ),
        ],
    )
    def test_another_kind_of_leaf(self, saved, like, line, tmp_path):
        assert difference({"a": saved}, {"a": like}, tmp_path / "model") == [f"`['a']` is {line}"]

    @pytest.mark.parametrize(
        ("saved", "like", "line"),
        [
            ((2,), (2, 1), "(2, 1) in `like` and (2,) in the file"),
            ("SAME", "VALID", "'VALID' in `like` and 'SAME' in the file"),
            (1, True, "True in `like` and 1 in the file"),
            (None, 0, "0 in `like` and None in the file"),
            (0.1, 0.2, "0.2 in `like` and 0.1 in the file"),
            ([jnp.tanh], [jnp.sin], "[jax.sin] in `like` and [jax.tanh] in the file"),
            ({"a": 1}, {"a": 2}, "dict('a': 2) in `like` and dict('a': 1) in the file"),
            (
                frozenset("ab"),
                frozenset("abc"),
                "frozenset('a', 'b', 'c') in `like` and frozenset('a', 'b') in the file",
            ),
            (jnp.float32, jnp.float16, "jax.numpy.float16 in `like` and jax.numpy.float32 in the file"),
            (Kind.ONE, Kind.TWO, f"{__name__}.Kind.TWO in `like` and {__name__}.Kind.ONE in the file"),
            (1j, 2j, "2j in `like` and 1j in the file"),
            (
                fp.CondOTPath(),
                fp.SigmoidNoiseSchedule(2),
                "flowprop.SigmoidNoiseSchedule(scale=2) in `like` and flowprop.CondOTPath() in the file",
            ),
            (Plain(), 1, f"1 in `like` and {__name__}.Plain in the file"),
            ("x" * 1000, "y", f"'y' in `like` and '{'x' * 109}... in the file"),
        ],
    )
    def test_another_static_field(self, saved, like, line, tmp_path):
        assert difference((unit(saved),), (unit(like),), tmp_path / "model") == [f"`[0].setting` is {line}"]

    @pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
    def test_an_array_in_a_static_field_is_compared_by_its_values(self, tmp_path):
        lines = difference(unit(np.arange(3)), unit(np.arange(1, 4)), tmp_path / "model")
        assert len(lines) == 1
        assert re.fullmatch(
            r"`.setting` is int64\[3\] of digest (\w{16}) in `like` and .* digest (?!\1)\w{16} in .*", lines[0]
        )
        assert fp.load(tmp_path / "model", Unit(0.0, np.arange(3))).value == 1.0

    @pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (8, 8.0),
            (np.int32(8), 8),
            (np.float64(0.5), 0.5),
            # Described by class alone, or by name alone.
            (Plain(), Plain()),
            (made_by(1), made_by(2)),
        ],
    )
    def test_settings_that_are_the_same(self, one, other, tmp_path):
        fp.save(tmp_path / "model", unit(one))
        assert fp.load(tmp_path / "model", Unit(0.0, other)).value == 1.0

    def test_a_long_list_is_cut(self, tmp_path):
        lines = difference([jnp.zeros(2)] * 20, [jnp.zeros(3)] * 20, tmp_path / "model")
        assert lines == [
            *(f"`[{i}]` is float32[3] in `like` and float32[2] in the file" for i in range(8)),
            "and 12 more",
        ]

    def test_a_missing_part(self, tmp_path):
        assert difference({"a": 1, "b": 2}, {"a": 1}, tmp_path / "model") == ["`['b']` is missing in `like`"]


def class_named(module, qualname):
    """A class with the given module name."""

    class Net(eqx.Module):
        value: float

    Net.__module__, Net.__qualname__ = module, qualname
    return Net


class TestNames:
    @pytest.mark.parametrize(
        ("saved", "like", "same"),
        [
            # A script that trains runs as `__main__`; another imports its classes.
            (("__main__", "Net"), ("train", "Net"), True),
            (("project.train", "Net"), ("__main__", "Net"), True),
            (("__main__", "Net"), ("train", "Other"), False),
            (("__main__", "Net"), ("train", "OtherNet"), False),
            # A class of the user's that has moved, until it is given its old name.
            (("old", "Net"), ("new", "Net"), False),
            (("old", "Net"), ("old", "Net"), True),
            # Private modules may move, public ones are part of the name.
            (("flowprop._flow", "Net"), ("flowprop._flow.flow", "Net"), True),
            (("flowprop._flow", "Net"), ("flowprop", "Net"), True),
            (("flowprop.nn._linear", "Net"), ("flowprop.nn._layers.linear", "Net"), True),
            (("flowprop.nn._linear", "Net"), ("flowprop._linear", "Net"), False),
            (("flowprop.nn._linear", "Net"), ("equinox.nn._linear", "Net"), False),
        ],
    )
    def test_a_class_is_compared_by_its_public_name(self, saved, like, same, tmp_path):
        fp.save(tmp_path / "model", class_named(*saved)(2.0))
        if same:
            assert fp.load(tmp_path / "model", class_named(*like)(0.0)).value == 2.0
        else:
            with pytest.raises(ValueError, match=r"the model itself is .* in `like` and .*Net in the file"):
                fp.load(tmp_path / "model", class_named(*like)(0.0))


class TestWhatCannotBeSaved:
    @pytest.mark.parametrize(
        ("leaf", "message"),
        [
            (Plain(), r"`model` holds an object of class .*Plain at `\['a'\]\[0\]`, which a file cannot describe"),
            (np.array([object()], object), r"`model` holds an array of object at `\['a'\]\[0\]`: give an array"),
            (np.zeros(2, "i4, f4"), r"`model` holds an array of \[.*\] at `\['a'\]\[0\]`: give an array"),
        ],
    )
    def test_a_leaf_is_refused_by_its_place(self, leaf, message, tmp_path):
        with pytest.raises(TypeError, match=message):
            fp.save(tmp_path / "model", {"a": [leaf]})
        assert list(tmp_path.iterdir()) == []

    def test_a_model_without_values(self, tmp_path):
        with pytest.raises(TypeError, match=r"`model` holds a shape without values at `.*weight`"):
            fp.save(tmp_path / "model", eqx.filter_eval_shape(lambda: model()))
        assert list(tmp_path.iterdir()) == []


def test_the_arrays_of_like_may_be_shapes(tmp_path):
    saved = {"key": jax.random.split(jax.random.key(3, impl="rbg"), 2), "a": jnp.ones(2, jnp.bfloat16), "n": 3}
    fp.save(tmp_path / "model", saved)
    like = eqx.filter_eval_shape(lambda: {**saved, "key": jax.random.split(jax.random.key(0, impl="rbg"), 2), "n": 4})
    loaded = fp.load(tmp_path / "model", like)
    assert [bits(leaf) for leaf in jax.tree.leaves(loaded)] == [bits(leaf) for leaf in jax.tree.leaves(saved)]
    assert jax.random.key_impl(loaded["key"]) == "rbg"


def test_what_is_loaded_from_numpy_can_be_changed(tmp_path):
    fp.save(tmp_path / "model", np.zeros(3))
    loaded = fp.load(tmp_path / "model", np.ones(3))
    loaded[0] = 7
    assert loaded.tolist() == [7, 0, 0]
