"""The distribution of the training times."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from .._types import PRNGKey, Real, check_number, check_positive, checked


class AbstractTimeSampling(eqx.Module):
    """The distribution of the training times.

    The loss is not corrected for it: drawing times from a density is the same as weighting the loss by it. A time
    sampling of your own defines `sample`.
    """

    @property
    def is_uniform(self) -> bool:
        """Whether times are uniform. A learnable noise schedule needs uniform times."""
        return False

    @abc.abstractmethod
    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        """Times in [0, 1), which a flow scales to its span.

        **Arguments:**

        - `num_times`: how many times.
        - `key`: one typed key.

        **Returns:** times, `(num_times,)`.
        """


class UniformTimeSampling(AbstractTimeSampling):
    """Independent times, each uniform on [0, 1).

    ```python
    import flowprop as fp
    import jax

    sampling = fp.UniformTimeSampling()
    print(sampling.sample(4, key=jax.random.key(0)).shape)  # (4,)
    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(1))
    flow = fp.fm_flow(network, shape=(2,), time_sampling=sampling)
    ```
    """

    is_uniform: ClassVar[bool] = True

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        return jax.random.uniform(key, (num_times,))


class StratifiedTimeSampling(AbstractTimeSampling):
    """Evenly spaced times with one random shift, modulo 1. It is the default of all flows.

    ([Kingma et al. 2021](https://arxiv.org/abs/2107.00630), appendix I.1.) Each time is uniform on [0, 1), at every
    place in the batch, and every interval of width 1 / n holds one time. The loss has the same expectation as with
    independent times, and a lower variance. Usual name: low-discrepancy sampling.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    times = jnp.sort(fp.StratifiedTimeSampling().sample(4, key=jax.random.key(0)))
    print(jnp.diff(times).round(4))  # [0.25 0.25 0.25]
    ```
    """

    is_uniform: ClassVar[bool] = True

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        shift = jax.random.uniform(key)
        return (shift + jnp.arange(num_times) / num_times) % 1.0


@checked
class LogitNormalTimeSampling(AbstractTimeSampling):
    """Times whose logit is normal, `logit(t) ~ N(mean, std^2)`, stratified over the batch.

    ([Esser et al. 2024](https://arxiv.org/abs/2403.03206), section 3.1.)

    **Arguments:**

    - `mean`: the mean of the logit. Above 0 there are more times near the data, below 0 more near the noise. By default
      0.
    - `std`: the standard deviation of the logit, positive. By default 1.

    **Raises:** `ValueError` if `mean` is not finite or `std` is not positive.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    times = fp.LogitNormalTimeSampling().sample(1000, key=jax.random.key(0))
    print(jnp.mean((times > 0.27) & (times < 0.73)).round(2))  # 0.68
    ```
    """

    mean: Real = 0.0
    std: Real = 1.0

    def __check_init__(self) -> None:
        check_number("mean", self.mean, remedy="give the mean of the logit, a finite number")
        check_number("std", self.std, above=0, remedy="the standard deviation of a logit is positive")

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        uniform = StratifiedTimeSampling().sample(num_times, key=key)
        inside = jnp.clip(uniform, 1e-6, 1 - 1e-6)  # the quantile is infinite at 0 and 1
        return below_one(jax.nn.sigmoid(self.mean + self.std * ndtri(inside)))


@checked
class PowerTimeSampling(AbstractTimeSampling):
    """Times with the density `exponent t^(exponent - 1)`, stratified over the batch.

    **Arguments:**

    - `exponent`: 1 is uniform. Below 1 there are more times near the noise, above 1 more near the data. By default 1.

    **Raises:** `ValueError` if `exponent` is not positive.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    times = fp.PowerTimeSampling(0.5).sample(1000, key=jax.random.key(0))
    print(jnp.mean(times < 0.25).round(2))  # 0.5
    ```
    """

    exponent: Real = 1.0

    def __check_init__(self) -> None:
        check_number(
            "exponent", self.exponent, above=0, remedy="the density has a finite integral only for a positive exponent"
        )

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        # The root of a number just below 1 may round to 1.
        return below_one(StratifiedTimeSampling().sample(num_times, key=key) ** (1 / self.exponent))


@checked
class GridTimeSampling(AbstractTimeSampling):
    """The start times of `k` equal Euler steps, `0, 1/k, ..., (k - 1)/k`, equally often.

    They are stratified over the batch. On pairs of noise and data ([`flowprop.PairedFlow`][]) this trains a flow for
    exactly `k` Euler steps. `k = 1` trains for one evaluation of the network.

    **Arguments:**

    - `num_steps`: `k`, positive.

    **Raises:** `ValueError` if `num_steps` is not positive.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    times = fp.GridTimeSampling(4).sample(8, key=jax.random.key(0))
    print(jnp.sort(times))  # [0.   0.   0.25 0.25 0.5  0.5  0.75 0.75]
    ```
    """

    num_steps: int

    def __check_init__(self) -> None:
        check_positive(num_steps=self.num_steps)

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        step = jnp.floor(self.num_steps * StratifiedTimeSampling().sample(num_times, key=key))
        # The product may round up to the number of steps.
        return jnp.minimum(step, self.num_steps - 1) / self.num_steps


def below_one(t: Array) -> Array:
    """The times, with 1 replaced by the largest number below 1."""
    return jnp.minimum(t, 1 - jnp.finfo(t.dtype).epsneg)
