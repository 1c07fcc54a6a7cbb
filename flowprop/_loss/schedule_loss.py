"""The loss that trains the shape of a learnable schedule."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._path.learnable_schedule import with_fixed_ends
from .._path.path import AbstractPath
from .._path.span import derivative
from .._types import Scalar


def schedule_loss(path: AbstractPath, t: Float[Array, " batch"], elbo: Float[Array, " batch"]) -> Scalar:
    """A term with the value 0, whose gradient in the path's parameters lowers the variance of the bound.

    The bound is `int h(gamma) d gamma`, for every schedule between given end points. Times uniform in `t` draw gamma
    with the density `q = 1 / gamma'`, so that the estimate `r = h / q` has the second moment `V = int h^2 / q d gamma`.
    With `h` held fixed at a given gamma, `dV = E[r^2 (d gamma' / gamma' - gamma'' / gamma'^2 d gamma)]`, where `d` is
    the change with the parameters at fixed t. This needs no derivative of the network, unlike the pathwise gradient of
    [Kingma et al. 2021](https://arxiv.org/abs/2107.00630), section 5. The gradient returned is that of `log V`. The end
    points get no gradient.

    **Arguments:**

    - `path`: the path being trained.
    - `t`: the times of the batch, `(n,)`.
    - `elbo`: the term of the bound of each example, `r`, `(n,)`.

    **Returns:** a scalar of value 0.
    """
    fixed = jax.lax.stop_gradient
    path = with_fixed_ends(path)

    def slope(s: Array) -> Array:
        return derivative(path.gamma, s)

    gamma, first, second = path.gamma(t), slope(t), derivative(slope, t)
    share = fixed(jnp.square(elbo) / jnp.mean(jnp.square(elbo)))
    term = jnp.mean(share * (first / fixed(first) - fixed(second / jnp.square(first)) * gamma))
    return term - fixed(term)
