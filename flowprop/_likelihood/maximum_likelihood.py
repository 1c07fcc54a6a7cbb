"""Maximum-likelihood training: gradients through the solve."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._batch import example_keys
from .._divergence import AbstractDivergence, HutchinsonDivergence, RademacherProbes
from .._flow.flow import Flow
from .._flow.noise import noise_log_prob
from .._solve import AbstractODEIntegrator, ODEIntegrator
from .._types import Data, Point, PRNGKey, Real, Scalar, Time, Weights, check_number, checked
from .augmented_ode import AugmentedVelocity, State, batched_zero
from .log_prob import validated_data


class MaximumLikelihood(eqx.Module):
    """Training of a flow on its log-likelihood, for example to fine-tune it after flow matching.

    The loss is `mean(-log p(z_1)) + kinetic E int |v|^2 dt + jacobian E int |dv/dz|_F^2 dt`. The last two terms are the
    penalties of [Finlay et al. 2020](https://arxiv.org/abs/2002.02798), eq. 8, along the solve and in path coordinates.
    The squared Frobenius norm is estimated as `|dv/dz e|^2` with one probe `e`. `fp.fit(model, ...)` trains it, and
    `model.flow` is the flow.

    **Arguments:**

    - `flow`: the flow.
    - `kinetic`: the factor of the kinetic penalty, 0 or more. By default 0.
    - `jacobian`: the factor of the Jacobian penalty, 0 or more. By default 0.
    - `divergence`: how to compute the divergence. By default [`flowprop.HutchinsonDivergence`][]`()`.
    - `integrator`: an integrator of ODEs with an adjoint that has reverse-mode gradients. By default
      [`flowprop.ODEIntegrator`][]`()`.

    **Raises:** `ValueError` if `kinetic` or `jacobian` is negative or not finite.

    ```python
    import diffrax as dfx
    import jax
    import flowprop as fp

    key_network, key_data, key_loss = jax.random.split(jax.random.key(0), 3)
    network = fp.nn.MLP(shape=(2,), width=8, key=key_network)
    flow = fp.fm_flow(network, shape=(2,))
    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.25)
    model = fp.MaximumLikelihood(flow, kinetic=0.01, integrator=heun)
    data = jax.random.normal(key_data, (16, 2))
    print(model.loss(data, key=key_loss).shape)  # ()
    ```
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
            check_number(name, factor, at_least=0, remedy="give a factor of 0 or more; 0 means no penalty")
        self.flow = flow
        self.kinetic = float(kinetic)
        self.jacobian = float(jacobian)
        self.divergence = HutchinsonDivergence() if divergence is None else divergence
        self.integrator = ODEIntegrator() if integrator is None else integrator

    @checked
    def loss(self, z1: Data, x: PyTree = None, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """Compute the mean negative log-likelihood of a batch in nats, plus the penalties.

        If the transform is not a bijection, such as [`flowprop.Dequantise`][], the loss draws one of the points that
        represent an example. On average the log-likelihood of this point is a lower bound of that of the example.

        **Arguments:**

        - `z1`: a batch of data in their own units, `(n, *shape)`.
        - `x`: the conditions (context), one for each row; each leaf has the batch axis first. By default none.
        - `key`: the random key of the probes, and of a transform that draws noise.
        - `weights`: weights of the examples, `(n,)`. By default 1.

        **Returns:** the loss, a scalar.

        **Raises:** `ValueError` if `z1` is not a batch of the flow's `shape` or a leaf of `x` has another batch size.
        """
        z1 = validated_data(self.flow, z1, x, key, None)
        start, end = self.flow.span
        alpha = self.flow.path.alpha(jnp.asarray(end, z1.dtype))

        def one(data: Array, x: PyTree, key: PRNGKey) -> Scalar:
            key_divergence, key_penalty = jax.random.split(key)
            z, log_det = self._in_path(data, key)
            augmented = AugmentedVelocity(self.flow, self.divergence, z, key=key_divergence)
            field = _Penalised(
                augmented, RademacherProbes().sample(1, z, key=key_penalty)[0], self.kinetic, self.jacobian
            )
            state = (augmented.start(alpha * z), batched_zero(z))
            (z0, change), penalty = self.integrator.end_point(field, state, self.flow.encode(x), end, start)
            # The solve runs from 1 to 0, so that the integral of the penalty is negative.
            return -(noise_log_prob(self.flow, z0) + change[0] + z.size * jnp.log(alpha) + log_det) - penalty

        losses = jax.vmap(one)(z1, x, example_keys(key, len(z1)))
        return jnp.mean(losses if weights is None else losses * jnp.asarray(weights).astype(losses.dtype))

    def _in_path(self, data: Array, key: PRNGKey) -> tuple[Point, Scalar]:
        """Return a point in path coordinates that represents one example, and its log-determinant."""
        transform = self.flow.transform
        if transform.is_bijective:
            return transform.forward_and_log_det(data)
        z = transform.draw(data, key=jax.random.fold_in(key, 0))
        return z, transform.inverse_and_log_det(z)[1]

    def check_data(self, z1: Data, x: PyTree = None) -> None:
        """Check all data before training; `fp.fit` calls this method.

        **Arguments:**

        - `z1`: all data in their own units, `(n, *shape)`.
        - `x`: the conditions, one for each row. By default none.

        **Raises:** `ValueError` if points have another shape than the flow, or lie outside of the support of its
        transform.

        **Warns:** if the scale of the data is far from 1, and the flow has no transform and starts from gaussian noise.
        """
        self.flow.check_data(z1, x)


class _Penalised(eqx.Module):
    """The augmented velocity, and the rate of the penalties."""

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
