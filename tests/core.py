"""A few steps of everything that needs no extra: a program, run where the core dependencies alone are installed.

`python -I tests/core.py`: with `-I`, Python imports flowprop from its installation, not from this folder.
"""

import importlib.util
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import flowprop as fp


for extra in ("matplotlib", "sklearn", "pooch", "ot", "tyro"):
    assert importlib.util.find_spec(extra) is None, (
        f"{extra} is installed: this is not an environment of the core alone"
    )

key = jax.random.key(0)
points, labels = fp.data.two_moons(100, key=key)
flow = fp.fm_flow(fp.nn.MLP(shape=(2,), width=8, depth=1, key=key), shape=(2,))
flow, _ = fp.fit(flow, points, optax.adam(1e-3), steps=2, batch_size=10, key=key, progress=False)
assert fp.sample(flow, 3, key=key).shape == (3, 2)
assert jnp.isfinite(fp.log_prob(flow, points[:3])).all()

network = fp.nn.MLP(shape=(2,), condition_size=2, width=8, depth=1, key=key)
labels_flow = fp.Flow(network, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(2,))
classifier = fp.Classifier(flow=labels_flow, embedding=fp.one_hot_embedding(2))
assert classifier.predict(points, key=key).shape == labels.shape

with tempfile.TemporaryDirectory() as folder:
    fp.save(Path(folder, "flow"), flow)
    assert jnp.array_equal(fp.sample(fp.load(Path(folder, "flow"), flow), 3, key=key), fp.sample(flow, 3, key=key))
print("flowprop", fp.__version__, "works with its core dependencies alone")
