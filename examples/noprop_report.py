"""The tables and the figure of `noprop_table.py`, made from the records of its runs.

`config` is the `Config` of `noprop_table.py`. It names the rows (methods) and columns (embeddings).
"""

import math

import numpy as np

import flowprop as fp


#: The paper's test accuracies in per cent: means over 3 seeds with 5 runs of inference each, without augmentation.
PAPER = {
    "mnist": {
        "backprop": (99.46, 99.43, 99.44),
        "dt": (99.47, 99.49, 99.54),
        "adjoint": (98.62, None, None),
        "ct": (97.84, 97.70, 97.17),
        "fm": (99.21, 99.29, 98.52),
    },
    "cifar10": {
        "backprop": (79.92, 79.30, 79.58),
        "dt": (79.25, 79.12, 80.54),
        "adjoint": (66.78, None, None),
        "ct": (73.35, 71.77, 66.54),
        "fm": (73.14, 73.50, 75.18),
    },
    "cifar100": {
        "backprop": (45.85, 46.57, 47.80),
        "dt": (45.93, 45.19, 46.06),
        "adjoint": (25.03, None, None),
        "ct": (33.66, 33.99, 21.31),
        "fm": (6.38, 31.14, 37.57),
    },
}
NAMES = {
    "ordinary": "ordinary classifier",
    "backprop": "back-propagation",
    "dt": "NoProp-DT",
    "adjoint": "adjoint",
    "ct": "NoProp-CT",
    "fm": "NoProp-FM",
    "df": "NoProp-DF",
}


def summary(records):
    """Mean over seeds of the mean over draws, in per cent, and its standard error over seeds."""
    means = [100 * np.mean(record["accuracies"]) for record in records]
    error = np.std(means, ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return float(np.mean(means)), float(error)


def print_accuracies(config, records):
    """The table, next to the paper's."""
    paper = PAPER.get(config.dataset, {})
    print(f"\nAccuracy in per cent on the {config.measured_on} images of {config.dataset}:", end=" ")
    print("mean over seeds, standard error [the paper's figure]")
    print(f"{'':>20}" + "".join(f"{name:>26}" for name in config.embeddings))
    for method in config.methods:
        cells = []
        for name in config.embeddings:
            rows = [r for r in records if r["method"] == method and r["embedding"] == name]
            if not rows:
                cells.append(f"{'':>26}")
                continue
            mean, error = summary(rows)
            column = ("one-hot", "dim-20", "prototype").index(name)
            published = paper.get(method, (None, None, None))[column]
            spread = f"+- {error:4.2f}" if math.isfinite(error) else "one seed"
            cells.append(f"{mean:>10.2f} {spread:<8} [{'' if published is None else published:>5}]")
        print(f"{NAMES[method]:>20}" + "".join(cells))


def print_checks(config, records):
    """How far to trust the accuracies: a row for each method, over all columns."""
    measures = {
        "draws averaged": ("averaged_accuracy", 100),
        "from noise": ("noise_accuracy", 100),
        "one evaluation": ("one_evaluation_accuracy", 100),
        "evaluations": ("function_evaluations", 1),
        "seconds": ("seconds", 1),
        "memory, MB": ("memory", 1e-6),
    }
    print("\nHow far to trust the accuracies: means over seeds and embeddings")
    print(f"{'':>20}" + "".join(f"{title:>16}" for title in measures))
    for method in config.methods:
        rows = [r for r in records if r["method"] == method]
        if not rows:
            continue
        cells = []
        for name, scale in measures.values():
            values = [row[name] for row in rows if name in row]
            cells.append(f"{scale * np.mean(values):>16.2f}" if values else f"{'':>16}")
        print(f"{NAMES[method]:>20}" + "".join(cells))


def draw_curves(config, records, output):
    """Accuracy against training time, as in the paper's figure 3: mean over seeds, for the first column."""
    curves = {}
    for method in config.methods:
        rows = [r["curve"] for r in records if r["method"] == method and r["embedding"] == config.embeddings[0]]
        if rows:
            curves[NAMES[method]] = np.mean([row[: min(map(len, rows))] for row in rows], axis=0)
    fp.plot.save(fp.plot.accuracy_against_time(curves), output / "accuracy_against_time.png")
