"""Training of a flow on given pairs of noise and data: reflow and distillation."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._flow.flow import Flow, check_stateless
from .._loss.coupling import AbstractCoupling
from .._types import Data, PRNGKey, Scalar, Weights, check_shape, checked


#: Checked by `check_shape`, which says what to do.
Batch = Float[Array | np.ndarray, "..."]


class PairedFlow(eqx.Module):
    """Trains a flow on given pairs of noise and data, instead of random pairs.

    - **Reflow** (rectified flow, [Liu, Gong & Liu 2023](https://arxiv.org/abs/2209.03003)): train on the pairs that
      [`flowprop.reflow_pairs`][] makes with a trained flow. The new flow has straighter paths, so its ODE needs fewer
      steps.
    - **Distillation**: give the flow `time_sampling=fp.GridTimeSampling(k)` in addition. It is then trained only at the
      times that `k` steps of Euler's method evaluate; with `k = 1`, one evaluation makes a sample.
    - Any other pairs that belong together, for example images and their degraded versions.

    Train this model with `fp.fit(fp.PairedFlow(flow), (z0, z1), ...)`, and use the `flow` of the model that `fit`
    returns.

    ```python
    import diffrax as dfx
    import flowprop as fp
    import jax

    net = fp.nn.MLP(shape=(2,), width=16, depth=1, key=jax.random.key(0))
    flow = fp.fm_flow(net, shape=(2,))  # in practice a trained one
    euler = fp.ODEIntegrator(dfx.Euler(), dt0=0.25)
    z0, z1 = fp.reflow_pairs(flow, 8, key=jax.random.key(1), integrator=euler)
    loss = fp.PairedFlow(flow).loss(z0, z1, key=jax.random.key(2))  # `fp.fit` minimises this
    print(z0.shape, z1.shape, loss.shape)  # (8, 2) (8, 2) ()
    ```

    **Arguments:**

    - `flow`: the flow to train. Its own source and coupling are not used in training.

    **Raises:** `ValueError` if the network of the flow has a state.
    """

    flow: Flow

    def __check_init__(self) -> None:
        check_stateless(self.flow, "PairedFlow")

    def check_data(self, z0: Batch, z1: Data, x: PyTree = None) -> None:
        """Check a whole data set, as the flow does. [`flowprop.fit`][] calls this once, before its first step.

        **Arguments:**

        - `z0`: all noise. It is not looked at.
        - `z1`: all data, `(n, *shape)`, in their own units.
        - `x`: the conditions, if any; each leaf has the batch axis.
        """
        self.flow.check_data(z1, x)

    @checked
    def loss(self, z0: Batch, z1: Data, x: PyTree = None, *, key: PRNGKey, weights: Weights | None = None) -> Scalar:
        """The training loss: the loss of the flow on a batch of pairs.

        **Arguments:**

        - `z0`: a batch of noise, `(n, *shape)`, in path coordinates.
        - `z1`: the data paired with it, row by row, `(n, *shape)`, in their own units.
        - `x`: the conditions, if any; each leaf has the batch axis.
        - `key`: a typed key for the random times.
        - `weights`: a weight for each pair, `(n,)`. By default all are 1.

        **Returns:** a scalar, the mean over the batch of each pair's loss times its weight.

        **Raises:** `ValueError` if `z0` and `z1` are not batches of the same size and of the flow's `shape`.
        """
        check_shape("z0", z0, z1.shape, "one row of noise for each row of `z1`")
        return dataclasses.replace(self.flow, coupling=_Given(jnp.asarray(z0))).loss(z1, x, key=key, weights=weights)


class _Given(AbstractCoupling):
    """A coupling that returns given noise, whatever noise the flow has drawn."""

    noise: Float[Array, "batch *shape"]

    def pair(self, z0: Array, z1: Array, x: PyTree, *, key: PRNGKey) -> Array:
        return self.noise.astype(z1.dtype)
