"""The model of a task, and what a trained model says about rows, in the units of the data."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flowprop as fp

from .settings import Protocol, Task


#: Draws of the noise for the probabilities of classes and for the mean of a regression.
DRAWS = 32


def make_model(
    task: Task, rows: np.ndarray, given: np.ndarray, *, width: int, depth: int, blocks: int, key: Any
) -> Any:
    """An untrained model, standardised by its training rows.

    **Arguments:**

    - `task`: the task.
    - `rows`, `given`: the training rows of the columns that are modelled (or labels), and of those that are given.
    - `width`, `depth`, `blocks`: sizes of the networks.
    - `key`: for the initial weights.
    """
    sizes: dict[str, Any] = {"condition_size": given.shape[1], "width": width, "depth": depth}
    encoder = standardise(given) if given.shape[1] else None
    if task.name == "classify":
        return _classifier(task, encoder, sizes, blocks, key)
    shape = rows.shape[1:]
    network = fp.nn.MLP(shape, key=key, **sizes)
    options: dict[str, Any] = {"shape": shape, "transform": fp.Standardise.fit(rows)}
    if task.name != "regress":
        options["encoder"] = encoder
    match task.protocol:
        case Protocol.FM if encoder is None:
            flow = fp.fm_flow(network, **options)
        case Protocol.FM:
            # The recipe of `fp.fit_density`: more times near the data, and no coupling that ties noise to a condition.
            flow = fp.fm_flow(network, time_sampling=fp.PowerTimeSampling(4.0), **options)
        case Protocol.CT:
            flow = fp.ct_flow(network, prediction=fp.PreconditionedPrediction(data_std=1.0), **options)
        case _:
            flow = fp.df_flow(network, schedule=fp.CosineNoiseSchedule(), **options)
    return fp.Regressor(flow=flow, encoder=encoder) if task.name == "regress" else flow


def _classifier(task: Task, encoder: Any, sizes: dict[str, Any], blocks: int, key: Any) -> Any:
    embedding = fp.one_hot_embedding(task.classes)
    shape = (task.classes,)
    if task.protocol == Protocol.DT:
        networks = [fp.nn.MLP(shape, key=k, **sizes) for k in jax.random.split(key, blocks)]
        return fp.NoPropDT(networks, embedding=embedding, encoder=encoder)
    key_network, key_readout = jax.random.split(key)
    network = fp.nn.MLP(shape, key=key_network, **sizes)
    if task.protocol == Protocol.FM:
        flow = fp.Flow(network, fp.CondOTPath(), fp.CategoricalPrediction(), shape=shape)
    elif task.protocol == Protocol.CT:
        schedule = fp.SigmoidNoiseSchedule(10.0)
        flow = fp.ct_flow(network, shape=shape, schedule=schedule, prediction=fp.CategoricalPrediction())
    else:
        flow = fp.df_flow(network, shape=shape, schedule=fp.CosineNoiseSchedule())
        readout = fp.LinearReadout(shape, task.classes, key=key_readout)
        objective = fp.FlowMatchingObjective()
        return fp.Classifier(flow=flow, embedding=embedding, encoder=encoder, readout=readout, objective=objective)
    return fp.Classifier(flow=flow, embedding=embedding, encoder=encoder)


def standardise(given: np.ndarray) -> fp.Standardise:
    """Columns with mean 0 and standard deviation 1; constant columns become 0."""
    wide = given.astype(np.float64)
    mean, std = wide.mean(axis=0), wide.std(axis=0)
    # Less than the distance of neighbouring float32 numbers is rounding.
    constant = std <= np.spacing(np.abs(given).max(axis=0))
    return fp.Standardise(mean, np.where(constant, 1.0, std))


def fit_data(task: Task, rows: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arguments of the model's loss."""
    return {"density": (rows,), "conditional": (rows, given)}.get(task.name, (given, rows))


def sample(task: Task, model: Any, given: np.ndarray, count: int, *, key: Any) -> np.ndarray:
    """Samples `(count, k)`, or `(rows count, k)` with `count` for each row of `given` in turn."""
    if task.name == "density":
        return np.asarray(fp.sample(model, count, key=key))
    if task.name == "regress":
        return np.asarray(model.sample(given, count, key=key)).reshape(-1, 1)
    repeated = np.repeat(given, count, axis=0)
    return np.asarray(fp.sample(model, len(repeated), repeated, key=key))


def log_prob(task: Task, model: Any, rows: np.ndarray, given: np.ndarray, *, key: Any) -> np.ndarray:
    """The log-likelihood of each row in nats, `(n,)`."""
    match task.name:
        case "density":
            return np.asarray(fp.log_prob(model, rows))
        case "conditional":
            return np.asarray(fp.log_prob(model, rows, given))
        case "regress":
            features = jax.vmap(model.encoder)(jnp.asarray(given))
            return np.asarray(fp.log_prob(model.flow, rows, features))
    return class_log_probs(model, given, key=key)[np.arange(len(rows)), rows]


def class_log_probs(model: Any, given: np.ndarray, *, key: Any) -> np.ndarray:
    """The log-probability of each class, `(n, classes)`. That of a class that no draw reaches is the smallest float."""
    probabilities = np.asarray(model.predict_proba(given, key=key, num_draws=DRAWS))
    return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))


def measure(task: Task, model: Any, rows: np.ndarray, given: np.ndarray, *, key: Any) -> dict[str, float]:
    """How well a model describes rows: the mean log-likelihood, and the accuracy or the error of its predictions."""
    found: dict[str, float] = {"rows": len(rows)}
    if task.name == "classify":
        values = class_log_probs(model, given, key=key)
        found["accuracy"] = float(np.mean(np.argmax(values, axis=1) == rows))
        values = values[np.arange(len(rows)), rows]
    else:
        values = log_prob(task, model, rows, given, key=key)
    if task.name == "regress":
        predicted = np.asarray(model.predict(given, key=key, num_samples=DRAWS))
        found["rmse"] = float(np.sqrt(np.mean((predicted - rows) ** 2)))
    found["log_likelihood"] = float(np.mean(values, dtype=np.float64))
    found["standard_error"] = float(np.std(values, dtype=np.float64) / np.sqrt(len(values)))
    return found


def measure_baseline(
    task: Task, train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]
) -> dict[str, float]:
    """The same for the simplest model: a gaussian, whose mean is linear in what is given; for classes, their shares."""
    rows, given = test
    if task.name == "classify":
        shares = np.bincount(train[0], minlength=task.classes) / len(train[0])
        return {
            "accuracy": float(np.mean(rows == np.argmax(shares))),
            "log_likelihood": float(np.mean(np.log(shares[rows]))),
        }
    # In units of the training rows, for columns of very different scales; the ridge is for dependent columns.
    center, scale = standardise(train[0]), np.log(train[0].astype(np.float64).std(axis=0)).sum()
    known = standardise(train[1]) if given.shape[1] else None

    def units(rows: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = (
            np.ones((len(rows), 1)) if known is None else np.column_stack([np.ones(len(rows)), known.forward(given)])
        )
        return np.asarray(center.forward(rows), np.float64), inputs

    targets, inputs = units(*train)
    slope = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    residuals = targets - inputs @ slope
    covariance = residuals.T @ residuals / len(residuals) + 1e-6 * np.eye(residuals.shape[1])
    targets, inputs = units(rows, given)
    errors = np.linalg.solve(np.linalg.cholesky(covariance), (targets - inputs @ slope).T)
    log_det = np.linalg.slogdet(2 * np.pi * covariance)[1] / 2
    found = {"log_likelihood": float(-(errors**2).sum(axis=0).mean() / 2 - log_det - scale)}
    if task.name == "regress":
        std = train[0].astype(np.float64).std()
        found["rmse"] = float(np.sqrt(np.mean((targets - inputs @ slope) ** 2)) * std)
    return found
