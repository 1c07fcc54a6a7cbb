"""A flow as a distribution, by the names that probabilistic programs expect."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.flow import Flow
from .._flow.given import given
from .._solve import AbstractIntegrator, AbstractODEIntegrator
from .._solve.sample import sample
from .._types import PRNGKey, check_key, checked
from .log_prob import likelihood_integrator, log_prob
from .sample_and_log_prob import sample_and_log_prob


class FlowDistribution(eqx.Module):
    """A flow under one condition as a distribution, made by [`flowprop.as_distribution`][].

    Its methods work under `jax.jit`, `jax.vmap` and `jax.grad`, and no method changes the object. The methods have
    flowjax's names and NumPyro's properties, so that samplers and probabilistic programs can use them.
    """

    flow: Flow
    divergence: AbstractDivergence
    integrator: AbstractODEIntegrator
    throw: bool = eqx.field(static=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one point."""
        return self.flow.shape

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The same as `shape`."""
        return self.flow.shape

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """`()`: this is one distribution."""
        return ()

    @checked
    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Shaped[Array, "..."]:
        """Draw points: those of [`flowprop.sample`][] under the same key.

        **Arguments:**

        - `key`: one typed key, or one old-style key `jax.random.PRNGKey(seed)`, which NumPyro makes from either.
        - `sample_shape`: how many points, as a shape. By default one point.

        **Returns:** points in the data's units, `(*sample_shape, *shape)`.

        **Raises:** `ValueError` if a size is not positive; `RuntimeError` if a solve fails and `throw` is true.
        """
        points = sample(self.flow, _count(sample_shape), key=_typed(key), integrator=self.integrator, throw=self.throw)
        return points.reshape(*sample_shape, *self.shape)

    @checked
    def log_prob(self, z1: ArrayLike | list | tuple, *, key: PRNGKey | None = None) -> Float[Array, "..."]:
        """The log-density, in nats: that of [`flowprop.log_prob`][].

        **Arguments:**

        - `z1`: one point in the data's units, of the distribution's `shape`, or an array of points
          `(*batch, *shape)`.
        - `key`: for a stochastic divergence, and for a transform that draws noise. Otherwise it is not needed.

        **Returns:** a scalar for one point, and `batch` log-densities for an array of points. Minus infinity outside
        of the support of the flow's transform; NaN for a point that is not finite.

        **Raises:** `ValueError` if the last axes of `z1` are not `shape`, or if a key is needed and missing;
        `RuntimeError` if a solve fails and `throw` is true.
        """
        points = z1 if isinstance(z1, np.ndarray) else jnp.asarray(z1)
        batch = _batch_shape(points.shape, self.shape)
        rows = points.reshape(-1, *self.shape)
        values = log_prob(
            self.flow, rows, key=key, divergence=self.divergence, integrator=self.integrator, throw=self.throw
        )
        return values.reshape(batch)

    @checked
    def sample_and_log_prob(
        self, key: Any, sample_shape: tuple[int, ...] = ()
    ) -> tuple[Shaped[Array, "..."], Float[Array, "..."]]:
        """Draw points and compute their log-densities in one solve, by [`flowprop.sample_and_log_prob`][].

        **Arguments:**

        - `key`: one typed key, or one old-style key `jax.random.PRNGKey(seed)`, which NumPyro makes from either.
        - `sample_shape`: how many points, as a shape. By default one point.

        **Returns:** points in the data's units, `(*sample_shape, *shape)`, and their log-densities in nats,
        `sample_shape`.

        **Raises:** `ValueError` if a size is not positive; `RuntimeError` if a solve fails and `throw` is true.
        """
        points, values = sample_and_log_prob(
            self.flow,
            _count(sample_shape),
            key=_typed(key),
            divergence=self.divergence,
            integrator=self.integrator,
            throw=self.throw,
        )
        return points.reshape(*sample_shape, *self.shape), values.reshape(sample_shape)


@checked
def as_distribution(
    flow: Flow,
    x: PyTree = None,
    *,
    divergence: AbstractDivergence | None = None,
    integrator: AbstractIntegrator | None = None,
    throw: bool = True,
) -> FlowDistribution:
    """The flow as a distribution, to be used in other libraries: `sample(key, sample_shape)` and `log_prob(z1)`.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    network = fp.nn.MLP(shape=(2,), condition_size=3, width=16, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,))
    distribution = fp.as_distribution(flow, jnp.array([0.1, 0.2, 0.3]))
    points = distribution.sample(jax.random.key(1), (5, 4))  # (5, 4, 2)
    log_density = distribution.log_prob(points)  # (5, 4)
    gradient = jax.grad(distribution.log_prob)(points[0, 0])  # (2,)
    ```

    A sampler that walks, such as NUTS, may try points far away from the data, at which the solve fails. With
    `throw=False` the log-density there is NaN, and the samplers of NumPyro and BlackJAX reject such a step.

    **Arguments:**

    - `flow`: the flow.
    - `x`: the condition of one example, without the batch axis. By default the flow takes no condition.
    - `divergence`: how the log-density is computed. By default [`flowprop.ExactDivergence`][]`()`. A stochastic
      divergence needs `log_prob(z1, key=key)`.
    - `integrator`: an integrator that has a likelihood. By default [`flowprop.ODEIntegrator`][]`()`. It is also used to
      draw samples.
    - `throw`: whether a solve that fails is an error. Otherwise its result is NaN.

    **Returns:** a [`flowprop.FlowDistribution`][].

    **Raises:** `TypeError` for an SDE, which has no likelihood; `ValueError` if `x` is given and holds no array.
    """
    return FlowDistribution(
        flow if x is None else given(flow, x),
        ExactDivergence() if divergence is None else divergence,
        likelihood_integrator(integrator),
        throw,
    )


def _typed(key: Any) -> PRNGKey:
    old_style = isinstance(key, jax.Array | np.ndarray) and key.dtype == jnp.uint32 and key.ndim == 1
    key = jax.random.wrap_key_data(jnp.asarray(key)) if old_style else key
    check_key("key", key)
    return key


def _count(sample_shape: tuple[int, ...]) -> int:
    if any(size < 1 for size in sample_shape):
        raise ValueError(f"`sample_shape` is {sample_shape}: give positive sizes, or `()` for one point")
    return math.prod(sample_shape)


def _batch_shape(have: tuple[int, ...], shape: tuple[int, ...]) -> tuple[Any, ...]:
    """The axes in front of `shape`."""
    batch = have[: len(have) - len(shape)]
    if len(have) < len(shape) or have != (*batch, *shape) or 0 in batch:
        raise ValueError(
            f"`z1` has shape {have} where {shape} is needed: one point, or one or more axes of points in front of it"
        )
    return batch
