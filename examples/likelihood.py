"""How accurate a log-likelihood is: the errors of the solver and of random traces, and how well they are estimated.

Every flow in this example has a log-likelihood that is known in closed form. Nothing is trained, and every error is
measured directly:

1. the standard deviation of random traces at equal cost, on 64-dimensional flows with rotated Jacobians, which are far
   from diagonal;
2. the error of the solver against its tolerance, next to the error that `fp.estimate_log_prob` reports;
3. the standard error over probes, next to the actual errors.

    python examples/likelihood.py           # about one minute on two cores
    python examples/likelihood.py --long    # about three minutes: the numbers on the results page

With flowprop installed, `flowprop-likelihood` is the same command.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro

import flowprop as fp


@dataclass
class Config:
    """Compare log-likelihoods with their closed forms.

    The default run takes about one minute on two cores.
    """

    long: bool = False
    """Use more draws and more points, for the numbers on the results page."""
    products: tuple[int, ...] | None = None
    """Jacobian-vector products per evaluation, the same for every random trace. Default: 6 24, long: 6 12 24."""
    draws: int | None = None
    """Number of draws of the probes, for each standard deviation. Default: 100, long: 300."""
    tolerances: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    """Tolerances of the solver."""
    points: int | None = None
    """Number of points. Default: 100, long: 500."""
    dim: int = 64
    """Dimension of the flows."""
    seed: int = 0
    """Seed of all random numbers."""
    output: Path | None = None
    """Folder of the figures and of results.json. Default: results/likelihood, long: results/likelihood_long."""


PRESETS: dict[bool, dict] = {
    False: {"products": (6, 24), "draws": 100, "points": 100, "output": Path("results/likelihood")},
    True: {"products": (6, 12, 24), "draws": 300, "points": 500, "output": Path("results/likelihood_long")},
}
TRACES = {
    "Hutchinson, signs": fp.HutchinsonDivergence,
    "Hutchinson, orthogonal": lambda m: fp.HutchinsonDivergence(m, fp.OrthogonalProbes()),
    "Hutch++": fp.HutchPlusPlusDivergence,
    "XTrace": fp.XTraceDivergence,
}


class Linear(eqx.Module):
    """`v = A z`: log p(z) = log N(e^-A z; 0, I) - tr A."""

    matrix: jax.Array

    def __call__(self, t, z, x):
        return self.matrix @ z


class GaussianData(eqx.Module):
    """The velocity of flow matching for data N(0, R diag(l) R^T). Its log p is the one of this gaussian."""

    rotation: jax.Array
    variances: jax.Array

    def __call__(self, t, z, x):
        rates = (t * self.variances - (1 - t)) / (t**2 * self.variances + (1 - t) ** 2)
        return self.rotation @ (rates * (self.rotation.T @ z))

    def log_prob(self, points):
        # In NumPy's double precision, because this is the reference.
        whitened = np.asarray(points, float) @ np.asarray(self.rotation, float) / np.sqrt(np.asarray(self.variances))
        size = np.log(2 * np.pi * np.asarray(self.variances, float)).sum()
        return -0.5 * (np.sum(whitened**2, axis=1) + size)

    def sample(self, n, key):
        return (jax.random.normal(key, (n, len(self.variances))) * jnp.sqrt(self.variances)[None]) @ self.rotation.T


def rotated_flows(dim: int, rotation) -> dict:
    """Two networks with dense Jacobians, by name."""
    order = np.arange(dim)
    matrix = rotation @ np.diag(2.0 * 0.5**order) @ rotation.T
    variances = 1 + 10 / (1.0 + order) ** 2
    return {
        "v = A z, eigenvalues 2^(1 - i)": Linear(jnp.asarray(matrix, jnp.float32)),
        "gaussian data, variances 1 + 10 i^-2": GaussianData(
            jnp.asarray(rotation, jnp.float32), jnp.asarray(variances, jnp.float32)
        ),
    }


def compare_traces(config: Config, name: str, network, key) -> list[dict]:
    """The standard deviation of log p over probes, at one point. It does not depend on the exact value."""
    # Coarse steps suffice: only the error of the trace is measured.
    integrator = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    points = jnp.zeros((config.draws, config.dim))
    flow = fp.fm_flow(network, shape=(config.dim,))
    records = []
    for trace, make in TRACES.items():
        for products in config.products:
            values = fp.log_prob(flow, points, key=key, divergence=make(products), integrator=integrator)
            records.append({"flow": name, "trace": trace, "products": products, "std": float(values.std())})
    return records


def compare_solver(config: Config, network: GaussianData, points) -> list[dict]:
    flow = fp.fm_flow(network, shape=points.shape[1:])
    records = []
    for tolerance in config.tolerances:
        controller = dfx.PIDController(rtol=tolerance, atol=tolerance)
        estimate = fp.estimate_log_prob(flow, points, integrator=fp.ODEIntegrator(stepsize_controller=controller))
        errors = estimate.value - network.log_prob(points)
        records.append(
            {
                "tolerance": tolerance,
                "function_evaluations": float(estimate.function_evaluations.mean()),
                "error": float(np.sqrt(np.mean(errors**2))),
                "stated": float(jnp.sqrt(jnp.mean(estimate.solver_error**2))),
            }
        )
    return records


def compare_probes(config: Config, network: GaussianData, points, key) -> dict:
    flow = fp.fm_flow(network, shape=points.shape[1:])
    estimate = fp.estimate_log_prob(flow, points, key=key, divergence=fp.HutchinsonDivergence(), num_estimates=16)
    ratios = np.abs(estimate.value - network.log_prob(points)) / estimate.error
    return {
        "mean_error": float(jnp.mean(estimate.value - network.log_prob(points))),
        "mean_stated": float(estimate.error.mean()),
        "within_one": float(np.mean(ratios < 1)),
        "within_two": float(np.mean(ratios < 2)),
    }


def main() -> None:
    config = tyro.cli(Config)
    preset = PRESETS[config.long]
    config = replace(config, **{name: value for name, value in preset.items() if getattr(config, name) is None})
    if config.long:
        print("This run takes about three minutes on two cores.", flush=True)
    else:
        print(
            "This run takes about one minute on two cores; use --long for the numbers on the results page.", flush=True
        )
    config.output.mkdir(parents=True, exist_ok=True)
    rotation = np.linalg.qr(np.random.default_rng(config.seed).standard_normal((config.dim, config.dim)))[0]
    key_trace, key_points, key_probes = jax.random.split(jax.random.key(config.seed), 3)
    variances = jnp.asarray(0.1 + 2.0 * 0.9 ** np.arange(config.dim), jnp.float32)
    network = GaussianData(jnp.asarray(rotation, jnp.float32), variances)
    points = network.sample(config.points, key_points)

    traces = []
    for index, (flow, trace_network) in enumerate(rotated_flows(config.dim, rotation).items()):
        rows = compare_traces(config, flow, trace_network, key_trace)
        traces += rows
        print(
            f"\nStandard deviation of log p over probes, in nats: {flow}\n{'products':>26}"
            + "".join(f"{products:>10}" for products in config.products)
        )
        curves = {}
        for name in TRACES:
            line = [record["std"] for record in rows if record["trace"] == name]
            curves[name] = (config.products, line)
            print(f"{name:>26}" + "".join(f"{value:>10.2g}" for value in line))
        figure = fp.plot.error_against_cost(
            curves, cost="Jacobian-vector products", error="standard deviation (nats)", title=flow
        )
        fp.plot.save(figure, config.output / f"traces_{index}.png")
        print(f"saved {config.output / f'traces_{index}.png'}", flush=True)

    solver = compare_solver(config, network, points)
    print("\nExact divergence: root mean square errors, in nats\n  tolerance  evaluations     actual  estimated")
    for row in solver:
        print(
            f"{row['tolerance']:>11.0e}{row['function_evaluations']:>13.1f}{row['error']:>11.2g}{row['stated']:>11.2g}"
        )
    evaluations = [row["function_evaluations"] for row in solver]
    figure = fp.plot.error_against_cost(
        {
            name: (evaluations, [row[name_of] for row in solver])
            for name, name_of in (("actual", "error"), ("estimated", "stated"))
        }
    )
    fp.plot.save(figure, config.output / "solver.png")

    probes = compare_probes(config, network, points, key_probes)
    print(
        f"\n16 probes: the reported standard error is {probes['mean_stated']:.2f} nats on average. "
        f"{probes['within_one']:.0%} of the actual errors are within one standard error, {probes['within_two']:.0%} "
        f"within two. The mean error is {probes['mean_error']:.3f} nats."
    )
    (config.output / "results.json").write_text(
        json.dumps({"traces": traces, "solver": solver, "probes": probes}, indent=1)
    )
    print(f"\nThe figures and results.json are in {config.output}")


if __name__ == "__main__":
    main()
