"""Random probes of mean 0 and identity covariance."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Point, PRNGKey
from .basis import orthonormal


Probes = Float[Array, "probes *shape"]


class AbstractProbes(eqx.Module):
    """The distribution of random probes `v`, with `E[v] = 0` and `E[v v^T] = I`."""

    @abc.abstractmethod
    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        """Probes of `z`'s shape and type."""


class RademacherProbes(AbstractProbes):
    """Entries +1 or -1: the least variance of all independent entries, and none on a diagonal Jacobian."""

    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        return jax.random.rademacher(key, (num_probes, *z.shape), z.dtype)


class GaussianProbes(AbstractProbes):
    """Normal entries: an estimate whose variance no rotation of the coordinates changes."""

    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        return jax.random.normal(key, (num_probes, *z.shape), z.dtype)


class SphereProbes(AbstractProbes):
    """Uniform on the sphere of radius `sqrt(d)`: gaussian ones without the variance of their length.

    On a multiple of the identity no variance is left.
    """

    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        normal = jax.random.normal(key, (num_probes, z.size), z.dtype)
        lengths = jnp.linalg.norm(normal, axis=1, keepdims=True)
        return (z.size**0.5 * normal / lengths).reshape(num_probes, *z.shape)


class OrthogonalProbes(AbstractProbes):
    """Uniform on the sphere, and at right angles to one another in groups of `d` (Yu et al. 2016).

    The quadratic form `v . J v` is the same at `v` and `-v`, so that opposite probes gain nothing;
    these are the antithetic ones for a trace: no direction is asked twice, and `d` of them are exact.

    Each group is a gaussian matrix of as many rows as needed, made orthonormal row by row: the first rows of a
    rotation that is uniform (Haar), for memory of `k d` numbers at `k` probes.
    """

    def sample(self, num_probes: int, z: Point, *, key: PRNGKey) -> Probes:
        size = z.size
        num_groups = -(-num_probes // size)
        rows = jax.random.normal(key, (num_groups, min(num_probes, size), size), z.dtype)
        # Two rows that are the same, but for rounding, are never drawn: what would stand in for one is of no account.
        groups = jax.vmap(orthonormal)(rows, jnp.roll(rows, 1, axis=2))
        return (size**0.5 * groups.reshape(-1, size)[:num_probes]).reshape(num_probes, *z.shape)


def require_key(key: PRNGKey | None) -> PRNGKey:
    """`key`, or a `ValueError` if there is none."""
    if key is None:
        raise ValueError("`key` is None: probes are random, so give `jax.random.key(seed)`")
    return key
