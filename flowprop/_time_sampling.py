"""The distribution of training times."""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from ._types import PRNGKey, Real, check_number, check_positive, checked


class AbstractTimeSampling(eqx.Module):
    """The distribution of training times.

    The loss is not corrected for it: to draw times from a density is to weight the loss by it. A sampling of your own
    defines `sample`.
    """

    @property
    def is_uniform(self) -> bool:
        """Whether times are uniform: a learnable noise schedule needs that."""
        return False

    @abc.abstractmethod
    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        """Times in [0, 1), which a flow scales to its span.

        **Arguments:**

        - `num_times`: how many.
        - `key`: for the random numbers.

        **Returns:** times, `(num_times,)`.
        """


class UniformTimeSampling(AbstractTimeSampling):
    """Each time uniform on [0, 1), on its own.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), time_sampling=fp.UniformTimeSampling())
    ```
    """

    is_uniform: ClassVar[bool] = True

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        return jax.random.uniform(key, (num_times,))


class StratifiedTimeSampling(AbstractTimeSampling):
    """Evenly spaced times under one random shift modulo 1.

    (Kingma et al. 2021, [arXiv:2107.00630](https://arxiv.org/abs/2107.00630), appendix I.1.) Each time is uniform on
    [0, 1) whatever its place in the batch, and one falls in every stratum of width 1 / n: the same expectation as with
    independent times, at less variance.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), time_sampling=fp.StratifiedTimeSampling())
    ```
    """

    is_uniform: ClassVar[bool] = True

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        shift = jax.random.uniform(key)
        return (shift + jnp.arange(num_times) / num_times) % 1.0


@checked
class LogitNormalTimeSampling(AbstractTimeSampling):
    """`logit(t)` normal, stratified over the batch.

    (Esser et al. 2024, [arXiv:2403.03206](https://arxiv.org/abs/2403.03206), section 3.1.)

    **Arguments:**

    - `mean`: above 0 looks more at the data's end, below 0 at the noise's end.
    - `std`: positive.

    **Raises:** `ValueError` if `mean` is not finite or `std` is not positive.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), time_sampling=fp.LogitNormalTimeSampling())
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
    """Density `exponent t^(exponent - 1)`, stratified over the batch.

    **Arguments:**

    - `exponent`: 1 is uniform; below 1 looks more at the noise's end, above 1 at the data's end.

    **Raises:** `ValueError` if `exponent` is not positive.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), time_sampling=fp.PowerTimeSampling(0.5))
    ```
    """

    exponent: Real = 1.0

    def __check_init__(self) -> None:
        check_number(
            "exponent", self.exponent, above=0, remedy="the density has a finite integral for a positive one only"
        )

    def sample(self, num_times: int, *, key: PRNGKey) -> Float[Array, " num_times"]:
        # The root of a number just below 1 rounds to 1.
        return below_one(StratifiedTimeSampling().sample(num_times, key=key) ** (1 / self.exponent))


@checked
class GridTimeSampling(AbstractTimeSampling):
    """The times at which `k` equal steps of Euler look, `0, 1/k, ..., (k - 1)/k`, equally often.

    They are stratified over the batch. On pairs of noise and data ([`flowprop.PairedFlow`][]) it trains a flow for
    `k` steps and no more; `k = 1` trains for one evaluation.

    **Arguments:**

    - `num_steps`: `k`.

    **Raises:** `ValueError` if `num_steps` is not positive.

    ```python
    import flowprop as fp

    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), time_sampling=fp.GridTimeSampling(4))
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
    """Times, 1 replaced by the largest number below it."""
    return jnp.minimum(t, 1 - jnp.finfo(t.dtype).epsneg)
