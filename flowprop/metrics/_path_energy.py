"""The energy of a flow's trajectories, compared with optimal transport."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, PyTree

from .._batch import in_batches
from .._devices import compiled, row_sharding
from .._flow.flow import Flow, check_condition
from .._likelihood.augmented_ode import batched_zero
from .._solve import AbstractODEIntegrator, ODEIntegrator
from .._types import Point, Points, Scalar, Time, check_positive, check_shape, checked
from ._samples import check_finite
from ._wasserstein import wasserstein


@checked
def path_energy(
    flow: Flow,
    z0: Points,
    x: PyTree = None,
    *,
    integrator: AbstractODEIntegrator | None = None,
    batch_size: int | None = None,
) -> Float[Array, " batch"]:
    """The energy `int |v(t, z_t)|^2 dt` of the trajectory of each point. Its mean is the path energy of the flow.

    The path energy of a flow between two distributions is at least their squared Wasserstein distance `W2^2`. Only
    optimal transport at constant speed reaches this minimum
    ([Benamou & Brenier 2000](https://doi.org/10.1007/s002110050002), proposition 1.1). The energy is one more state of
    the ODE and is integrated over the span of the flow. If the span ends before t = 1, the rest is left out.

    **Arguments:**

    - `flow`: the flow.
    - `z0`: points at the start of the span, `(n, *shape)`: samples of the flow's source (its base distribution).
    - `x`: the conditions (the context). Each leaf has the batch axis first. By default none.
    - `integrator`: how the ODE is solved. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many points are solved at once. By default 1,024 on a CPU and 16,384 on other devices, but at
      most 2^24 numbers in one batch.

    **Returns:** energies `(n,)`, in squared units of the points.

    **Raises:** `ValueError` if `z0` or `x` has the wrong shape, `z0` is not finite or `batch_size` is not positive.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    flow = fp.fm_flow(lambda t, z, x: jnp.array([3.0, 4.0]), shape=(2,))
    z0 = jax.random.normal(jax.random.key(0), (2, 2))
    energies = fp.metrics.path_energy(flow, z0)
    print([round(float(energy), 3) for energy in energies])  # [25.0, 25.0]
    ```
    """
    z0 = jnp.asarray(z0)
    check_shape("z0", z0, (None, *flow.shape), "a batch axis, then the flow's `shape`")
    check_finite(z0=z0)
    check_condition(x, z0.shape[0])
    check_positive(batch_size=batch_size)
    integrator = ODEIntegrator() if integrator is None else integrator
    return _path_energy(flow, z0, x, integrator, batch_size, rows=row_sharding(flow, z0, x))


class _VelocityAndPower(eqx.Module):
    """The velocity, and its squared length as the derivative of one more state."""

    flow: Flow

    def __call__(self, t: Time, state: tuple[Point, Scalar], x: PyTree) -> tuple[Point, Scalar]:
        velocity = self.flow.estimate(t, state[0], x).velocity
        return velocity, jnp.sum(jnp.square(velocity))


@compiled
def _path_energy(
    flow: Flow,
    z0: Array,
    x: PyTree,
    integrator: AbstractODEIntegrator,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> Array:
    def one(z: Point, x: PyTree) -> Scalar:
        state = (z, batched_zero(z))
        return integrator.end_point(_VelocityAndPower(flow), state, flow.encode(x), *flow.span)[1]

    return in_batches(one, (z0, x), batch_size, rows=rows)


@checked
def normalised_path_energy(
    flow: Flow,
    z0: Points,
    z1: Points,
    x: PyTree = None,
    *,
    integrator: AbstractODEIntegrator | None = None,
    batch_size: int | None = None,
) -> float:
    """The normalised path energy (NPE): the relative difference between the path energy and its minimum.

    `NPE = |PE - W2^2(z0, z1)| / W2^2(z0, z1)` with the path energy `PE = E int |v(t, z_t)|^2 dt`
    ([Tong et al. 2024](https://arxiv.org/abs/2302.00482)). It is 0 for straight paths that never cross, that
    is, for optimal transport from noise to data.

    `W2` is the exact distance between the two samples, from [`flowprop.metrics.wasserstein`][], which also determines
    the memory. It overestimates the distance between the distributions, so compare only values with the same n.

    Both terms are in the coordinates of the path: `z1` is mapped by the transform of the flow, if there is one, and is
    multiplied by `alpha` at the end of the span, which is below 1 on a variance-preserving path.

    **Arguments:**

    - `flow`: the flow.
    - `z0`: points at the start of the span, `(n, *shape)`: samples of the flow's source (its base distribution).
    - `z1`: equally many data points, `(n, *shape)`, in any order.
    - `x`: the conditions (the context) of the points `z0`. Each leaf has the batch axis first. By default none.
    - `integrator`: how the ODE is solved. By default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many points are solved at once. By default 1,024 on a CPU and 16,384 on other devices, but at
      most 2^24 numbers in one batch.

    **Returns:** a number without units, 0 or larger.

    **Raises:** `ValueError` if `z0`, `z1` or `x` has the wrong shape, a point is not finite, `batch_size` is not
    positive, or `z0` and `z1` are the same points; `ImportError` if POT is not installed.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    flow = fp.fm_flow(lambda t, z, x: jnp.array([3.0, 4.0]), shape=(2,))
    z0 = jax.random.normal(jax.random.key(0), (5, 2))
    z1 = z0 + jnp.array([3.0, 4.0])  # a translation is optimal transport
    energy = fp.metrics.normalised_path_energy(flow, z0, z1)
    print(energy < 1e-3)  # True
    ```
    """
    check_finite(z1=z1)
    z1 = jax.vmap(flow.transform.forward)(jnp.asarray(z1))
    energy = float(jnp.mean(path_energy(flow, z0, x, integrator=integrator, batch_size=batch_size)))
    least = wasserstein(z0, float(flow.path.alpha(jnp.asarray(flow.span[1], float))) * z1) ** 2
    if least == 0:
        raise ValueError("`z0` and `z1` are the same points, so the minimum energy is 0: give noise and data")
    return abs(energy - least) / least
