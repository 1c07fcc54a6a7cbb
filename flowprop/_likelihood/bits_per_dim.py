"""Bits per dimension of discrete images, measured by a stated protocol."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PyTree, UInt8

from .._batch import example_keys
from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.flow import Flow
from .._solve import AbstractODEIntegrator, ODEIntegrator
from .._types import PRNGKey, Real, Scalar, check_key, check_number, check_positive, check_shape, checked
from .image_levels import check_levels, dequantised, nearest_levels
from .log_prob import log_prob


class BitsPerDimension(eqx.Module):
    """A protocol to measure bits per dimension: uniform dequantisation, divergence and integrator.

    Bits per dimension depend on the protocol as much as on the flow. An image `x` of levels 0 to `num_levels - 1` has
    the probability `P(x) = E[p(x + u)]` with `u` uniform on [0, 1)^d, where `p` is the density of the flow
    ([Theis et al. 2016](https://arxiv.org/abs/1511.01844), section 3.1). Its bits per dimension are `-log2 P(x) / d`.
    The protocol replaces the expectation by the mean over `num_draws` draws of `u`. On average the result is an upper
    bound, which becomes tighter with more draws ([Burda et al. 2016](https://arxiv.org/abs/1509.00519), theorem 1;
    [Ho et al. 2019](https://arxiv.org/abs/1902.00275)).

    The same object prepares the training data, `z = (x + u - centre) / scale`, so that
    `log p(x + u) = log p(z) - d log scale`.

    On a path with `alpha(1) < 1` the density of the flow is that of slightly noised data. With a stochastic divergence
    a mean over draws would reward the noise of the trace. Therefore all draws of an image use the same probes and have
    the same error of the trace.

    **Arguments:**

    - `split`: name of the data split, shown in the result, for example "MNIST test".
    - `num_levels`: how many values a pixel takes, 2 to 256. By default 256.
    - `num_draws`: how many draws of the noise `u` to average for each image. By default 1.
    - `centre`: the level that becomes 0 in the coordinates of the flow. By default half of `num_levels`.
    - `scale`: the number of levels that becomes 1 in the coordinates of the flow, positive. By default half of
      `num_levels`. With both defaults pixels lie in [-1, 1).
    - `divergence`: how to compute the divergence. By default [`flowprop.ExactDivergence`][]`()`.
    - `integrator`: an integrator of ODEs. By default [`flowprop.ODEIntegrator`][]`()`.

    **Raises:** `ValueError` if `num_levels` is not in 2 to 256, `num_draws` or `scale` is not positive, or `centre` or
    `scale` is not finite.

    ```python
    import diffrax as dfx
    import jax
    import flowprop as fp

    heun = fp.ODEIntegrator(dfx.Heun(), dt0=0.1)
    protocol = fp.BitsPerDimension("toy images", num_levels=16, integrator=heun)
    images = jax.random.randint(jax.random.key(0), (6, 2, 2, 1), 0, 16)
    points = protocol.preprocess(images, key=jax.random.key(1))  # training data
    print((protocol.to_images(points) == images).all())  # True
    flow = fp.fm_flow(lambda t, z, x: -0.5 * z, shape=(2, 2, 1))
    result = protocol(flow, images, key=jax.random.key(2))
    print(result.bits_per_dim.shape)  # (6,)
    ```
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
            raise ValueError(f"`num_levels` is {num_levels}: give the number of values of a pixel, 2 to 256")
        if centre is not None:
            check_number("centre", centre, remedy="give the level that becomes 0 in the flow's coordinates")
        if scale is not None:
            remedy = "give the positive number of levels that becomes 1 in the flow's coordinates"
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
        """Dequantise images into training data of the flow: `z = (x + u - centre) / scale`.

        **Arguments:**

        - `images`: integer levels of one image or of many, of any shape.
        - `key`: the random key of the noise `u`.

        **Returns:** floating-point numbers of the same shape.

        **Raises:** `ValueError` if a level is out of range, unless the images are traced.
        """
        check_key("key", key)
        check_levels(images, self.num_levels)
        return (dequantised(images, key=key) - self.centre) / self.scale

    @checked
    def to_images(self, z: Float[Array | np.ndarray, "*shape"]) -> UInt8[Array, "*shape"]:
        """Convert points in the coordinates of the flow, for example samples, to the levels of images.

        A point outside of the range of levels gets the nearest level.

        **Arguments:**

        - `z`: points of any shape.

        **Returns:** levels of type uint8, of the same shape.
        """
        return nearest_levels(jnp.asarray(z) * self.scale + self.centre, self.num_levels)

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
        """Measure the bits per dimension of images under a flow.

        **Arguments:**

        - `flow`: a flow that was trained on preprocessed images.
        - `images`: integer levels, `(n, *shape)`.
        - `x`: the conditions (context), one for each image; each leaf has the batch axis first. By default none.
        - `key`: the random key of the noise and of the divergence's probes.
        - `batch_size`: how many examples a device solves at once. By default 1,024 on a CPU and 16,384 elsewhere, or
          fewer large ones, so that their states, with the products of the divergence, hold at most 2^24 numbers.

        **Returns:** a [`flowprop.BitsPerDimensionResult`][].

        **Raises:** `ValueError` if `images` or `x` has the wrong shape, or if a level is out of range; `RuntimeError`
        if a solve fails.
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
        # Default values are shown too, because a later version may change them.
        fields = [
            f"{f.name}={getattr(self.divergence, f.name)!r}" for f in dataclasses.fields(self.divergence) if f.repr
        ]
        return (
            f"uniform dequantisation of {self.num_levels} levels with {self.num_draws} "
            f"{'draw' if self.num_draws == 1 else 'draws'}, {type(self.divergence).__name__}({', '.join(fields)}), "
            f"{self.integrator}"
        )


class BitsPerDimensionResult(eqx.Module):
    """Bits per dimension of each image and on average, with the protocol of the measurement.

    `-log2 P(x) / d` with `P(x)` the mean of `p(x + u)` over the draws of `u`
    ([Theis et al. 2016](https://arxiv.org/abs/1511.01844), section 3.1). `str(result)` is one line for the caption of a
    table: the mean, its standard error, and the protocol.

    **Arguments:**

    - `protocol`: the [`flowprop.BitsPerDimension`][] that made the measurement.
    - `draws_nats`: `log p(x + u)` of every image and draw, in nats per image, `(n, num_draws)`.
    - `num_dims`: `d`, the number of pixels times the number of channels.

    ```python
    import jax.numpy as jnp
    import flowprop as fp

    protocol = fp.BitsPerDimension("toy images", num_levels=16)
    nats = jnp.log(2) * jnp.array([[-8.0], [-12.0]])
    result = fp.BitsPerDimensionResult(protocol, nats, num_dims=4)
    print(result.bits_per_dim)  # [2. 3.]
    print(str(result)[:40])  # bits/dim 2.500 +- 0.500 (toy images, 2 i
    ```
    """

    protocol: BitsPerDimension
    draws_nats: Float[Array, "batch draws"]
    num_dims: int = eqx.field(static=True)

    @property
    def log_prob_nats(self) -> Float[Array, " batch"]:
        """`log P(x)` of every discrete image in nats per image, `(n,)`: on average a lower bound."""
        return jax.nn.logsumexp(self.draws_nats, axis=1) - math.log(self.draws_nats.shape[1])

    @property
    def mean_log_prob_nats(self) -> Scalar:
        """The mean of `log_prob_nats` over images."""
        return jnp.mean(self.log_prob_nats)

    @property
    def bits_per_dim(self) -> Float[Array, " batch"]:
        """`-log2 P(x) / d` of every image from all of its draws, `(n,)`: on average an upper bound."""
        return self._bits(self.log_prob_nats)

    @property
    def mean_bits_per_dim(self) -> Scalar:
        """The mean of `bits_per_dim` over images, a scalar: the number to report."""
        return jnp.mean(self.bits_per_dim)

    @property
    def standard_error_bits_per_dim(self) -> Scalar:
        """The standard error of `mean_bits_per_dim`, a scalar, computed from the spread between images."""
        return jnp.std(self.bits_per_dim, ddof=1) / math.sqrt(self.draws_nats.shape[0])

    @property
    def single_draw_bits_per_dim(self) -> Float[Array, " batch"]:
        """The bound with one draw, averaged over the draws, `(n,)`; never below `bits_per_dim`.

        ([Theis et al. 2016](https://arxiv.org/abs/1511.01844), section 3.1.)
        """
        return self._bits(jnp.mean(self.draws_nats, axis=1))

    def _bits(self, nats: Float[Array, " batch"]) -> Float[Array, " batch"]:
        return -nats / (self.num_dims * math.log(2))

    def __str__(self) -> str:
        value = f"{float(self.mean_bits_per_dim):.3f} +- {float(self.standard_error_bits_per_dim):.3f}"
        return f"bits/dim {value} ({self.protocol.split}, {self.draws_nats.shape[0]:,} images, {self.protocol})"
