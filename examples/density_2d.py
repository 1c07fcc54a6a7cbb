"""Flows in the plane: how the pairing of noise and data (the coupling) changes a flow.

This example has three parts. Each prints a table, with published numbers, and with the floor: the value that a perfect
flow has at this number of points.

- `transport`: the 2-Wasserstein distance and the normalised path energy of flows between gaussian noise, eight
  gaussians, two moons and an S, with independent pairs and with optimal transport. The published numbers are from
  [SF]2M, https://arxiv.org/abs/2307.03672, table 2. Data, network and budget are those of its code,
  https://github.com/atong01/conditional-flow-matching: 10,000 points, a perceptron 3 x 64, 20,000 steps of 512.
- `condition`: flows from eight gaussians to two moons, given the moon or given the first coordinate, with independent
  pairs, plain optimal transport and condition-aware optimal transport. The published numbers are from C2OT,
  https://arxiv.org/abs/2503.10636, figure 1. Data and budget are those of its code,
  https://github.com/hkchengrex/C2OT: 20,000 steps of 256.
- `likelihood`: the mean log-likelihood of new points under flows on five known densities, next to the true density's.

The example saves every run in its own file as soon as the run ends. If you stop it, the same command continues.

    python examples/density_2d.py                                    # one row of each table: about two minutes
    python examples/density_2d.py --long                             # all rows, three seeds: hours on a CPU
    python examples/density_2d.py --long --parts transport --num-seeds 1
    python examples/density_2d.py --long --parts likelihood --recipe        # a longer and better training
    python examples/density_2d.py --long --steps 200 --test-points 500 --num-seeds 1    # all rows, in a few minutes

With flowprop installed, `flowprop-density-2d` is the same command.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import flowprop as fp


# As a script, or as a module of the installed package `flowprop_examples`.
if __package__:
    from . import density_tables
    from .kept_runs import KeptRuns
else:
    import density_tables
    from kept_runs import KeptRuns


Part = Literal["transport", "condition", "likelihood"]


@dataclass
class Config:
    """Train flows in the plane and compare them with published numbers.

    The default run takes about two minutes on two cores: one row of each table, with short training. Its numbers are
    worse than the published ones. Options that show None take their value from the chosen run.
    """

    parts: tuple[Part, ...] = ("transport", "condition", "likelihood")
    """The tables to compute."""
    long: bool = False
    """Compute all rows with full training and three seeds. This takes hours on a CPU."""
    tasks: tuple[str, ...] | None = None
    """Compute only these rows, by their names. Default: "N -> moons", moon and "two moons"; long: all rows."""
    seed: int = 0
    """The first seed."""
    num_seeds: int | None = None
    """Number of seeds. Default: 1, long: 3."""
    test_points: int | None = None
    """Number of new points to evaluate a flow on. The floor of the Wasserstein distance falls with it.
    Default: 1000, long: 4000."""
    test_draws: int = 1
    """Transport: number of independent sets of test points, over which the results are averaged."""
    path_noise: float = 0.0
    """Transport: standard deviation of noise that is added to every point of a path. The published code uses 0.1."""
    steps: int | None = None
    """Training steps. Default: 1000; long: each part's own."""
    recipe: bool = False
    """Likelihood: use a decaying learning rate, averaged parameters, more times near the data and more steps."""
    output: Path | None = None
    """Folder of the runs, the figures and results.json. Default: results/density_2d, long: results/density_2d_long."""


#: What the options that are None become. A number of steps that stays None is each part's own.
PRESETS: dict[bool, dict] = {
    False: {
        "tasks": ("N -> moons", "moon", "two moons"),
        "num_seeds": 1,
        "test_points": 1_000,
        "steps": 1_000,
        "output": Path("results/density_2d"),
    },
    True: {"tasks": (), "num_seeds": 3, "test_points": 4_000, "output": Path("results/density_2d_long")},
}
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


def transport(config: Config, task: str, coupling: str, key, figure: Path | None) -> dict:
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


def condition(config: Config, task: str, coupling: str, key, figure: Path | None) -> dict:
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


def likelihood(config: Config, task: str, coupling: str, key, figure: Path | None) -> dict:
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


def train(config: Config, flow, arrays, key, *, steps, batch_size, learning_rate, decays=True):
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


MEASURE: dict[Part, Callable[..., dict]] = {
    "transport": transport,
    "condition": condition,
    "likelihood": likelihood,
}
RUNS: dict[Part, list[tuple[str, str]]] = {
    "transport": list(density_tables.TRANSPORT),
    "condition": list(density_tables.CONDITION),
    "likelihood": [(task, coupling) for task in DENSITIES for coupling in COUPLINGS],
}


def main() -> None:
    config = tyro.cli(Config)
    preset = PRESETS[config.long]
    config = replace(config, **{name: value for name, value in preset.items() if getattr(config, name) is None})
    if config.long:
        print("This run takes hours on a CPU, unless you choose fewer rows or steps.", flush=True)
    else:
        print("This run takes about two minutes on two cores; use --long for the full tables.", flush=True)
    kept = KeptRuns(config.output, config, {"parts", "tasks", "seed", "num_seeds", "output", "long"})
    seeds = range(config.seed, config.seed + config.num_seeds)
    wanted = [(part, *run) for part in config.parts for run in RUNS[part] if not config.tasks or run[0] in config.tasks]
    runs = [(seed, *run) for seed in seeds for run in wanted]
    records = []
    for number, (seed, part, task, coupling) in enumerate(runs, 1):
        name = "-".join(["".join(c for c in word if c.isalnum()) for word in (part, task, coupling)])
        title = f"run {number} of {len(runs)}: {part}, {task}, {coupling}, seed {seed}"
        figure = config.output / f"{name}.png" if seed == config.seed else None

        def measure(seed=seed, part=part, task=task, coupling=coupling, figure=figure):
            measured = MEASURE[part](config, task, coupling, jax.random.key(seed), figure)
            return {"part": part, "task": task, "coupling": coupling, "seed": seed, **measured}

        records.append(kept.record(f"{name}-{seed}", title, measure))
    for part in config.parts:

        def rows_of(task, coupling, part=part):
            return [r for r in records if (r["part"], r["task"], r["coupling"]) == (part, task, coupling)]

        density_tables.PRINT[part](RUNS[part], rows_of)
    (config.output / "results.json").write_text(json.dumps(records, indent=1))
    print(f"\nThe figures and results.json are in {config.output}")


if __name__ == "__main__":
    main()
