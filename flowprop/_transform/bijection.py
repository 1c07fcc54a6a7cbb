"""Bijections of other libraries as transforms."""

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._frozen import Frozen
from .._types import Scalar
from .parameters import Data, as_floats
from .transform import AbstractBijectiveTransform, AbstractTransform, Requirement, Shape


@runtime_checkable
class Bijection(Protocol):
    """The methods of a flowjax bijection, for one example each."""

    def transform_and_log_det(self, x: Any) -> tuple[Any, Any]:
        """One example `x` to `y`, and `log |dy/dx|`."""

    def inverse_and_log_det(self, y: Any) -> tuple[Any, Any]:
        """One example `y` to `x`, and `log |dx/dy|`."""


class BijectionTransform(AbstractBijectiveTransform):
    """A bijection with flowjax's methods, from data to `z`. Its parameters are not trained."""

    bijection: PyTree

    def __init__(self, bijection: Bijection) -> None:
        self.bijection = jax.tree.map(_freeze, bijection, is_leaf=lambda node: isinstance(node, Frozen))

    @property
    def shape(self) -> Shape:
        """The shape that the bijection states, or `None`."""
        return getattr(self.bijection, "shape", None)

    def forward_and_log_det(self, data: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The bijection of one example, and its log-determinant."""
        data = as_floats(data)
        z, log_det = self._thawed().transform_and_log_det(data)
        return jnp.asarray(z, data.dtype), jnp.asarray(log_det, data.dtype)

    def inverse_and_log_det(self, z: Data) -> tuple[Float[Array, "*shape"], Scalar]:
        """The inverse at one `z`, and the log-determinant of the forward map there."""
        z = as_floats(z)
        data, log_det = self._thawed().inverse_and_log_det(z)
        return jnp.asarray(data, z.dtype), -jnp.asarray(log_det, z.dtype)

    def requirements(self, data: np.ndarray) -> Iterator[Requirement]:
        """None: the requirements of a bijection are not known."""
        yield from ()

    def _thawed(self) -> Any:
        return jax.tree.map(
            lambda node: node.frozen.value if isinstance(node, _Parameter) else node,
            self.bijection,
            is_leaf=lambda node: isinstance(node, _Parameter),
        )


class _Parameter(eqx.Module):
    """An array that was frozen here and is unfrozen for each call; arrays that were frozen before stay frozen."""

    frozen: Frozen


def _freeze(node: Any) -> Any:
    return _Parameter(Frozen(node)) if eqx.is_inexact_array(node) else node


def as_transform(transform: Any) -> AbstractTransform:
    """A transform unchanged; an object with flowjax's methods as a transform from data to `z`."""
    if isinstance(transform, AbstractTransform):
        return transform
    if isinstance(transform, type) or not isinstance(transform, Bijection):
        is_class = isinstance(transform, type) and issubclass(transform, AbstractTransform)
        came = f"the class {transform.__name__}" if isinstance(transform, type) else f"a {type(transform).__name__}"
        remedy = f"make one, such as `{transform.__name__}(...)`" if is_class else "give `fp.Standardise.fit(points)`"
        raise TypeError(
            f"`transform` is {came} where a transform from data to the flow's coordinates is needed: {remedy}, or an "
            "object with flowjax's methods `transform_and_log_det` and `inverse_and_log_det`"
        )
    condition = getattr(transform, "cond_shape", None)
    if condition is not None:
        raise ValueError(
            f"`transform` is a {type(transform).__name__} with a condition of shape {condition}: give a "
            "bijection without a condition, and the condition to the flow"
        )
    return BijectionTransform(transform)
