"""What a check puts around a network or an encoder before the subject uses it."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class Tally:
    """Counts on the host."""

    def __init__(self) -> None:
        self._count = 0

    def __call__(self) -> None:
        """One more."""
        self._count += 1

    @property
    def count(self) -> int:
        """How many there were, once all computations that were begun have ended."""
        jax.effects_barrier()
        return self._count

    def counted(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """`function`, which counts its calls: also those in compiled loops, and each example of a `jax.vmap`."""
        return _Counted(function, self)

    def traced(self, function: Callable[..., PyTree]) -> Callable[..., PyTree]:
        """`function`, which counts its calls by Python: once for each program that is compiled from it."""
        return _Traced(function, self)


def blinded(function: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`function`, whose output is 0 in place of what it knew."""
    return _Blinded(function)


# Modules, so that a model's arrays remain leaves of the model.
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
