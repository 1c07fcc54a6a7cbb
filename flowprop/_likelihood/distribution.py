"""A flow as a distribution, with the methods that probabilistic programs expect."""

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
    """A flow under one condition as a distribution; [`flowprop.as_distribution`][] makes it.

    The methods work under `jax.jit`, `jax.vmap` and `jax.grad`, and no method changes the object. The methods have the
    names that flowjax uses, and the properties have the names that NumPyro uses, so that samplers and probabilistic
    programs can use them. The log-density is that of [`flowprop.log_prob`][]
    ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8).

    **Arguments:**

    - `flow`: the flow, with its condition given.
    - `divergence`: how the log-density is computed.
    - `integrator`: the integrator of log-densities and samples.
    - `throw`: whether a solve that fails raises an error. If not, its result is NaN.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: 0.1 * z, shape=(2,))
    distribution = fp.as_distribution(flow)
    print(distribution.event_shape, distribution.batch_shape)  # (2,) ()
    print(f"{distribution.log_prob(jnp.zeros(2)):.3f}")  # -2.038
    ```
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
        """Always `()`, because this is a single distribution."""
        return ()

    @checked
    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Shaped[Array, "..."]:
        """Draw points, the same points as [`flowprop.sample`][] with the same key.

        **Arguments:**

        - `key`: a typed key `jax.random.key(seed)`, or an old-style key `jax.random.PRNGKey(seed)`. (NumPyro passes
          old-style keys, also if it was given a typed key.)
        - `sample_shape`: how many points to draw, as a shape. By default `()`, one point.

        **Returns:** points in the units of the data, `(*sample_shape, *shape)`.

        **Raises:** `ValueError` if a size is not positive; `RuntimeError` if a solve fails and `throw` is true.
        """
        points = sample(self.flow, _count(sample_shape), key=_typed(key), integrator=self.integrator, throw=self.throw)
        return points.reshape(*sample_shape, *self.shape)

    @checked
    def log_prob(self, z1: ArrayLike | list | tuple, *, key: PRNGKey | None = None) -> Float[Array, "..."]:
        """Compute the log-density in nats, with [`flowprop.log_prob`][].

        **Arguments:**

        - `z1`: one point in the units of the data, of the distribution's `shape`, or an array of points
          `(*batch, *shape)`.
        - `key`: the random key for a stochastic divergence, and for a transform that draws noise. Otherwise it is not
          needed. By default none.

        **Returns:** a scalar for one point, and log-densities of shape `batch` for an array of points. They are minus
        infinity outside of the support of the flow's transform, and NaN for a point that is not finite.

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
        """Draw points and compute their log-densities in one solve, with [`flowprop.sample_and_log_prob`][].

        **Arguments:**

        - `key`: a typed key `jax.random.key(seed)`, or an old-style key `jax.random.PRNGKey(seed)`. (NumPyro passes
          old-style keys, also if it was given a typed key.)
        - `sample_shape`: how many points to draw, as a shape. By default `()`, one point.

        **Returns:** points in the units of the data, `(*sample_shape, *shape)`, and their log-densities in nats,
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
    """Make a distribution of a flow for use in other libraries: `sample(key, sample_shape)` and `log_prob(z1)`.

    The log-density is that of [`flowprop.log_prob`][] ([Chen et al. 2018](https://arxiv.org/abs/1806.07366), eq. 8).
    A Markov chain sampler, such as NUTS, may try points far away from the data, at which the solve fails. With
    `throw=False` the log-density there is NaN, and the samplers of NumPyro and BlackJAX reject such a step.

    **Arguments:**

    - `flow`: the flow.
    - `x`: the condition (context) of one example, without the batch axis. By default the flow takes no condition.
    - `divergence`: how to compute the divergence. By default [`flowprop.ExactDivergence`][]`()`. A stochastic
      divergence needs `log_prob(z1, key=key)`.
    - `integrator`: an integrator that has a likelihood. It also draws the samples. By default
      [`flowprop.ODEIntegrator`][]`()`.
    - `throw`: whether a solve that fails raises an error. If not, its result is NaN. By default `True`.

    **Returns:** a [`flowprop.FlowDistribution`][].

    **Raises:** `TypeError` for an integrator without a likelihood, such as an SDE; `ValueError` if `x` is given and
    contains no array.

    ```python
    import diffrax as dfx
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: x - 0.5 * z, shape=(2,))
    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    condition = jnp.array([1.0, 2.0])
    distribution = fp.as_distribution(flow, condition, integrator=heun)
    points = distribution.sample(jax.random.key(0), (5, 4))
    print(points.shape)  # (5, 4, 2)
    print(distribution.log_prob(points).shape)  # (5, 4)
    print(jax.grad(distribution.log_prob)(points[0, 0]).shape)  # (2,)
    ```
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
    """Return the axes before `shape`, or raise a `ValueError` if the last axes are not `shape`."""
    batch = have[: len(have) - len(shape)]
    if len(have) < len(shape) or have != (*batch, *shape) or 0 in batch:
        raise ValueError(f"`z1` has shape {have} where {shape} is needed: give one point, or axes of points before it")
    return batch
