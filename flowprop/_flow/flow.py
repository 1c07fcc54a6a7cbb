"""A flow: a network, the path that it was trained on, and what its output means."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._frozen import stop_gradient, trainable
from .._loss.coupling import AbstractCoupling, IndependentCoupling
from .._loss.schedule_loss import schedule_loss
from .._loss.time_sampling import AbstractTimeSampling, StratifiedTimeSampling
from .._loss.weighting import AbstractWeighting, ELBOWeighting, UniformWeighting
from .._path.learnable_schedule import with_fixed_shape
from .._path.path import AbstractPath, Estimate
from .._path.prediction import AbstractPrediction
from .._path.source import AbstractSource, GaussianSource
from .._transform import AbstractTransform, Bijection, IdentityTransform, as_transform
from .._types import Data, Point, PRNGKey, Scalar, Time, Times, Weights, check_key, check_shape, checked
from .checks import (
    check_condition as check_condition,
    check_floating,
    check_stateless as check_stateless,
    refuse_if,
    warn_of_scale,
)
from .network import Network as Network, call_network, network_has_state, train_network


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

    **Raises:** `ValueError` if `shape` holds a size that is not positive, if a source other than gaussian comes with a
    path that never holds noise alone, if `weighting` needs a finite SNR that the path does not have, or if the path has
    parameters to train and `time_sampling` is not uniform; `TypeError` if `transform` is no transform.
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
    ) -> None:
        if any(size < 1 for size in shape):
            raise ValueError(f"`shape` is {shape}: give the positive sizes of one example, without the batch axis")
        source = GaussianSource() if source is None else source
        if not source.is_gaussian and not path.starts_at_source:
            raise ValueError(
                f"`source` is {type(source).__name__} and `path` a {type(path).__name__}, which does not begin with "
                "`z_0` alone: give `fp.CondOTPath()`"
            )
        self.network = network
        self.path = path
        self.prediction = prediction
        self.shape = shape
        self.weighting = UniformWeighting() if weighting is None else weighting
        self.time_sampling = StratifiedTimeSampling() if time_sampling is None else time_sampling
        self.source = source
        self.coupling = IndependentCoupling() if coupling is None else coupling
        self.transform = IdentityTransform() if transform is None else as_transform(transform)
        self.transform.check_shape("transform", shape)
        self.encoder = encoder
        if self.weighting.needs_finite_snr and not path.snr_is_finite and self.span[1] >= path.span[1]:
            raise ValueError(
                f"`weighting` is {type(self.weighting).__name__}, which needs a finite signal-to-noise ratio, and a "
                f"{type(path).__name__} ends without noise: give `fp.ELBOWeighting()` or `fp.MinSNRWeighting()`, or "
                "end the span earlier with `fp.EarlyStopPrediction`"
            )
        if any(jax.tree.leaves(trainable(path))) and not self.time_sampling.is_uniform:
            raise ValueError(
                f"`time_sampling` is {type(self.time_sampling).__name__}, and `path` has parameters, which need "
                "uniform times: leave `time_sampling` out, and use a `weighting` to look more at some times"
            )

    @property
    def span(self) -> tuple[float, float]:
        """The times over which target, noise and velocity are finite: where the flow is integrated."""
        return self.prediction.span(self.path)

    @property
    def noise_std(self) -> Scalar:
        """The standard deviation at the start of the span of a path of unit data.

        It is the factor of the source's draws: 1 at t = 0 and on a variance-preserving path, and less than 1 on a
        straight path whose span begins later.
        """
        start = self.span[0]
        return jnp.hypot(self.path.alpha(start), self.path.sigma(start))

    def draw_noise(self, *, key: PRNGKey) -> Point:
        """One example's noise at the start of the span."""
        return self.noise_std * self.source.sample(1, self.shape, key=key)[0]

    def noise_log_prob(self, z: Point) -> Scalar:
        """The log-density, at the start of the span, of what `draw_noise` draws; in nats."""
        std = self.noise_std.astype(z.dtype)
        return self.source.log_prob(z / std) - z.size * jnp.log(std)

    def check_gaussian(self, what: str) -> None:
        """Raise a `ValueError` unless noise is gaussian given the data: `what` needs it."""
        for name, part, fits, wanted in (
            ("source", self.source, self.source.is_gaussian, "GaussianSource"),
            ("coupling", self.coupling, self.coupling.is_independent, "IndependentCoupling"),
        ):
            if not fits:
                raise ValueError(
                    f"`{name}` of the flow is {type(part).__name__}: {what} needs noise that is "
                    f"gaussian given the data, `fp.{wanted}()`; the ODE does not"
                )

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
        self.check_gaussian("a score")
        score = -self.estimate(t, z, self.encode(x)).noise / self.path.sigma(t)
        message = "`t` is a time at which the path holds no noise: a score needs sigma(t) > 0"
        return refuse_if(self._within_span(t, score), self.path.sigma(t) <= 0, message)

    def encode(self, x: PyTree) -> PyTree:
        """The features of one condition, which the network gets: by the `encoder` if there is one."""
        return x if self.encoder is None else self.encoder(x)

    def estimate(self, t: Time, z: Point, features: PyTree = None) -> Estimate:
        """Target, noise and velocity by one call of the network, given an encoded condition."""
        check_shape("z", z, self.shape, "the flow's `shape` is that of one example; use `jax.vmap` for a batch")
        t = jnp.asarray(t, z.dtype)
        estimate = self.prediction.estimate(self.path, t, z, self.output(t, z, features), features)
        return jax.tree.map(lambda view: view.astype(z.dtype), estimate)

    def output(self, t: Time, z: Point, features: PyTree = None) -> Array:
        """The network's output as it is, in use: its shape checked, in the precision of `z`."""
        return self._checked_output(
            call_network(self.network, t, z, self.prediction.network_condition(features)), z, features
        )

    def training_output(self, t: Time, z: Point, features: PyTree = None, *, key: PRNGKey) -> tuple[Array, PyTree]:
        """The network's output in training, where it may draw random numbers, and its new state if it has one."""
        condition = self.prediction.network_condition(features)
        output, state = train_network(self.network, t, z, condition, key)
        return self._checked_output(output, z, features), state

    def _checked_output(self, output: Any, z: Point, features: PyTree) -> Array:
        if not (isinstance(output, jax.Array | np.ndarray) and jnp.issubdtype(output.dtype, jnp.floating)):
            came = f"{output.dtype} numbers" if isinstance(output, jax.Array | np.ndarray) else type(output).__name__
            raise TypeError(
                f"`network(t, z, x)` returned {came} where a floating-point array is needed: integers have no gradient"
            )
        wanted = self.prediction.output_shape(self.shape, features)
        check_shape("network(t, z, x)", output, wanted, "the network sees one example and returns this")
        return jnp.asarray(output, z.dtype)

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
        return self.weight(jnp.asarray(t, z1.dtype)) * self.unweighted_error(t, z0, z1, self.encode(x))

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
        z1 = self.to_path(z1, key=key_data)
        t = self.sample_times(z1.shape[0], key=key_t).astype(z1.dtype)
        z0 = self.source.sample(z1.shape[0], self.shape, key=key_z).astype(z1.dtype)
        features = jax.vmap(self.encode, axis_size=z1.shape[0])(x)
        z0 = self.coupling.pair(z0, z1, features, key=key_pairs)
        fixed = self.with_fixed_path()

        def error(t: Time, z0: Point, z1: Point, features: PyTree, key: PRNGKey) -> tuple[Scalar, PyTree]:
            z = fixed.path.interpolate(t, z0, z1)
            output, state = fixed.training_output(t, z, features, key=key)
            return fixed.prediction.error(fixed.path, t, z0, z1, output, features), state

        keys = jax.random.split(key_network, z1.shape[0])
        errors, state = jax.vmap(error, axis_name="batch", out_axes=(0, None))(t, z0, z1, features, keys)
        weighted = fixed.weight(t) * errors
        if weights is not None:
            check_shape("weights", jnp.asarray(weights), (z1.shape[0],), "one weight for each example")
            weighted = weighted * jnp.asarray(weights).astype(weighted.dtype)
        loss = jnp.mean(weighted) + self.schedule_loss(t, errors)
        if not self.has_state:
            return loss
        return loss, {}, eqx.tree_at(lambda flow: flow.network.state, self, state)

    def to_path(self, z1: Array, *, key: PRNGKey) -> Float[Array, "batch *shape"]:
        """A batch of data in the path's coordinates, as training sees it, at least in the network's precision."""
        if not self.transform.is_identity:
            z1 = jax.vmap(lambda data, key: self.transform.draw(data, key=key))(z1, jax.random.split(key, z1.shape[0]))
        check_floating("z1", z1)
        return z1.astype(self._dtype(z1))

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

    @property
    def has_state(self) -> bool:
        """Whether the network has a state that training updates, such as the statistics of batch normalisation."""
        return network_has_state(self.network)

    def _dtype(self, z: Array) -> Any:
        arrays = jax.tree.leaves(eqx.filter(self.network, eqx.is_inexact_array))
        return jnp.result_type(z.dtype, *(jax.dtypes.canonicalize_dtype(array.dtype) for array in arrays))

    def solve_dtype(self, z: Array) -> Any:
        """The precision in which a point is solved: its own, the network's, and single precision at least."""
        return jnp.result_type(self._dtype(z), jnp.float32)

    def with_fixed_path(self) -> "Flow":
        """This flow with no gradient into its path: `schedule_loss` trains the path."""
        return eqx.tree_at(lambda flow: flow.path, self, stop_gradient(self.path))

    def with_fixed_shape(self) -> "Flow":
        """This flow with no gradient into its path, except into the end points of a schedule."""
        return eqx.tree_at(lambda flow: flow.path, self, with_fixed_shape(self.path))

    def schedule_loss(self, t: Float[Array, " batch"], errors: Float[Array, " batch"]) -> Scalar:
        """A term of value 0 whose gradient trains a learnable schedule, from a batch's unweighted errors."""
        if not any(jax.tree.leaves(trainable(self.path))):
            return jnp.zeros((), errors.dtype)
        weights = ELBOWeighting().weight(self.path, self.prediction, t)
        return schedule_loss(self.path, t, jax.lax.stop_gradient(weights * errors))

    def sample_times(self, num_times: int, *, key: PRNGKey) -> Array:
        """Training times, `(num_times,)`, within the flow's span."""
        start, end = self.span
        return start + (end - start) * self.time_sampling.sample(num_times, key=key)

    def unweighted_error(
        self, t: Time, z0: Float[Array, "..."], z1: Float[Array, "..."], features: PyTree = None
    ) -> Scalar:
        """One example's error in the units of the network's output, given an encoded condition."""
        for name, array in (("z0", z0), ("z1", z1)):
            check_shape(name, array, self.shape, "the flow's `shape` is that of one example")
        t = jnp.asarray(t, z1.dtype)
        output = self.output(t, self.path.interpolate(t, z0, z1), features)
        return self.prediction.error(self.path, t, z0, z1, output, features)

    def weight(self, t: Times) -> Float[Array, "*times"]:
        """The weights of errors at one time, or at a batch's."""
        return self.weighting.weight(self.path, self.prediction, t)

    def _within_span(self, t: Time, value: Array) -> Array:
        start, end = self.span
        message = (
            f"`t` is outside of [{start}, {end}], the span over which {type(self.prediction).__name__} on "
            f"{type(self.path).__name__} determines target, noise and velocity"
        )
        # A solve stays within [0, 1], and a check inside the solver's loop costs time.
        if (start, end) == (0.0, 1.0) and isinstance(t, jax.core.Tracer):
            return value
        slack = 1e-6  # rounding may carry a time past the end
        t = jnp.asarray(t, float)
        return refuse_if(value, (t < start - slack) | (t > end + slack), message)
