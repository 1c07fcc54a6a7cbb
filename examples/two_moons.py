"""Two moons: the density of the points, and the class of a point.

For each protocol this example trains three flows:

1. a flow from noise to a point. Its mean log-likelihood on new points is printed next to the one of the true density,
   and the integral of its density over a grid next to 1;
2. a flow from noise to a point, given the class. The figure shows its samples of each class;
3. a flow from noise to a label, given the point: a classifier. Its accuracy is printed next to the best possible one.

It saves figures and `results.json`. It downloads nothing.

    python examples/two_moons.py                       # about two minutes on two cores
    python examples/two_moons.py --long                # about twice as long: the numbers on the results page
    python examples/two_moons.py --protocols df        # noise prediction
    python examples/two_moons.py --schedule cosine     # another noise schedule for CT and DF

With flowprop installed, `flowprop-two-moons` is the same command.
"""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import tyro

import flowprop as fp


@dataclass
class Config:
    """Train flows on two moons, and compare them with the true density.

    The default run takes about two minutes on two cores. Options that show None take their value from the chosen run.
    """

    protocols: tuple[Literal["fm", "ct", "df"], ...] = ("fm", "ct")
    """fm: flow matching. ct: variance-preserving diffusion, preconditioned target prediction. df: noise prediction."""
    long: bool = False
    """Run about twice as long, for the numbers on the results page."""
    schedule: Literal["sigmoid", "linear", "cosine", "learnable"] = "sigmoid"
    """The noise schedule of ct and df."""
    noise: float = 0.1
    """Standard deviation of the noise on the moons."""
    steps: int | None = None
    """Training steps of the first flow. The other two take a quarter of them. Default: 1200, long: 6000."""
    batch_size: int = 512
    """Points in one training step."""
    learning_rate: float = 4e-3
    """The learning rate at the first step. It decays to zero along a cosine."""
    train_points: int = 100_000
    """Number of training points."""
    test_points: int | None = None
    """Number of new points for the log-likelihood and the accuracy. Default: 2000, long: 10000."""
    resolution: int | None = None
    """Points of the grid along each axis, for the figures and the integral. Default: 60, long: 100."""
    seed: int = 0
    """Seed of all random numbers."""
    output: Path | None = None
    """Folder of the figures and of results.json. Default: results/two_moons, long: results/two_moons_long."""


PRESETS: dict[bool, dict] = {
    False: {"steps": 1200, "test_points": 2_000, "resolution": 60, "output": Path("results/two_moons")},
    True: {"steps": 6_000, "test_points": 10_000, "resolution": 100, "output": Path("results/two_moons_long")},
}
BOUNDS = ((-1.8, 2.8), (-1.3, 1.8))


def make_schedule(name: str, key) -> fp.AbstractNoiseSchedule:
    match name:
        case "sigmoid":
            return fp.SigmoidNoiseSchedule(13.0)
        case "linear":
            return fp.LinearNoiseSchedule()
        case "cosine":
            return fp.CosineNoiseSchedule()
    return fp.LearnableNoiseSchedule(gamma_range=(-6.5, 6.5), key=key)


def make_flow(protocol: str, schedule: str, points, key, *, condition_size: int = 0) -> fp.Flow:
    """A flow of points in their own units: the transform scales them to mean 0 and standard deviation 1."""
    key_network, key_schedule = jax.random.split(key)
    network = fp.nn.MLP(shape=(2,), condition_size=condition_size, key=key_network)
    transform = fp.Standardise.fit(points)
    if protocol == "fm":
        # More training times near the data, where a density is decided, than a uniform draw has.
        times = fp.LogitNormalTimeSampling(mean=1.0, std=1.5)
        return fp.fm_flow(network, shape=(2,), transform=transform, time_sampling=times)
    noise_schedule = make_schedule(schedule, key_schedule)
    if protocol == "df":
        return fp.df_flow(network, shape=(2,), transform=transform, schedule=noise_schedule)
    prediction = fp.PreconditionedPrediction(data_std=1.0)
    return fp.ct_flow(network, shape=(2,), transform=transform, schedule=noise_schedule, prediction=prediction)


def make_classifier(protocol: str, schedule: str, key) -> fp.Classifier:
    """A flow from noise to a label, given the point. For fm and ct its network returns logits (NoProp, 2.3.2)."""
    key_network, key_schedule, key_readout = jax.random.split(key, 3)
    network = fp.nn.MLP(shape=(2,), condition_size=2, width=128, key=key_network)
    embedding = fp.one_hot_embedding(2)
    if protocol == "df":
        # At times with much noise, the error of the predicted noise depends little on the label. The cross-entropy of
        # the readout, applied to the estimated target, trains the class there.
        flow = fp.df_flow(network, shape=(2,), schedule=make_schedule(schedule, key_schedule))
        readout = fp.LinearReadout((2,), 2, key=key_readout)
        return fp.Classifier(flow=flow, embedding=embedding, readout=readout, objective=fp.FlowMatchingObjective())
    path = fp.CondOTPath() if protocol == "fm" else fp.VPPath(make_schedule(schedule, key_schedule))
    flow = fp.Flow(network, path, fp.CategoricalPrediction(), shape=(2,))
    return fp.Classifier(flow=flow, embedding=embedding)


@eqx.filter_jit
def solve_paths(flow, noise, times, integrator):
    """The paths from some noise to data: points in the data's units, and the mean number of function evaluations."""
    solutions = jax.vmap(lambda z: fp.solve(flow, z, saveat=dfx.SaveAt(ts=times), integrator=integrator))(noise)
    points = jax.vmap(jax.vmap(flow.transform.inverse))(solutions.ys / flow.path.alpha(times[-1]))
    return points, fp.function_evaluations(solutions, integrator).mean()


def run(protocol: str, config: Config, data: dict, key) -> dict:
    moons = fp.data.TwoMoons(noise=config.noise)
    points, labels = data["train"]
    test_points, test_labels = data["test"]
    one_hot = jnp.eye(2)
    keys = iter(jax.random.split(key, 12))
    seconds = 0.0

    def train(model, arrays, steps):
        nonlocal seconds
        optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps))
        began = time.perf_counter()
        trained = fp.fit(model, arrays, optimiser, steps=steps, batch_size=config.batch_size, key=next(keys), ema=0.99)
        seconds += time.perf_counter() - began
        return trained

    def save(name, figure):
        path = config.output / f"{protocol}_{name}.png"
        fp.plot.save(figure, path)
        print(f"saved {path}", flush=True)

    print(f"{protocol}: density of a point", flush=True)
    density, history = train(make_flow(protocol, config.schedule, points, next(keys)), points, config.steps)
    samples = fp.sample(density, 2_000, key=next(keys))
    grid, area = fp.plot.grid_points(BOUNDS, resolution=config.resolution)
    integrator = fp.ODEIntegrator()
    log_probs = fp.log_prob(density, jnp.concatenate([grid, test_points]), integrator=integrator)
    on_grid, on_test = log_probs[: len(grid)], log_probs[len(grid) :]
    figure = fp.plot.density_and_samples(
        on_grid, samples, BOUNDS, true_log_prob=moons.log_prob, resolution=config.resolution
    )
    save("density", figure)
    save("learning_curve", fp.plot.learning_curve(history))

    noise = jax.random.normal(next(keys), (200, 2))
    paths, evaluations = solve_paths(density, noise, jnp.linspace(0.0, 1.0, 50), integrator)
    save("trajectories", fp.plot.trajectories(paths, title=f"{protocol}: from noise to data"))

    print(f"{protocol}: point given the class", flush=True)
    flow = make_flow(protocol, config.schedule, points, next(keys), condition_size=2)
    conditional, _ = train(flow, (points, one_hot[labels]), config.steps // 4)
    sample_labels = jnp.arange(2_000) % 2
    given_class = fp.sample(conditional, 2_000, one_hot[sample_labels], key=next(keys))
    given_moon = fp.log_prob(fp.given(conditional, one_hot[1]), grid)
    figure = fp.plot.density_and_samples(
        given_moon, given_class, BOUNDS, labels=sample_labels, resolution=config.resolution
    )
    save("given_class", figure)

    print(f"{protocol}: class given the point", flush=True)
    classifier, _ = train(make_classifier(protocol, config.schedule, next(keys)), (points, labels), config.steps // 4)
    predictions = classifier.predict(test_points, key=next(keys))
    bayes = moons.class_log_prob(test_points).argmax(axis=-1)
    return {
        "log_prob": float(on_test.mean()),
        "true_log_prob": float(moons.log_prob(test_points).mean()),
        "accuracy": float((predictions == test_labels).mean()),
        "bayes_accuracy": float((bayes == test_labels).mean()),
        "integral": float(jnp.exp(on_grid).sum() * area),
        "function_evaluations": float(evaluations),
        "seconds": seconds,
    }


def main() -> None:
    config = tyro.cli(Config)
    preset = PRESETS[config.long]
    config = replace(config, **{name: value for name, value in preset.items() if getattr(config, name) is None})
    if config.long:
        print("This run takes about twice as long as the default one.", flush=True)
    else:
        print(
            "This run takes about two minutes on two cores; use --long for the numbers on the results page.", flush=True
        )
    config.output.mkdir(parents=True, exist_ok=True)
    key_train, key_test, key_run = jax.random.split(jax.random.key(config.seed), 3)
    data = {
        "train": fp.data.two_moons(config.train_points, config.noise, key=key_train),
        "test": fp.data.two_moons(config.test_points, config.noise, key=key_test),
    }
    results = {protocol: run(protocol, config, data, key_run) for protocol in config.protocols}
    (config.output / "results.json").write_text(json.dumps(results, indent=2))
    for protocol, row in results.items():
        print(
            f"\n{protocol}  mean log-likelihood {row['log_prob']:.4f} nats; true density {row['true_log_prob']:.4f}"
            f"\n    integral of the density over a grid {row['integral']:.4f}"
            f"\n    function evaluations for one sample {row['function_evaluations']:.1f}"
            f"\n    accuracy {row['accuracy']:.4f}; best possible {row['bayes_accuracy']:.4f}"
            f"\n    {row['seconds']:.0f} seconds of training"
        )
    print(f"\nThe figures and results.json are in {config.output}")


if __name__ == "__main__":
    main()
