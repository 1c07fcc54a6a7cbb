"""A flow: a network, the path that it was trained on, and what its output means."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._loss.coupling import AbstractCoupling, IndependentCoupling
from .._loss.time_sampling import AbstractTimeSampling, StratifiedTimeSampling
from .._loss.weighting import AbstractWeighting, UniformWeighting
from .._path.early_stop import EarlyStopPrediction
from .._path.path import AbstractPath, Estimate
from .._path.prediction import AbstractPrediction
from .._path.source import AbstractSource, GaussianSource
from .._transform import AbstractTransform, Bijection, IdentityTransform, as_transform
from .._types import (
    Data,
    Point,
    PRNGKey,
    Real,
    Scalar,
    Time,
    Times,
    Weights,
    check_key,
    check_shape,
    checked,
)
from .checks import (
    check_condition as check_condition,
    check_floating,
    check_parts,
    check_stateless as check_stateless,
    refuse_if,
    warn_of_scale,
)
from .network import Network as Network, call_network, checked_output, network_dtype, network_has_state
from .noise import check_gaussian, noise_std
from .training import sample_times, schedule_term, training_output, with_fixed_path


class Flow(eqx.Module):
    """A flow carries noise `z_0` at `t = 0` to data `z_1` at `t = 1`, given a condition `x` (also called context).

    On the path `z_t = alpha(t) z_1 + sigma(t) z_0` the velocity of the probability-flow ODE is
    `v = alpha'(t) E[z_1 | z_t, x] + sigma'(t) E[z_0 | z_t, x]`
    ([Lipman et al. 2023](https://arxiv.org/abs/2210.02747), eq. 9;
    [Song et al. 2021](https://arxiv.org/abs/2011.13456), eq. 13). The network estimates one of the two expectations or
    `v` itself; the others follow from it.

    `velocity`, `target`, `noise`, `score` and `error` take one example, in the path's coordinates: use `jax.vmap` for
    more. `loss` takes a batch in the data's units. `diffrax.ODETerm(flow.velocity)` works as it is.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    network = fp.nn.MLP(shape=(2,), width=16, depth=2, key=jax.random.key(0))
    flow = fp.Flow(network, fp.CondOTPath(), fp.VelocityPrediction(), shape=(2,))
    print(flow.velocity(0.5, jnp.zeros(2)).shape)  # (2,)
    print(flow.loss(jnp.ones((8, 2)), key=jax.random.key(1)).shape)  # ()
    ```

    **Arguments:**

    - `network`: a callable `network(t, z, x)` on one example. It returns an array of `z`'s shape,
      or logits for a [`flowprop.CategoricalPrediction`][]. A network that takes `key=`, for example for dropout, gets a
      key in training and none in use. Wrap a network with an `equinox.nn.State` in [`flowprop.nn.Stateful`][].
    - `path`: how noise and data mix at time `t`.
    - `prediction`: what the network's output means: target (x0-prediction), noise (epsilon) or velocity.
    - `shape`: the shape of one example.
    - `weighting`: the loss weight at each time. By default 1.
    - `time_sampling`: the distribution of training times. By default stratified and uniform over the span.
    - `source`: the distribution of `z_0` (base distribution). By default `N(0, I)`. Any other needs a path that begins
      with noise alone, `alpha(0) = 0` and `sigma(0) = 1`.
    - `coupling`: how noise and data are paired in a training batch. By default independently.
    - `transform`: an invertible map from the data's units to the path's coordinates, such as
      [`flowprop.Standardise.fit`][flowprop.Standardise]`(points)`, or any bijection with flowjax's methods. Training,
      samples and likelihoods are then in the data's units. By default none.
    - `encoder`: a callable on one condition; the network gets its result in place of the condition. It is trained
      together with the network, and called once for a solve, not at each step. By default none.
    - `end`: a time in (0, 1) at which the flow stops early. Training and solves end there, and a sample ends with one
      evaluation of the target, which removes the noise that is left ([Jolicoeur-Martineau et al.
      2021](https://arxiv.org/abs/2009.05475)). The likelihood is that of the data with this noise. A time after the end
      of the prediction's span changes nothing. By default none.

    **Raises:** `ValueError` if `shape` holds a size that is not positive, if a source other than gaussian comes with a
    path that never holds noise alone, if `weighting` needs a finite SNR that the path does not have, if the path has
    parameters to train and `time_sampling` is not uniform, or if `end` is outside of (0, 1) or not after the start of
    the prediction's span; `TypeError` if `transform` is no transform.
    """

    network: Network
    path: AbstractPath
    prediction: AbstractPrediction
    shape: tuple[int, ...] = eqx.field(static=True)
    weighting: AbstractWeighting
    time_sampling: AbstractTimeSampling
    source: AbstractSource
    coupling: AbstractCoupling
    transform: AbstractTransform
    encoder: Callable[[Any], PyTree] | None
    end: Real | None = eqx.field(static=True)

    @checked
    def __init__(
        self,
        network: Network,
        path: AbstractPath,
        prediction: AbstractPrediction,
        *,
        shape: tuple[int, ...],
        weighting: AbstractWeighting | None = None,
        time_sampling: AbstractTimeSampling | None = None,
        source: AbstractSource | None = None,
        coupling: AbstractCoupling | None = None,
        transform: AbstractTransform | Bijection | None = None,
        encoder: Callable[[Any], PyTree] | None = None,
        end: Real | None = None,
    ) -> None:
        if any(size < 1 for size in shape):
            raise ValueError(f"`shape` is {shape}: give the positive sizes of one example, without the batch axis")
        self.network = network
        self.path = path
        self.prediction = prediction
        self.shape = shape
        self.weighting = UniformWeighting() if weighting is None else weighting
        self.time_sampling = StratifiedTimeSampling() if time_sampling is None else time_sampling
        self.source = GaussianSource() if source is None else source
        self.coupling = IndependentCoupling() if coupling is None else coupling
        self.transform = IdentityTransform() if transform is None else as_transform(transform)
        self.transform.check_shape("transform", shape)
        self.encoder = encoder
        self.end = end
        check_parts(self)

    @property
    def span(self) -> tuple[float, float]:
        """The times over which target, noise and velocity are finite, until `end`: where the flow is integrated."""
        return self._stopped_prediction.span(self.path)

    @property
    def _stopped_prediction(self) -> AbstractPrediction:
        """The prediction over the span of the flow."""
        return self.prediction if self.end is None else EarlyStopPrediction(self.prediction, self.end)

    def draw_noise(self, *, key: PRNGKey) -> Point:
        """Noise for one example, where the flow starts: at the first time of its span.

        **Arguments:**

        - `key`: a typed key.

        **Returns:** a point of the flow's `shape`, in the path's coordinates: the `z` of [`flowprop.solve`][].
        """
        return noise_std(self) * self.source.sample(1, self.shape, key=key)[0]

    @checked
    def velocity(self, t: Time, z: Point, x: PyTree = None) -> Point:
        """The velocity of the probability-flow ODE, `alpha' u + sigma' eps`.

        **Arguments:**

        - `t`: a time in the flow's `span`.
        - `z`: one point on the path, of the flow's `shape`.
        - `x`: the condition of this example. By default none.

        **Returns:** an array of `z`'s shape.

        **Raises:** `ValueError` for a `z` of another shape, or for a time outside of the span (at run
        time if `t` is traced).
        """
        return self._within_span(t, self.estimate(t, z, self.encode(x)).velocity)

    @checked
    def target(self, t: Time, z: Point, x: PyTree = None) -> Point:
        """The estimated data, `E[z_1 | z_t = z, x]`: the denoiser, or x0-prediction.

        **Arguments:**

        - `t`: a time in the flow's `span`.
        - `z`: one point on the path, of the flow's `shape`.
        - `x`: the condition of this example. By default none.

        **Returns:** an array of `z`'s shape.

        **Raises:** `ValueError` for a `z` of another shape, or for a time outside of the span (at run
        time if `t` is traced).
        """
        return self._within_span(t, self.estimate(t, z, self.encode(x)).target)

    @checked
    def noise(self, t: Time, z: Point, x: PyTree = None) -> Point:
        """The estimated noise, `E[z_0 | z_t = z, x]`: epsilon.

        **Arguments:**

        - `t`: a time in the flow's `span`.
        - `z`: one point on the path, of the flow's `shape`.
        - `x`: the condition of this example. By default none.

        **Returns:** an array of `z`'s shape.

        **Raises:** `ValueError` for a `z` of another shape, or for a time outside of the span (at run
        time if `t` is traced).
        """
        return self._within_span(t, self.estimate(t, z, self.encode(x)).noise)

    @checked
    def score(self, t: Time, z: Point, x: PyTree = None) -> Point:
        """The estimated score, `grad_z log p_t(z | x) = -noise / sigma`.

        **Arguments:**

        - `t`: a time in the flow's `span`.
        - `z`: one point on the path, of the flow's `shape`.
        - `x`: the condition of this example. By default none.

        **Returns:** an array of `z`'s shape.

        **Raises:** `ValueError` for a `z` of another shape, or for a time outside of the span or at which the
        path holds no noise (at run time if `t` is traced); also for a source other than gaussian, or a coupling that is
        not independent: there the noise is not gaussian given the data.
        """
        check_gaussian(self, "a score")
        score = -self.estimate(t, z, self.encode(x)).noise / self.path.sigma(t)
        message = "`t` is a time at which the path holds no noise: a score needs sigma(t) > 0"
        return refuse_if(self._within_span(t, score), self.path.sigma(t) <= 0, message)

    def encode(self, x: PyTree) -> PyTree:
        """The features of one condition, which `estimate` takes.

        **Arguments:**

        - `x`: the condition of one example.

        **Returns:** the result of the flow's `encoder`; `x` itself if it has none.
        """
        return x if self.encoder is None else self.encoder(x)

    def estimate(self, t: Time, z: Point, features: PyTree = None) -> Estimate:
        """Target, noise and velocity by one call of the network. An integrator of your own calls this.

        **Arguments:**

        - `t`: a time in the flow's `span`. It is not checked.
        - `z`: one point on the path, of the flow's `shape`.
        - `features`: the condition of this example, encoded by `encode`. By default none.

        **Returns:** a [`flowprop.Estimate`][] in the precision of `z`.

        **Raises:** `ValueError` for a `z` of another shape.
        """
        check_shape("z", z, self.shape, "the flow's `shape` is that of one example; use `jax.vmap` for a batch")
        t = jnp.asarray(t, z.dtype)
        estimate = self.prediction.estimate(self.path, t, z, self._output(t, z, features), features)
        return jax.tree.map(lambda view: view.astype(z.dtype), estimate)

    def _output(self, t: Time, z: Point, features: PyTree) -> Array:
        """The network's output in use."""
        condition, shape = self.prediction.interface(self.shape, features)
        return checked_output(call_network(self.network, t, z, condition), shape, z)

    @checked
    def error(self, t: Time, z0: Float[Array, "..."], z1: Float[Array, "..."], x: PyTree = None) -> Scalar:
        """One example's error at one time, weighted: what the loss is the mean of.

        **Arguments:**

        - `t`: a time in [0, 1].
        - `z0`, `z1`: noise and data in the path's coordinates, each of the flow's `shape`.
        - `x`: the condition that the network takes.

        **Returns:** a scalar, the squared error summed over dimensions times the weight.

        **Raises:** `ValueError` for a `z0` or `z1` of another shape.
        """
        for name, array in (("z0", z0), ("z1", z1)):
            check_shape(name, array, self.shape, "the flow's `shape` is that of one example")
        t = jnp.asarray(t, z1.dtype)
        features = self.encode(x)
        output = self._output(t, self.path.interpolate(t, z0, z1), features)
        return self.weight(t) * self.prediction.error(self.path, t, z0, z1, output, features)

    def weight(self, t: Times) -> Float[Array, "*times"]:
        """The weight of an error at one time, or the weights at the times of a batch.

        **Arguments:**

        - `t`: a time in the flow's `span`, or an array of times.

        **Returns:** an array of the shape of `t`.
        """
        return self.weighting.weight(self.path, self._stopped_prediction, t)

    @checked
    def loss(self, z1: Data, x: PyTree = None, *, key: PRNGKey, weights: Weights | None = None) -> Any:
        """The simulation-free training loss: the mean weighted error over the batch.

        Each example gets its own time, and noise that the flow's coupling pairs with it. If the noise schedule is
        learnable, this loss trains its shape to lower the variance of the evidence lower bound's estimate; the mean
        error trains the network alone.

        **Arguments:**

        - `z1`: a batch of data, in their own units.
        - `x`: the conditions; each leaf carries the batch axis.
        - `key`: for times, noise, how they are paired, and a network that takes a key.
        - `weights`: of the examples, `(n,)`: the loss is the mean of weight times error. By default 1.

        **Returns:** a scalar; for a network with a state, `(scalar, metrics, flow)` with the state updated.

        **Raises:** `ValueError` if `z1` is not a batch of the flow's `shape`, or if a leaf of `x` or `weights` has
        another batch size; `TypeError` for integers without a transform that takes them.
        """
        z1 = jnp.asarray(z1)
        check_key("key", key)
        check_shape("z1", z1, (None, *self.shape), "a batch axis, then the flow's `shape`")
        check_condition(x, z1.shape[0])
        key_t, key_z, key_pairs, key_data, key_network = jax.random.split(key, 5)
        z1 = self._to_path(z1, key=key_data)
        t = sample_times(self, z1.shape[0], key=key_t).astype(z1.dtype)
        z0 = self.source.sample(z1.shape[0], self.shape, key=key_z).astype(z1.dtype)
        features = jax.vmap(self.encode, axis_size=z1.shape[0])(x)
        z0 = self.coupling.pair(z0, z1, features, key=key_pairs)
        fixed = with_fixed_path(self)

        def error(t: Time, z0: Point, z1: Point, features: PyTree, key: PRNGKey) -> tuple[Scalar, PyTree]:
            z = fixed.path.interpolate(t, z0, z1)
            output, state = training_output(fixed, t, z, features, key=key)
            return fixed.prediction.error(fixed.path, t, z0, z1, output, features), state

        keys = jax.random.split(key_network, z1.shape[0])
        errors, state = jax.vmap(error, axis_name="batch", out_axes=(0, None))(t, z0, z1, features, keys)
        weighted = fixed.weight(t) * errors
        if weights is not None:
            check_shape("weights", jnp.asarray(weights), (z1.shape[0],), "one weight for each example")
            weighted = weighted * jnp.asarray(weights).astype(weighted.dtype)
        loss = jnp.mean(weighted) + schedule_term(self, t, errors)
        if not network_has_state(self.network):
            return loss
        return loss, {}, eqx.tree_at(lambda flow: flow.network.state, self, state)

    def _to_path(self, z1: Array, *, key: PRNGKey) -> Float[Array, "batch *shape"]:
        """A batch of data in the path's coordinates, as training sees it, at least in the network's precision."""
        if not self.transform.is_identity:
            z1 = jax.vmap(lambda data, key: self.transform.draw(data, key=key))(z1, jax.random.split(key, z1.shape[0]))
        check_floating("z1", z1)
        return z1.astype(network_dtype(self.network, z1))

    def check_data(self, z1: Data, x: PyTree = None) -> None:
        """Check all data before training: [`flowprop.fit`][] calls this once.

        **Arguments:**

        - `z1`: all data, `(n, *shape)`, in their own units.
        - `x`: all conditions; each leaf carries the batch axis.

        **Raises:** `ValueError` for points of another shape or outside of the transform's support.

        **Warns:** of data far from unit scale, if the flow has no transform and starts from gaussian noise.
        """
        check_shape("z1", z1, (None, *self.shape), "a batch axis, then the flow's `shape`")
        check_condition(x, z1.shape[0])
        if not self.transform.is_identity:
            self.transform.check_data("z1", np.asarray(z1))
        elif self.source.is_gaussian:
            warn_of_scale(np.asarray(z1))

    def _within_span(self, t: Time, value: Array) -> Array:
        start, end = self.span
        message = (
            f"`t` is outside of [{start}, {end}], the span of the flow, over which {type(self.prediction).__name__} on "
            f"{type(self.path).__name__} determines target, noise and velocity"
        )
        # A solve stays within [0, 1], and a check inside the solver's loop costs time.
        if (start, end) == (0.0, 1.0) and isinstance(t, jax.core.Tracer):
            return value
        slack = 1e-6  # rounding may carry a time past the end
        t = jnp.asarray(t, float)
        return refuse_if(value, (t < start - slack) | (t > end + slack), message)
