"""Features of a number or of coordinates, at many scales."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from .._frozen import Frozen
from .._types import PRNGKey, Real, check_key, check_number, check_positive, check_shape, checked


@checked
class SinusoidalFeatures(eqx.Module):
    """Cosines and sines of time at fixed frequencies, and time itself.

    `(t, cos 2 pi f_k t, sin 2 pi f_k t)` with `f_k` in geometric progression from
    `min_frequency` to `max_frequency`, in periods over [0, 1]. (Frequencies meant for the
    integers of a sequence stay below one period there and tell no two times apart.)

    **Arguments:**

    - `num_frequencies`: how many.
    - `min_frequency`, `max_frequency`: in periods over [0, 1].

    **Raises:** `ValueError` for fewer than one frequency, or a range that is not positive, finite and rising.
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
        """How many features there are."""
        return 1 + 2 * self.num_frequencies

    @checked
    def __call__(self, t: Float[ArrayLike, ""]) -> Float[Array, " features"]:
        """The features of one time."""
        t = jnp.asarray(t)
        frequencies = jnp.geomspace(self.min_frequency, self.max_frequency, self.num_frequencies, dtype=t.dtype)
        angles = 2 * jnp.pi * frequencies * t
        return jnp.concatenate([t[None], jnp.cos(angles), jnp.sin(angles)])


class FourierFeatures(eqx.Module):
    """Cosines and sines of random projections, `2 pi B z` with `B ~ N(0, scale^2)` (Tancik et al. 2020).

    **Arguments:**

    - `in_size`: how many coordinates.
    - `num_frequencies`: rows of `B`.
    - `scale`: standard deviation of the frequencies, in periods over a unit of `z`.
    - `key`: for `B`, which is not trained.

    **Raises:** `ValueError` for a number that is not positive and finite and, when called, for a vector of another
    size.
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
        """How many features there are."""
        return 2 * self.frequencies.array.shape[0]

    @checked
    def __call__(self, z: Float[Array, " in_size"]) -> Float[Array, " features"]:
        """The features of one vector."""
        check_shape("z", z, self.frequencies.array.shape[1:], "as many coordinates as `in_size`")
        angles = 2 * jnp.pi * self.frequencies.value.astype(z.dtype) @ z
        return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


@checked
class PositionalFeatures(eqx.Module):
    """Coordinates, and their cosines and sines at octaves `2^k pi`, `k < num_octaves` (Mildenhall et al. 2020).

    **Arguments:**

    - `in_size`: how many coordinates.
    - `num_octaves`: how many octaves of each.

    **Raises:** `ValueError` for a number that is not positive and, when called, for a vector of another size.
    """

    in_size: int = eqx.field(static=True)
    num_octaves: int = eqx.field(static=True, default=4)

    def __check_init__(self) -> None:
        check_positive(in_size=self.in_size, num_octaves=self.num_octaves)

    @property
    def size(self) -> int:
        """How many features there are."""
        return self.in_size * (1 + 2 * self.num_octaves)

    @checked
    def __call__(self, z: Float[Array, " in_size"]) -> Float[Array, " features"]:
        """The features of one vector."""
        check_shape("z", z, (self.in_size,), "as many coordinates as `in_size`")
        octaves = jnp.pi * 2.0 ** jnp.arange(self.num_octaves, dtype=z.dtype)
        angles = (octaves[:, None] * z[None, :]).ravel()
        return jnp.concatenate([z, jnp.cos(angles), jnp.sin(angles)])
