"""Random damage of files and headers: an error of the documented kind, or the model that was saved."""

import functools
import io
import json
import zipfile

import equinox as eqx
import jax
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import flowprop as fp


SAVED = {
    "network": fp.nn.Linear(2, 3, key=jax.random.key(0)),
    "path": fp.VPPath(fp.SigmoidNoiseSchedule(9.0)),
    "function": functools.partial(jax.nn.leaky_relu, negative_slope=0.1),
    "values": (1, 2.5, True, None, "text", np.arange(3), jax.random.key(1)),
}
few = settings(max_examples=25, deadline=None, database=None, derandomize=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("damage") / "model"
    fp.save(path, SAVED)
    return path


@pytest.fixture(scope="module")
def content(path):
    return path.read_bytes()


def outcome(path, like=None):
    """The model of a file, or `None` after an error of the documented kind, which names the file."""
    try:
        return fp.load(path, like)
    except ValueError as error:
        if str(path) not in str(error):
            raise
        return None


DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["change", "cut", "insert", "remove"]), st.floats(0, 1), st.binary(min_size=1, max_size=9)
    ),
    min_size=1,
    max_size=4,
)


@few
@given(DAMAGE)
def test_bytes(path, content, damage):
    for what, share, new in damage:
        at = int(share * len(content))
        rest = {"change": content[at + len(new) :], "cut": b"", "insert": content[at:], "remove": content[at + 3 :]}
        content = content[:at] + (new if what in ("change", "insert") else b"") + rest[what]
    path.write_bytes(content)
    loaded = outcome(path)
    assert loaded is None or eqx.tree_equal(loaded, SAVED, typematch=True)


#: Any JSON, often with the words that headers have.
WORDS = st.sampled_from(
    [
        *(
            "list",
            "dict",
            "tuple",
            "set",
            "module",
            "named",
            "enum",
            "partial",
            "array",
            "numpy",
            "key",
            "function",
            "type",
        ),
        *(
            "flowprop.Flow",
            "flowprop.CondOTPath",
            "flowprop.nn.Linear",
            "jax.nn.silu",
            "os.system",
            "float32",
            "O",
            "<U9",
        ),
        *("is", "parts", "static", "file", "value", "0.npy", "header.json", "rbg", "weight"),
    ]
)
NUMBERS = st.one_of(st.integers(-3, 3), st.integers(), st.floats(), st.sampled_from([10**15, 2**63, 1e308]))
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(WORDS, inner, max_size=2),
        WORDS.flatmap(lambda word: st.builds(lambda item: {word: item}, inner)),
    ),
    max_leaves=6,
)


def places(data, place=()):
    """The place of every value in some JSON."""
    yield place
    for key, item in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield from places(item, (*place, key))


def ours(model):
    """Whether all objects in a model are of the libraries."""
    parts = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, eqx.Module) and node is not model)
    inner = [list(vars(part).values()) for part in parts if isinstance(part, eqx.Module) and part is not model]
    root = type(model).__module__.split(".")[0]
    return root in ("flowprop", "equinox", "jax", "jaxlib", "numpy", "builtins", "functools", "diffrax") and all(
        map(ours, inner)
    )


@few
@given(st.data())
def test_headers(path, content, data):
    """The file is intact, and its header says something else in up to three places."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    header = json.loads(entries["header.json"])
    for _ in range(data.draw(st.integers(1, 3))):
        every = [place for place in places(header) if place]
        # Half of the changes concern the description from which the model is made.
        chosen = [place for place in every if place[0] == "rebuild"] if data.draw(st.booleans()) else every
        *where, last = data.draw(st.sampled_from(chosen or every))
        functools.reduce(lambda part, key: part[key], where, header)[last] = data.draw(JSON)
    entries["header.json"] = json.dumps(header).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, entry in entries.items():
            archive.writestr(name, entry)
    assert ours(outcome(path))
    # With `like` too: the values may differ, the structure may not.
    loaded = outcome(path, SAVED)
    assert loaded is None or jax.tree.structure(loaded) == jax.tree.structure(SAVED)
