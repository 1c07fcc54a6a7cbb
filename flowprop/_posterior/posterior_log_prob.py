"""The log-densities of a posterior with their errors."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._likelihood.estimate_log_prob import LogProbEstimate
from .acceptance import Acceptance


class PosteriorLogProb(eqx.Module):
    """Log-densities of a posterior with estimates of their errors.

    **Fields:**

    - `flow`: the log-densities of the flow with their errors, a [`flowprop.LogProbEstimate`][]. For an ensemble, the
      errors are those of its members' mean.
    - `value`: the log-densities of the posterior in nats, `(n,)`: `flow.value - log(acceptance.value)` within the
      support of the prior, and minus infinity outside.
    - `acceptance`: the probability of the flow within the support, an [`flowprop.Acceptance`][].

    ```python
    import flowprop as fp
    import jax.numpy as jnp

    flow = fp.fm_flow(lambda t, z, x: 0 * z, shape=(1,))  # N(0, 1)
    posterior = fp.Posterior(flow, fp.BoxUniform(-jnp.ones(1), jnp.ones(1)))
    estimate = posterior.estimate_log_prob(jnp.zeros((3, 1)), jnp.zeros(1))
    print(estimate.error.shape)  # (3,)
    ```
    """

    flow: LogProbEstimate
    value: Float[Array, " n"]
    acceptance: Acceptance

    @property
    def error(self) -> Float[Array, " n"]:
        """The errors of probes, solver and acceptance combined, in nats, `(n,)`."""
        return jnp.hypot(self.flow.error, self.acceptance.log_error)
