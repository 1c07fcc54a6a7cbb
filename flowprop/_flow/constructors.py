"""The usual flows: flow matching, and diffusion with target or noise prediction."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from .._loss.coupling import AbstractCoupling
from .._loss.time_sampling import AbstractTimeSampling
from .._loss.weighting import AbstractWeighting, ELBOWeighting, UniformWeighting
from .._path.prediction import AbstractPrediction, NoisePrediction, TargetPrediction, VelocityPrediction
from .._path.schedule import AbstractNoiseSchedule, SigmoidNoiseSchedule
from .._path.source import AbstractSource
from .._path.straight_path import CondOTPath
from .._path.vp_path import VPPath
from .._transform import AbstractTransform, Bijection
from .._types import Real, checked
from .flow import Flow, Network


@checked
def fm_flow(
    network: Network,
    *,
    shape: tuple[int, ...],
    weighting: AbstractWeighting | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    source: AbstractSource | None = None,
    coupling: AbstractCoupling | None = None,
    transform: AbstractTransform | Bijection | None = None,
    encoder: Callable[[Any], PyTree] | None = None,
    end: Real | None = None,
) -> Flow:
    """Flow matching (FM): the straight path, velocity prediction, weight 1.

    The loss is `E |network(t, z_t, x) - (z_1 - z_0)|^2` with `z_t = t z_1 + (1 - t) z_0` ([Lipman et al.
    2023](https://arxiv.org/abs/2210.02747); also called rectified flow, [Liu et al.
    2023](https://arxiv.org/abs/2209.03003)).

    **Arguments:**

    - `network`: a callable `network(t, z, x)` on one example, with the time `t`, the point `z` and the condition
      (context) `x`. It returns an array of `z`'s shape.
    - `shape`: the shape of one example.
    - `weighting`: the weight of the error as a function of time. By default 1.
    - `time_sampling`: the distribution of the times in a batch. By default stratified, uniform over the span.
    - `source`: the distribution of `z_0` (base distribution). By default `N(0, I)`.
    - `coupling`: how noise is paired with data in a batch. By default independently.
    - `transform`: from the data's units to the path's coordinates, such as `fp.Standardise.fit(points)`. By default
      none.
    - `encoder`: a callable on one condition, trained with the network and called once for each solve. By default none.
    - `end`: a time in (0, 1) at which the flow stops early; a sample then ends with one evaluation of the target. By
      default none.

    **Returns:** a [`flowprop.Flow`][].

    **Raises:** the errors of [`flowprop.Flow`][].

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,))
    points = jax.random.normal(jax.random.key(1), (100, 2))
    print(flow.loss(points, key=jax.random.key(2)).shape)  # ()
    ```
    """
    return Flow(
        network,
        CondOTPath(),
        VelocityPrediction(),
        shape=shape,
        weighting=weighting,
        time_sampling=time_sampling,
        source=source,
        coupling=coupling,
        transform=transform,
        encoder=encoder,
        end=end,
    )


@checked
def ct_flow(
    network: Network,
    *,
    shape: tuple[int, ...],
    schedule: AbstractNoiseSchedule | None = None,
    prediction: AbstractPrediction | None = None,
    weighting: AbstractWeighting | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    coupling: AbstractCoupling | None = None,
    transform: AbstractTransform | Bijection | None = None,
    encoder: Callable[[Any], PyTree] | None = None,
    end: Real | None = None,
) -> Flow:
    """Continuous-time diffusion (CT): the variance-preserving path, target prediction, the weight of the bound.

    With the defaults the loss is `E SNR'(t)/2 |network(t, z_t, x) - z_1|^2`: NoProp-CT
    ([NoProp](https://arxiv.org/abs/2503.24322), algorithm 2), and variational diffusion with x0-prediction ([Kingma et
    al. 2021](https://arxiv.org/abs/2107.00630), eq. 17). For densities,
    `prediction=fp.PreconditionedPrediction(data_std=...)` learns far better than the plain target.

    **Arguments:**

    - `network`: a callable `network(t, z, x)` on one example, with the time `t`, the point `z` and the condition
      (context) `x`. It returns an array of `z`'s shape, or logits for a [`flowprop.CategoricalPrediction`][].
    - `shape`: the shape of one example.
    - `schedule`: the log-SNR. By default [`flowprop.SigmoidNoiseSchedule`][]`(13.)`.
    - `prediction`: the meaning of the network's output. By default [`flowprop.TargetPrediction`][].
    - `weighting`: the weight of the error as a function of time. By default the evidence lower bound's `SNR'(t)/2` for
      a prediction whose errors are in the target's units (a target, plain or categorical, on any span), and 1 for any
      other.
    - `time_sampling`: the distribution of the times in a batch. By default stratified, uniform over the span.
    - `coupling`: how noise is paired with data in a batch. By default independently.
    - `transform`: from the data's units to the path's coordinates, such as `fp.Standardise.fit(points)`. By default
      none.
    - `encoder`: a callable on one condition, trained with the network and called once for each solve. By default none.
    - `end`: a time in (0, 1) at which the flow stops early; a sample then ends with one evaluation of the target. By
      default none.

    **Returns:** a [`flowprop.Flow`][].

    **Raises:** the errors of [`flowprop.Flow`][].

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    prediction = fp.PreconditionedPrediction(data_std=0.7)
    flow = fp.ct_flow(network, shape=(2,), prediction=prediction)
    points = 0.7 * jax.random.normal(jax.random.key(1), (100, 2))
    print(flow.loss(points, key=jax.random.key(2)).shape)  # ()
    ```
    """
    schedule = SigmoidNoiseSchedule() if schedule is None else schedule
    prediction = TargetPrediction() if prediction is None else prediction
    path = VPPath(schedule)
    if weighting is None:
        weighting = ELBOWeighting() if prediction.is_in_target_units(path) else UniformWeighting()
    return Flow(
        network,
        path,
        prediction,
        shape=shape,
        weighting=weighting,
        time_sampling=time_sampling,
        coupling=coupling,
        transform=transform,
        encoder=encoder,
        end=end,
    )


@checked
def df_flow(
    network: Network,
    *,
    shape: tuple[int, ...],
    schedule: AbstractNoiseSchedule | None = None,
    weighting: AbstractWeighting | None = None,
    time_sampling: AbstractTimeSampling | None = None,
    coupling: AbstractCoupling | None = None,
    transform: AbstractTransform | Bijection | None = None,
    encoder: Callable[[Any], PyTree] | None = None,
    end: Real | None = None,
) -> Flow:
    """Denoising diffusion (DF): the variance-preserving path, noise (epsilon) prediction, weight 1.

    The loss is `E |network(t, z_t, x) - z_0|^2`, the "simple" loss of DDPM ([Ho et al.
    2020](https://arxiv.org/abs/2006.11239), eq. 14). With `weighting=fp.ELBOWeighting()` the weight is `gamma'/2`.

    **Arguments:**

    - `network`: a callable `network(t, z, x)` on one example, with the time `t`, the point `z` and the condition
      (context) `x`. It returns an array of `z`'s shape.
    - `shape`: the shape of one example.
    - `schedule`: the log-SNR. By default [`flowprop.SigmoidNoiseSchedule`][]`(13.)`.
    - `weighting`: the weight of the error as a function of time. By default 1.
    - `time_sampling`: the distribution of the times in a batch. By default stratified, uniform over the span.
    - `coupling`: how noise is paired with data in a batch. By default independently.
    - `transform`: from the data's units to the path's coordinates, such as `fp.Standardise.fit(points)`. By default
      none.
    - `encoder`: a callable on one condition, trained with the network and called once for each solve. By default none.
    - `end`: a time in (0, 1) at which the flow stops early; a sample then ends with one evaluation of the target. By
      default none.

    **Returns:** a [`flowprop.Flow`][].

    **Raises:** the errors of [`flowprop.Flow`][].

    ```python
    import flowprop as fp
    import jax

    network = fp.nn.MLP(shape=(2,), width=8, depth=1, key=jax.random.key(0))
    flow = fp.df_flow(network, shape=(2,), schedule=fp.CosineNoiseSchedule())
    points = jax.random.normal(jax.random.key(1), (100, 2))
    print(flow.loss(points, key=jax.random.key(2)).shape)  # ()
    ```
    """
    schedule = SigmoidNoiseSchedule() if schedule is None else schedule
    return Flow(
        network,
        VPPath(schedule),
        NoisePrediction(),
        shape=shape,
        weighting=weighting,
        time_sampling=time_sampling,
        coupling=coupling,
        transform=transform,
        encoder=encoder,
        end=end,
    )
