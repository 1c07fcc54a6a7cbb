"""A prediction over a shorter span: what a flow that stops early shows to its weighting."""

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from .._types import Point, Real, Scalar, Time, Times, check_number, checked
from .path import AbstractPath, Estimate
from .prediction import AbstractPrediction


@checked
class EarlyStopPrediction(AbstractPrediction):
    """Another prediction on a shorter span: the prediction of a flow that stops early.

    The same as `end=` of [`flowprop.Flow`][], which is shorter to write and can be replaced:
    `dataclasses.replace(flow, end=0.98)`. A sample ends with one evaluation of the target, which removes the noise that
    is left ([Jolicoeur-Martineau et al. 2021](https://arxiv.org/abs/2009.05475)).

    **Arguments:**

    - `prediction`: the meaning of the network's output.
    - `end`: the end of the span, unless the span of `prediction` ends earlier. By default 0.98.

    **Raises:** `ValueError` if `end` is not in (0, 1).

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    prediction = fp.EarlyStopPrediction(fp.VelocityPrediction(), end=0.95)
    flow = fp.Flow(network, fp.CondOTPath(), prediction, shape=(2,))
    print(flow.span)  # (0.0, 0.95)
    ```
    """

    prediction: AbstractPrediction
    end: Real = eqx.field(default=0.98, static=True)

    def __check_init__(self) -> None:
        check_number("end", self.end, above=0, below=1, remedy="give a time in (0, 1), close to 1, where the data are")

    @property
    def takes_embeddings(self) -> bool:
        return self.prediction.takes_embeddings

    def span(self, path: AbstractPath) -> tuple[float, float]:
        start, end = self.prediction.span(path)
        return start, min(end, self.end)

    def estimate(self, path: AbstractPath, t: Time, z: Point, output: Array, condition: PyTree) -> Estimate:
        return self.prediction.estimate(path, t, z, output, condition)

    def error(self, path: AbstractPath, t: Time, z0: Point, z1: Point, output: Array, condition: PyTree) -> Scalar:
        return self.prediction.error(path, t, z0, z1, output, condition)

    def scale(self, path: AbstractPath, t: Times) -> Float[Array, "*times"]:
        return self.prediction.scale(path, t)

    def interface(self, shape: tuple[int, ...], condition: PyTree) -> tuple[PyTree, tuple[int, ...]]:
        return self.prediction.interface(shape, condition)
