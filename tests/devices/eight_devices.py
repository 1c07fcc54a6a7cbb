"""Runs cases on eight simulated devices: `python eight_devices.py NAME ...` prints one line of JSON for each name."""

import functools
import json
import os
import re
import sys
import tempfile
from pathlib import Path


if __name__ == "__main__":
    #: XLA writes here each program that it compiles.
    DUMP = Path(tempfile.mkdtemp())
    os.environ["XLA_FLAGS"] = " ".join(
        [
            f"--xla_dump_to={DUMP} --xla_dump_hlo_as_text",
            "--xla_force_host_platform_device_count=8",
            "--xla_backend_optimization_level=0",
            "--xla_cpu_enable_concurrency_optimized_scheduler=false",
            "--xla_cpu_parallel_codegen_split_count=1",
        ]
    )

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import flowprop as fp


#: A device has 36 rows: two batches of 18. No array of a network has an axis of 288 or 32.
ROWS, DEVICES, BATCH = 288, 8, 32
KEY = jax.random.key(0)
PROBES = fp.HutchinsonDivergence()
OPTIONS = {"integrator": fp.ODEIntegrator(dfx.Euler(), dt0=0.25), "batch_size": BATCH}


def network(shape, condition_size=0, key=KEY):
    """A network with values that are not small at the start."""
    net = fp.nn.MLP(shape=shape, condition_size=condition_size, width=16, depth=1, key=key)
    parameters, rest = eqx.partition(net, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(parameters)
    keys = jax.random.split(key, len(leaves))
    leaves = [0.5 * jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)


FLOW = fp.fm_flow(network((2,)), shape=(2,))
CONDITIONAL = fp.fm_flow(network((2,), 4), shape=(2,))
EMBEDDING = fp.one_hot_embedding(3)
CLASSIFIER = fp.Classifier(flow=fp.fm_flow(network((3,), 4), shape=(3,)), embedding=EMBEDDING)
REGRESSOR = fp.Regressor(flow=CONDITIONAL)
BLOCKS = fp.NoPropDT([network((3,), 4, key) for key in jax.random.split(KEY, DEVICES)], embedding=EMBEDDING)
POINTS = jax.random.normal(jax.random.key(1), (ROWS, 2))
INPUTS = jax.random.normal(jax.random.key(2), (ROWS, 4))

#: A model, a function of it and of rows, and the rows.
FUNCTIONS = {
    "log_prob": (FLOW, lambda m, z: fp.log_prob(m, z, throw=False, **OPTIONS), POINTS),
    "log_prob adaptive": (FLOW, lambda m, z: fp.log_prob(m, z, throw=False), POINTS),
    "log_prob conditional": (CONDITIONAL, lambda m, x: fp.log_prob(m, x[:, :2], x, throw=False, **OPTIONS), INPUTS),
    "estimate_log_prob": (
        FLOW,
        lambda m, z: fp.estimate_log_prob(m, z, key=KEY, divergence=PROBES, num_estimates=4, **OPTIONS).value,
        POINTS,
    ),
    "sample": (CONDITIONAL, lambda m, x: fp.sample(m, len(x), x, key=KEY, throw=False, **OPTIONS), INPUTS),
    "sample_and_log_prob": (
        CONDITIONAL,
        lambda m, x: fp.sample_and_log_prob(m, len(x), x, key=KEY, throw=False, **OPTIONS),
        INPUTS,
    ),
    "reflow_pairs": (CONDITIONAL, lambda m, x: fp.reflow_pairs(m, len(x), x, key=KEY, **OPTIONS), INPUTS),
    "path_energy": (FLOW, lambda m, z: fp.metrics.path_energy(m, z, **OPTIONS), POINTS),
    "Classifier.predict_proba": (CLASSIFIER, lambda m, x: m.predict_proba(x, key=KEY, num_draws=2), INPUTS),
    "Classifier.predict": (CLASSIFIER, lambda m, x: m.predict(x, key=KEY, batch_size=BATCH), INPUTS),
    "Regressor.predict": (REGRESSOR, lambda m, x: m.predict(x, key=KEY, num_samples=2, **OPTIONS), INPUTS),
    "NoPropDT.predict_proba": (BLOCKS, lambda m, x: m.predict_proba(x, key=KEY, batch_size=BATCH), INPUTS),
}


def automatic():
    return Mesh(np.array(jax.devices()), ("rows",))


def explicit():
    """The default of `jax.make_mesh`."""
    return jax.make_mesh((DEVICES,), ("rows",))


def spread(tree, mesh, spec):
    return jax.tree.map(lambda a: jax.device_put(a, NamedSharding(mesh, spec)) if eqx.is_array(a) else a, tree)


def as_called(make_mesh, spec=None):
    """A call outside of `jax.jit`, with the model as it is or spread."""

    def prepared(model, call, rows):
        mesh = make_mesh()
        rows, model = spread(rows, mesh, P("rows")), model if spec is None else spread(model, mesh, spec)
        return lambda: call(model, rows)

    return prepared


def in_jit(make_mesh):
    def prepared(model, call, rows):
        rows = spread(rows, make_mesh(), P("rows"))
        return lambda: jax.jit(lambda rows: call(model, rows))(rows)

    return prepared


def in_shard_map(make_mesh):
    def prepared(model, call, rows):
        mesh, spec = make_mesh(), P("rows")
        rows = spread(rows, mesh, spec)
        options = {"mesh": mesh, "in_specs": spec, "out_specs": spec, "check_vma": False}
        return lambda: jax.jit(jax.shard_map(lambda rows: call(model, rows), **options))(rows)

    return prepared


KINDS = {
    "automatic": as_called(automatic),
    "explicit": as_called(explicit),
    "automatic, replicated model": as_called(automatic, P()),
    "explicit, replicated model": as_called(explicit, P()),
    "jit automatic": in_jit(automatic),
    "jit explicit": in_jit(explicit),
    "shard_map automatic": in_shard_map(automatic),
    "shard_map explicit": in_shard_map(explicit),
}


def programs_of(run):
    """The result of `run()`, and the text of all programs that XLA compiled for it."""
    before = set(DUMP.iterdir())
    found = jax.block_until_ready(run())
    new = [path for path in set(DUMP.iterdir()) - before if path.name.endswith("after_optimizations.txt")]
    return found, "\n".join(path.read_text() for path in new)


def collectives(text):
    """The operations of a compiled program by which devices communicate."""
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    return [line.strip() for line in text.splitlines() if re.search(rf" = .*\s(?:{kinds})[-\w]*\(", line)]


def compare(found, wanted):
    found, wanted = jax.tree.leaves(found), jax.tree.leaves(wanted)
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in zip(found, wanted, strict=True))


def errors(found, wanted):
    return {
        "error": compare(found, wanted),
        "largest": compare(wanted, jax.tree.map(jnp.zeros_like, wanted)),
    }


def report(run, wanted):
    found, text = programs_of(run)
    leaves = jax.tree.leaves(found)
    return errors(found, wanted) | {
        "rows": sorted({shard.data.shape[0] for leaf in leaves for shard in leaf.addressable_shards}),
        "axes": sorted({axis.name for leaf in leaves for axis in leaf.sharding.mesh.axis_types}),
        "collectives": collectives(text),
        "lengths": sorted({int(size) for size in re.findall(r"f32\[(\d+)[,\]]", text)}),
    }


@functools.cache
def on_one_device(function, parts=1):
    """The result for all rows, or for `parts` parts of them in turn."""
    model, call, rows = FUNCTIONS[function]
    results = [call(model, part) for part in jnp.split(rows, parts)]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *results)


def table(function, kind):
    """One function with one kind of sharding, compared with one device."""
    model, call, rows = FUNCTIONS[function]
    # Inside `shard_map`, a device knows nothing of the others: its first row has the key of the first row of all.
    parts = DEVICES if kind.startswith("shard_map") else 1
    return report(KINDS[kind](model, call, rows), on_one_device(function, parts))


def without_conditions(make_mesh):
    by_rows = NamedSharding(make_mesh(), P("rows"))

    def draw(**options):
        return fp.sample_and_log_prob(FLOW, ROWS, key=KEY, throw=False, **OPTIONS, **options)

    return report(lambda: draw(out_sharding=by_rows), draw())


def out_shardings_of_jit():
    def draw():
        return fp.sample(FLOW, ROWS, key=KEY, throw=False, **OPTIONS)

    return report(jax.jit(draw, out_shardings=NamedSharding(automatic(), P("rows"))), draw())


def spread_parameters(devices, axes, spec):
    """Arrays of the network are spread too: those whose first axis can be split."""
    mesh = Mesh(np.array(jax.devices()).reshape(devices), axes)
    parameters, rest = eqx.partition(FLOW, eqx.is_array)
    model = jax.tree.map(lambda a: spread(a, mesh, spec if a.ndim and a.shape[0] % 8 == 0 else P()), parameters)
    points = spread(POINTS, mesh, P("rows"))
    call = FUNCTIONS["log_prob"][1]
    return report(lambda: call(eqx.combine(model, rest), points), on_one_device("log_prob"))


def gradient():
    """With respect to all parameters, one sum over the devices."""

    def slope(points):
        return eqx.filter_grad(lambda flow: fp.log_prob(flow, points, throw=False, **OPTIONS).mean())(FLOW)

    return errors(slope(spread(POINTS, automatic(), P("rows"))), slope(POINTS))


def model_in_jit():
    """A compiled function of the model, which closes over the data."""
    points = spread(POINTS, automatic(), P("rows"))
    call = FUNCTIONS["log_prob"][1]
    return errors(eqx.filter_jit(lambda flow: call(flow, points))(FLOW), on_one_device("log_prob"))


def step_of_blocks(model, make_mesh):
    """A step of gradient descent of `NoPropDT`, whose blocks are spread over the devices."""
    trained, fixed = eqx.partition(model.flow.network, eqx.is_inexact_array)

    def step(trained, inputs, labels, key):
        def loss(trained):
            network = eqx.combine(trained, fixed)
            losses = eqx.tree_at(lambda m: m.flow.network, model, network).block_losses(inputs, labels, key=key)
            return losses.sum(), losses

        slopes, losses = jax.grad(loss, has_aux=True)(trained)
        return jax.tree.map(lambda value, slope: value - 0.1 * slope, trained, slopes), losses

    mesh, batch = make_mesh(), (INPUTS, jnp.arange(ROWS) % 3, KEY)
    arguments = spread(trained, mesh, P("rows")), *spread(batch, mesh, P())
    spread_step = step
    if make_mesh is explicit:
        spread_step = jax.sharding.auto_axes(step, out_sharding=NamedSharding(mesh, P("rows")))
    return report(lambda: jax.jit(spread_step)(*arguments), jax.jit(step)(trained, *batch))


class Encoded(eqx.Module):
    """A network with an encoder of its own."""

    encoder: fp.nn.ConvEncoder
    network: fp.nn.MLP

    def __call__(self, t, z, x):
        return self.network(t, z, self.encoder(x.reshape(2, 2, 1)))


def encoded_blocks():
    keys = jax.random.split(KEY, DEVICES)
    encoders = [fp.nn.ConvEncoder(shape=(2, 2, 1), features=4, channels=(4,), key=key) for key in keys]
    networks = [Encoded(encoder, network((3,), 4, key)) for encoder, key in zip(encoders, keys, strict=True)]
    return fp.NoPropDT(networks, embedding=EMBEDDING)


def model_elsewhere():
    model = jax.tree.map(lambda a: jax.device_put(a, jax.devices()[1]) if eqx.is_array(a) else a, FLOW)
    return fp.log_prob(model, spread(POINTS, automatic(), P("rows")), **OPTIONS)


def checked_shard_map():
    mesh, spec = automatic(), P("rows")
    local = jax.shard_map(lambda z: fp.log_prob(FLOW, z), mesh=mesh, in_specs=spec, out_specs=spec)
    return local(spread(POINTS, mesh, spec))


def failed_rows():
    """A solve that fails in one row, on the last device."""
    flow = fp.fm_flow(lambda t, z, x: jnp.where(z[0] > 1e5, jnp.nan, 0.1 * z), shape=(2,))
    return fp.log_prob(flow, spread(POINTS.at[-1].set(1e6), explicit(), P("rows")))


CASES = {
    "samples, automatic": lambda: without_conditions(automatic),
    "samples, explicit": lambda: without_conditions(explicit),
    "samples, out_shardings of jit": out_shardings_of_jit,
    "parameters over the rows' axis": lambda: spread_parameters((8,), ("rows",), P("rows")),
    "parameters over another axis": lambda: spread_parameters((4, 2), ("rows", "model"), P("model")),
    "gradient": gradient,
    "model in jit": model_in_jit,
    "blocks, automatic": lambda: step_of_blocks(BLOCKS, automatic),
    "blocks, explicit": lambda: step_of_blocks(BLOCKS, explicit),
    "blocks with encoders": lambda: step_of_blocks(encoded_blocks(), automatic),
    "model elsewhere": model_elsewhere,
    "shard_map with checks": checked_shard_map,
    "failed rows": failed_rows,
}


def main(names):
    for name in names:
        function, _, kind = name.partition(" | ")
        try:
            found = table(function, kind) if kind else CASES[name]()
        except Exception as error:
            found = {"raised": type(error).__name__, "message": str(error)}
        print(json.dumps([name, found]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
