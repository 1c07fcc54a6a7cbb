"""The benchmark of simulation-based inference: `fp.fit_posterior` on the tasks of sbibm, beside published numbers.

For each task, number of simulations and seed, the benchmark trains a posterior by the recipe of `fp.fit_posterior`. It
compares the posteriors of sbibm's ten observations with its reference samples: by the classifier two-sample test
(C2ST) of sbibm's network, whose accuracy is 0.5 at best, and, where the true density is known, by the accuracy of the
best classifier and the KL divergence, both from the densities. SBC and TARP check the posterior on new simulations.

    python examples/sbi_benchmark.py --tasks two_moons --simulations 1000      # a few minutes
    python examples/sbi_benchmark.py --seeds 0 1                               # all: hours on two cores

Every run is saved in its own file as soon as it ends. If you stop the benchmark, the same command continues. It writes
results.json and results.md, and downloads 19 MB at the first time (see `sbi_tasks.py`).

The published numbers are those of NPE in sbibm's results (https://github.com/sbi-benchmark/results), with 10,000
samples in each C2ST. Fewer samples, `--points`, make a C2ST a little smaller.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import tyro

import flowprop as fp


# As a script, or as a module of the installed package `flowprop_examples`.
if __package__:
    from .kept_runs import KeptRuns
    from .sbi_tasks import reference, tasks
else:
    from kept_runs import KeptRuns
    from sbi_tasks import reference, tasks


#: Mean C2ST of NPE over ten observations, by the number of simulations.
PUBLISHED = {
    "two_moons": {1_000: 0.725, 10_000: 0.606, 100_000: 0.542},
    "gaussian_mixture": {1_000: 0.716, 10_000: 0.615, 100_000: 0.548},
    "gaussian_linear": {1_000: 0.694, 10_000: 0.552, 100_000: 0.506},
    "gaussian_linear_uniform": {1_000: 0.696, 10_000: 0.553, 100_000: 0.509},
    "slcp": {1_000: 0.975, 10_000: 0.901, 100_000: 0.831},
    "slcp_distractors": {1_000: 0.982, 10_000: 0.970, 100_000: 0.863},
    "bernoulli_glm": {1_000: 0.863, 10_000: 0.678, 100_000: 0.559},
    "sir": {1_000: 0.815, 10_000: 0.680, 100_000: 0.585},
    "lotka_volterra": {1_000: 0.999, 10_000: 0.997, 100_000: 0.981},
}

#: Number of posterior samples for each new simulation in SBC and TARP.
DRAWS = 99


@dataclass
class Config:
    """Train posteriors on the tasks of sbibm and compare them with its reference posteriors."""

    tasks: tuple[str, ...] = tuple(PUBLISHED)
    """The tasks, by sbibm's names."""
    simulations: tuple[int, ...] = (10_000, 1_000)
    """The numbers of simulations."""
    seeds: tuple[int, ...] = (0,)
    """The seeds of simulations and training."""
    observations: int = 10
    """Number of sbibm's observations, at most 10."""
    points: int = 2_000
    """Number of samples in each two-sample test, at most 10,000."""
    pairs: int = 300
    """Number of new simulations for SBC and TARP; 0 for none."""
    output: Path = Path("results/sbi_benchmark")
    """Folder of the runs, results.json and results.md."""


@dataclass
class Drawn:
    """A posterior, and its samples for each of several observations, which SBC and TARP share."""

    posterior: fp.Posterior
    samples: jax.Array

    def sample(self, x, num_samples, *, key):
        return self.posterior.sample(x, num_samples, key=key)

    def sample_each(self, x, num_samples, *, key):
        return self.samples


def measure(config: Config, name: str, simulations: int, seed: int) -> dict:
    """One training, and its quality for each observation."""
    task = tasks()[name]
    keys = jax.random.split(jax.random.key(seed), 5)
    theta, x = task.simulations(simulations, key=keys[0])
    began = time.perf_counter()
    posterior, history = fp.fit_posterior(theta, x, prior=task.prior, key=keys[1], progress=False)
    found = {"task": name, "simulations": simulations, "seed": seed, "training_s": time.perf_counter() - began}
    found |= {"best_step": history.best_step, "steps": int(history["step"][-1])}
    rows = [observe(config, task, posterior, number, key=keys[2]) for number in range(1, config.observations + 1)]
    found |= {quantity: [row[quantity] for row in rows] for quantity in rows[0]}
    if config.pairs:
        new = task.simulations(config.pairs, key=keys[3])
        drawn = Drawn(posterior, posterior.sample_each(new[1], DRAWS, key=keys[4]))
        for name, check in (("sbc_p", fp.metrics.sbc), ("tarp_p", fp.metrics.tarp)):
            found[name] = float(np.min(check(drawn, *new, key=keys[4], num_samples=DRAWS).adjusted_p_value))
    return found


def observe(config: Config, task, posterior, number: int, *, key) -> dict:
    """How close the posterior of one observation is to its reference."""
    x, truth, _ = reference(task, number)
    truth = truth[: config.points]
    key_sample, key_test = jax.random.split(jax.random.fold_in(key, number))
    began = time.perf_counter()
    samples = np.asarray(posterior.sample(x, config.points, key=key_sample))
    found = {"sampling_s": time.perf_counter() - began}
    test = fp.metrics.classifier_two_sample_test(samples, truth, classifier="sbibm", key=key_test)
    found["c2st"] = test.accuracy
    if task.normaliser is not None:
        exact, stated = task.log_posterior(truth, x), posterior.log_prob(truth, x)
        found["best_accuracy"] = fp.metrics.bayes_accuracy(exact, stated).value
        found["kl"] = fp.metrics.kl_divergence(exact, stated).value
    return found


def table(records: list[dict]) -> str:
    """One line for each task and number of simulations: means over observations, with the range over seeds."""
    lines = [
        "| task | simulations | seeds | C2ST | published NPE | best classifier | KL, nats | SBC, TARP: p | fit, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    cells = dict.fromkeys((record["task"], record["simulations"]) for record in records)
    for name, simulations in cells:
        runs = [r for r in records if (r["task"], r["simulations"]) == (name, simulations)]

        def shown(quantity, runs=runs, digits=3):
            means = [float(np.mean(run[quantity])) for run in runs if quantity in run]
            if not means:
                return ""
            spread = f" ({min(means):.{digits}f} to {max(means):.{digits}f})" if len(means) > 1 else ""
            return f"{np.mean(means):.{digits}f}{spread}"

        passed = "; ".join(f"{run['sbc_p']:.2g}, {run['tarp_p']:.2g}" for run in runs if "sbc_p" in run)
        published = PUBLISHED[name].get(simulations, "")
        lines.append(
            f"| {name} | {simulations:,} | {len(runs)} | {shown('c2st')} | {published} | {shown('best_accuracy')} | "
            f"{shown('kl')} | {passed} | {shown('training_s', digits=0)} |"
        )
    return "\n".join(lines)


def main() -> None:
    config = tyro.cli(Config)
    if unknown := [name for name in config.tasks if name not in PUBLISHED]:
        raise SystemExit(f"--tasks has {', '.join(unknown)}: choose from {', '.join(PUBLISHED)}")
    kept = KeptRuns(config.output, config, {"tasks", "simulations", "seeds", "output"})
    records = []
    for seed in config.seeds:
        for simulations in config.simulations:
            for name in config.tasks:
                title = f"{name}, {simulations:,} simulations, seed {seed}"
                run = f"{name}_{simulations}_{seed}"
                records.append(kept.record(run, title, lambda one=(name, simulations, seed): measure(config, *one)))
                (config.output / "results.json").write_text(json.dumps(records, indent=1))
                (config.output / "results.md").write_text(table(records) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
