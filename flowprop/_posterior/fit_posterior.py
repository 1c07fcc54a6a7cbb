"""The recommended way to learn a posterior from simulations, in one call."""

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree
from tqdm.auto import tqdm

from .._flow.constructors import fm_flow
from .._flow.flow import Flow
from .._flow.network import Network
from .._loss.time_sampling import AbstractTimeSampling, PowerTimeSampling
from .._train.fit import History, fit
from .._transform import AbstractTransform, Bijection, Standardise
from .._types import PRNGKey, Real, check_key, check_number, check_positive, checked
from ..nn import LinearGaussian, ResidualMLP
from .ensemble import FlowEnsemble
from .linear_gaussian import linear_gaussian, standardised
from .posterior import Posterior
from .prior import as_prior


Simulator = Callable[..., PyTree]
#: The linear-gaussian model is fitted for at most this many parameters, and numbers of an observation.
LARGEST = 100, 1000
#: How many simulations run in one call of the device.
_BATCH = 1024


@checked
def fit_posterior(
    theta: Any = None,
    x: PyTree = None,
    *,
    prior: Any,
    simulator: Simulator | None = None,
    budget: int | None = None,
    network: Callable[[PRNGKey], Network] | None = None,
    encoder: Callable[[Any], PyTree] | None = None,
    transform: AbstractTransform | Bijection | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    num_flows: int = 1,
    start: Posterior | None = None,
    steps: int = 10_000,
    batch_size: int = 256,
    learning_rate: Real = 1e-3,
    ema: Real | None = 0.999,
    validation: Real = 0.1,
    patience: int = 10,
    checkpoint: str | Path | None = None,
    key: PRNGKey,
    progress: bool = True,
) -> tuple[Posterior, History]:
    """Learn the posterior of a simulator, from simulations or from the simulator itself.

    The recipe is flow matching of `theta` given `x` ([Wildberger et al. 2023](https://arxiv.org/abs/2305.17161)) with

    - a linear-gaussian model as the beginning: `theta`, in the units below, is regressed on `x` by least squares, and
      the flow learns the difference between the posterior and this model ([`flowprop.nn.LinearGaussian`][]). A narrow
      posterior has the same scale for the flow as a broad one, since the errors of the regression have variance 1 in
      its coordinates;
    - units in which this model describes simulations best that it has not seen: `theta` as it is, between the bounds
      `prior.low` and `prior.high` if there are such ([`flowprop.Bounded`][]), or as its logarithm if it is positive;
      `x` standardised per column, or compressed by `arcsinh` and standardised. A column of `x` that never varies
      becomes 0;
    - a residual network in which time and observation scale and shift every layer, [`flowprop.nn.ResidualMLP`][];
    - more training times near the data, [`flowprop.PowerTimeSampling`][]`(4.)`;
    - Adam, with a learning rate that decays to 0 along a half cosine, and a moving average of the parameters;
    - a part of the simulations held out: the model with the smallest held-out loss is returned, and the training stops
      if that loss has not fallen for `patience` evaluations.

    If `encoder` or `transform` is given, or `theta` has more than 100 numbers or `x` more than 1,000, there is no
    linear-gaussian model, and what is not given is standardised.

    Simulations with NaN or infinity are left out, with a warning that counts them. The posterior is then that of
    simulations that succeed.

    **Arguments:**

    - `theta`: the parameters of the simulations, drawn from the prior, `(n, *shape)`.
    - `x`: the simulations; each leaf has the batch axis first.
    - `prior`: the prior, see [`flowprop.Posterior`][].
    - `simulator`: in place of `theta` and `x`, a function in JAX, `simulator(theta, key=key)`, that returns the
      observation `x` of one `theta`.
    - `budget`: how many simulations to make with `simulator`.
    - `network`: a function from a key to a network, a callable `network(t, z, features)`. By default a
      [`flowprop.nn.ResidualMLP`][] of width 128 with 3 blocks.
    - `encoder`: a callable on one `x` that returns what the network is given, trained along with the flow. By default
      `x` has the shape `(n, k)`, and the units above.
    - `transform`: the map from `theta` to the coordinates of the flow. By default the units above, in which the errors
      of the regression are white. Draws outside of the prior's support are rejected.
    - `time_sampling`: the distribution of training times. By default [`flowprop.PowerTimeSampling`][]`(4.)`.
    - `num_flows`: the number of flows in an ensemble. By default 1, a single flow.
    - `start`: a posterior whose flows are trained further, with their networks, encoders and transforms. By default new
      flows are made.
    - `steps`: the largest number of training steps. By default 10,000.
    - `batch_size`: the number of simulations in each step. By default 256, or all that are trained on if they are
      fewer.
    - `learning_rate`: the initial learning rate. By default 0.001.
    - `ema`: the decay of the moving average of the parameters; `None` for no average. By default 0.999.
    - `validation`: the share of simulations that is held out. By default 0.1.
    - `patience`: after how many evaluations without a smaller held-out loss the training stops. By default 10.
    - `checkpoint`: a folder for the checkpoints of the training, see [`flowprop.fit`][]. The same call continues where
      it stopped; it simulates again. By default nothing is saved.
    - `key`: the random key of simulations, network and training.
    - `progress`: whether to show progress bars.

    **Returns:** the [`flowprop.Posterior`][], and the history of [`flowprop.fit`][] with one more entry,
    `num_dropped`, the number of simulations that were left out.

    **Warns:** if simulations are left out.

    **Raises:** `ValueError` unless either `theta` and `x` or `simulator` and `budget` are given, or if no simulation is
    finite; or if `start` is given together with what makes new flows; `TypeError` if `x` is no array `(n, k)` and
    no `encoder` is given; the errors of [`flowprop.fit`][].

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    def simulator(theta, *, key):
        return theta + 0.1 * jax.random.normal(key, theta.shape)

    prior = fp.BoxUniform(-jnp.ones(2), jnp.ones(2))
    posterior, history = fp.fit_posterior(
        simulator=simulator,
        budget=500,
        prior=prior,
        network=lambda key: fp.nn.ResidualMLP((2,), 2, width=16, depth=1, key=key),
        steps=100,
        key=jax.random.key(0),
        progress=False,
    )
    print(posterior.sample(jnp.zeros(2), 10, key=jax.random.key(1)).shape)  # (10, 2)
    ```
    """
    check_key("key", key)
    check_positive(budget=budget, num_flows=num_flows, steps=steps, batch_size=batch_size)
    check_number("learning_rate", learning_rate, above=0, remedy="give a positive learning rate")
    check_number("validation", validation, above=0, below=1, remedy="give the share of simulations to hold out")
    key_simulations, key_networks, key_fit = jax.random.split(key, 3)
    if (
        (theta is None) != (x is None)
        or (theta is None) == (simulator is None)
        or (simulator is None) != (budget is None)
    ):
        raise ValueError("give either `theta` and `x`, or `simulator` and `budget`")
    if simulator is not None and budget is not None:
        key_theta, key_x = jax.random.split(key_simulations)
        theta = as_prior(prior).sample(key_theta, (budget,))
        x = simulated(simulator, theta, progress, key=key_x)
    theta, x, num_dropped = finite_rows(np.asarray(theta), x)
    made_anew: dict[str, Any] = {
        "network": network,
        "encoder": encoder,
        "transform": transform,
        "time_sampling": time_sampling,
    }
    if start is None:
        flow = _new_flow(theta, x, prior, num_flows, key=key_networks, **made_anew)
    elif given := [name for name, value in made_anew.items() if value is not None]:
        raise ValueError(f"`{given[0]}` and `start` are both given: leave one out, since `start` has its own")
    else:
        flow = start.flow
    flow, history = fit(
        flow,
        (theta, x),
        optax.adam(optax.cosine_decay_schedule(learning_rate, steps)),
        steps=steps,
        batch_size=min(batch_size, int((1 - validation) * len(theta))),
        key=key_fit,
        ema=ema,
        validation=validation,
        patience=patience,
        checkpoint=checkpoint,
        progress=progress,
    )
    history["num_dropped"] = np.asarray(num_dropped)
    return Posterior(flow, prior), history


def _new_flow(
    theta: np.ndarray,
    x: PyTree,
    prior: Any,
    num_flows: int,
    *,
    network: Callable[[PRNGKey], Network] | None,
    encoder: Callable[[Any], PyTree] | None,
    transform: AbstractTransform | Bijection | None,
    time_sampling: AbstractTimeSampling | None,
    key: PRNGKey,
) -> Flow | FlowEnsemble:
    """The untrained flow, or an ensemble."""
    matrix = None
    if encoder is None:
        _check_table(x)
    # It refuses columns that never vary.
    standard = Standardise.fit(theta) if transform is None else None
    if encoder is None:
        if transform is None and _numbers(theta) <= LARGEST[0] and _numbers(x) <= LARGEST[1]:
            encoder, transform, matrix, _ = linear_gaussian(theta, x, as_prior(prior))
        else:
            encoder = standardised(x)
    transform = standard if transform is None else transform
    if network is None:
        features = jax.eval_shape(encoder, jax.tree.map(lambda leaf: jnp.asarray(leaf)[0], x))
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(features))

        def network(key: PRNGKey) -> Network:
            return ResidualMLP(theta.shape[1:], size, key=key)

    def made(key: PRNGKey) -> Network:
        return network(key) if matrix is None else LinearGaussian(network(key), matrix, np.zeros(len(matrix)))

    flows = [
        fm_flow(
            made(own),
            shape=theta.shape[1:],
            time_sampling=PowerTimeSampling(4.0) if time_sampling is None else time_sampling,
            transform=transform,
            encoder=encoder,
        )
        for own in jax.random.split(key, num_flows)
    ]
    return flows[0] if num_flows == 1 else FlowEnsemble(flows)


def _numbers(rows: Array | np.ndarray) -> int:
    return math.prod(rows.shape[1:])


def simulated(simulator: Simulator, theta: Array, progress: bool, *, key: PRNGKey) -> PyTree:
    """A simulation of each row of `theta`."""
    budget = len(theta)
    keys = jax.random.split(key, budget)
    # Filled up to whole batches, so that one program is compiled.
    rows = np.minimum(np.arange(-(-budget // _BATCH) * _BATCH), budget - 1) if budget > _BATCH else np.arange(budget)
    run = jax.jit(jax.vmap(lambda one, key: simulator(one, key=key)))
    parts = []
    with tqdm(total=budget, unit="simulation", disable=not progress) as bar:
        for start in range(0, len(rows), _BATCH):
            chosen = rows[start : start + _BATCH]
            parts.append(jax.tree.map(np.asarray, run(theta[chosen], keys[chosen])))
            bar.update(min(len(chosen), budget - start))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:budget], *parts)


def finite_rows(theta: np.ndarray, x: PyTree) -> tuple[np.ndarray, PyTree, int]:
    """The simulations without NaN and infinity, and how many have them."""
    good = np.ones(len(theta), bool)
    for name, leaf in [("theta", theta), *(("x", leaf) for leaf in jax.tree.leaves(x))]:
        values = np.asarray(leaf)
        if values.shape[:1] != good.shape:
            raise ValueError(f"`{name}` has shape {values.shape} where `theta` has {len(theta)} rows: give pairs")
        if np.issubdtype(values.dtype, np.inexact):
            good &= np.isfinite(values).reshape(len(values), -1).all(axis=1)
    wrong = np.flatnonzero(~good)
    if not wrong.size:
        return theta, x, 0
    if not good.any():
        raise ValueError("`x` has NaN or infinity in all rows: no simulation is left")
    shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
    warnings.warn(
        f"{len(wrong)} of {len(good)} simulations have NaN or infinity (rows {shown}) and are left out: the posterior "
        "is that of simulations that succeed",
        stacklevel=4,
    )
    return theta[good], jax.tree.map(lambda leaf: np.asarray(leaf)[good], x), len(wrong)


def _check_table(x: PyTree) -> None:
    """Raise a `TypeError` unless `x` is a table, for which there is a default encoder."""
    if not isinstance(x, Array | np.ndarray) or x.ndim != 2:
        raise TypeError("`x` is no array of shape (n, k): give an `encoder`, a callable on one `x`")
