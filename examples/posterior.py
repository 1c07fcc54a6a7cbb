"""Simulation-based inference: the posterior of a simulator's parameters, with its checks and its figures.

The example simulates, trains a flow (`fp.fit_posterior`), draws the posterior of one observation, and checks the
posterior on new simulations: simulation-based calibration (SBC) and TARP. The tasks are those of the benchmark sbibm,
see `sbi_tasks.py`.

    python examples/posterior.py                                # two moons; nothing to download
    python examples/posterior.py --task slcp --simulations 10000 --steps 10000
    python examples/posterior.py --task gaussian_mixture --observation 1      # with sbibm's reference posterior

With `--observation N`, the observation is sbibm's (a download of 19 MB at the first time), and the figures and the
numbers compare the posterior with 10,000 samples of the true one. Otherwise the observation is simulated.

Two moons take about six minutes on two slow cores: the figure of the posterior is there after a minute and a half, the
other minutes are the checks.

With flowprop installed, `flowprop-posterior` is the same command.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import tyro

import flowprop as fp


# As a script, or as a module of the installed package `flowprop_examples`.
if __package__:
    from .sbi_tasks import reference, tasks
else:
    from sbi_tasks import reference, tasks


Name = Literal[
    "two_moons",
    "gaussian_mixture",
    "gaussian_linear",
    "gaussian_linear_uniform",
    "slcp",
    "slcp_distractors",
    "bernoulli_glm",
    "sir",
    "lotka_volterra",
]


@dataclass
class Config:
    """Learn the posterior of a simulator, draw it, and check it."""

    task: Name = "two_moons"
    """The simulator and its prior."""
    simulations: int = 4_000
    """Number of simulations, of which a tenth is held out."""
    observation: int | None = None
    """Observation of sbibm, 1 to 10. Default: simulated."""
    num_flows: int = 1
    """Number of flows in an ensemble."""
    steps: int = 4_000
    """The largest number of training steps."""
    pairs: int = 200
    """Number of new simulations for SBC and TARP."""
    samples: int = 2_000
    """Number of samples of the posterior."""
    seed: int = 0
    """The seed of everything random."""
    output: Path = Path("results/posterior")
    """Folder for the figures, the model and results.json."""


def compared(task, posterior, x, samples, truth, *, key) -> dict:
    """How close samples and densities are to a reference posterior."""
    size = min(len(samples), len(truth))
    test = fp.metrics.classifier_two_sample_test(samples[:size], truth[:size], key=key)
    found = {"classifier accuracy (0.5 is best)": test.accuracy}
    if task.normaliser is not None:
        exact = task.log_posterior(truth[:size], x)
        stated = posterior.log_prob(truth[:size], x)
        found["best classifier's accuracy, from the densities"] = fp.metrics.bayes_accuracy(exact, stated).value
        found["KL divergence, nats"] = fp.metrics.kl_divergence(exact, stated).value
    return found


def main() -> None:
    config = tyro.cli(Config)
    task = tasks()[config.task]
    config.output.mkdir(parents=True, exist_ok=True)
    keys = jax.random.split(jax.random.key(config.seed), 6)

    theta, x = task.simulations(config.simulations, key=keys[0])
    began = time.perf_counter()
    posterior, history = fp.fit_posterior(
        theta, x, prior=task.prior, num_flows=config.num_flows, steps=config.steps, key=keys[1]
    )
    seconds = time.perf_counter() - began
    fp.save(config.output / "posterior.fp", posterior, metadata={"task": config.task})
    print(f"trained in {seconds:.0f} s; the best model is that of step {history.best_step}", flush=True)

    if config.observation is None:
        truth = None
        point, observed = (one[0] for one in task.simulations(1, key=keys[2]))
    else:
        observed, truth, point = reference(task, config.observation)
    samples = posterior.sample(observed, config.samples, key=keys[3])
    figure = fp.plot.pairs(samples, truth, np.asarray(point).ravel())
    fp.plot.save(figure, config.output / "pairs.png")
    print(f"the posterior of one observation: {config.output / 'pairs.png'}", flush=True)

    new_theta, new_x = task.simulations(config.pairs, key=keys[4])
    checks = {
        "SBC": fp.metrics.sbc(posterior, new_theta, new_x, key=keys[5]),
        "TARP": fp.metrics.tarp(posterior, new_theta, new_x, key=keys[5]),
    }
    for name, check in checks.items():
        print(f"{name}: {check}")
    fp.plot.save(fp.plot.sbc(checks["SBC"]), config.output / "sbc.png")
    fp.plot.save(fp.plot.coverage({"TARP": checks["TARP"]}), config.output / "tarp.png")
    fp.plot.save(fp.plot.learning_curve(history), config.output / "learning_curve.png")

    log_prob = posterior.log_prob_each(new_theta, new_x)
    results = {
        "seconds of training": seconds,
        "best step": history.best_step,
        "mean log-posterior of new simulations, nats": float(np.mean(log_prob)),
        **{f"{name} passed": bool(check.passed) for name, check in checks.items()},
    }
    if truth is not None:
        results |= compared(task, posterior, observed, np.asarray(samples), truth, key=keys[5])
    for name, value in results.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    record = {"config": json.loads(json.dumps(asdict(config), default=str)), "results": results}
    (config.output / "results.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
