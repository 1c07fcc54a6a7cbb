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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import tyro


# As a script, or as a module of the installed package `flowprop_examples`.
if __package__:
    from . import density_parts, density_tables
    from .kept_runs import KeptRuns
else:
    import density_parts
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


MEASURE: dict[Part, Callable[..., dict]] = {
    "transport": density_parts.transport,
    "condition": density_parts.condition,
    "likelihood": density_parts.likelihood,
}
RUNS: dict[Part, list[tuple[str, str]]] = {
    "transport": list(density_tables.TRANSPORT),
    "condition": list(density_tables.CONDITION),
    "likelihood": [(task, coupling) for task in density_parts.DENSITIES for coupling in density_parts.COUPLINGS],
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
