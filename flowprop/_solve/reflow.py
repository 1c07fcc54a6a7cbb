"""Pairs of noise and the data that a flow makes of it."""

import math

import jax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PyTree

from .._batch import example_keys, in_batches
from .._devices import compiled, row_sharding
from .._flow.checks import check_draws
from .._flow.flow import Flow
from .._flow.noise import noise_std
from .._rows import settled
from .._types import Point, PRNGKey, checked
from .integrator import AbstractIntegrator, AbstractODEIntegrator
from .ode import ODEIntegrator
from .solve import solve_to_data


Pairs = tuple[Float[Array, "pairs *shape"], Float[Array, "pairs *shape"]]


@checked
def reflow_pairs(
    flow: Flow,
    num_pairs: int,
    x: PyTree = None,
    *,
    key: PRNGKey,
    integrator: AbstractODEIntegrator | None = None,
    batch_size: int | None = None,
) -> Pairs:
    """Draw noise and solve the ODE of a flow from it to data: the pairs on which [`flowprop.PairedFlow`][] trains.

    `z_1 = z_0 + int_0^1 v(t, z_t, x) dt`, the pairs of reflow
    ([Liu, Gong & Liu 2023](https://arxiv.org/abs/2209.03003), algorithm 1).

    **Arguments:**

    - `flow`: the flow.
    - `num_pairs`: how many pairs to draw.
    - `x`: the conditions (context), one for each pair; each leaf has the batch axis first. By default none.
    - `key`: the random key of the noise. The data are the samples of [`flowprop.sample`][] with the same key.
    - `integrator`: an integrator of ODEs. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many examples a device solves at once. By default 1,024 on a CPU and 16,384 elsewhere, or fewer
      large ones, so that their states hold at most 2^24 numbers.

    **Returns:** `(z0, z1)`, each `(num_pairs, *shape)`: noise of the flow's source (base distribution) in path
    coordinates, and data in their own units.

    **Raises:** `ValueError` if a leaf of `x` has another batch size, or if `num_pairs` or `batch_size` is not positive;
    `RuntimeError` if a solve fails.

    ```python
    import diffrax as dfx
    import jax
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    z0, z1 = fp.reflow_pairs(flow, 4, key=jax.random.key(0), integrator=heun)
    print(z0.shape, z1.shape)  # (4, 2) (4, 2)
    print(f"{(z1 / z0).mean():.3f}")  # 1.105
    ```
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    check_draws("num_pairs", num_pairs, x, key, batch_size)
    z0, z1, failed = _reflow_pairs(flow, num_pairs, x, key, integrator, batch_size, rows=row_sharding(flow, x))
    return z0, settled(z1, failed, throw=True)


@compiled
def _reflow_pairs(
    flow: Flow,
    num_pairs: int,
    x: PyTree,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> tuple[Array, Array, Array]:
    def one(key: PRNGKey, x: PyTree) -> tuple[Point, Array, Bool[Array, ""]]:
        key_noise, _ = jax.random.split(key)
        z = flow.draw_noise(key=key_noise)
        data, succeeded = solve_to_data(flow, z, x, integrator, None)
        return z / noise_std(flow), data, ~succeeded

    numbers = math.prod(flow.shape)
    return in_batches(one, (example_keys(key, num_pairs), x), batch_size, numbers_per_example=numbers, rows=rows)
