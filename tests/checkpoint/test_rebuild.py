"""A model is made from its file alone, if all of its parts are of the libraries; a file can name nothing else."""

import dataclasses
import functools
import json
import re
import sys
import tracemalloc
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


KEY = jax.random.key(0)


@functools.cache
def flow():
    return fp.fm_flow(fp.nn.MLP((2,), width=3, depth=1, key=KEY), shape=(2,))


def with_activation(activation):
    return eqx.tree_at(lambda flow: flow.network.activation, flow(), activation)


def rewrite(path, change):
    """Change the header of a file."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(entries["header.json"])
    header = change(header) or header
    entries["header.json"] = json.dumps(header).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def hostile(path, data):
    """A file with this description of its model."""
    fp.save(path, {})
    rewrite(path, lambda header: {**header, "rebuild": data})


class TestWithoutConstructors:
    def test_none_is_called(self, tmp_path, monkeypatch):
        fp.save(tmp_path / "model", flow())

        def forbidden(*args, **kwargs):
            raise AssertionError("a constructor was called")

        for cls in (fp.Flow, fp.nn.MLP, fp.nn.Linear, fp.CondOTPath):
            monkeypatch.setattr(cls, "__init__", forbidden)
        loaded = fp.load(tmp_path / "model")
        assert eqx.tree_equal(loaded, flow(), typematch=True)

    def test_it_is_as_good_as_the_original(self, tmp_path):
        """It can be changed, traced and differentiated like any model."""
        fp.save(tmp_path / "model", flow())
        loaded = fp.load(tmp_path / "model")
        z = jnp.ones((3, 2))
        losses = [
            eqx.filter_jit(eqx.filter_grad(lambda flow: flow.loss(z, key=KEY)))(flow_) for flow_ in (loaded, flow())
        ]
        assert eqx.tree_equal(*losses, typematch=True)
        assert hash(jax.tree.structure(loaded)) == hash(jax.tree.structure(flow()))
        assert not eqx.tree_equal(eqx.tree_at(lambda flow: flow.network.layers[0].bias, loaded, jnp.ones(3)), loaded)

    def test_checks_of_the_library_run(self, tmp_path):
        path = tmp_path / "model"
        fp.save(path, fp.nn.SinusoidalFeatures(4))

        def change(header):
            header["rebuild"]["module"][1]["num_frequencies"] = -4
            header["tree"]["static"]["num_frequencies"] = "-4"

        rewrite(path, change)
        with pytest.raises(
            ValueError, match=r"that its own class refuses, because `num_frequencies` is -4.*give `like`"
        ):
            fp.load(path)


class Mine(eqx.Module):
    """A user's module."""

    value: float = 1.0


class OneArray(eqx.Module):
    setting: object = eqx.field(static=True, default=None)


NEED_LIKE = {
    "class": (lambda: {"a": [Mine()]}, rf"an object of class `{__name__}\.Mine` at `\['a'\]\[0\]`"),
    "the model itself": (Mine, rf"an object of class `{__name__}\.Mine`, which"),
    "lambda": (lambda: with_activation(lambda x: x), r"`.*<lambda>` at `\.network\.activation`"),
    "function": (lambda: with_activation(flow), rf"`{__name__}\.flow` at `\.network\.activation`"),
    "function of NumPy": (lambda: with_activation(np.tanh), r"`.*tanh` at `\.network\.activation`"),
    "bound method": (lambda: with_activation(flow().velocity), r"`flowprop\..*velocity` at `\.network\.activation`"),
    "inside a partial": (
        lambda: with_activation(functools.partial(jnp.clip, max=lambda: 1)),
        r"`.*<lambda>` at `\.network\.activation\.max`",
    ),
    "array in a partial": (
        lambda: with_activation(functools.partial(jnp.clip, max=jnp.ones(2))),
        r"an array in a static field at `\.network\.activation\.max`",
    ),
    "class of another library": (lambda: [range], r"`builtins\.range` at `\[0\]`"),
    "a function that reads files": (lambda: with_activation(jnp.load), r"`jax\.numpy\.load` at"),
    "a function that writes files": (lambda: with_activation(fp.save), r"`flowprop\..*save` at"),
    "too deep": (
        lambda: functools.reduce(lambda model, _: [model], range(60), 1.0),
        "parts that are more than 50 deep",
    ),
}


@pytest.mark.parametrize("name", NEED_LIKE)
def test_a_part_of_ones_own_needs_like(name, tmp_path):
    make, message = NEED_LIKE[name]
    model = make()
    fp.save(tmp_path / "model", model)
    with pytest.raises(ValueError, match=rf"`path` .*model holds {message}.*cannot make from a file: give `like`"):
        fp.load(tmp_path / "model")
    assert re.search(message.removesuffix(", which"), fp.model_info(tmp_path / "model").needs_like)
    assert eqx.tree_equal(fp.load(tmp_path / "model", model), model)


class TestVersions:
    def test_a_file_of_an_older_version(self, tmp_path):
        path = tmp_path / "model"
        fp.save(path, flow())
        rewrite(path, lambda header: {key: header[key] for key in ("format", "tree")})
        with pytest.raises(ValueError, match=r"written by a version that did not store .*: give `like`"):
            fp.load(path)
        assert eqx.tree_equal(fp.load(path, flow()), flow())
        info = fp.model_info(path)
        assert (info.name, info.metadata, info.versions) == ("flowprop.Flow", {}, {})
        assert "older version" in info.needs_like

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda fields: fields.pop("shape"), r"the class `flowprop\.Flow` without its field `shape`, which"),
            (lambda fields: fields.update(old=1), r"the class `flowprop\.Flow` with the field `old`, which"),
            (
                lambda fields: fields.update(old=fields.pop("shape")),
                r"the class `flowprop\.Flow` without its field `shape` and with the field `old`, which",
            ),
            (
                lambda fields: fields["path"]["module"].__setitem__(0, "flowprop.Old"),
                r"the class `flowprop\.Old`, which",
            ),
            (
                lambda fields: fields["network"]["module"][1].update(activation={"function": "jax.nn.old"}),
                r"the function `jax\.nn\.old`, which",
            ),
        ],
    )
    def test_a_class_that_has_changed(self, change, message, tmp_path):
        path = tmp_path / "model"
        fp.save(path, flow())
        rewrite(path, lambda header: change(header["rebuild"]["module"][1]) and None)
        with pytest.raises(ValueError, match=rf"holds {message}.*versions that wrote it \(flowprop 0.*, jax 0"):
            fp.load(path)


NAMES = [
    *("os.system", "builtins.eval", "builtins.exec", "subprocess.Popen", "antigravity.geohash", "flowprop.plot.save"),
    *("jax.numpy.load", "jax.numpy.save", "jax.numpy.savez", "numpy.load", "jax.numpy.np.load", "jax.debug.callback"),
    *("flowprop.save", "flowprop.load", "flowprop._checkpoint.checkpoint.save", "flowprop.data.mnist"),
    *("equinox.tree_serialise_leaves", "equinox.nn._misc.os", "flowprop.nn.__builtins__", "flowprop.nn._mlp.eqx"),
    *("equinox.nn.MLP", "jax.pure_callback", "jax.nn", "silu", "", ".", "jax.nn.", "flowprop.nn..silu"),
]


class TestHostileNames:
    @pytest.mark.parametrize("name", NAMES)
    def test_no_function_outside_of_the_list(self, name, tmp_path):
        before = {module.split(".")[0] for module in sys.modules}
        hostile(tmp_path / "model", {"partial": [{"function": name}, ["echo"], {}]})
        with pytest.raises(ValueError, match=rf"holds the function `{re.escape(name)}`, which"):
            fp.load(tmp_path / "model")
        assert {module.split(".")[0] for module in sys.modules} == before

    @pytest.mark.parametrize("kind", ["module", "named", "enum", "type", "dtype", "numpy type"])
    @pytest.mark.parametrize(
        "name", ["pathlib.Path", "antigravity.Class", "subprocess.Popen", "flowprop.save", "O", "f4,f8"]
    )
    def test_no_class_outside_of_the_list(self, kind, name, tmp_path):
        content = [name, {}] if kind in ("module", "named", "enum") else name
        hostile(tmp_path / "model", {kind: content})
        with pytest.raises(ValueError, match=r"`path` .*model (holds the (class|type) `|is damaged)"):
            fp.load(tmp_path / "model")
        assert "antigravity" not in sys.modules

    def test_no_class_of_a_test_or_a_user_is_known(self, tmp_path):
        hostile(tmp_path / "model", {"module": [f"{__name__}.Mine", {"value": 1.0}]})
        with pytest.raises(ValueError, match=r"holds the class `.*Mine`, which"):
            fp.load(tmp_path / "model")

    def test_no_private_class_without_its_module(self, tmp_path):
        """A class is known by one name only, so that a file cannot choose between two."""
        fp.save(tmp_path / "model", flow())
        assert fp.model_info(tmp_path / "model").needs_like is None
        hostile(tmp_path / "model", {"module": ["flowprop._flow.flow.Flow", {}]})
        with pytest.raises(ValueError, match=r"holds the class `flowprop\._flow\.flow\.Flow`, which"):
            fp.load(tmp_path / "model")


def deep(kind, levels):
    return functools.reduce(lambda data, _: {kind: [data]}, range(levels), 1)


LARGE = {
    "an array": {"array": ["float32", [10**15]]},
    "an array of NumPy": {"numpy": ["float64", [10**9, 10**9]]},
    "keys": {"key": ["threefry2x32", [10**12]]},
    "many arrays": {"list": [{"array": ["float32", [1000]]}] * 1000},
    "a text": {"scalar": ["<U1000000000"]},
    "a text of NumPy": {"numpy": ["<U1000000000", [2]]},
    "no shape": {"array": ["float32", [-1]]},
    "text as shape": {"array": ["float32", ["3"]]},
    "deep": deep("list", 200),
    "very deep": deep("tuple", 300),
    "many values": {"list": [1] * 200_000},
    "no kind": {},
    "two kinds": {"list": [], "tuple": []},
    "unknown kind": {"call": ["os.system"]},
    "a list": [1],
    "an unhashable key": {"dict": [[{"list": []}, 1]]},
    "half an item": {"dict": [[1]]},
    "an abstract class": {"module": ["flowprop.AbstractPath", {}]},
}


@pytest.mark.parametrize("name", LARGE)
def test_large_and_wrong_descriptions_are_refused_in_bounded_memory(name, tmp_path):
    path = tmp_path / "model"
    hostile(path, LARGE[name])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"`path` .*model is damaged or not a file of `fp.save`"):
            fp.load(path)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_a_header_of_too_many_parts(tmp_path):
    path = tmp_path / "model"
    fp.save(path, {})
    rewrite(path, lambda header: {**header, "more": [[]] * (2**20)})
    with pytest.raises(ValueError, match="more than 1048576 parts"):
        fp.load(path)


def test_two_descriptions_that_differ(tmp_path):
    """What is compared with `like` is what is made without it."""
    fp.save(tmp_path / "model", (1.0, 2.0))
    rewrite(tmp_path / "model", lambda header: {**header, "rebuild": {"tuple": [1.0]}})
    with pytest.raises(ValueError, match=r"is damaged .*its two descriptions of the model differ"):
        fp.load(tmp_path / "model")


def test_double_precision_needs_jax_to_use_it(tmp_path):
    with jax.enable_x64(True):
        saved = {"jax": jnp.array([0.1, 1e-300]), "numpy": np.array([0.1])}
        fp.save(tmp_path / "model", saved)
        loaded = fp.load(tmp_path / "model")
        assert loaded["jax"].dtype == np.float64
        np.testing.assert_array_equal(loaded["jax"], saved["jax"])
    with pytest.raises(
        ValueError, match=r'holds an array of float64, .*: call `jax.config.update\("jax_enable_x64", True'
    ):
        fp.load(tmp_path / "model")


METADATA = {"columns": ["a", "ä"], "task": "density", "shape": [2, 3], "nested": {"x": None, "y": 1.5}}


class TestInfo:
    def test_of_a_flow(self, tmp_path):
        path = tmp_path / "model"
        model = fp.ct_flow(flow().network, shape=(2,), schedule=fp.LearnableNoiseSchedule((3,), key=KEY))
        fp.save(path, model, METADATA)
        info = fp.model_info(path)
        assert info.name == "flowprop.Flow"
        trained = jax.tree.leaves(eqx.filter(model, fp.trainable(model)))
        assert info.num_parameters == sum(array.size for array in trained) > 0
        assert info.metadata == METADATA
        assert info.needs_like is None
        assert info.versions["flowprop"] == fp.__version__
        assert "        weight: float32[3, 2]\n" in info.description
        # The model is the same with and without metadata.
        assert eqx.tree_equal(fp.load(path), model)
        with pytest.raises(dataclasses.FrozenInstanceError):
            info.name = "x"

    def test_of_a_number(self, tmp_path):
        fp.save(tmp_path / "model", [jnp.ones(3, jnp.int8), jnp.ones((2, 2), jnp.bfloat16), jnp.ones(()), 1j, 2.5])
        info = fp.model_info(tmp_path / "model")
        assert (info.name, info.num_parameters, info.metadata) == ("list", 5, {})
        assert info.description.endswith("[4]: a float 2.5")

    @pytest.mark.parametrize("value", [object(), {1, 2}, np.float32(1), float, {(1, 2): 3}])
    def test_what_json_cannot_store(self, value, tmp_path):
        with pytest.raises(TypeError, match=r"`metadata` holds what JSON cannot store \(.*\): give text"):
            fp.save(tmp_path / "model", 1.0, {"a": value})
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "change", [{"tree": 3}, {"tree": {}}, {"metadata": 3}, {"tree": {"is": 3}}, {"versions": 1}]
    )
    def test_of_a_damaged_header(self, change, tmp_path):
        fp.save(tmp_path / "model", 1.0)
        rewrite(tmp_path / "model", lambda header: {**header, **change})
        with pytest.raises(ValueError, match="is damaged"):
            fp.model_info(tmp_path / "model")

    def test_of_what_is_no_file(self, tmp_path):
        with pytest.raises(ValueError, match="is a folder"):
            fp.model_info(tmp_path)
        with pytest.raises(FileNotFoundError):
            fp.model_info(tmp_path / "nowhere")
