"""The recommended way to fit a density, in one call."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from jaxtyping import PyTree

from .._flow.constructors import fm_flow
from .._flow.flow import Flow, Network
from .._loss.coupling import IndependentCoupling, OTCoupling
from .._loss.time_sampling import AbstractTimeSampling, PowerTimeSampling, StratifiedTimeSampling
from .._transform import AbstractTransform, Bijection, Standardise
from .._types import PRNGKey, Real, check_key, check_number, checked
from .fit import History, fit


@checked
def fit_density(
    network: Network,
    points: Any,
    x: PyTree = None,
    *,
    steps: int = 5000,
    batch_size: int = 256,
    learning_rate: Real = 4e-3,
    ema: Real = 0.995,
    transform: AbstractTransform | Bijection | None = None,
    encoder: Callable[[Any], PyTree] | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    key: PRNGKey,
    progress: bool = True,
) -> tuple[Flow, History]:
    """Trains a flow as a density, or a conditional density, of points, by the recipe that did best in our measurements.

    The recipe is flow matching ([Lipman et al. 2023](https://arxiv.org/abs/2210.02747)) with

    - each column of the points standardised, as a part of the flow;
    - noise and points paired by optimal transport within each batch, if there is no condition
      ([Tong et al. 2024](https://arxiv.org/abs/2302.00482));
    - with a condition, more training times near the data: the evidence lower bound weights the error of a velocity on
      the straight path by `t / (1 - t)` ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), eq. 17);
    - Adam, with a learning rate that decays to 0 along a half cosine;
    - an exponential moving average of the parameters.

    Each part is an argument of [`flowprop.fm_flow`][] or [`flowprop.fit`][]: use these to change the recipe.

    The times were chosen by held-out log-likelihood (3,000 steps of 256, one seed). Without a condition, uniform times
    were as good as any: short of the truth by 0.079, 0.025 and 0.289 nats (pinwheel, two moons, checkerboard), and with
    exponent 2 by 0.084, 0.023 and 0.319. With a condition, exponent 4 gained 0.31 nats on a narrow posterior in two
    dimensions and lost 0.11 on a broad one in ten: for those, give `time_sampling=fp.StratifiedTimeSampling()`.

    ```python
    import flowprop as fp
    import jax

    key_data, key_network, key_fit = jax.random.split(jax.random.key(0), 3)
    points, _ = fp.data.two_moons(1000, key=key_data)
    network = fp.nn.MLP(shape=(2,), width=32, depth=2, key=key_network)
    flow, history = fp.fit_density(network, points, steps=50, key=key_fit, progress=False)
    print(history["loss"].shape)  # (50,)
    ```

    **Arguments:**

    - `network`: a callable `network(t, z, x)` on one example, such as [`flowprop.nn.MLP`][]`(shape=(2,), key=key)`.
    - `points`: the data, `(n, *shape)`, in their own units.
    - `x`: the condition of each point; each leaf carries the batch axis. By default there is no condition.
    - `steps`: the number of training steps.
    - `batch_size`: the number of points in each step, at most `n`.
    - `learning_rate`: the initial learning rate.
    - `ema`: the decay of the moving average of the parameters, between 0 and 1.
    - `transform`: the map from the units of the data to the coordinates of the flow. By default
      [`flowprop.Standardise.fit`][flowprop.Standardise]`(points)`.
    - `encoder`: a callable on one condition that returns what the network is given, trained along with the flow. By
      default an array of floats `(n, k)` is standardised, and any other condition goes to the network as it is.
    - `time_sampling`: the distribution of training times. By default [`flowprop.PowerTimeSampling`][]`(4.)` with a
      condition, and stratified uniform times without.
    - `key`: a typed key for the order of the data, the times and the noise. The same key gives the same result.
    - `progress`: whether to show a progress bar.

    **Returns:** the trained flow, and the history of [`flowprop.fit`][].

    **Raises:** the errors of [`flowprop.fit`][] and of [`flowprop.Standardise.fit`][flowprop.Standardise].
    """
    check_key("key", key)
    check_number("learning_rate", learning_rate, above=0, remedy="give a positive learning rate")
    conditional = bool(jax.tree.leaves(x))
    if time_sampling is None:
        time_sampling = PowerTimeSampling(4.0) if conditional else StratifiedTimeSampling()
    flow = fm_flow(
        network,
        shape=tuple(np.shape(points)[1:]),
        time_sampling=time_sampling,
        # With a condition, optimal transport would tie the noise to the condition.
        coupling=IndependentCoupling() if conditional else OTCoupling(),
        transform=Standardise.fit(points) if transform is None else transform,
        encoder=_standardised(x) if encoder is None else encoder,
    )
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))
    data = (points, x) if conditional else (points,)
    return fit(flow, data, optimiser, steps=steps, batch_size=batch_size, key=key, ema=ema, progress=progress)


def _standardised(x: PyTree) -> Standardise | None:
    """The encoder of conditions that are vectors of measured numbers; `None` for any other condition."""
    if not isinstance(x, jax.Array | np.ndarray) or x.ndim != 2 or not np.issubdtype(x.dtype, np.floating):
        return None
    numbers = np.asarray(x)
    # Columns that are constant have no scale, and a rare class of one-hot vectors would become a large number.
    if np.any(np.ptp(numbers, axis=0) == 0) or np.all((numbers == 0) | (numbers == 1)):
        return None
    return Standardise.fit(numbers)
