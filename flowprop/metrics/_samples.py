"""The samples that are compared: their types, and what is wrong with one."""

import numpy as np
from jaxtyping import Array, Float


#: Two samples of points of one shape, not necessarily of one size.
FirstSample = Float[Array | np.ndarray, "n *shape"]
SecondSample = Float[Array | np.ndarray, "m *shape"]
FirstMatrix = Float[np.ndarray, "n dim"]
SecondMatrix = Float[np.ndarray, "m dim"]


def check_at_least(size: int, **samples: Float[Array | np.ndarray, "..."]) -> None:
    """Raise a `ValueError` unless each of the named samples has `size` points."""
    for name, sample in samples.items():
        if len(sample) < size:
            raise ValueError(f"`{name}` has {len(sample)} points where at least {size} are needed: draw more")


def matrices(a: FirstSample, b: SecondSample) -> tuple[FirstMatrix, SecondMatrix]:
    """Both samples with their points flattened, in double precision; neither empty, and finite."""
    check_at_least(1, a=a, b=b)
    return _matrix("a", a), _matrix("b", b)


def _matrix(name: str, sample: FirstSample) -> FirstMatrix:
    points = np.asarray(sample, np.float64).reshape(len(sample), -1)
    if not np.isfinite(points).all():
        bad = int(np.sum(~np.isfinite(points).all(axis=1)))
        raise ValueError(f"`{name}` has {bad} points that are not finite: leave them out, or mend what made them")
    return points
