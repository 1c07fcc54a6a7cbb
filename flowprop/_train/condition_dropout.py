"""A flow trained with and without its condition, as classifier-free guidance needs it."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._flow.flow import Flow, check_condition, check_stateless
from .._flow.guide import frozen_condition, null_for
from .._frozen import Frozen
from .._types import Data, PRNGKey, Real, Scalar, Weights, check_key, check_number, checked


class ConditionDropout(eqx.Module):
    """Trains one network with and without its condition (Ho & Salimans 2022, algorithm 1).

    Each example's condition is replaced by `null`, all leaves together, with probability `rate`. The
    network then knows the flow of `p(z | x)` and, under `null`, that of `p(z)`: what [`flowprop.guide`][]
    needs. `fit` this model; its `flow` is the trained one.

    `null` is never trained. It is an input like any other, whose meaning the network learns: a spare
    class, say, whose row of an embedding table lies in the network, and there alone.

    **Arguments:**

    - `flow`: the flow to train.
    - `null`: a condition of one example that stands for "none", of the structure and shapes of `x`
      without its batch axis. It is cast to the dtypes of `x`.
    - `rate`: the probability of dropping, in [0, 1].

    **Raises:** `ValueError` for a `rate` outside of [0, 1], a `null` without arrays, or a categorical
    prediction, whose condition holds the embeddings.
    """

    flow: Flow
    null: PyTree[Frozen]
    rate: Real

    @checked
    def __init__(self, flow: Flow, null: PyTree, rate: Real = 0.1) -> None:
        check_number("rate", rate, at_least=0, at_most=1, remedy="give a probability in [0, 1]")
        check_stateless(flow, "ConditionDropout")
        if flow.prediction.takes_embeddings:
            raise ValueError(
                "`flow` has a categorical prediction, whose condition `(features, W)` holds the embeddings: "
                "drop the features where they are made, in the encoder"
            )
        self.flow = flow
        self.null = frozen_condition(null)
        self.rate = rate

    @checked
    def loss(self, z1: Data, x: PyTree, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The flow's loss, with some conditions dropped.

        **Arguments:**

        - `z1`: a batch of data, in their own units.
        - `x`: the conditions; each leaf carries the batch axis.
        - `key`: for what is dropped, and for the flow's loss.
        - `weights`: of the examples, `(n,)`. By default 1.

        **Returns:** a scalar.

        **Raises:** as of `Flow.loss`, and `ValueError` where `null` does not match `x`.
        """
        check_key("key", key)
        check_condition(x, z1.shape[0])
        key_drop, key_loss = jax.random.split(key)
        dropped = jax.random.bernoulli(key_drop, float(self.rate), (z1.shape[0],))

        def replace(dropped: Bool[Array, ""], x: PyTree) -> PyTree:
            return jax.tree.map(lambda null, leaf: jnp.where(dropped, null, leaf), null_for(x, self.null), x)

        return self.flow.loss(z1, jax.vmap(replace)(dropped, x), key=key_loss, weights=weights)

    def check_data(self, z1: Data, x: PyTree) -> None:
        """Look at all data before training: see [`flowprop.Flow`][]."""
        self.flow.check_data(z1, x)
