"""What a network predicts, and how target, noise and velocity follow from it.

A prediction is given the path as an argument and never stores it. It defines the training error in the units of the
network's output, the scale of these units relative to those of the target, and the span of times over which the output
determines target, noise and velocity.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._types import Point, Real, Scalar, Time, Times, check_number, checked
from .path import AbstractPath, Estimate
from .span import derivative, known


def _square(difference: Point) -> Scalar:
    return jnp.sum(jnp.square(difference))


class AbstractPrediction(eqx.Module):
    """The meaning of a network's output at time `t` and point `z` of a path (the parametrisation of a diffusion model).

    A prediction of your own defines all abstract methods. It defines `interface` only if its network is not given the
    whole condition, or returns an array of another shape than `z`.
    """

    @property
    def takes_embeddings(self) -> bool:
        """Whether a condition is a pair `(features, W)` with the class embeddings `W`. By default `False`."""
        return False

    @abc.abstractmethod
    def span(self, path: AbstractPath) -> tuple[float, float]:
        """The times over which target, noise and velocity are all finite and exact.

        **Arguments:**

        - `path`: the path of the flow.

        **Returns:** the first and the last time.
        """

    @abc.abstractmethod
    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        """Target, noise and velocity that the output stands for.

        **Arguments:**

        - `path`: the path of the flow.
        - `t`: a time in the span.
        - `z`: one point on the path, `(*shape)`.
        - `output`: the network's output at `t` and `z`, of the shape that `interface` says.
        - `condition`: the condition of the example; `None` if there is none.

        **Returns:** a [`flowprop.Estimate`][].
        """

    @abc.abstractmethod
    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        """The squared error in the units of the output, summed over its coordinates.

        **Arguments:**

        - `path`: the path of the flow.
        - `t`: a time in the span.
        - `z0`: the noise of one example, `(*shape)`.
        - `z1`: the data of one example, `(*shape)`.
        - `output`: the network's output at `t` and `z_t`, of the shape that `interface` says.
        - `condition`: the condition of the example; `None` if there is none.

        **Returns:** a scalar.
        """

    @abc.abstractmethod
    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        """The squared error of the output, in its own units, that corresponds to a squared error of 1 in the target.

        **Arguments:**

        - `path`: the path of the flow.
        - `t`: one time in the span, or an array of times.

        **Returns:** an array of the shape of `t`.
        """

    def is_in_target_units(self, path: AbstractPath) -> bool:
        """Whether errors are measured in the target's units: `scale` is 1 at all times.

        If so, [`flowprop.ct_flow`][] weights them by the evidence lower bound. The value is `False` if it depends on a
        traced array.

        **Arguments:**

        - `path`: the path of the flow.

        **Returns:** a Boolean.
        """
        scale = known(lambda: self.scale(path, jnp.linspace(*self.span(path), 5)))
        return scale is not None and bool(np.all(scale == 1))

    def interface(self, shape: tuple[int, ...], condition: PyTree) -> tuple[PyTree, tuple[int, ...]]:
        """What the network is given as condition, and the shape that it returns.

        **Arguments:**

        - `shape`: the shape of one example.
        - `condition`: the condition of one example; `None` if there is none.

        **Returns:** by default `condition` and `shape`.
        """
        return condition, shape


class TargetPrediction(AbstractPrediction):
    """The network returns the target, `u ~ E[z_1 | z_t, x]`.

    Usual names: x0-prediction (x1-prediction where data are at t = 1), denoiser, data prediction. The error is
    `|output - z_1|^2`. The velocity follows from the target over the path's `target_span`.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.Flow(network, fp.CondOTPath(), fp.TargetPrediction(), shape=(2,))
    print(flow.span)  # (0.0, 0.99)
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


class NoisePrediction(AbstractPrediction):
    """The network returns the noise, `eps ~ E[z_0 | z_t, x]`.

    Usual name: epsilon prediction ([Ho et al. 2020](https://arxiv.org/abs/2006.11239), eq. 14). The error is
    `|output - z_0|^2`. The velocity follows from the noise over the path's `noise_span`.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.Flow(network, fp.CondOTPath(), fp.NoisePrediction(), shape=(2,))
    print(flow.span)  # (0.01, 1.0)
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


class VelocityPrediction(AbstractPrediction):
    """The network returns the velocity, `v ~ E[alpha' z_1 + sigma' z_0 | z_t, x]`.

    This is the vector field of flow matching ([Lipman et al. 2023](https://arxiv.org/abs/2210.02747)). The error is
    `|output - alpha' z_1 - sigma' z_0|^2`. It is not the "v-prediction" of [Salimans & Ho
    2022](https://arxiv.org/abs/2202.00512): see [`flowprop.PreconditionedPrediction`][].

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.Flow(network, fp.CondOTPath(), fp.VelocityPrediction(), shape=(2,))
    print(flow.span)  # (0.0, 1.0)
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
class PreconditionedPrediction(AbstractPrediction):
    """The network returns `F`: what is left of the target after the best denoiser of a Gaussian.

    `u = alpha s^2 / D z + s sigma / sqrt(D) F` with `D = alpha^2 s^2 + sigma^2`. The first term is the optimal denoiser
    of data from N(0, s^2), and `F` has unit scale at every time ([Karras et al.
    2022](https://arxiv.org/abs/2206.00364), eq. 7, here for any path). The noise is
    `sigma / D z - alpha s / sqrt(D) F`. No divisor vanishes, so the span is the whole `span` of the path: [0, 1] unless
    a coefficient of the path is infinite at an end. The error is the squared error of `F`; a squared error of the
    target counts `D / (s^2 sigma^2)` times in it.

    On a variance-preserving path with `s = 1`, `F = sigma z_1 - alpha z_0`: the v-prediction of [Salimans & Ho
    2022](https://arxiv.org/abs/2202.00512) with the opposite sign.

    **Arguments:**

    - `data_std`: `s`, the root mean square of the coordinates of the (centred) data.

    **Raises:** `ValueError` if `data_std` is not positive.

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    prediction = fp.PreconditionedPrediction(data_std=0.7)
    flow = fp.ct_flow(network, shape=(2,), prediction=prediction)
    print(flow.span)  # (0.0, 1.0)
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
