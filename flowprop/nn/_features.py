"""Features of a time or of coordinates: cosines and sines of many frequencies."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._frozen import Frozen
from .._types import PRNGKey, Real, check_key, check_number, check_positive, check_shape, checked


@checked
class SinusoidalFeatures(eqx.Module):
    """The time, and its cosines and sines at fixed frequencies (time embedding).

    The features are `(t, cos 2 pi f_k t, sin 2 pi f_k t)`. The frequencies `f_k` are a geometric progression from
    `min_frequency` to `max_frequency`, in periods over [0, 1]. (The frequencies of a transformer's positions, Vaswani
    et al. 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762), section 3.5, are made for integers: on [0, 1]
    they stay below one period, and hardly distinguish two times.)

    ```python
    import flowprop as fp

    features = fp.nn.SinusoidalFeatures(num_frequencies=2, min_frequency=1, max_frequency=4)
    print(features.size)  # 5
    print(features(0.25).round(2) + 0)  # [0.25 0.   1.   1.   0.  ]
    ```

    **Arguments:**

    - `num_frequencies`: the number of frequencies, 8 by default.
    - `min_frequency`: the lowest frequency, in periods over [0, 1], 0.25 by default.
    - `max_frequency`: the highest frequency, in periods over [0, 1], 8 by default.

    **Raises:** `ValueError` if `num_frequencies` is not positive, `min_frequency` is not positive and finite, or
    `max_frequency` is not finite or is less than `min_frequency`.
    """

    num_frequencies: int = eqx.field(static=True, default=8)
    min_frequency: Real = eqx.field(static=True, default=0.25)
    max_frequency: Real = eqx.field(static=True, default=8.0)

    def __check_init__(self) -> None:
        check_positive(num_frequencies=self.num_frequencies)
        check_number("min_frequency", self.min_frequency, above=0, remedy="give a positive, finite number")
        check_number(
            "max_frequency",
            self.max_frequency,
            at_least=self.min_frequency,
            remedy=f"give a finite number that is at least `min_frequency`, {self.min_frequency}",
        )

    @property
    def size(self) -> int:
        """The number of features."""
        return 1 + 2 * self.num_frequencies

    @checked
    def __call__(self, t: Float[ArrayLike, ""]) -> Float[Array, " features"]:
        """The features of one time.

        **Arguments:**

        - `t`: a number or a scalar array.

        **Returns:** a vector of `size` numbers: the time, the cosines, the sines.
        """
        t = jnp.asarray(t)
        frequencies = jnp.geomspace(self.min_frequency, self.max_frequency, self.num_frequencies, dtype=t.dtype)
        angles = 2 * jnp.pi * frequencies * t
        return jnp.concatenate([t[None], jnp.cos(angles), jnp.sin(angles)])


class FourierFeatures(eqx.Module):
    """Random Fourier features: `(cos 2 pi B z, sin 2 pi B z)`, where every entry of `B` is drawn from `N(0, scale^2)`
    (Tancik et al. 2020, [arXiv:2006.10739](https://arxiv.org/abs/2006.10739), the gaussian mapping).

    `B` is fixed: it is a [`flowprop.Frozen`][] array, which training does not change.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    features = fp.nn.FourierFeatures(2, num_frequencies=16, key=jax.random.key(0))
    print(features.size)  # 32
    print(features(jnp.zeros(2))[:3])  # [1. 1. 1.]
    ```

    **Arguments:**

    - `in_size`: the number of coordinates of `z`.
    - `num_frequencies`: the number of rows of `B`, 32 by default.
    - `scale`: the standard deviation of the frequencies, in periods per unit of `z`, 1 by default.
    - `key`: a typed key, `jax.random.key(seed)`, for `B`.

    **Raises:** `ValueError` if a size is not positive, or `scale` is not positive and finite.
    """

    frequencies: Frozen

    @checked
    def __init__(self, in_size: int, num_frequencies: int = 32, *, scale: Real = 1.0, key: PRNGKey) -> None:
        check_key("key", key)
        check_positive(in_size=in_size, num_frequencies=num_frequencies)
        check_number("scale", scale, above=0, remedy="give a positive, finite number")
        self.frequencies = Frozen(scale * jax.random.normal(key, (num_frequencies, in_size)))

    @property
    def size(self) -> int:
        """The number of features."""
        return 2 * self.frequencies.array.shape[0]

    @checked
    def __call__(self, z: Float[Array, " in_size"]) -> Float[Array, " features"]:
        """The features of one vector. Use `jax.vmap` for a batch.

        **Arguments:**

        - `z`: a vector of `in_size` numbers.

        **Returns:** a vector of `size` numbers: the cosines, then the sines.

        **Raises:** `ValueError` if `z` has another size.
        """
        check_shape("z", z, self.frequencies.array.shape[1:], "as many coordinates as `in_size`")
        angles = 2 * jnp.pi * self.frequencies.value.astype(z.dtype) @ z
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


@checked
class PositionalFeatures(eqx.Module):
    """Positional encoding of coordinates: `(z, cos 2^k pi z, sin 2^k pi z)` for `k = 0 ... num_octaves - 1` (Mildenhall
    et al. 2020, [arXiv:2003.08934](https://arxiv.org/abs/2003.08934), equation 4, with `z` itself added).

    ```python
    import jax.numpy as jnp
    import flowprop as fp

    features = fp.nn.PositionalFeatures(in_size=1, num_octaves=2)
    print(features.size)  # 5
    print(features(jnp.array([0.5])).round(2) + 0)  # [ 0.5  0.  -1.   1.   0. ]
    ```

    **Arguments:**

    - `in_size`: the number of coordinates of `z`.
    - `num_octaves`: the number of frequencies of each coordinate, 4 by default.

    **Raises:** `ValueError` if a number is not positive.
    """

    in_size: int = eqx.field(static=True)
    num_octaves: int = eqx.field(static=True, default=4)

    def __check_init__(self) -> None:
        check_positive(in_size=self.in_size, num_octaves=self.num_octaves)

    @property
    def size(self) -> int:
        """The number of features."""
        return self.in_size * (1 + 2 * self.num_octaves)

    @checked
    def __call__(self, z: Float[Array, " in_size"]) -> Float[Array, " features"]:
        """The features of one vector. Use `jax.vmap` for a batch.

        **Arguments:**

        - `z`: a vector of `in_size` numbers.

        **Returns:** a vector of `size` numbers: the coordinates, the cosines, the sines.

        **Raises:** `ValueError` if `z` has another size.
        """
        check_shape("z", z, (self.in_size,), "as many coordinates as `in_size`")
        octaves = jnp.pi * 2.0 ** jnp.arange(self.num_octaves, dtype=z.dtype)
        angles = (octaves[:, None] * z[None, :]).ravel()
        return jnp.concatenate([z, jnp.cos(angles), jnp.sin(angles)])
