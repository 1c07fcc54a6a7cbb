"""`flowprop train` on small tables of scikit-learn, beside a gaussian and a spline flow: run on request.

    python tests/benchmarks/command_tables.py

writes each table as a CSV file, trains with `flowprop train`, all options at their defaults, and measures the
log-likelihood of rows that the command has not seen with `flowprop log-prob`. The spline flow is a masked
autoregressive flow of flowjax with rational-quadratic splines. It gets the training time of flowprop and keeps its
best epoch on held-out rows, as flowprop does. The gaussian has the mean and covariance of all rows that are trained on.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from flowjax.flows import masked_autoregressive_flow
from flowjax.train import fit_to_data
from sklearn.datasets import load_diabetes, load_digits, load_wine


def tables() -> dict[str, np.ndarray]:
    """The tables. Integers get uniform noise below 1, so that they have a density."""
    diabetes = load_diabetes()
    # Sex has two values, and the fourth serum measurement is nearly a fraction of two others, with few values.
    names = [index for index, name in enumerate(diabetes.feature_names) if name not in ("sex", "s4")]
    digits = load_digits().data
    return {
        "wine": load_wine().data,
        "diabetes": diabetes.data[:, names],
        "digits": digits + np.random.default_rng(0).random(digits.shape),
    }


def run_command(*arguments: str) -> None:
    subprocess.run(["flowprop", *arguments], check=True, stdout=subprocess.DEVNULL)


def write_csv(path: Path, rows: np.ndarray) -> None:
    header = ",".join(f"c{index}" for index in range(rows.shape[1]))
    np.savetxt(path, rows, delimiter=",", header=header, comments="")


def flowprop_log_prob(fitted: np.ndarray, tested: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
    """The log-probabilities of test rows by the two commands, and the seconds of the first."""
    with tempfile.TemporaryDirectory() as folder:
        train, test, out = (Path(folder) / name for name in ("train.csv", "test.csv", "log_prob.csv"))
        write_csv(train, fitted)
        write_csv(test, tested)
        began = time.perf_counter()
        options = ("--task", "density", "--test", "0", "--seed", str(seed), "--no-progress")
        run_command("train", str(train), *options, "--output", f"{folder}/model")
        seconds = time.perf_counter() - began
        run_command("log-prob", f"{folder}/model/model.fp", str(test), "--output", str(out))
        return np.genfromtxt(out, delimiter=",", names=True)["log_prob"], seconds


def spline_log_prob(fitted: np.ndarray, tested: np.ndarray, seed: int, budget: float) -> tuple[np.ndarray, float]:
    """The log-probabilities of test rows by the spline flow, trained for at most `budget` seconds, and its seconds."""
    mean, std = fitted.mean(axis=0), fitted.std(axis=0)
    dim = fitted.shape[1]
    key_flow, key_fit = jax.random.split(jax.random.key(seed))
    made = masked_autoregressive_flow(
        key_flow,
        base_dist=Normal(jnp.zeros(dim)),
        transformer=RationalQuadraticSpline(knots=8, interval=4),
        flow_layers=4,
        nn_width=64,
    )
    data = jnp.asarray((fitted - mean) / std, jnp.float32)

    def fit(epochs: int) -> tuple:
        options = {"max_epochs": epochs, "max_patience": 30, "batch_size": 64, "learning_rate": 1e-3}
        began = time.perf_counter()
        flow, _ = fit_to_data(key_fit, made, data, show_progress=False, **options)
        return flow, time.perf_counter() - began

    # Two short fits: the first compiles, the second measures an epoch.
    fit(1)
    epoch = fit(3)[1] / 3
    flow, seconds = fit(max(1, int(budget / epoch)))
    found = flow.log_prob(jnp.asarray((tested - mean) / std, jnp.float32))
    return np.asarray(found) - np.log(std).sum(), seconds


def gaussian_log_prob(fitted: np.ndarray, tested: np.ndarray) -> np.ndarray:
    mean, factor = fitted.mean(axis=0), np.linalg.cholesky(np.cov(fitted.T))
    z = np.linalg.solve(factor, (tested - mean).T)
    return -0.5 * (z**2).sum(axis=0) - np.log(np.diag(factor)).sum() - 0.5 * len(mean) * np.log(2 * np.pi)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the split and the trainings")
    parser.add_argument("--tables", nargs="+", default=list(tables()), help="the tables, by name")
    options = parser.parse_args()
    print("mean log-likelihood of a test row, in nats and in the units of standardised columns; (seconds of training)")
    for name in options.tables:
        rows = tables()[name]
        rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
        for seed in options.seeds:
            order = np.random.default_rng(seed).permutation(len(rows))
            tested, fitted = rows[order[: len(rows) // 5]], rows[order[len(rows) // 5 :]]
            ours, seconds = flowprop_log_prob(fitted, tested, seed)
            theirs, spline_seconds = spline_log_prob(fitted, tested, seed, seconds)
            gaussian = gaussian_log_prob(fitted, tested)
            print(
                f"{name:<9} {rows.shape[1]:>3} columns, {len(fitted):>5} rows, seed {seed}: "
                f"flowprop {ours.mean():8.3f} ({seconds:.0f} s)  spline flow {theirs.mean():8.3f} "
                f"({spline_seconds:.0f} s)  gaussian {gaussian.mean():8.3f}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
