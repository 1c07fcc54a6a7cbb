"""The density of a noisy curve: a point drawn on it, moved by isotropic gaussian noise."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def fejer_rule(length: float, num_nodes: int) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Nodes and weights on `[0, length]` of Fejer's first rule (Waldvogel, BIT 46, 2006, eq. 2.1).

    It serves as well as Gauss-Legendre here, and needs no eigenvalues: those take seconds for 500 nodes.
    """
    angle = (np.arange(num_nodes) + 0.5) * math.pi / num_nodes
    j = np.arange(1, num_nodes // 2 + 1)
    weights = (1 - 2 * np.sum(np.cos(2 * np.outer(angle, j)) / (4 * j**2 - 1)[None], axis=1)) / num_nodes
    return length * (1 - np.cos(angle)) / 2, length * weights


def num_nodes(extent: float, noise: float) -> int:
    """How many nodes resolve a gaussian of width `noise` on a curve whose parameter runs over about `extent`.

    The rule converges exponentially once the nodes lie about one `noise` apart. By this many the logarithm is right to
    1e-9 in float64 where it is above -50, and to 1e-6 far out, where the curve's ends matter.
    """
    return 32 + math.ceil(10 * extent / noise)


def noisy_curve_log_prob(
    z: Float[Array, "2"], curve: Float[Array, "nodes 2"], log_weights: Float[np.ndarray, " nodes"], noise: float
) -> Float[Array, ""]:
    """`log sum_i w_i N(z; c_i, noise^2 I)`, the integral over the curve by quadrature.

    **Arguments:**

    - `z`: one point.
    - `curve`: the curve's points `c_i` at the nodes.
    - `log_weights`: logarithms of the rule's weights times the density of the curve's parameter; `sum_i w_i = 1`.
    - `noise`: the standard deviation of the noise.
    """
    square = jnp.sum((z[None, :] - curve) ** 2, axis=-1)
    log_terms = jnp.asarray(log_weights, z.dtype) - square / (2 * noise**2)
    return jax.nn.logsumexp(log_terms) - math.log(2 * math.pi * noise**2)
