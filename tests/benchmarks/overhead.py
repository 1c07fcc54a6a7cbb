"""What the library costs over a program written by hand: run on request.

    python tests/benchmarks/overhead.py

prints, for a training step and for solves, the time of flowprop over that of hand-written JAX and
Diffrax doing the same arithmetic: medians over interleaved rounds in one process, first call
(compilation included) and steady state apart.
"""

import argparse
import os
import platform
import time

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowprop as fp
from flowprop._train.trainer import Trainer


BATCH, DIM = 256, 2
OPTIMISER = optax.adam(1e-3)


def timed(function) -> float:
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def compare(name: str, ours, theirs, rounds: int, unit: float = 1e3) -> None:
    first = timed(ours), timed(theirs)
    times = np.array([(timed(ours), timed(theirs)) for _ in range(rounds)])
    ratios = times[:, 0] / times[:, 1]
    low, median, high = np.percentile(ratios, [25, 50, 75])
    ours_ms, theirs_ms = np.median(times, axis=0) * unit
    print(
        f"{name:<44} {median:5.2f} [{low:.2f}, {high:.2f}]   "
        f"{ours_ms:9.2f} ms over {theirs_ms:9.2f} ms   first call {first[0]:5.2f} s over {first[1]:5.2f} s",
        flush=True,
    )


def network_by_hand(parameters, t, z):
    """The arithmetic of `fp.nn.MLP` on a batch, without Equinox."""
    frequencies = jnp.geomspace(0.25, 8.0, 8)
    angles = 2 * jnp.pi * frequencies[None] * t[:, None]
    h = jnp.concatenate([z, t[:, None], jnp.cos(angles), jnp.sin(angles)], axis=1)
    for weight, bias in parameters[:-1]:
        h = jax.nn.silu(h @ weight + bias)
    weight, bias = parameters[-1]
    return h @ weight + bias


def training_step(data, key, steps: int = 100):
    """`fit`'s steps beside a jitted step called from Python, both drawing batches on the device."""
    flow = fp.fm_flow(fp.nn.MLP(shape=(DIM,), key=key), shape=(DIM,))
    options = {"batch_size": BATCH, "key": key, "ema": None, "augment": None, "steps_per_call": None}
    trainer = Trainer(flow, (data,), OPTIMISER, **options)

    state = [trainer.init()]

    def ours():
        for _ in range(steps // trainer.steps_per_call):
            state[0], values = trainer(state[0], trainer.steps_per_call)
        return values

    @jax.jit
    def step(parameters, state, data, key):
        key_batch, key_t, key_z = jax.random.split(key, 3)
        z1 = data[jax.random.randint(key_batch, (BATCH,), 0, data.shape[0])]

        def loss(parameters):
            t = (jax.random.uniform(key_t) + jnp.arange(BATCH) / BATCH) % 1.0
            z0 = jax.random.normal(key_z, z1.shape)
            z = t[:, None] * z1 + (1 - t[:, None]) * z0
            return jnp.mean(jnp.sum((network_by_hand(parameters, t, z) - (z1 - z0)) ** 2, axis=1))

        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, state = OPTIMISER.update(gradient, state)
        return optax.apply_updates(parameters, updates), state, value

    parameters = [(jnp.copy(layer.weight), jnp.copy(layer.bias)) for layer in flow.network.layers]
    carry = [parameters, OPTIMISER.init(parameters), key]

    def theirs():
        for _ in range(steps):
            carry[2], subkey = jax.random.split(carry[2])
            carry[0], carry[1], value = step(carry[0], carry[1], data, subkey)
        return value

    return ours, theirs


def solves(flow, points, key, *, exact: bool):
    """Sampling and log-likelihood beside Diffrax written out, all examples in one vmap.

    The trace is the exact one, or Hutchinson's with one probe.
    """
    num_points, dim = points.shape
    divergence = fp.ExactDivergence() if exact else fp.HutchinsonDivergence()
    parameters = [(layer.weight, layer.bias) for layer in flow.network.layers]
    # The default of `fp.ODEIntegrator`.
    controller = dfx.PIDController(rtol=1e-5, atol=1e-5, pcoeff=0.4, icoeff=0.3)

    def velocity(t, z, parameters):
        return network_by_hand(parameters, jnp.asarray(t)[None], z[None])[0]

    def augmented(t, state, args):
        (z, _), (parameters, probe) = state, args
        if exact:
            value, product = jax.linearize(lambda z: velocity(t, z, parameters), z)
            return value, jnp.trace(jax.vmap(product)(jnp.eye(dim)))
        value, product = jax.jvp(lambda z: velocity(t, z, parameters), (z,), (probe,))
        return value, probe @ product

    @jax.jit
    def sample(parameters, key):
        def one(z):
            term = dfx.ODETerm(velocity)
            return dfx.diffeqsolve(term, dfx.Tsit5(), 0.0, 1.0, 0.05, z, parameters, stepsize_controller=controller)

        return jax.vmap(one)(jax.random.normal(key, (num_points, dim))).ys[:, 0]

    @jax.jit
    def log_prob(parameters, points, key):
        def one(z, probe):
            term, state = dfx.ODETerm(augmented), (z, jnp.zeros(()))
            solution = dfx.diffeqsolve(
                term, dfx.Tsit5(), 1.0, 0.0, -0.05, state, (parameters, probe), stepsize_controller=controller
            )
            (z0,), (change,) = solution.ys
            return jax.scipy.stats.norm.logpdf(z0).sum() + change

        return jax.vmap(one)(points, jax.random.rademacher(key, points.shape, points.dtype))

    def ours():
        return fp.log_prob(flow, points, key=key, divergence=divergence)

    trace = "exact" if exact else "Hutchinson"
    yield f"sample {num_points}, {dim}-D", lambda: fp.sample(flow, num_points, key=key), lambda: sample(parameters, key)
    yield f"log_prob {num_points}, {dim}-D, {trace}", ours, lambda: log_prob(parameters, points, key)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds of each comparison")
    parser.add_argument("--points", type=int, default=1000, help="points sampled and evaluated")
    arguments = parser.parse_args()
    print(f"JAX {jax.__version__}, {jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}")
    print("median [quartiles] of flowprop's time over that by hand")
    key = jax.random.key(0)
    data, _ = fp.data.two_moons(50_000, key=key)
    ours, theirs = training_step(data, key)
    compare("100 training steps, MLP 3 x 256, batch 256", ours, theirs, arguments.rounds)
    wide = jax.random.normal(key, (20_000, 64)) * jnp.linspace(0.1, 2.0, 64)[None]
    for points, exact in ((data, True), (wide, False)):
        shape = points.shape[1:]
        flow = fp.fm_flow(fp.nn.MLP(shape=shape, key=key), shape=shape)
        flow, _ = fp.fit(flow, (points,), OPTIMISER, steps=1000, batch_size=BATCH, key=key, progress=False)
        flow = jax.tree.map(lambda leaf: jnp.asarray(leaf) if eqx.is_array(leaf) else leaf, flow)
        for name, ours, theirs in solves(flow, points[: arguments.points], key, exact=exact):
            compare(name, ours, theirs, arguments.rounds)
        name, ours, theirs = next(solves(flow, points[: 10 * arguments.points], key, exact=exact))
        compare(name, ours, theirs, arguments.rounds)


if __name__ == "__main__":
    main()
