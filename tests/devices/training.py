"""Trainings of one model, on one device and on several, for `test_training.py`.

`python training.py NAME ...` runs cases on eight simulated devices, and `python training.py --process I PORT` is one of
two processes. Each case prints one line of JSON.
"""

import json
import os
import sys
import tempfile


if __name__ == "__main__":
    count = 2 if "--process" in sys.argv else 8
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"

import equinox as eqx
import jax
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import flowprop as fp


STEPS, BATCH, SIZE = 100, 32, 320
POINTS = np.random.default_rng(0).standard_normal((SIZE, 3)).astype(np.float32)


def flow():
    return fp.fm_flow(fp.nn.MLP((3,), width=16, depth=1, key=jax.random.key(0)), shape=(3,))


def train(model=None, data=POINTS, **options):
    defaults = {"steps": STEPS, "batch_size": BATCH, "key": jax.random.key(1), "ema": 0.9, "progress": False}
    defaults |= {"validation": 0.2, "evaluate_every": 25}
    return fp.fit(flow() if model is None else model, data, optax.adam(1e-2), **(defaults | options))


def report(found):
    model, history = found
    leaves = jax.tree.leaves(history.state.training.parameters)
    return {
        "losses": history["loss"].tolist(),
        "validation": history["validation_loss"].tolist(),
        "first bias": np.asarray(model.network.layers[0].bias).tolist(),
        "devices": sorted({len(leaf.sharding.device_set) for leaf in leaves}),
        "shards": sorted({str(leaf.sharding.spec) for leaf in leaves if isinstance(leaf.sharding, NamedSharding)}),
    }


def automatic():
    return jax.make_mesh((jax.device_count(),), ("rows",), axis_types=(AxisType.Auto,))


def explicit():
    return jax.make_mesh((jax.device_count(),), ("rows",))


def two_axes():
    return jax.make_mesh((jax.device_count() // 2, 2), ("rows", "model"), axis_types=(AxisType.Auto,) * 2)


def spread_data():
    """Without `mesh`: that of the data."""
    return train(data=jax.device_put(POINTS, NamedSharding(explicit(), P("rows"))))


def spread_parameters():
    mesh = two_axes()

    def place(leaf):
        spec = P("model") if leaf.ndim == 2 and leaf.shape[0] % 2 == 0 else P()
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    arrays, rest = eqx.partition(flow(), eqx.is_array)
    return train(eqx.combine(jax.tree.map(place, arrays), rest), mesh=mesh)


def from_disk(mesh=None, **options):
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/points.npy", POINTS)
        return train(data=np.load(f"{folder}/points.npy", mmap_mode="r"), mesh=mesh, **options)


def goes_on():
    """The first half on one device, and the second on eight, from a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        train(steps=50, checkpoint=f"{folder}/run")
        return train(checkpoint=f"{folder}/run", mesh=automatic())


CASES = {
    "one device": train,
    "automatic": lambda: train(mesh=automatic()),
    "explicit": lambda: train(mesh=explicit()),
    "two axes": lambda: train(mesh=two_axes()),
    "data of a mesh": spread_data,
    "parameters over an axis": spread_parameters,
    "from disk": lambda: from_disk(automatic()),
    "from a checkpoint of one device": goes_on,
}


def in_two_processes(index, port):
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(index))
    try:
        train()
    except ValueError as error:
        print(json.dumps(["without a mesh", str(error)]), flush=True)
    print(json.dumps(["together", report(train(mesh=automatic()))]), flush=True)
    jax.distributed.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "--process":
        in_two_processes(*sys.argv[2:])
    else:
        for name in sys.argv[1:]:
            print(json.dumps([name, report(CASES[name]())]), flush=True)
