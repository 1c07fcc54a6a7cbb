"""Regression by a flow of targets: from noise to a real-valued vector, given the input."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._batch import example_keys, in_batches
from ._flow import Flow
from ._solve import AbstractIntegrator, ODEIntegrator, transport
from ._types import Inputs, Points, PRNGKey, Scalar, check_key, check_positive, check_shape, checked


class Regressor(eqx.Module):
    """Predicts a real-valued target, and how uncertain it is, by a flow given the input.

    What [`flowprop.Classifier`][] is for labels: the input is encoded once, and the flow moves in the
    space of targets, whose distribution `p(y | x)` it learns whole. The mean of its samples estimates
    `E[y | x]`; `fp.log_prob(regressor.flow, y, features)` is a density of targets.

    Targets should be of about unit scale, that of the noise: standardise them first.

    **Arguments:**

    - `flow`: of the targets' shape. Its network is given the features as condition.
    - `encoder`: a callable on one input, returning the features. By default the input itself.
    """

    encoder: Callable[[Any], PyTree]
    flow: Flow

    @checked
    def __init__(self, *, flow: Flow, encoder: Callable[[Any], PyTree] | None = None) -> None:
        self.encoder = eqx.nn.Identity() if encoder is None else encoder
        self.flow = flow

    @checked
    def loss(self, inputs: Inputs, targets: Points, *, key: PRNGKey) -> Scalar:
        """The simulation-free training loss, [`flowprop.Flow.loss`][] given the encoded inputs.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes.
        - `targets`: a batch of the flow's `shape`.
        - `key`: for times and noise.

        **Returns:** a scalar.

        **Raises:** `ValueError` if there are not as many targets as inputs.
        """
        inputs, targets = jnp.asarray(inputs), jnp.asarray(targets)
        check_shape("targets", targets, (inputs.shape[0], *self.flow.shape), "one of the flow's `shape` for each input")
        return self.flow.loss(targets, jax.vmap(self.encoder)(inputs), key=key)

    @checked
    def sample(
        self,
        inputs: Inputs,
        num_samples: int,
        *,
        key: PRNGKey,
        integrator: AbstractIntegrator | None = None,
        batch_size: int = 500,
    ) -> Float[Array, "batch samples *shape"]:
        """Samples of `p(y | x)` for each input.

        **Arguments:**

        - `inputs`: a batch of what the encoder takes. Each is encoded once.
        - `num_samples`: for each input.
        - `key`: for the noise; an input's samples do not depend on its batch.
        - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.
        - `batch_size`: how many inputs are in memory at once.

        **Returns:** `(n, num_samples, *shape)`.

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
        batch_size: int = 500,
    ) -> Float[Array, "batch *shape"]:
        """The mean of `num_samples` samples for each input, `(n, *shape)`. Arguments as of `sample`."""
        samples = self.sample(inputs, num_samples, key=key, integrator=integrator, batch_size=batch_size)
        return jnp.mean(samples, axis=1)


@eqx.filter_jit
def _sample(
    regressor: Regressor,
    inputs: Array,
    key: PRNGKey,
    integrator: AbstractIntegrator,
    num_samples: int,
    batch_size: int,
) -> Array:
    flow = regressor.flow

    def one(example: Array, key: PRNGKey) -> Array:
        features = regressor.encoder(example)

        def draw(key: PRNGKey) -> Array:
            key_noise, key_path = jax.random.split(key)
            return transport(flow, flow.draw_noise(key=key_noise), features, integrator, key_path)

        return jax.vmap(draw)(example_keys(key, num_samples))

    return in_batches(one, (inputs, example_keys(key, inputs.shape[0])), batch_size)
