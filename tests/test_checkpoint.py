"""What is written is read back bit for bit; what is not in order is refused by name."""

import functools
import io
import json
import os
import stat
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


KEY = jax.random.key(0)


def mlp(**kwargs):
    return fp.nn.MLP(shape=(2,), width=4, depth=1, key=KEY, **kwargs)


def schedule():
    return fp.LearnableNoiseSchedule((4,), key=KEY)


@functools.cache
def blocks():
    """Three networks stacked, with an encoder for each, and all that can be trained."""
    keys = jax.random.split(KEY, 3)
    return fp.NoPropDT(
        [fp.nn.MLP(shape=(2,), condition_size=3, width=4, depth=1, key=key) for key in keys],
        encoder=[fp.nn.Linear(2, 3, key=key) for key in keys],
        embedding=fp.learned_embedding(2, 2, key=KEY),
        objective=fp.ELBOObjective(0.1),
    )


MODELS = {
    "MLP": mlp,
    "ConcatSquashMLP": lambda: fp.nn.ConcatSquashMLP(shape=(2,), width=4, depth=1, key=KEY),
    "ConvEncoder": lambda: fp.nn.ConvEncoder((4, 4, 1), 3, channels=(2,), key=KEY),
    "Fourier features": lambda: fp.nn.FourierFeatures(2, 4, key=KEY),
    "FM": lambda: fp.fm_flow(mlp(), shape=(2,)),
    "CT, learnable": lambda: fp.ct_flow(mlp(), shape=(2,), schedule=schedule()),
    "CT, preconditioned": lambda: fp.ct_flow(mlp(), shape=(2,), prediction=fp.PreconditionedPrediction(0.7)),
    "DF": lambda: fp.df_flow(mlp(), shape=(2,), weighting=fp.MinSNRWeighting(3), schedule=fp.SigmoidNoiseSchedule(9)),
    "categorical": lambda: fp.Flow(mlp(), fp.CondOTPath(), fp.CategoricalPrediction(), shape=(2,)),
    "classifier": lambda: fp.Classifier(
        flow=fp.fm_flow(mlp(), shape=(2,), time_sampling=fp.LogitNormalTimeSampling(0.5, 2)),
        embedding=fp.learned_embedding(3, 2, key=KEY),
        readout=fp.RadialReadout(0.3),
    ),
    "linear readout": lambda: fp.LinearReadout((2,), 3, key=KEY),
    "NoProp-DT": blocks,
    "back-propagation": lambda: fp.BackpropClassifier(blocks()),
    "adjoint": lambda: fp.AdjointClassifier(blocks().block(1)),
    "regressor": lambda: fp.Regressor(flow=fp.fm_flow(mlp(), shape=(2,)), encoder=fp.nn.Linear(2, 3, key=KEY)),
    "one-hot": lambda: fp.one_hot_embedding(3, norm=2),
    "leaves": lambda: {
        "typed keys": (jax.random.key(3), jax.random.split(jax.random.key(4, impl="rbg"), 2)),
        "bfloat16": jnp.array([1.5, -2.25, jnp.nan], jnp.bfloat16),
        "float8": jnp.array([0.5, 2.0], jnp.float8_e4m3fn),
        "float16": jnp.array(0.1, jnp.float16),
        "numbers": [True, 7, -0.1, float("inf"), 2**80],
        "none": None,
        "numpy": (np.arange(6.0).reshape(2, 3).T, np.array(["a", "bc"]), np.float32(0.1), np.arange(3, dtype=">i2")),
        "empty": jnp.zeros((0, 3)),
        "integers": (jnp.arange(3, dtype=jnp.int8), jnp.array([True, False])),
        "frozen": fp.Frozen(jnp.array([1e-45, -0.0])),
        "function": jnp.tanh,
    },
}


def bits(leaf):
    """What must come back: type, shape and every bit."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return (str(leaf.dtype), bits(jax.random.key_data(leaf)))
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        array = np.asarray(leaf)
        return (isinstance(leaf, jax.Array), isinstance(leaf, np.generic), array.dtype, array.shape, array.tobytes())
    return (type(leaf), leaf)


def blank(leaf):
    """Another value of the same kind."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.zeros_like(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array):
        return jnp.zeros_like(leaf)
    if isinstance(leaf, np.ndarray | np.generic):
        return type(leaf)(0) if isinstance(leaf, np.generic) else np.zeros_like(leaf)
    return type(leaf)(1) if isinstance(leaf, bool | int | float) else leaf


@functools.cache
def model():
    return MODELS["FM"]()


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.fp"
    fp.save(path, model())
    return path


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_round_trip(make, tmp_path):
    saved = make()
    fp.save(tmp_path / "model", saved)
    like = jax.tree.map(blank, saved)
    loaded = fp.load(tmp_path / "model", like)
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    assert [bits(leaf) for leaf in jax.tree.leaves(loaded)] == [bits(leaf) for leaf in jax.tree.leaves(saved)]
    assert [bits(leaf) for leaf in jax.tree.leaves(like)] != [bits(leaf) for leaf in jax.tree.leaves(saved)]


def test_double_precision(tmp_path, x64):
    saved = {"a": jnp.array([0.1, 1e-300])}
    fp.save(tmp_path / "model", saved)
    loaded = fp.load(tmp_path / "model", {"a": jnp.zeros(2)})
    assert bits(loaded["a"]) == bits(saved["a"])


def test_a_loaded_flow_does_what_the_saved_one_did(path):
    other = fp.fm_flow(fp.nn.MLP(shape=(2,), width=4, depth=1, key=jax.random.key(9)), shape=(2,))
    z = jnp.array([0.3, -1.0])
    assert np.all(other.velocity(0.5, z) != model().velocity(0.5, z))
    np.testing.assert_array_equal(fp.load(str(path), other).velocity(0.5, z), model().velocity(0.5, z))


def test_loaded_blocks_predict_what_the_saved_ones_did(tmp_path):
    """Into a model of other parameters."""
    fp.save(tmp_path / "model", blocks())
    like = jax.tree.map(lambda leaf: leaf + 1 if eqx.is_inexact_array(leaf) else leaf, blocks())
    inputs = np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)
    saved, other, loaded = (
        model.predict_proba(inputs, key=KEY) for model in (blocks(), like, fp.load(tmp_path / "model", like))
    )
    np.testing.assert_array_equal(loaded, saved)
    assert np.all(other != saved)


class TestRefusals:
    @pytest.mark.parametrize(
        ("like", "message"),
        [
            (lambda: {"a": jnp.zeros(3)}, r"`like` has no leaf '.network.layers\[0\].weight'"),
            (
                lambda: fp.fm_flow(fp.nn.MLP(shape=(2,), width=4, depth=2, key=KEY), shape=(2,)),
                r"`like` has .*\[4, 4\].* at '.network.layers\[1\].weight' where the file .* has .*\[4, 2\]",
            ),
            (lambda: fp.df_flow(mlp(), shape=(2,)), r"the file .* has no leaf '.path.schedule.scale'"),
            (
                lambda: jax.tree.map(lambda a: a.astype(jnp.float16) if eqx.is_array(a) else a, model()),
                r"`like` has .*float16.* has .*float32.*make `like` as the saved model was made",
            ),
            (
                lambda: jax.tree.map(lambda a: np.asarray(a)[None] if eqx.is_array(a) else a, model()),
                "`like` has .*network.layers",
            ),
        ],
        ids=["structure", "depth", "path", "type", "shape"],
    )
    def test_another_model(self, like, message, path):
        with pytest.raises(ValueError, match=message):
            fp.load(path, like())

    @pytest.mark.parametrize(
        ("saved", "like"),
        [
            ({"a": 1.0}, {"a": 1}),
            ({"a": 1}, {"a": True}),
            ({"a": jax.random.key(0)}, {"a": jax.random.key(0, impl="rbg")}),
            ({"a": jax.random.key(0)}, {"a": jnp.zeros(2, jnp.uint32)}),
            ({"a": 1.0}, {"a": jnp.zeros(())}),
        ],
    )
    def test_another_kind_of_leaf(self, saved, like, tmp_path):
        fp.save(tmp_path / "model", saved)
        with pytest.raises(ValueError, match=r"`like` has .* at \"\['a'\]\" where the file"):
            fp.load(tmp_path / "model", like)

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            fp.load(tmp_path / "nowhere", model())

    @pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + bytes(100)])
    def test_not_a_zip(self, content, tmp_path):
        (tmp_path / "model").write_bytes(content)
        with pytest.raises(ValueError, match=r"`path` .*model is damaged or no file of `fp.save`"):
            fp.load(tmp_path / "model", model())

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
    def test_truncated(self, share, path):
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="is damaged"):
            fp.load(path, model())

    def test_flipped_bits(self, tmp_path):
        """Wherever one bit is flipped: an error of the right kind, or no difference (a time stamp, say)."""
        saved, like = {"a": jnp.arange(3.0), "b": 2.5}, {"a": jnp.zeros(3), "b": 0.0}
        path = tmp_path / "model"
        fp.save(path, saved)
        content, messages = path.read_bytes(), []
        for place in range(len(content)):
            flipped = bytearray(content)
            flipped[place] ^= 1 << (place % 8)
            path.write_bytes(flipped)
            try:
                loaded = fp.load(path, like)
            except ValueError as error:
                messages.append(str(error))
            else:
                assert [bits(leaf) for leaf in loaded.values()] == [bits(leaf) for leaf in saved.values()]
        assert len(messages) > len(content) / 2
        assert all(str(path) in message for message in messages)

    @staticmethod
    def write(path, header, **arrays):
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=True)
                archive.writestr(f"{name}.npy", buffer.getvalue())
            archive.writestr("header.json", json.dumps(header))

    def test_a_newer_format(self, tmp_path):
        self.write(tmp_path / "model", {"format": "flowprop-2", "leaves": {}})
        with pytest.raises(ValueError, match="has format 'flowprop-2' where this version reads 'flowprop-1'"):
            fp.load(tmp_path / "model", model())

    @pytest.mark.parametrize("header", [[], 3, {}, {"format": "flowprop-1"}, {"format": "flowprop-1", "leaves": [1]}])
    def test_a_header_of_another_kind(self, header, tmp_path):
        self.write(tmp_path / "model", header)
        with pytest.raises(ValueError, match="model"):
            fp.load(tmp_path / "model", model())

    def test_pickled_objects_are_not_read(self, tmp_path):
        """A pickle runs code when it is read; this one would leave a file behind."""

        class Harmful:
            def __reduce__(self):
                return (open, (str(tmp_path / "harm"), "w"))

        entry = {"shape": [1], "dtype": "float32", "file": "0.npy"}
        header = {"format": "flowprop-1", "leaves": {"['a']": entry}}
        self.write(tmp_path / "model", header, **{"0": np.array([Harmful()], object)})
        with pytest.raises(ValueError, match=r"is damaged or no file of `fp.save`: .*allow_pickle=False"):
            fp.load(tmp_path / "model", {"a": jnp.zeros(1)})
        assert not (tmp_path / "harm").exists()

    def test_an_array_that_belies_its_header(self, tmp_path):
        entry = {"shape": [3], "dtype": "float32", "file": "0.npy"}
        header = {"format": "flowprop-1", "leaves": {"['a']": entry}}
        self.write(tmp_path / "model", header, **{"0": np.zeros(4, np.float32)})
        with pytest.raises(ValueError, match="is damaged"):
            fp.load(tmp_path / "model", {"a": jnp.zeros(3)})

    def test_objects_are_not_written(self, tmp_path):
        with pytest.raises(ValueError, match="allow_pickle=False"):
            fp.save(tmp_path / "model", {"a": np.array([object()], object)})
        assert list(tmp_path.iterdir()) == []


class TestWriting:
    def test_a_full_disk_leaves_the_old_file(self, path, monkeypatch):
        before, write = path.read_bytes(), zipfile.ZipFile.writestr

        def full(self, name, content):
            if name == "2.npy":
                raise OSError(28, "No space left on device")
            write(self, name, content)

        monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
        with pytest.raises(OSError, match="No space left on device"):
            fp.save(path, jax.tree.map(blank, model()))
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["model.fp"]

    def test_an_interruption_leaves_nothing(self, tmp_path, monkeypatch):
        def interrupted(source, target):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fp.save(tmp_path / "model", model())
        assert list(tmp_path.iterdir()) == []

    def test_a_file_is_replaced(self, path):
        fp.save(path, {"a": 1})
        assert fp.load(path, {"a": 0}) == {"a": 1}
        assert [file.name for file in path.parent.iterdir()] == ["model.fp"]

    @pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
    def test_may_be_read_by_whom_any_file_may(self, mask, tmp_path):
        before = os.umask(mask)
        try:
            fp.save(tmp_path / "model", {"a": 1})
            (tmp_path / "other").write_bytes(b"")
        finally:
            os.umask(before)
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("model", "other")]
        assert modes[0] == modes[1] == 0o666 & ~mask

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            fp.save(tmp_path / "nowhere" / "model", {"a": 1})

    def test_a_long_name(self, tmp_path):
        path = tmp_path / ("n" * 250)
        fp.save(path, {"a": 1})
        assert fp.load(path, {"a": 0}) == {"a": 1}
