"""Wrappers for a network or an encoder that count its calls or remove its knowledge."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class Tally:
    """A counter on the host, also for calls in compiled programs."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> None:
        """Count one call."""
        self._count += 1

    @property
    def count(self) -> int:
        """The number of calls so far. It first waits for all running computations to end."""
        jax.effects_barrier()
        return self._count

    def counted(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Wrap `function` to count its calls, also in compiled loops, and once for each example under `jax.vmap`."""
        return _Counted(function, self)

    def traced(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """Wrap `function` to count its calls from Python: under `jax.jit` one call for each compiled program."""
        return _Traced(function, self)


def blinded(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """Wrap `function` to return zeros in place of its output, so that it has no knowledge of the data."""
    return _Blinded(function)


# These are Equinox modules, so that the arrays of a wrapped model stay leaves of the PyTree.
class _Counted(eqx.Module):
    function: Callable[..., PyTree]
    tally: Tally = eqx.field(static=True)

    def __call__(self, *args: Any) -> PyTree:
        jax.debug.callback(self.tally)
        return self.function(*args)


class _Traced(eqx.Module):
    function: Callable[..., PyTree]
    tally: Tally = eqx.field(static=True)

    def __call__(self, *args: Any) -> PyTree:
        self.tally()
        return self.function(*args)


class _Blinded(eqx.Module):
    function: Callable[..., PyTree]

    def __call__(self, *args: Any) -> PyTree:
        return jax.tree.map(jnp.zeros_like, self.function(*args))
