"""A regressor whose flow carries noise to a target, given the input."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from .._batch import in_buckets
from .._checked import described
from .._devices import compiled, row_sharding
from .._flow.flow import Flow, check_stateless
from .._solve import AbstractIntegrator, ODEIntegrator, solve_to_data
from .._types import Inputs, PRNGKey, Scalar, Weights, check_key, check_positive, check_shape, checked
from .draws import over_draws
from .labelled import check_weights


#: Targets of any type that the flow's transform takes. `_check_targets` checks their shape.
Targets = Shaped[Array | np.ndarray, "..."]


class Regressor(eqx.Module):
    """Predicts the distribution of a real-valued target given an input (conditional density estimation).

    It is the counterpart of [`flowprop.Classifier`][] for vectors. The encoder is called once for each input. Its
    features are the condition (context) of a flow from noise to targets. The flow learns the whole distribution
    `p(y | x)`, so the spread of its samples shows how uncertain a prediction is. The mean of the samples estimates
    `E[y | x]`, and `fp.log_prob(regressor.flow, y, features)` is the log-density of targets in nats.

    The targets should have about unit scale, like the noise. Otherwise give the flow a transform, such as
    `fp.Standardise.fit(targets)`. The samples then have the units of the targets.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(2,), condition_size=3, width=16, depth=1, key=jax.random.key(0))
    regressor = fp.Regressor(flow=fp.fm_flow(net, shape=(2,)))
    inputs, targets = jnp.ones((5, 3)), jnp.zeros((5, 2))
    loss = regressor.loss(inputs, targets, key=jax.random.key(1))  # `fp.fit` minimises this
    samples = regressor.sample(inputs, 10, key=jax.random.key(2))
    print(samples.shape, samples.mean(axis=1).shape)  # (5, 10, 2) (5, 2)
    ```

    **Arguments:**

    - `flow`: a flow of the targets' shape. Its condition (context) is the features. Training draws noise from the
      flow's source (base distribution). The flow's coupling (minibatch pairing) pairs noise with targets; the
      coupling's condition is the features.
    - `encoder`: a callable on one input that returns its features: an array, or a PyTree of arrays. It is trained along
      with the flow. By default the features are the input itself.

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
        """Check a whole data set. [`flowprop.fit`][] calls this once, before its first step.

        **Arguments:**

        - `inputs`: all inputs, `(n, ...)`.
        - `targets`: the target of each input, `(n, *shape)`, with the flow's `shape`.

        **Raises:** `ValueError` if there are not as many targets as inputs, if a target has another shape, or if one is
        outside the support of the flow's transform.

        **Warns:** about targets far from unit scale, if the flow has no transform and starts from gaussian noise.
        """
        self._check_targets(inputs, targets)
        self.flow.check_data(targets, inputs)

    @checked
    def loss(self, inputs: Inputs, targets: Targets, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The training loss: [`flowprop.Flow.loss`][] of the targets, given the features. It needs no solve.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `targets`: the target of each input, `(n, *shape)`, with the flow's `shape`.
        - `key`: a typed key for the random times and the noise.
        - `weights`: a weight for each example, `(n,)`. Weights of mean 1 keep the scale of the loss. By default all
          are 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** `ValueError` if there are not as many targets or weights as inputs, if a target has another shape,
        or if a weight is negative or not finite.
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
        """Draws samples of `p(y | x)` for each input.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. The encoder is called once for each input.
        - `num_samples`: the number of samples for each input.
        - `key`: a typed key for the noise. The samples for an input depend on the key and on its position, not on the
          other inputs.
        - `integrator`: how the flow is solved. By default [`flowprop.ODEIntegrator`][]`()`.
        - `batch_size`: how many inputs are solved at once, each with its samples. By default as many as give 1024
          samples.

        **Returns:** samples `(n, num_samples, *shape)`, in the units of the targets. All samples for an input that is
        not finite are NaN. A sample whose solve fails is NaN. The others are not affected.

        **Raises:** `ValueError` if `num_samples` or `batch_size` is not positive.
        """
        check_key("key", key)
        check_positive(num_samples=num_samples, batch_size=batch_size)
        integrator = ODEIntegrator() if integrator is None else integrator
        inputs = jnp.asarray(inputs)
        rows = row_sharding(self, inputs)

        def compute(_: int, inputs: Array) -> Array:
            return _sample(self, inputs, key, integrator, num_samples, batch_size, rows=rows)

        return in_buckets(compute, inputs.shape[0], (inputs,), rows, self, key)

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
        """The mean of the samples for each input: an estimate of `E[y | x]`.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. The encoder is called once for each input.
        - `key`: a typed key for the noise. The result for an input depends on the key and on its position, not on the
          other inputs.
        - `integrator`: how the flow is solved. By default [`flowprop.ODEIntegrator`][]`()`.
        - `num_samples`: the number of samples for each input.
        - `batch_size`: how many inputs are solved at once, each with its samples. By default as many as give 1024
          samples.

        **Returns:** means `(n, *shape)`. A row is NaN if its input is not finite, or if the solve of one of its samples
        fails.

        **Raises:** `ValueError` if `num_samples` or `batch_size` is not positive.
        """
        samples = self.sample(inputs, num_samples, key=key, integrator=integrator, batch_size=batch_size)
        return jnp.mean(samples, axis=1)


@compiled
def _sample(
    regressor: Regressor,
    inputs: Array,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    num_samples: int,
    batch_size: int | None,
    *,
    rows: NamedSharding | None,
) -> Array:
    flow = regressor.flow

    def draw(features: PyTree, key: PRNGKey) -> tuple[Array, Bool[Array, ""]]:
        key_noise, key_path = jax.random.split(key)
        return solve_to_data(flow, flow.draw_noise(key=key_noise), features, integrator, key_path)

    def all_of(draws: Array) -> Array:
        return draws

    return over_draws(regressor.encoder, draw, all_of, inputs, key, num_samples, batch_size, rows)
