"""Training of a flow with and without its condition, for classifier-free guidance."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

from .._flow.flow import Flow, check_condition, check_stateless
from .._flow.guide import frozen_condition, null_for
from .._frozen import Frozen
from .._types import Data, PRNGKey, Real, Scalar, Weights, check_key, check_number, checked


class ConditionDropout(eqx.Module):
    """Trains a flow for classifier-free guidance: the condition of a random part of each batch is dropped.

    With probability `rate`, the whole condition of an example is replaced by `null` ([Ho & Salimans
    2022](https://arxiv.org/abs/2207.12598), algorithm 1). So one network learns two flows: that of `p(z | x)` given
    `x`, and that of `p(z)` given `null`. [`flowprop.guide`][] combines them.

    Train this model with [`flowprop.fit`][], and use the `flow` of the model that `fit` returns.

    `null` is not trained. It is an input like any other, and the network learns what it means. For example, for a
    condition that is a class, it can be one more class. If the network has an embedding table of classes, the table
    then needs a row for it.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(2,), condition_size=3, width=16, depth=1, key=jax.random.key(0))
    model = fp.ConditionDropout(fp.fm_flow(net, shape=(2,)), null=jnp.zeros(3), rate=0.1)
    points, classes = jnp.ones((6, 2)), jax.nn.one_hot(jnp.arange(6) % 3, 3)
    loss = model.loss(points, classes, key=jax.random.key(1))  # `fp.fit` minimises this
    guided = fp.guide(model.flow, jnp.zeros(3), 2.0)
    print(loss.shape, guided.shape)  # () (2,)
    ```

    **Arguments:**

    - `flow`: the flow to train.
    - `null`: a condition of one example that stands for "no condition": a PyTree with the structure and shapes of `x`,
      without its batch axis. It is cast to the dtypes of `x`.
    - `rate`: the probability of dropping the condition of an example, in [0, 1].

    **Raises:** `ValueError` if `rate` is outside [0, 1], if `null` has no arrays, if the network of the flow has a
    state, or if the prediction is categorical, since its condition contains the embedding matrix.
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
                "`flow` has a categorical prediction, whose condition `(features, W)` contains the embedding matrix: "
                "drop the features in the encoder that makes them"
            )
        self.flow = flow
        self.null = frozen_condition(null)
        self.rate = rate

    @checked
    def loss(self, z1: Data, x: PyTree, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The training loss: the loss of the flow, with some conditions dropped.

        **Arguments:**

        - `z1`: a batch of data, `(n, *shape)`, in their own units.
        - `x`: the conditions; each leaf has the batch axis.
        - `key`: a typed key, which decides what is dropped, and for the random times and the noise.
        - `weights`: a weight for each example, `(n,)`. By default all are 1.

        **Returns:** a scalar, the mean over the batch of each example's loss times its weight.

        **Raises:** `ValueError` if `z1` has another shape than the flow, if `x` or `weights` has another batch size, or
        if `null` does not match `x` in structure or shapes.
        """
        check_key("key", key)
        check_condition(x, z1.shape[0])
        key_drop, key_loss = jax.random.split(key)
        dropped = jax.random.bernoulli(key_drop, float(self.rate), (z1.shape[0],))

        def replace(dropped: Bool[Array, ""], x: PyTree) -> PyTree:
            return jax.tree.map(lambda null, leaf: jnp.where(dropped, null, leaf), null_for(x, self.null), x)

        return self.flow.loss(z1, jax.vmap(replace)(dropped, x), key=key_loss, weights=weights)

    def check_data(self, z1: Data, x: PyTree) -> None:
        """Check a whole data set, as the flow does. [`flowprop.fit`][] calls this once, before its first step.

        **Arguments:**

        - `z1`: all data, `(n, *shape)`, in their own units.
        - `x`: their conditions; each leaf has the batch axis.
        """
        self.flow.check_data(z1, x)
