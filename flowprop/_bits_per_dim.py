"""Bits per dimension, with all that makes the number."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PyTree, UInt8

from ._batch import example_keys
from ._divergence import AbstractDivergence, ExactDivergence
from ._flow import Flow
from ._log_prob import log_prob
from ._solve import AbstractODEIntegrator, ODEIntegrator
from ._types import PRNGKey, Real, Scalar, check_key, check_number, check_positive, check_shape, checked


class BitsPerDimension(eqx.Module):
    """How bits per dimension are measured: as much a part of the number as the flow.

    An image `x` of levels 0 to `num_levels - 1` has the probability `P(x) = E[p(x + u)]` with `u` uniform on
    [0, 1)^d, where `p` is the flow's density (Theis et al. 2016). Its bits per dimension are `-log2 P(x) / d`.
    With the mean of `num_draws` draws of u for the expectation they come out as an upper bound, on average, and
    the tighter the more draws there are (Burda et al. 2016; Ho et al. 2019). The same object makes what the flow
    is trained on, `z = (x + u - centre) / scale`, so that `log p(x + u) = log p(z) - d log scale`.

    On a path with `alpha(1) < 1` the flow's density is that of slightly noised data. Under a stochastic
    divergence a mean over draws would reward the noise of the trace; all draws of an image therefore have
    the same probes, whose error they share.

    **Arguments:**

    - `split`: what the images are, in words that the result repeats: "MNIST test".
    - `num_levels`: how many values a pixel takes, at most 256.
    - `num_draws`: of the noise `u`, for each image.
    - `centre`, `scale`: the flow's coordinates. By default half of `num_levels` each: pixels in [-1, 1).
    - `divergence`: by default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: by default [`flowprop.ODEIntegrator`][]`()`.

    **Raises:** `ValueError` for a number of levels, of draws or a scale that does not fit.
    """

    split: str = eqx.field(static=True)
    num_levels: int = eqx.field(static=True)
    num_draws: int = eqx.field(static=True)
    centre: Real
    scale: Real
    divergence: AbstractDivergence
    integrator: AbstractODEIntegrator

    @checked
    def __init__(
        self,
        split: str,
        *,
        num_levels: int = 256,
        num_draws: int = 1,
        centre: Real | None = None,
        scale: Real | None = None,
        divergence: AbstractDivergence | None = None,
        integrator: AbstractODEIntegrator | None = None,
    ) -> None:
        if not 2 <= num_levels <= 256:
            raise ValueError(f"`num_levels` is {num_levels}: give the number of a pixel's values, 2 to 256")
        if centre is not None:
            check_number("centre", centre, remedy="give the level that becomes 0 in the flow's coordinates")
        if scale is not None:
            remedy = "give the positive width that becomes 1 in the flow's coordinates"
            check_number("scale", scale, above=0, remedy=remedy)
        check_positive(num_draws=num_draws)
        self.split = split
        self.num_levels = num_levels
        self.num_draws = num_draws
        self.centre = num_levels / 2 if centre is None else centre
        self.scale = num_levels / 2 if scale is None else scale
        self.divergence = ExactDivergence() if divergence is None else divergence
        self.integrator = ODEIntegrator() if integrator is None else integrator

    @checked
    def preprocess(self, images: Integer[Array | np.ndarray, "*shape"], *, key: PRNGKey) -> Float[Array, "*shape"]:
        """What the flow is trained on: `z = (x + u - centre) / scale`.

        **Arguments:**

        - `images`: levels, of one image or of many.
        - `key`: for the noise `u`.

        **Returns:** floats of the same shape.

        **Raises:** `ValueError` for a known level out of range.
        """
        check_key("key", key)
        if not isinstance(images, jax.core.Tracer) and images.size:
            low, high = np.min(images), np.max(images)
            if low < 0 or high >= self.num_levels:
                raise ValueError(f"`images` lie in [{low}, {high}]: the protocol has levels 0 to {self.num_levels - 1}")
        levels = jnp.asarray(images, float)
        # The middles of 4096 parts of a level: rounding carries none of them into the next level.
        noise = (jax.random.randint(key, levels.shape, 0, 4096) + 0.5) / 4096
        return (levels + noise - self.centre) / self.scale

    @checked
    def to_images(self, z: Float[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """The levels whose bins hold the points `z`, such as a flow's samples; the nearest where none does."""
        levels = jnp.floor(jnp.asarray(z) * self.scale + self.centre)
        return jnp.clip(levels, 0, self.num_levels - 1).astype(jnp.uint8)

    @checked
    def __call__(
        self,
        flow: Flow,
        images: Integer[Array | np.ndarray, "batch *shape"],
        x: PyTree = None,
        *,
        key: PRNGKey,
        batch_size: int | None = None,
    ) -> "BitsPerDimensionResult":
        """Measure a flow.

        **Arguments:**

        - `flow`: a flow of preprocessed images.
        - `images`: levels, `(n, *shape)`.
        - `x`: the conditions; each leaf carries the batch axis.
        - `key`: for the noise and for the divergence's probes.
        - `batch_size`: as of [`flowprop.log_prob`][].

        **Returns:** a [`flowprop.BitsPerDimensionResult`][].

        **Raises:** as of `log_prob`, and `ValueError` for images of another shape or with a level out of range.
        """
        check_key("key", key)
        check_shape("images", images, (None, *flow.shape), "a batch axis, then the flow's `shape`")
        key_noise, key_probes = jax.random.split(key)
        num_dims = math.prod(flow.shape)

        def draw(key: PRNGKey) -> Float[Array, " batch"]:
            log_p = log_prob(
                flow,
                self.preprocess(images, key=key),
                x,
                key=key_probes,
                divergence=self.divergence,
                integrator=self.integrator,
                batch_size=batch_size,
            )
            return log_p - num_dims * math.log(self.scale)

        draws = jnp.stack([draw(key) for key in example_keys(key_noise, self.num_draws)], axis=1)
        return BitsPerDimensionResult(self, draws, num_dims)

    def __str__(self) -> str:
        # Defaults too: they may change.
        fields = [
            f"{f.name}={getattr(self.divergence, f.name)!r}" for f in dataclasses.fields(self.divergence) if f.repr
        ]
        return (
            f"uniform dequantisation of {self.num_levels} levels with {self.num_draws} "
            f"{'draw' if self.num_draws == 1 else 'draws'}, {type(self.divergence).__name__}({', '.join(fields)}), "
            f"{self.integrator}"
        )


class BitsPerDimensionResult(eqx.Module):
    """Bits per dimension, per image and on average, with the protocol that made them.

    `str(result)` is a line for a table's caption.

    **Arguments:**

    - `protocol`: the [`flowprop.BitsPerDimension`][].
    - `draws_nats`: `log p(x + u)` of every image and draw, in nats per image, `(n, num_draws)`.
    - `num_dims`: how many pixels and channels an image has.
    """

    protocol: BitsPerDimension
    draws_nats: Float[Array, "batch draws"]
    num_dims: int = eqx.field(static=True)

    @property
    def log_prob_nats(self) -> Float[Array, " batch"]:
        """`log P(x)` of every discrete image, bounded from below, in nats per image."""
        return jax.nn.logsumexp(self.draws_nats, axis=1) - math.log(self.draws_nats.shape[1])

    @property
    def mean_log_prob_nats(self) -> Scalar:
        """The mean of `log_prob_nats` over images."""
        return jnp.mean(self.log_prob_nats)

    @property
    def bits_per_dim(self) -> Float[Array, " batch"]:
        """`-log2 P(x) / d` of every image, bounded from above by means of all its draws."""
        return self._bits(self.log_prob_nats)

    @property
    def mean_bits_per_dim(self) -> Scalar:
        """The mean of `bits_per_dim` over images: the number that is quoted."""
        return jnp.mean(self.bits_per_dim)

    @property
    def standard_error_bits_per_dim(self) -> Scalar:
        """Of that mean, from the spread between images."""
        return jnp.std(self.bits_per_dim, ddof=1) / math.sqrt(self.draws_nats.shape[0])

    @property
    def single_draw_bits_per_dim(self) -> Float[Array, " batch"]:
        """The bound with one draw (Theis et al. 2016), its mean over the draws; never below `bits_per_dim`."""
        return self._bits(jnp.mean(self.draws_nats, axis=1))

    def _bits(self, nats: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return -nats / (self.num_dims * math.log(2))

    def __str__(self) -> str:
        value = f"{float(self.mean_bits_per_dim):.3f} +- {float(self.standard_error_bits_per_dim):.3f}"
        return f"bits/dim {value} ({self.protocol.split}, {self.draws_nats.shape[0]:,} images, {self.protocol})"
