"""An ensemble of flows: the mixture of their densities, trained by one `vmap`."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from .._flow.checks import check_stateless
from .._flow.flow import Flow
from .._labels.stacked import stacked
from .._types import Data, PRNGKey, Scalar, Weights, check_key, checked


class FlowEnsemble(eqx.Module):
    """Flows of equal structure as one model, which [`flowprop.fit`][] trains in one `vmap`.

    Its density is the mixture of those of its members, `p(theta | x) = 1/m sum_i q_i(theta | x)`: where they disagree,
    it is wider than each of them ([Lakshminarayanan et al. 2017](https://arxiv.org/abs/1612.01474)). Give it to
    [`flowprop.Posterior`][] in place of a flow.

    **Arguments:**

    - `flows`: the members. They differ only in the values of their arrays: build them with the same constructor and
      different keys.

    **Raises:** `ValueError` if there is none, if their structures differ, or if their networks have a state, such as
    the statistics of batch normalisation.

    ```python
    import flowprop as fp
    import jax

    def member(key):
        network = fp.nn.MLP((2,), condition_size=3, width=8, depth=1, key=key)
        return fp.fm_flow(network, shape=(2,))

    keys = jax.random.split(jax.random.key(0), 4)
    ensemble = fp.FlowEnsemble([member(key) for key in keys])
    print(len(ensemble.members))  # 4
    theta, x = jax.random.normal(keys[0], (8, 2)), jax.random.normal(keys[1], (8, 3))
    print(ensemble.loss(theta, x, key=keys[2]).shape)  # ()
    ```
    """

    stacked: Flow
    num_members: int = eqx.field(static=True)

    @checked
    def __init__(self, flows: Sequence[Flow]) -> None:
        self.stacked = stacked(flows, "flows")
        self.num_members = len(flows)
        check_stateless(flows[0], "an ensemble")

    @property
    def members(self) -> tuple[Flow, ...]:
        """The flows, each by itself."""
        arrays, rest = eqx.partition(self.stacked, eqx.is_array)
        each = range(self.num_members)
        return tuple(eqx.combine(jax.tree.map(lambda leaf, i=i: leaf[i], arrays), rest) for i in each)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.stacked.shape

    @checked
    def loss(self, z1: Data, x: PyTree = None, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The mean of the members' losses on the same batch, each with times and noise of its own.

        **Arguments:**

        - `z1`: a batch of data, in their own units.
        - `x`: the conditions; each leaf carries the batch axis.
        - `key`: the random key.
        - `weights`: the weights of the examples, `(n,)`. By default 1.

        **Returns:** a scalar.

        **Raises:** the errors of `flowprop.Flow.loss`.
        """
        check_key("key", key)
        keys = jax.random.split(key, self.num_members)
        losses = eqx.filter_vmap(lambda flow, key: flow.loss(z1, x, key=key, weights=weights))(self.stacked, keys)
        return jnp.mean(losses)

    def check_data(self, z1: Data, x: PyTree = None) -> None:
        """Check all data before training: [`flowprop.fit`][] calls this once.

        **Arguments:**

        - `z1`: all data, `(n, *shape)`, in their own units.
        - `x`: all conditions; each leaf carries the batch axis.

        **Raises:** the errors of `flowprop.Flow.check_data`.
        """
        self.members[0].check_data(z1, x)


def members(flow: Flow | FlowEnsemble) -> tuple[Flow, ...]:
    """The flows whose mixture is the density: the members of an ensemble, or the flow itself."""
    return flow.members if isinstance(flow, FlowEnsemble) else (flow,)


def mixture(log_probs: Sequence[Float[Array, " n"]]) -> Float[Array, " n"]:
    """The log-density of the mixture, from those of its members."""
    if len(log_probs) == 1:
        return log_probs[0]
    return jax.nn.logsumexp(jnp.stack(log_probs), axis=0) - jnp.log(float(len(log_probs)))
