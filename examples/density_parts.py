"""The parts of `density_2d.py`: each function trains one flow, and measures it.

`config` is the `Config` of `density_2d.py`. `task` and `coupling` name a row of the table of the part. If `figure` is a
path, a figure is saved there.
"""

import time
from functools import partial
from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowprop as fp


COUPLINGS = {"independent": fp.IndependentCoupling, "ot": fp.OTCoupling}


# Transport: [SF]2M's table 2


def standardised(points):
    """The points, with all coordinates together scaled to standard deviation 7."""
    return 7 * (points - points.mean()) / points.std()


#: The source (None: gaussian noise) and the data, as functions of a number of points and a key.
TRANSPORT = {
    "N -> 8 gaussians": (None, lambda n, key: fp.data.eight_gaussians(n, radius=5, std=1, key=key)[0]),
    "moons -> 8 gaussians": (
        lambda n, key: standardised(fp.data.two_moons(n, noise=0.1, key=key)[0]),
        lambda n, key: fp.data.eight_gaussians(n, radius=12, std=1.5, key=key)[0],
    ),
    "N -> moons": (None, lambda n, key: 2 * fp.data.two_moons(n, noise=0.05, key=key)[0] - jnp.array([[1.0, 0.0]])),
    "N -> s-curve": (None, lambda n, key: 1.5 * fp.data.s_curve(n, noise=0.05, key=key)[0]),
}


class Blurred(eqx.Module):
    """A flow that is trained with noise added to every point of a path.

    On a straight path this is the same noise added to both ends. It does not change the velocity to learn.
    """

    flow: fp.Flow
    path_noise: float = eqx.field(static=True)

    def loss(self, z1, *, key):
        key_source, key_pairs, key_noise, key_loss = jax.random.split(key, 4)
        z0 = self.flow.source.sample(len(z1), z1.shape[1:], key=key_source)
        z0 = self.flow.coupling.pair(z0, z1, None, key=key_pairs)
        noise = self.path_noise * jax.random.normal(key_noise, z1.shape)
        return fp.PairedFlow(self.flow).loss(z0 + noise, z1 + noise, key=key_loss)


def transport(config, task: str, coupling: str, key, figure: Path | None) -> dict:
    draw_source, draw_data = TRANSPORT[task]
    key_source, key_data, key_network, key_train = jax.random.split(key, 4)
    # Ten thousand points for training, as published. The others are for evaluation.
    fresh = config.test_draws * config.test_points
    data, test, other = np.split(draw_data(10_000 + 2 * fresh, key_data), [10_000, -fresh])
    if draw_source is None:
        source = fp.GaussianSource()
        start = source.sample(fresh, (2,), key=key_source)
    else:
        points, start = np.split(draw_source(10_000 + fresh, key_source), [10_000])
        source = fp.EmpiricalSource(points)
    network = fp.nn.MLP(shape=(2,), width=64, depth=3, activation=jax.nn.selu, key=key_network)
    flow = fp.fm_flow(network, shape=(2,), source=source, coupling=COUPLINGS[coupling]())
    model = Blurred(flow, config.path_noise) if config.path_noise else flow
    model, seconds = train(config, model, data, key_train, steps=20_000, batch_size=512, learning_rate=1e-3)
    flow = model.flow if config.path_noise else model
    paths = solve(flow, start)
    if figure:
        fp.plot.save(fp.plot.trajectories(paths[:300], title=f"{task}, {coupling}"), figure)
    draws = zip(*(np.split(points, config.test_draws) for points in (start, paths[:, -1], test, other)), strict=True)
    measured = [
        (
            fp.metrics.wasserstein(end, test),
            fp.metrics.wasserstein(other, test),
            fp.metrics.normalised_path_energy(flow, start, test),
        )
        for start, end, test, other in draws
    ]
    w2, floor, npe = np.mean(measured, axis=0).tolist()
    return {"w2": w2, "floor": floor, "npe": npe, "seconds": seconds}


# Condition: C2OT's eight gaussians to two moons


class RingSource(fp.AbstractSource):
    """Eight gaussians of radius 5. The published code gives the variance 0.1 where a root of the covariance is due."""

    def sample(self, num_points, shape, *, key):
        return self.density.sample(num_points, key=key)[0]

    def log_prob(self, z0):
        return self.density.log_prob(z0)

    @property
    def density(self):
        return fp.data.EightGaussians(radius=5, std=0.1**0.25)


def slanting_moons(n, key):
    """Points and labels of moons without width, each point moved along the diagonal by up to 0.2."""
    key_moons, key_noise = jax.random.split(key)
    points, labels = fp.data.two_moons(n, noise=1e-6, key=key_moons)
    return 3 * (points + 0.2 * jax.random.uniform(key_noise, (n, 1))) - 1, labels


CONDITIONS = {
    "none": lambda points, labels: None,
    "moon": lambda points, labels: 2.0 * labels[:, None] - 1,
    "coordinate": lambda points, labels: points[:, :1],
}
CONDITION_AWARE = {"moon": fp.ClassCost(), "coordinate": fp.DistanceCost(ratio=0.05)}


def condition(config, task: str, coupling: str, key, figure: Path | None) -> dict:
    key_data, key_source, key_network, key_train = jax.random.split(key, 4)
    points, labels = slanting_moons(200_000 + 2 * config.test_points, key_data)
    x = CONDITIONS[task](points, labels)
    pairs = COUPLINGS | {"ot": partial(fp.OTCoupling, ignore_condition=True)}  # it is biased: the table shows how much
    pair = fp.ConditionalOTCoupling(CONDITION_AWARE[task]) if coupling == "aware" else pairs[coupling]()
    size = 0 if x is None else 1
    network = fp.nn.MLP(shape=(2,), condition_size=size, width=256, depth=3, key=key_network)
    flow = fp.fm_flow(network, shape=(2,), source=RingSource(), coupling=pair)
    data, test, other = np.split(points, [200_000, -config.test_points])
    x, test_x = (None, None) if x is None else np.split(x[: -config.test_points], [200_000])
    arrays = data if x is None else (data, x)
    flow, seconds = train(config, flow, arrays, key_train, steps=20_000, batch_size=256, learning_rate=1e-3)
    start = flow.source.sample(config.test_points, (2,), key=key_source)
    paths = solve(flow, start, test_x)
    one_step = start + jax.vmap(flow.velocity, in_axes=(None, 0, 0))(0.0, start, test_x)
    if figure:
        test_labels = labels[200_000 : -config.test_points]
        title = f"given {task}, {coupling}"
        fp.plot.save(fp.plot.trajectories(paths[:300], labels=test_labels[:300], title=title), figure)
    return {
        "w2": fp.metrics.wasserstein(paths[:, -1], test),
        "one_step_w2": fp.metrics.wasserstein(one_step, test),
        "floor": fp.metrics.wasserstein(other, test),
        "seconds": seconds,
    }


# Likelihood: densities that are known


DENSITIES = {
    "two moons": fp.data.TwoMoons(),
    "mixture": fp.data.GaussianMixture.isotropic([[-2.0, 0.0], [1.5, 1.5], [1.0, -2.0]], [0.5, 0.8, 0.4]),
    "checkerboard": fp.data.Checkerboard(),
    "pinwheel": fp.data.Pinwheel(),
    "8 gaussians": fp.data.EightGaussians(),
}


def likelihood(config, task: str, coupling: str, key, figure: Path | None) -> dict:
    density = DENSITIES[task]
    key_data, key_test, key_network, key_train, key_samples = jax.random.split(key, 5)
    # Four million points: no training step sees a point twice, so that no flow overfits.
    points, _ = density.sample(4_000_000, key=key_data)
    test, _ = density.sample(config.test_points, key=key_test)
    network = fp.nn.MLP(shape=(2,), width=256, depth=3, key=key_network)
    transform = fp.Standardise(np.asarray(points, float).mean(axis=0), np.ones(2))  # a shift, without a scale
    if config.recipe:
        times = fp.LogitNormalTimeSampling(mean=1.0, std=1.5)
        budget = {"steps": 16_000, "batch_size": 256, "learning_rate": 4e-3}
    else:
        times = None
        budget = {"steps": 5_000, "batch_size": 256, "learning_rate": 1e-3, "decays": False}
    flow = fp.fm_flow(network, shape=(2,), coupling=COUPLINGS[coupling](), time_sampling=times, transform=transform)
    flow, seconds = train(config, flow, points, key_train, **budget)
    if figure:
        extent = 1.1 * float(jnp.abs(test).max())
        samples = fp.sample(flow, 4_000, key=key_samples)
        bounds = ((-extent, extent), (-extent, extent))
        drawing = fp.plot.density_and_samples(
            lambda z: fp.log_prob(flow, z),
            samples,
            bounds,
            true_log_prob=density.log_prob,
            resolution=100,
            nats_below_peak=6,
        )
        fp.plot.save(drawing, figure)
    return {
        "log_prob": float(fp.log_prob(flow, test).mean()),
        "true_log_prob": float(density.log_prob(test).mean()),
        "seconds": seconds,
    }


# What the parts share


def train(config, flow, arrays, key, *, steps, batch_size, learning_rate, decays=True):
    """Train by Adam at a constant learning rate, or at a decaying one with averaged parameters."""
    steps = config.steps or steps
    schedule = optax.cosine_decay_schedule(learning_rate, steps) if decays else learning_rate
    optimiser = optax.adamw(schedule, weight_decay=1e-5)
    began = time.perf_counter()
    flow, _ = fp.fit(
        flow, arrays, optimiser, steps=steps, batch_size=batch_size, key=key, ema=0.999 if decays else None
    )
    return flow, time.perf_counter() - began


@eqx.filter_jit
def solve(flow, z0, x=None):
    """The paths of some points, at 50 times each."""
    saveat = dfx.SaveAt(ts=jnp.linspace(0.0, 1.0, 50))
    one = lambda z, x: fp.solve(flow, z, x, saveat=saveat).ys  # noqa: E731
    return jax.vmap(one)(z0, x)
