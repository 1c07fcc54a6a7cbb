"""Random probes with mean 0 and identity covariance."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Point, PRNGKey
from .basis import orthonormal


Probes = Float[Array, "probes *shape"]


class AbstractProbes(eqx.Module):
    """The distribution of random probes `v`, with `E[v] = 0` and `E[v v^T] = I`.

    To write a distribution of your own, derive a class from this one and implement `sample`.
    """

    @abc.abstractmethod
    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        """Draw probes.

        **Arguments:**

        - `num_probes`: how many probes to draw.
        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key.

        **Returns:** probes of the shape and type of `z`, `(num_probes, *shape)`.
        """


class RademacherProbes(AbstractProbes):
    """Probes with independent entries +1 or -1, each with probability 1/2 (Rademacher probes).

    Of all probes with independent entries they give Hutchinson's estimate the least variance
    ([Hutchinson 1990](https://doi.org/10.1080/03610919008812866)), and none for a diagonal Jacobian.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    probes = fp.RademacherProbes().sample(3, jnp.zeros((4, 4)), key=jax.random.key(0))
    print(probes.shape)  # (3, 4, 4)
    print(jnp.unique(jnp.abs(probes)))  # [1.]
    ```
    """

    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        """Draw probes.

        **Arguments:**

        - `num_probes`: how many probes to draw.
        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key.

        **Returns:** probes, `(num_probes, *shape)`.
        """
        return jax.random.rademacher(key, (num_probes, *z.shape), z.dtype)


class GaussianProbes(AbstractProbes):
    """Probes with independent standard normal entries.

    The variance of Hutchinson's estimate then does not change under a rotation of the coordinates.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    probes = fp.GaussianProbes().sample(3, jnp.zeros(2), key=jax.random.key(0))
    print(probes.shape)  # (3, 2)
    divergence = fp.HutchinsonDivergence(3, fp.GaussianProbes())
    ```
    """

    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        """Draw probes.

        **Arguments:**

        - `num_probes`: how many probes to draw.
        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key.

        **Returns:** probes, `(num_probes, *shape)`.
        """
        return jax.random.normal(key, (num_probes, *z.shape), z.dtype)


class SphereProbes(AbstractProbes):
    """Probes with a uniform distribution on the sphere of radius `sqrt(d)`.

    They are normal probes without the variance of their length. If the Jacobian is a multiple of the identity, the
    estimate has no variance.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    probes = fp.SphereProbes().sample(3, jnp.zeros(4), key=jax.random.key(0))
    print(jnp.round(jnp.linalg.norm(probes, axis=1), 3))  # [2. 2. 2.]
    ```
    """

    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        """Draw probes.

        **Arguments:**

        - `num_probes`: how many probes to draw.
        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key.

        **Returns:** probes, `(num_probes, *shape)`.
        """
        normal = jax.random.normal(key, (num_probes, z.size), z.dtype)
        lengths = jnp.linalg.norm(normal, axis=1, keepdims=True)
        return (z.size**0.5 * normal / lengths).reshape(num_probes, *z.shape)


class OrthogonalProbes(AbstractProbes):
    """Probes with a uniform distribution on the sphere, orthogonal to one another in groups of `d`.

    ([Yu et al. 2016](https://arxiv.org/abs/1610.09072), section 3.) The quadratic form `v . J v` is the same at `v` and
    `-v`, so a pair of opposite probes gains nothing. Orthogonal probes are the antithetic probes of a trace: no
    direction occurs twice, and `d` of them give the exact trace.

    Each group is a matrix of normal entries with as many rows as needed, which is made orthonormal row by row. The
    result has the distribution of the first rows of a uniformly distributed (Haar) rotation, and `k` probes need a
    memory of `k d` numbers.

    ```python
    import jax
    import jax.numpy as jnp
    import flowprop as fp

    z = jnp.zeros(4)
    probes = fp.OrthogonalProbes().sample(4, z, key=jax.random.key(0))
    print(bool(jnp.allclose(probes @ probes.T, 4 * jnp.eye(4), atol=1e-4)))  # True
    divergence = fp.HutchinsonDivergence(4, fp.OrthogonalProbes())
    ```
    """

    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        """Draw probes.

        **Arguments:**

        - `num_probes`: how many probes to draw.
        - `z`: an array of the shape and type of one example. Its values are not used.
        - `key`: the random key.

        **Returns:** probes, `(num_probes, *shape)`.
        """
        size = z.size
        num_groups = -(-num_probes // size)
        rows = jax.random.normal(key, (num_groups, min(num_probes, size), size), z.dtype)
        # The second argument would replace a row that depends on those before it. Normal rows never do, up to rounding.
        groups = jax.vmap(orthonormal)(rows, jnp.roll(rows, 1, axis=2))
        return (size**0.5 * groups.reshape(-1, size)[:num_probes]).reshape(num_probes, *z.shape)


def require_key(key: PRNGKey | None) -> PRNGKey:
    """Return `key`, or raise a `ValueError` if it is `None`."""
    if key is None:
        raise ValueError("`key` is None: the probes are random, so give `jax.random.key(seed)`")
    return key
