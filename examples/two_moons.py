"""Two moons, both ways round: the density of the points, and the class of a point.

For each protocol this trains three flows without simulation,

1. an unconditional one, point from noise: its log-likelihood on fresh points stands beside the
   true density's, and its integral over a grid beside 1;
2. a conditional one, point given the class: samples of each moon;
3. a discriminative one, class given the point: a flow of labels,

and saves figures, samples and `results.json`. Nothing is downloaded.

    python examples/two_moons.py                       # FM and CT
    python examples/two_moons.py --protocols df        # noise prediction
    python examples/two_moons.py --schedule cosine     # another noise schedule for CT and DF
"""

import json
import time
from dataclasses import dataclass
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
    """Train flows on two moons and show what they learned."""

    protocols: tuple[Literal["fm", "ct", "df"], ...] = ("fm", "ct")
    """Flow matching, preconditioned target prediction, noise prediction."""
    schedule: Literal["sigmoid", "linear", "cosine", "learnable"] = "sigmoid"
    """Noise schedule of CT and DF; the sigmoid's scale is 13."""
    noise: float = 0.1
    """Standard deviation of the noise on the moons."""
    steps: int = 6_000
    """Training steps of the unconditional flow; the others take a quarter."""
    batch_size: int = 512
    learning_rate: float = 4e-3
    """At the start of a cosine decay to zero."""
    train_points: int = 100_000
    test_points: int = 10_000
    seed: int = 0
    output: Path = Path("results/two_moons")


BOUNDS = ((-1.8, 2.8), (-1.3, 1.8))
DATA_STD = 0.7  # root mean square of the centred coordinates


def make_flow(protocol: str, config: Config, network: fp.nn.MLP, key) -> fp.Flow:
    match config.schedule:
        case "sigmoid":
            schedule = fp.SigmoidNoiseSchedule(13.0)
        case "linear":
            schedule = fp.LinearNoiseSchedule()
        case "cosine":
            schedule = fp.CosineNoiseSchedule()
        case "learnable":
            schedule = fp.LearnableNoiseSchedule(gamma_range=(-6.5, 6.5), key=key)
    match protocol:
        case "fm":
            return fp.fm_flow(network, shape=network.shape)
        case "ct":
            prediction = fp.PreconditionedPrediction(data_std=DATA_STD)
            return fp.ct_flow(network, shape=network.shape, schedule=schedule, prediction=prediction)
        case "df":
            return fp.df_flow(network, shape=network.shape, schedule=schedule)


def make_classifier(protocol: str, config: Config, key) -> fp.Classifier:
    """A flow between two labels, given the point. The network of CT and FM returns logits (NoProp, section 2.3.2)."""
    key_network, key_schedule, key_readout = jax.random.split(key, 3)
    network = fp.nn.MLP(shape=(2,), condition_size=2, width=128, key=key_network)
    flow, embedding = make_flow(protocol, config, network, key_schedule), fp.one_hot_embedding(2)
    if protocol == "df":
        # Where nearly all is noise, its error says little of the label: the class read off the target says it.
        readout = fp.LinearReadout((2,), 2, key=key_readout)
        return fp.Classifier(flow=flow, embedding=embedding, readout=readout, objective=fp.FlowMatchingObjective())
    flow = fp.Flow(network, flow.path, fp.CategoricalPrediction(), shape=(2,))
    return fp.Classifier(flow=flow, embedding=embedding)


def run(protocol: str, config: Config, data: dict, key) -> dict:
    moons = fp.data.TwoMoons(noise=config.noise)
    # The flows live in centred coordinates; a shift leaves densities as they are.
    centre = data["train"][0].mean(axis=0, keepdims=True)
    points, labels = data["train"]
    test_points, test_labels = data["test"]
    one_hot = jnp.eye(2)
    keys = iter(jax.random.split(key, 12))

    def train(model, arrays, steps):
        optimiser = optax.adam(optax.cosine_decay_schedule(config.learning_rate, steps))
        return fp.fit(model, arrays, optimiser, steps=steps, batch_size=config.batch_size, key=next(keys), ema=0.999)

    began = time.perf_counter()
    network = fp.nn.MLP(shape=(2,), key=next(keys))
    print(f"{protocol}: density of a point")
    density, history = train(make_flow(protocol, config, network, next(keys)), (points - centre,), config.steps)
    print(f"{protocol}: point given the class")
    network = fp.nn.MLP(shape=(2,), condition_size=2, key=next(keys))
    flow = make_flow(protocol, config, network, next(keys))
    conditional, _ = train(flow, (points - centre, one_hot[labels]), config.steps // 4)
    print(f"{protocol}: class given the point")
    classifier, _ = train(make_classifier(protocol, config, next(keys)), (points - centre, labels), config.steps // 4)
    seconds = time.perf_counter() - began

    integrator = fp.ODEIntegrator()
    log_prob = fp.log_prob(density, test_points - centre, integrator=integrator).mean()
    grid, area = fp.plot.grid_points(BOUNDS, resolution=100)
    on_grid = fp.log_prob(density, grid - centre, integrator=integrator)
    coarse, _ = fp.plot.grid_points(BOUNDS, resolution=60)
    given_moon = fp.log_prob(conditional, coarse - centre, jnp.broadcast_to(one_hot[1], coarse.shape))
    predictions = classifier.predict(test_points - centre, key=next(keys))
    bayes = moons.class_log_prob(test_points).argmax(axis=-1)

    @eqx.filter_jit
    @jax.vmap
    def solve(z):
        saveat = dfx.SaveAt(ts=jnp.linspace(0.0, 1.0, 50))
        return fp.solve(density, z, saveat=saveat, integrator=integrator)

    solutions = solve(jax.random.normal(next(keys), (200, 2)))
    alpha = density.path.alpha(jnp.linspace(0.0, 1.0, 50))[-1]
    evaluations = fp.function_evaluations(solutions, integrator).mean()

    samples = fp.sample(density, 5_000, key=next(keys)) + centre
    sample_labels = jnp.arange(5_000) % 2
    given_class = fp.sample(conditional, 5_000, one_hot[sample_labels], key=next(keys)) + centre
    figures = {
        "density": fp.plot.density_and_samples(on_grid, samples, BOUNDS, true_log_prob=moons.log_prob, resolution=100),
        "given_class": fp.plot.density_and_samples(
            given_moon, given_class, BOUNDS, labels=sample_labels, resolution=60
        ),
        "trajectories": fp.plot.trajectories(solutions.ys / alpha + centre[None], title=f"{protocol}: noise to data"),
        "learning_curve": fp.plot.learning_curve(history),
    }
    for name, figure in figures.items():
        fp.plot.save(figure, config.output / f"{protocol}_{name}.png")

    return {
        "log_prob": float(log_prob),
        "true_log_prob": float(moons.log_prob(test_points).mean()),
        "accuracy": float((predictions == test_labels).mean()),
        "bayes_accuracy": float((bayes == test_labels).mean()),
        "integral": float(jnp.exp(on_grid).sum() * area),
        "function_evaluations": float(evaluations),
        "seconds": seconds,
    }


def main(config: Config) -> None:
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
            f"\n{protocol}  log-likelihood {row['log_prob']:.4f} nats, of the true density {row['true_log_prob']:.4f}"
            f"\n    integral over a grid {row['integral']:.4f}"
            f"\n    function evaluations a sample {row['function_evaluations']:.1f}"
            f"\n    accuracy {row['accuracy']:.4f}, of the Bayes-optimal rule {row['bayes_accuracy']:.4f}"
            f"\n    {row['seconds']:.0f} seconds of training"
        )
    print(f"\nFigures and results.json are in {config.output}")


if __name__ == "__main__":
    main(tyro.cli(Config))
