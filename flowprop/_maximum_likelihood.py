"""Training through the solve, on the likelihood itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._augmented import AugmentedVelocity, State, nothing
from ._batch import example_keys
from ._divergence import AbstractDivergence, HutchinsonDivergence, RademacherProbes
from ._flow import Flow
from ._log_prob import checked_data
from ._solve import ODEIntegrator
from ._types import Point, Points, PRNGKey, Real, Scalar, Time, checked


class MaximumLikelihood(eqx.Module):
    """A flow that is trained on its own log-likelihood: fine-tuning, after training without simulation.

    The loss is `mean(-log p(z_1)) + kinetic E int |v|^2 dt + jacobian E int |dv/dz|_F^2 dt`, the penalties of
    Finlay et al. (2020, eq. 8) along the solve, in path coordinates; the Frobenius norm is `E |dv/dz e|^2` with one
    probe `e`. `model.flow` is the flow.

    **Arguments:**

    - `flow`: the flow.
    - `kinetic`, `jacobian`: the factors of the penalties. By default 0.
    - `divergence`: by default [`flowprop.HutchinsonDivergence`][]`()`.
    - `integrator`: an ODE's, with an adjoint that can be differentiated in reverse. By default
      [`flowprop.ODEIntegrator`][]`()`.

    **Raises:** `ValueError` for a negative factor.
    """

    flow: Flow
    kinetic: float = eqx.field(static=True)
    jacobian: float = eqx.field(static=True)
    divergence: AbstractDivergence
    integrator: ODEIntegrator

    @checked
    def __init__(
        self,
        flow: Flow,
        *,
        kinetic: Real = 0.0,
        jacobian: Real = 0.0,
        divergence: AbstractDivergence | None = None,
        integrator: ODEIntegrator | None = None,
    ) -> None:
        for name, factor in (("kinetic", kinetic), ("jacobian", jacobian)):
            if factor < 0:
                raise ValueError(f"`{name}` is {factor}: give the factor of a penalty, 0 for none")
        self.flow = flow
        self.kinetic = float(kinetic)
        self.jacobian = float(jacobian)
        self.divergence = HutchinsonDivergence() if divergence is None else divergence
        self.integrator = ODEIntegrator() if integrator is None else integrator

    @checked
    def loss(self, z1: Points, x: PyTree = None, *, key: PRNGKey) -> Scalar:
        """The mean negative log-likelihood of a batch in nats, and the penalties.

        **Arguments:** as of [`flowprop.Flow.loss`][].

        **Returns:** a scalar.

        **Raises:** `ValueError` if `z1` is not a batch of the flow's `shape` or a leaf of `x` has another batch size.
        """
        z1 = checked_data(self.flow, z1, x, key, None)
        start, end = self.flow.span
        alpha = self.flow.path.alpha(jnp.asarray(end, z1.dtype))

        def one(z: Point, x: PyTree, key: PRNGKey) -> Scalar:
            key_divergence, key_penalty = jax.random.split(key)
            augmented = AugmentedVelocity(self.flow, self.divergence, z, key=key_divergence)
            field = _Penalised(
                augmented, RademacherProbes().sample(1, z, key=key_penalty)[0], self.kinetic, self.jacobian
            )
            state = (augmented.start(alpha * z), nothing(z))
            (z0, change), penalty = self.integrator.end_point(field, state, x, end, start)
            # Integrated from 1 to 0, what adds up is negative.
            return -(self.flow.noise_log_prob(z0) + change[0] + z.size * jnp.log(alpha)) - penalty

        return jnp.mean(jax.vmap(one)(z1, x, example_keys(key, len(z1))))


class _Penalised(eqx.Module):
    """The augmented velocity, and what a path costs."""

    augmented: AugmentedVelocity
    probe: Point
    kinetic: float = eqx.field(static=True)
    jacobian: float = eqx.field(static=True)

    def __call__(self, t: Time, state: tuple[State, Scalar], x: PyTree) -> tuple[State, Scalar]:
        change = self.augmented(t, state[0], x)
        cost = self.kinetic * jnp.sum(jnp.square(change[0]))
        if self.jacobian > 0:
            cost += self.jacobian * jnp.sum(jnp.square(self._product(t, state[0][0], x)))
        return change, cost

    def _product(self, t: Time, z: Point, x: PyTree) -> Array:
        return jax.jvp(lambda z: self.augmented.flow.estimate(t, z, x).velocity, (z,), (self.probe,))[1]
