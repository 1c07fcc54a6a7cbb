"""Training through the solve, on the likelihood itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._batch import example_keys
from .._divergence import AbstractDivergence, HutchinsonDivergence, RademacherProbes
from .._flow.flow import Flow
from .._solve import AbstractODEIntegrator, ODEIntegrator
from .._types import Data, Point, PRNGKey, Real, Scalar, Time, Weights, check_number, checked
from .augmented_ode import AugmentedVelocity, State, batched_zero
from .log_prob import validated_data


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
    integrator: AbstractODEIntegrator

    @checked
    def __init__(
        self,
        flow: Flow,
        *,
        kinetic: Real = 0.0,
        jacobian: Real = 0.0,
        divergence: AbstractDivergence | None = None,
        integrator: AbstractODEIntegrator | None = None,
    ) -> None:
        for name, factor in (("kinetic", kinetic), ("jacobian", jacobian)):
            check_number(name, factor, at_least=0, remedy="give the factor of a penalty, 0 for none")
        self.flow = flow
        self.kinetic = float(kinetic)
        self.jacobian = float(jacobian)
        self.divergence = HutchinsonDivergence() if divergence is None else divergence
        self.integrator = ODEIntegrator() if integrator is None else integrator

    @checked
    def loss(self, z1: Data, x: PyTree = None, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The mean negative log-likelihood of a batch in nats, and the penalties.

        A transform that is no bijection contributes one draw of the point that stands for an example, whose likelihood
        bounds that of the example from below, on average.

        **Arguments:**

        - `z1`: a batch of data, in their own units.
        - `x`: the conditions; each leaf carries the batch axis.
        - `key`: for the probes, and for a transform that draws noise.
        - `weights`: of the examples, `(n,)`. By default 1.

        **Returns:** a scalar.

        **Raises:** `ValueError` if `z1` is not a batch of the flow's `shape` or a leaf of `x` has another batch size.
        """
        z1 = validated_data(self.flow, z1, x, key, None)
        start, end = self.flow.span
        alpha = self.flow.path.alpha(jnp.asarray(end, z1.dtype))

        def one(data: Point, x: PyTree, key: PRNGKey) -> Scalar:
            key_divergence, key_penalty = jax.random.split(key)
            z, log_det = self._in_path(data, key)
            augmented = AugmentedVelocity(self.flow, self.divergence, z, key=key_divergence)
            field = _Penalised(
                augmented, RademacherProbes().sample(1, z, key=key_penalty)[0], self.kinetic, self.jacobian
            )
            state = (augmented.start(alpha * z), batched_zero(z))
            (z0, change), penalty = self.integrator.end_point(field, state, self.flow.encode(x), end, start)
            # Integrated from 1 to 0, what adds up is negative.
            return -(self.flow.noise_log_prob(z0) + change[0] + z.size * jnp.log(alpha) + log_det) - penalty

        losses = jax.vmap(one)(z1, x, example_keys(key, len(z1)))
        return jnp.mean(losses if weights is None else losses * jnp.asarray(weights).astype(losses.dtype))

    def _in_path(self, data: Array, key: PRNGKey) -> tuple[Point, Scalar]:
        """A point of the path's coordinates that stands for one example, and the volume that comes with it."""
        transform = self.flow.transform
        if transform.is_bijective:
            return transform.forward_and_log_det(data)
        z = transform.draw(data, key=jax.random.fold_in(key, 0))
        return z, transform.inverse_and_log_det(z)[1]

    def check_data(self, z1: Data, x: PyTree = None) -> None:
        """Look at all data before training: see [`flowprop.Flow`][]."""
        self.flow.check_data(z1, x)


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
