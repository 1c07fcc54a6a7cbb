"""The tables of `density_2d.py`: the results of its runs, next to the published ones.

Each function prints some rows `(task, coupling)`. `rows_of(task, coupling)` returns the records of all seeds of a row.
"""

import numpy as np


#: [SF]2M, table 2: W2 and normalised path energy. The paper does not state the number of points. The code that was
#: given for the distances in the path energies uses 10,000 test points (issue 140 of the repository).
TRANSPORT = {
    ("N -> 8 gaussians", "independent"): (0.373, 0.202),
    ("N -> 8 gaussians", "ot"): (0.303, 0.031),
    ("moons -> 8 gaussians", "independent"): (1.557, 2.680),
    ("moons -> 8 gaussians", "ot"): (0.601, 0.015),
    ("N -> moons", "independent"): (0.178, 0.891),
    ("N -> moons", "ot"): (0.130, 0.083),
    ("N -> s-curve", "independent"): (0.242, 0.856),
    ("N -> s-curve", "ot"): (0.144, 0.027),
}
#: C2OT, figure 1: squares of W2 of 10,000 points, by an adaptive solver and by one step of Euler's method.
CONDITION = {
    ("none", "independent"): (0.120, 6.232),
    ("none", "ot"): (0.050, 0.072),
    ("moon", "independent"): (0.059, 2.573),
    ("moon", "ot"): (0.462, 0.483),
    ("moon", "aware"): (0.018, 0.048),
    ("coordinate", "independent"): (0.028, 0.732),
    ("coordinate", "ot"): (2.143, 8.276),
    ("coordinate", "aware"): (0.013, 0.077),
}


def cell(values) -> str:
    """Mean and standard deviation over seeds."""
    spread = f"{np.std(values, ddof=1):.3f}" if len(values) > 1 else "    -"
    return f"{np.mean(values):>8.3f} +- {spread}"


def print_transport(runs, rows_of):
    print(
        "\nW2 and normalised path energy: mean and standard deviation over seeds [published]. Floor: of two data sets"
    )
    for task, coupling in runs:
        if rows := rows_of(task, coupling):
            w2, npe, floor = ([row[name] for row in rows] for name in ("w2", "npe", "floor"))
            published_w2, published_npe = TRANSPORT[task, coupling]
            print(
                f"{task:>22} {coupling:>12}{cell(w2)} [{published_w2:.3f}]"
                f"{cell(npe)} [{published_npe:.3f}]   floor{cell(floor)}"
            )


def print_condition(runs, rows_of):
    print(
        "\n8 gaussians -> moons: W2 squared, by an adaptive solver and by one step [published]. Floor: of two data sets"
    )
    for task, coupling in runs:
        if rows := rows_of(task, coupling):
            w2, euler, floor = ([row[name] ** 2 for row in rows] for name in ("w2", "one_step_w2", "floor"))
            adaptive, one_step = CONDITION[task, coupling]
            print(
                f"{'given ' + task:>22} {coupling:>12}{cell(w2)} [{adaptive:.3f}]"
                f"{cell(euler)} [{one_step:.3f}]   floor{cell(floor)}"
            )


def print_likelihood(runs, rows_of):
    print("\nMean log-likelihood of new points in nats: of the flow, of the true density, and the difference")
    for task, coupling in runs:
        if rows := rows_of(task, coupling):
            own, true = ([row[name] for row in rows] for name in ("log_prob", "true_log_prob"))
            print(f"{task:>22} {coupling:>12}{cell(own)}{cell(true)}{cell(np.subtract(true, own))}")


PRINT = {"transport": print_transport, "condition": print_condition, "likelihood": print_likelihood}
