"""Evaluations and errors of adaptive solvers on ten trained flows: run on request.

    python tests/benchmarks/solvers.py

trains each flow for a short time and solves from noise to data with each solver and tolerance. A line has the mean
number of calls of the network for one example, and the median and the largest error of the end points, and the same
of log-likelihoods in nats. The reference is Dopri8 in double precision with a tolerance of 1e-9. An error is that of
the worst coordinate of the flow; the data have a standard deviation of about 1.
"""

import argparse
import json
from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowprop as fp


SOLVERS = {"Tsit5": dfx.Tsit5, "Dopri5": dfx.Dopri5, "Dopri8": dfx.Dopri8}
TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7)
EXAMPLES = 512


def train(flow, points, x=None, steps: int = 2000):
    data = points if x is None else (points, x)
    optimiser = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    options = {"steps": steps, "batch_size": 256, "ema": 0.99, "progress": False}
    return fp.fit(flow, data, optimiser, key=jax.random.key(2), **options)[0]


def density(points, x=None, make=fp.fm_flow, **options):
    """A flow of points `(n, dim)` by a network of three layers, and the conditions of its examples."""
    shape, conditions = points.shape[1:], 0 if x is None else x.shape[1]
    net = fp.nn.MLP(shape=shape, condition_size=conditions, width=128, depth=3, key=jax.random.key(1))
    flow = make(net, shape=shape, transform=fp.Standardise.fit(points), **options)
    return train(flow, points, x), None if x is None else x[:EXAMPLES]


def flows() -> dict:
    """Functions that train the flows."""
    key = jax.random.key(0)
    toys = {name: getattr(fp.data, name)(20_000, key=key)[0] for name in ("two_moons", "pinwheel", "spirals")}
    board, _ = fp.data.checkerboard(20_000, key=key)
    narrow = 0.3 * jnp.tanh(toys["two_moons"]) + 0.02 * jax.random.normal(key, toys["two_moons"].shape)
    images, *_ = fp.data.digits()
    images = jnp.asarray(images, jnp.float32) + jax.random.uniform(key, images.shape)
    mixer = fp.nn.ImageMixer((8, 8, 1), patch_size=2, width=32, depth=3, key=key)
    preconditioned = fp.PreconditionedPrediction(data_std=1.0)
    return {
        "two moons": lambda: density(toys["two_moons"]),
        "pinwheel": lambda: density(toys["pinwheel"]),
        "spirals": lambda: density(toys["spirals"]),
        "checkerboard": lambda: density(board),
        "two moons, optimal transport": lambda: density(toys["two_moons"], coupling=fp.OTCoupling()),
        "two moons, CT": lambda: density(toys["two_moons"], make=fp.ct_flow, prediction=preconditioned),
        "two moons, DF": lambda: density(toys["two_moons"], make=fp.df_flow, schedule=fp.CosineNoiseSchedule()),
        "narrow posterior": lambda: density(toys["two_moons"], narrow, time_sampling=fp.PowerTimeSampling(4.0)),
        "digits, 64 columns": lambda: density(images.reshape(len(images), -1)),
        "digits, images": lambda: (
            train(fp.fm_flow(mixer, shape=(8, 8, 1), transform=fp.Standardise.fit(images)), images),
            None,
        ),
    }


@eqx.filter_jit
def ends(flow, z, x, integrator):
    """The end points of all examples, and the number of calls of the network for each."""

    def one(z, x):
        solution = fp.solve(flow, z, x, integrator=integrator, throw=False)
        return solution.ys[-1], fp.function_evaluations(solution, integrator)

    return jax.vmap(one, in_axes=(0, None if x is None else 0))(z, x)


def in_double(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, tree)


def quantiles(found, exact) -> list[float]:
    errors = np.abs(np.asarray(found) - exact).reshape(len(exact), -1).max(axis=1)
    return [float(np.median(errors)), float(np.max(errors))]


def measure(name: str, flow, x) -> list[dict]:
    z = jax.random.normal(jax.random.key(3), (EXAMPLES, *flow.shape))
    points = fp.sample(flow, EXAMPLES, x, key=jax.random.key(4))
    with jax.enable_x64(True):
        tight = fp.ODEIntegrator(dfx.Dopri8(), dfx.PIDController(rtol=1e-9, atol=1e-9))
        arguments = in_double((flow, z, x, points))
        exact = np.asarray(ends(*arguments[:3], tight)[0])
        exact_log_prob = np.asarray(fp.log_prob(arguments[0], arguments[3], arguments[2], integrator=tight))
    records = []
    for tolerance in TOLERANCES:
        for solver, make in SOLVERS.items():
            controller = dfx.PIDController(rtol=tolerance, atol=tolerance, pcoeff=0.4, icoeff=0.3)
            integrator = fp.ODEIntegrator(make(), controller)
            found, calls = ends(flow, z, x, integrator)
            log_prob = fp.log_prob(flow, points, x, integrator=integrator)
            record = {"flow": name, "solver": solver, "tolerance": tolerance, "evaluations": float(np.mean(calls))}
            record["error"], record["largest_error"] = quantiles(found, exact)
            record["nats"], record["largest_nats"] = quantiles(log_prob, exact_log_prob)
            records.append(record)
            print(
                f"{name:<29} {solver:<7} {tolerance:.0e} {record['evaluations']:7.1f} evaluations  end points "
                f"{record['error']:.1e}, at most {record['largest_error']:.1e}  nats {record['nats']:.1e}, at most "
                f"{record['largest_nats']:.1e}",
                flush=True,
            )
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", nargs="+", default=list(flows()), help="the flows, by name")
    parser.add_argument("--json", help="a file for all records")
    options = parser.parse_args()
    make = flows()
    records = [record for name in options.flows for record in measure(name, *make[name]())]
    if options.json:
        Path(options.json).write_text(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
