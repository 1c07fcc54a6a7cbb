"""What a network predicts, and what that says of target, noise and velocity.

A prediction is handed the path and never stores it. It knows its training error in the
network's own units, how those compare with the target's, and the span of times over which its
output determines the other views without loss.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from ._path import AbstractPath, Estimate, derivative
from ._span import known
from ._types import Point, Real, Scalar, Time, Times, check_number, checked


def _square(difference: Point) -> Scalar:
    return jnp.sum(jnp.square(difference))


class AbstractPrediction(eqx.Module):
    """The meaning of a network's output at time `t` and place `z` of a path.

    A prediction of your own defines all abstract methods.
    """

    @property
    @abc.abstractmethod
    def takes_embeddings(self) -> bool:
        """Whether a condition is `(features, W)`: with the class embeddings, which the network does not see."""

    @abc.abstractmethod
    def span(self, path: AbstractPath) -> tuple[float, float]:
        """The times over which target, noise and velocity are all finite and exact."""

    @abc.abstractmethod
    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        """Target, noise and velocity that the output stands for."""

    @abc.abstractmethod
    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        """The squared error in the output's own units, summed over dimensions."""

    @abc.abstractmethod
    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        """How large a squared error of 1 in the target is in the output's own units."""

    def is_in_target_units(self, path: AbstractPath) -> bool:
        """Whether errors are measured in the target's units: `scale` is 1 at all times.

        [`flowprop.ct_flow`][] then weights them by the evidence lower bound. It is `False` if it depends on a traced
        array.
        """
        scale = known(lambda: self.scale(path, jnp.linspace(*self.span(path), 5)))
        return scale is not None and bool(np.all(scale == 1))

    @abc.abstractmethod
    def network_condition(self, condition: PyTree) -> PyTree:
        """The part of a condition that the network sees."""

    @abc.abstractmethod
    def output_shape(self, shape: tuple[int, ...], condition: PyTree) -> tuple[int, ...]:
        """The shape that the network returns for points of `shape`."""


class AbstractPointPrediction(AbstractPrediction):
    """A prediction whose network sees the whole condition and returns the shape of `z`."""

    @property
    def takes_embeddings(self) -> bool:
        return False

    def network_condition(self, condition: PyTree) -> PyTree:
        return condition

    def output_shape(self, shape: tuple[int, ...], condition: PyTree) -> tuple[int, ...]:
        return shape


class TargetPrediction(AbstractPointPrediction):
    """The network returns the target, `u ~ E[z_1 | z_t, x]`.

    ```python
    import flowprop as fp

    flow = fp.Flow(lambda t, z, x: z, fp.CondOTPath(), fp.TargetPrediction(), shape=(2,))
    ```
    """

    def span(self, path: AbstractPath) -> tuple[float, float]:
        return path.target_span

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        return path.from_target(t, z, output)

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        return _square(output - z1)

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return jnp.ones_like(path.alpha(t))


class NoisePrediction(AbstractPointPrediction):
    """The network returns the noise, `eps ~ E[z_0 | z_t, x]`.

    (Ho et al. 2020, [arXiv:2006.11239](https://arxiv.org/abs/2006.11239).)

    ```python
    import flowprop as fp

    flow = fp.Flow(lambda t, z, x: z, fp.CondOTPath(), fp.NoisePrediction(), shape=(2,))
    ```
    """

    def span(self, path: AbstractPath) -> tuple[float, float]:
        return path.noise_span

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        return path.from_noise(t, z, output)

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        return _square(output - z0)

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return jnp.square(path.alpha(t) / path.sigma(t))


class VelocityPrediction(AbstractPointPrediction):
    """The network returns the velocity, `v ~ E[alpha' z_1 + sigma' z_0 | z_t, x]`.

    (Lipman et al. 2023, [arXiv:2210.02747](https://arxiv.org/abs/2210.02747).)

    ```python
    import flowprop as fp

    flow = fp.Flow(lambda t, z, x: -z, fp.CondOTPath(), fp.VelocityPrediction(), shape=(2,))
    ```
    """

    def span(self, path: AbstractPath) -> tuple[float, float]:
        return path.velocity_span

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        return path.from_velocity(t, z, output)

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        return _square(output - derivative(path.alpha, t) * z1 - derivative(path.sigma, t) * z0)

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return jnp.square(path.wronskian(t) / path.sigma(t))


@checked
class PreconditionedPrediction(AbstractPointPrediction):
    """The network returns `F`, the part of the target that the best denoiser of a gaussian cannot know.

    `u = alpha s^2 / D z + s sigma / sqrt(D) F` with `D = alpha^2 s^2 + sigma^2`. The first term is the optimal denoiser
    of data from N(0, s^2), and `F` has unit scale at every time (Karras et al. 2022,
    [arXiv:2206.00364](https://arxiv.org/abs/2206.00364), eq. 7, here for any path). The noise is
    `sigma / D z - alpha s / sqrt(D) F`. Nothing is divided by a number that vanishes, so the span is all of the path's
    `span`: [0, 1] unless the path's own coefficients are infinite at an end. The error is that of `F`; a squared error
    of the target counts `D / (s^2 sigma^2)` times in it.

    **Arguments:**

    - `data_std`: `s`, the root mean square of the (centred) data's coordinates.

    **Raises:** `ValueError` if `data_std` is not positive.

    ```python
    import flowprop as fp

    flow = fp.ct_flow(lambda t, z, x: z, shape=(2,), prediction=fp.PreconditionedPrediction(data_std=0.7))
    ```
    """

    data_std: Real

    def __check_init__(self) -> None:
        check_number("data_std", self.data_std, above=0, remedy="give the positive standard deviation of the data")

    def _variance(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return jnp.square(path.alpha(t) * self.data_std) + jnp.square(path.sigma(t))

    def span(self, path: AbstractPath) -> tuple[float, float]:
        return path.span

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        alpha, sigma, s, variance = path.alpha(t), path.sigma(t), self.data_std, self._variance(path, t)
        residual = s / jnp.sqrt(variance) * output
        target = alpha * s**2 / variance * z + sigma * residual
        noise = sigma / variance * z - alpha * residual
        return Estimate(target, noise, derivative(path.alpha, t) * target + derivative(path.sigma, t) * noise)

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        s, deviation = self.data_std, jnp.sqrt(self._variance(path, t))
        return _square(output - (path.sigma(t) / s * z1 - path.alpha(t) * s * z0) / deviation)

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return self._variance(path, t) / jnp.square(self.data_std * path.sigma(t))


class CategoricalPrediction(AbstractPrediction):
    """The network returns logits over classes, `u = softmax(logits) W`.

    (NoProp, [arXiv:2503.24322](https://arxiv.org/abs/2503.24322), section 2.3.2.) The optimal target of class
    embeddings is `sum_k p(k | z_t, x) W_k`, so nothing is lost. The embeddings are in the condition, `(features, W)`,
    of which the network sees the features alone. A matrix stored here as well as in the classifier would become two
    parameters.

    ```python
    import jax.numpy as jnp
    import flowprop as fp

    flow = fp.Flow(lambda t, z, x: x, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(2,))
    logits, W = jnp.zeros(3), jnp.ones((3, 2))
    flow.target(0.5, jnp.zeros(2), (logits, W))
    ```
    """

    @property
    def takes_embeddings(self) -> bool:
        return True

    def span(self, path: AbstractPath) -> tuple[float, float]:
        return path.target_span

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        return path.from_target(t, z, self._target(output, condition))

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        return _square(self._target(output, condition) - z1)

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return jnp.ones_like(path.alpha(t))

    def network_condition(self, condition: PyTree) -> PyTree:
        return _features_and_matrix(condition)[0]

    def output_shape(self, shape: tuple[int, ...], condition: PyTree) -> tuple[int, ...]:
        return (_features_and_matrix(condition)[1].shape[0],)

    def _target(self, logits: Float[Array, " classes"], condition: PyTree) -> Point:
        return jnp.tensordot(jax.nn.softmax(logits), _features_and_matrix(condition)[1], axes=1)


@checked
class EarlyStopPrediction(AbstractPrediction):
    """Another prediction on a shorter span: samples then end with one evaluation of the target.

    That step removes the noise that is left (Jolicoeur-Martineau et al. 2021,
    [arXiv:2009.05475](https://arxiv.org/abs/2009.05475)). The solver is spared the last stretch, where velocities
    change fastest. A trained flow gets it by `dataclasses.replace(flow,
    prediction=fp.EarlyStopPrediction(flow.prediction))`. Its likelihood is then that of the data with the noise that
    the path holds at the end of the span.

    **Arguments:**

    - `prediction`: what the network's output means.
    - `end`: where the span ends, if it does not end earlier already.

    **Raises:** `ValueError` if `end` is not in (0, 1).

    ```python
    import flowprop as fp

    prediction = fp.EarlyStopPrediction(fp.VelocityPrediction(), end=0.95)
    flow = fp.Flow(lambda t, z, x: -z, fp.CondOTPath(), prediction, shape=(2,))
    flow.span  # (0.0, 0.95)
    ```
    """

    prediction: AbstractPrediction
    end: Real = eqx.field(default=0.98, static=True)

    def __check_init__(self) -> None:
        check_number("end", self.end, above=0, below=1, remedy="give a time in (0, 1), close to 1, where the data are")

    @property
    def takes_embeddings(self) -> bool:
        return self.prediction.takes_embeddings

    def span(self, path: AbstractPath) -> tuple[float, float]:
        start, end = self.prediction.span(path)
        return start, min(end, self.end)

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        return self.prediction.estimate(path, t, z, output, condition)

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        return self.prediction.error(path, t, z0, z1, output, condition)

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return self.prediction.scale(path, t)

    def network_condition(self, condition: PyTree) -> PyTree:
        return self.prediction.network_condition(condition)

    def output_shape(self, shape: tuple[int, ...], condition: PyTree) -> tuple[int, ...]:
        return self.prediction.output_shape(shape, condition)


def _features_and_matrix(condition: PyTree) -> tuple[PyTree, Float[Array, "classes *shape"]]:
    if not (isinstance(condition, tuple) and len(condition) == 2):
        raise ValueError(
            f"`x` is {type(condition).__name__} where a categorical prediction needs the pair "
            "`(features, W)`, W the class embeddings, one a row: `fp.Classifier.condition` makes it"
        )
    return condition
