"""How far a flow's trajectories are from optimal transport."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._batch import compiled, in_batches
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
    """The energy `int |v(t, z_t)|^2 dt` of each point's trajectory, whose mean is the flow's path energy.

    No flow between two distributions has less than their `W2^2` (Benamou & Brenier 2000), and only optimal transport
    at constant speed has that. The energy is integrated as one more state of the flow's own ODE, over its span: where
    that ends before 1, the last stretch is left out.

    **Arguments:**

    - `flow`: the flow.
    - `z0`: points at the start of the span, `(n, *shape)`: a draw from the flow's source.
    - `x`: the conditions; each leaf carries the batch axis.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
    - `batch_size`: how many are solved at once. By default 1,024 on a CPU and 16,384 elsewhere, or fewer large ones:
      at most 2^24 numbers in all of them.

    **Returns:** energies `(n,)`, in squared units of the points.

    **Raises:** `ValueError` if `z0` or `x` has the wrong shape, `z0` is not finite or `batch_size` is not positive.
    """
    z0 = jnp.asarray(z0)
    check_shape("z0", z0, (None, *flow.shape), "a batch axis, then the flow's `shape`")
    check_finite(z0=z0)
    check_condition(x, z0.shape[0])
    check_positive(batch_size=batch_size)
    return _path_energy(flow, z0, x, ODEIntegrator() if integrator is None else integrator, batch_size)


class _VelocityAndPower(eqx.Module):
    """The velocity, with its squared length for one more state."""

    flow: Flow

    def __call__(self, t: Time, state: tuple[Point, Scalar], x: PyTree) -> tuple[Point, Scalar]:
        velocity = self.flow.estimate(t, state[0], x).velocity
        return velocity, jnp.sum(jnp.square(velocity))


@compiled
def _path_energy(flow: Flow, z0: Array, x: PyTree, integrator: AbstractODEIntegrator, batch_size: int | None) -> Array:
    def one(z: Point, x: PyTree) -> Scalar:
        state = (z, batched_zero(z))
        return integrator.end_point(_VelocityAndPower(flow), state, flow.encode(x), *flow.span)[1]

    return in_batches(one, (z0, x), batch_size)


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
    """How much more energy a flow spends than optimal transport between source and data would, as a share of that.

    `NPE = |PE - W2^2(z0, z1)| / W2^2(z0, z1)` with the path energy `PE = E int |v(t, z_t)|^2 dt` (Tong et al. 2024,
    arXiv:2302.00482): 0 for straight paths that never cross. `W2` is that of the two samples, exact as by
    [`flowprop.metrics.wasserstein`][], with its memory; as an estimate of the distributions' it is too large, so that
    values are to be compared at one n.

    Both are taken in the path's coordinates: `z1` goes through the flow's transform, if there is one, and on a
    variance-preserving path it is multiplied by its last `alpha`.

    **Arguments:** as of [`flowprop.metrics.path_energy`][], and

    - `z1`: as many points of the data, `(n, *shape)`, in any order.

    **Returns:** a number without units, 0 or larger.

    **Raises:** `ValueError` if `z0`, `z1` or `x` has the wrong shape, a point is not finite, or `z0` and `z1` are the
    same points.
    """
    check_finite(z1=z1)
    z1 = jax.vmap(flow.transform.forward)(jnp.asarray(z1))
    energy = float(jnp.mean(path_energy(flow, z0, x, integrator=integrator, batch_size=batch_size)))
    least = wasserstein(z0, float(flow.path.alpha(jnp.asarray(flow.span[1], float))) * z1) ** 2
    if least == 0:
        raise ValueError("`z0` and `z1` are the same points, between which no energy is needed: give source and data")
    return abs(energy - least) / least
