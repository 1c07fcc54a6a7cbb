"""Regression by a flow of targets: from noise to a real-valued vector, given the input."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from .._checked import described
from .._flow.flow import Flow, check_stateless
from .._solve import AbstractIntegrator, ODEIntegrator, solve_to_data
from .._types import Inputs, PRNGKey, Scalar, Weights, check_key, check_positive, check_shape, checked
from .draws import over_draws
from .labelled import check_weights


#: Of any type that the flow's transform takes; `_check_targets` checks their shape.
Targets = Shaped[Array | np.ndarray, "..."]


class Regressor(eqx.Module):
    """Predicts a real-valued target, and how uncertain it is, by a flow given the input.

    It is to vectors what [`flowprop.Classifier`][] is to labels: the input is encoded once, and the flow moves in the
    space of targets, whose whole distribution `p(y | x)` it learns. The mean of its samples estimates
    `E[y | x]`; `fp.log_prob(regressor.flow, y, features)` is the log-density of targets.

    Targets should be of about unit scale, the noise's. Otherwise give the flow a transform, such as
    `fp.Standardise.fit(targets)`: samples then have the targets' units.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(2,), condition_size=3, key=jax.random.key(0))
    regressor = fp.Regressor(flow=fp.fm_flow(net, shape=(2,)))
    inputs, targets = jnp.ones((5, 3)), jnp.zeros((5, 2))
    loss = regressor.loss(inputs, targets, key=jax.random.key(1))  # what `fp.fit` minimises
    samples = regressor.sample(inputs, 10, key=jax.random.key(2))  # (5, 10, 2)
    ```

    **Arguments:**

    - `flow`: a flow of the targets' shape. Its network is given the features as condition. Training draws noise from
      its source and pairs it by its coupling, whose condition is the features.
    - `encoder`: a callable on one input, which returns the features. By default the input itself.

    **Raises:** `ValueError` if the flow's network has a state.
    """

    encoder: Callable[[Any], PyTree]
    flow: Flow

    @checked
    def __init__(self, *, flow: Flow, encoder: Callable[[Any], PyTree] | None = None) -> None:
        check_stateless(flow, "a regressor")
        self.encoder = eqx.nn.Identity() if encoder is None else encoder
        self.flow = flow

    @checked
    def check_data(self, inputs: Inputs, targets: Targets) -> None:
        """Check a whole data set before training; `fp.fit` calls this once, before its first step.

        **Arguments:**

        - `inputs`: all inputs, `(n, ...)`.
        - `targets`: their targets, `(n, *shape)`.

        **Raises:** `ValueError` if there are not as many targets as inputs, one has another shape, or one is outside of
        the support of the flow's transform.

        **Warns:** of targets far from unit scale, if the flow has no transform and starts from gaussian noise.
        """
        self._check_targets(inputs, targets)
        self.flow.check_data(targets, inputs)

    @checked
    def loss(self, inputs: Inputs, targets: Targets, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The simulation-free training loss, [`flowprop.Flow.loss`][] given the encoded inputs.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `targets`: a batch of the flow's `shape`.
        - `key`: a typed key for times and noise.
        - `weights`: a weight for each example, `(n,)`; of mean 1 they keep the loss's scale. By default 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** `ValueError` if there are not as many targets or weights as inputs, a target has another shape, or a
        weight is negative or not finite.
        """
        self._check_targets(inputs, targets)
        weights = check_weights(weights, inputs.shape[0])
        features = jax.vmap(self.encoder)(jnp.asarray(inputs))
        return self.flow.loss(jnp.asarray(targets), features, key=key, weights=weights)

    def _check_targets(self, inputs: Inputs, targets: Targets) -> None:
        check_shape("targets", targets, (inputs.shape[0], *self.flow.shape), "one of the flow's `shape` for each input")
        if self.flow.transform.is_identity and not jnp.issubdtype(targets.dtype, jnp.floating):
            raise TypeError(f"`targets` is {described(targets)}: give floating-point numbers, `.astype(float)`")

    @checked
    def sample(
        self,
        inputs: Inputs,
        num_samples: int,
        *,
        key: PRNGKey,
        integrator: AbstractIntegrator | None = None,
        batch_size: int | None = None,
    ) -> Shaped[Array, "batch samples *shape"]:
        """Samples of `p(y | x)` for each input.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. Each input is encoded once.
        - `num_samples`: how many samples for each input.
        - `key`: a typed key for the noise; an input's samples do not depend on its batch.
        - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
        - `batch_size`: how many inputs are solved at once, each with its samples. By default as many as make 1024
          samples.

        **Returns:** `(n, num_samples, *shape)`. The samples of an input that is not finite are NaN, and a sample
        whose solve fails is; the others are not affected.

        **Raises:** `ValueError` if `num_samples` or `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(num_samples=num_samples, batch_size=batch_size)
        integrator = ODEIntegrator() if integrator is None else integrator
        return _sample(self, jnp.asarray(inputs), key, integrator, num_samples, batch_size)

    @checked
    def predict(
        self,
        inputs: Inputs,
        *,
        key: PRNGKey,
        integrator: AbstractIntegrator | None = None,
        num_samples: int = 32,
        batch_size: int | None = None,
    ) -> Float[Array, "batch *shape"]:
        """The mean of some samples for each input, an estimate of `E[y | x]`.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. Each input is encoded once.
        - `key`: a typed key for the noise; an input's result does not depend on its batch.
        - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
        - `num_samples`: how many samples for each input.
        - `batch_size`: how many inputs are solved at once, each with its samples. By default as many as make 1024
          samples.

        **Returns:** `(n, *shape)`. A row is NaN if the solve of one of its samples fails.

        **Raises:** `ValueError` if `num_samples` or `batch_size` is not positive.
        """
        samples = self.sample(inputs, num_samples, key=key, integrator=integrator, batch_size=batch_size)
        return jnp.mean(samples, axis=1)


@eqx.filter_jit
def _sample(
    regressor: Regressor,
    inputs: Array,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    num_samples: int,
    batch_size: int | None,
) -> Array:
    flow = regressor.flow

    def draw(features: PyTree, key: PRNGKey) -> tuple[Array, Bool[Array, ""]]:
        key_noise, key_path = jax.random.split(key)
        return solve_to_data(flow, flow.draw_noise(key=key_noise), features, integrator, key_path)

    def all_of(draws: Array) -> Array:
        return draws

    return over_draws(regressor.encoder, draw, all_of, inputs, key, num_samples, batch_size)
