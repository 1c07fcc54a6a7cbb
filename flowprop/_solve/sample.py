"""Samples of a flow: noise that is integrated to data."""

import math

import jax
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, PyTree, Shaped

from .._batch import example_keys, in_batches, in_buckets
from .._devices import compiled, draw_sharding, on_devices_of
from .._flow.checks import check_draws
from .._flow.flow import Flow
from .._rows import is_finite, nan_unless, settled, zeros_unless
from .._types import Point, PRNGKey, checked
from .integrator import AbstractIntegrator, forward_mode_explained
from .ode import ODEIntegrator
from .solve import solve_to_data


@checked
def sample(
    flow: Flow,
    num_samples: int,
    x: PyTree = None,
    *,
    key: PRNGKey,
    integrator: AbstractIntegrator | None = None,
    batch_size: int | None = None,
    throw: bool = True,
    out_sharding: NamedSharding | None = None,
) -> Shaped[Array, "num_samples *shape"]:
    """Draw samples from a flow: draw noise and integrate it to data.

    A sample is `z(1) / alpha(1)` with the flow's transform inverted, where `z(t)` solves `dz/dt = v(t, z, x)`
    ([Song et al. 2021](https://arxiv.org/abs/2011.13456), eq. 13), or the SDE of the integrator, from noise `z(0)`. If
    the flow's span ends before time 1, one evaluation of the target completes the path. Each sample has a key and a
    solve of its own, so the first samples do not depend on how many are drawn.

    **Arguments:**

    - `flow`: the flow.
    - `num_samples`: how many samples to draw.
    - `x`: the conditions (context), one for each sample; each leaf has the batch axis first. A sample whose condition
      contains NaN or infinity is NaN. For many samples under one condition, use [`flowprop.given`][]`(flow, x)` and
      omit this argument. By default none.
    - `key`: the random key of the noise, and of the random numbers in the solve.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`. An [`flowprop.SDEIntegrator`][] draws from the same
      distribution.
    - `batch_size`: how many examples a device solves at once. By default 1,024 on a CPU and 16,384 elsewhere, or fewer
      large ones, so that their states hold at most 2^24 numbers.
    - `throw`: whether a solve that fails raises an error. If not, its row is NaN. By default `True`.
    - `out_sharding`: how the samples are spread over devices: a `NamedSharding` that splits their first axis, such as
      `NamedSharding(mesh, PartitionSpec("rows"))`. Each device then draws its own samples. By default as `x` is spread.

    **Returns:** samples in the units of the data, `(num_samples, *shape)`.

    **Raises:** `ValueError` if a leaf of `x` has another batch size, if `num_samples` or `batch_size` is not positive,
    or if `out_sharding` cannot split the samples; `RuntimeError` if a solve fails and `throw` is true.

    ```python
    import diffrax as dfx
    import jax
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    samples = fp.sample(flow, 5, key=jax.random.key(0))
    print(samples.shape)  # (5, 2)
    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    same = fp.sample(flow, 5, key=jax.random.key(0), integrator=heun)
    print(abs(samples - same).max() < 1e-3)  # True
    ```
    """
    integrator = ODEIntegrator() if integrator is None else integrator
    check_draws("num_samples", num_samples, x, key, batch_size)
    rows, key = draw_sharding("num_samples", num_samples, flow, x, out_sharding), on_devices_of(out_sharding, key)

    def compute(count: int, x: PyTree) -> tuple[Array, Array]:
        return _sample(flow, count, x, key, integrator, batch_size, rows=rows)

    with forward_mode_explained():
        values, failed = in_buckets(compute, num_samples, (x,), rows, flow, key)
    return settled(values, failed, throw=throw)


@compiled
def _sample(
    flow: Flow,
    num_samples: int,
    x: PyTree,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> tuple[Array, Array]:
    def one(key: PRNGKey, x: PyTree) -> tuple[Point, Bool[Array, ""]]:
        key_noise, key_path = jax.random.split(key)
        good = is_finite(x)
        z = flow.draw_noise(key=key_noise)
        value, succeeded = solve_to_data(flow, z, zeros_unless(good, x), integrator, key_path)
        return nan_unless(good, value), ~succeeded

    numbers = math.prod(flow.shape)
    return in_batches(one, (example_keys(key, num_samples), x), batch_size, numbers_per_example=numbers, rows=rows)
