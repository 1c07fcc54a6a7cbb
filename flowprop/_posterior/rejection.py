"""Draws within the support of a prior, by rejection in rounds of a fixed size."""

import math
import warnings
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._batch import default_batch_size
from .._devices import compiled
from .._flow.flow import Flow
from .._rows import settled
from .._solve import AbstractODEIntegrator
from .._solve.solve import solve_to_data
from .._types import Point, PRNGKey
from .prior import WithSupport


#: Below this share of accepted draws there is a warning.
_LOW = 0.1


def draw_within(
    flows: Sequence[Flow],
    prior: WithSupport,
    features: Sequence[PyTree],
    num_observations: int,
    num_samples: int,
    integrator: AbstractODEIntegrator,
    min_acceptance: float,
    *,
    key: PRNGKey,
) -> Float[Array, "observations samples *shape"]:
    """Draw samples of a mixture of flows for each observation, and reject those outside of the prior's support.

    All samples of all observations wait in one queue. A round draws a fixed number of candidates for the first ones
    that wait, so that all rounds are the same compiled program. A candidate's key depends on its observation, its
    sample and its attempt alone: with one flow, the result does not depend on how the rounds are filled.

    **Arguments:**

    - `flows`: the members of the mixture, without encoders.
    - `prior`: the prior.
    - `features`: for each member, the encoded conditions; each leaf has the axis of observations first.
    - `num_observations`, `num_samples`: how many observations, and how many samples for each.
    - `integrator`: the integrator.
    - `min_acceptance`: an observation with a smaller share of accepted draws raises an error.
    - `key`: the random key.

    **Returns:** samples.
    """
    key_members, key_draws = jax.random.split(key)
    waiting = np.arange(num_observations * num_samples)
    size = _round_size(len(waiting), math.prod(prior.event_shape), len(flows))
    attempts = np.zeros(len(waiting), int)
    accepted, drawn = np.zeros(num_observations), np.zeros(num_observations)
    samples: np.ndarray | None = None
    number = 0
    while waiting.size:
        # In the last rounds a sample has several candidates, of which the first that is accepted counts.
        queue = waiting[:size]
        slots = queue[np.arange(size) * len(queue) // size]
        attempt = attempts[slots] + np.arange(size) - np.searchsorted(slots, slots)
        rows, columns = np.divmod(slots, num_samples)
        member = _members(size, len(flows), jax.random.fold_in(key_members, number))
        points, inside = _candidates(flows, prior, features, rows, columns, attempt, member, integrator, key_draws)
        if samples is None:
            samples = np.empty((num_observations * num_samples, *points.shape[1:]), points.dtype)
        hits = np.flatnonzero(inside)
        filled, first = np.unique(slots[hits], return_index=True)
        samples[filled] = points[hits[first]]
        np.add.at(attempts, slots, 1)
        accepted += np.bincount(rows[hits], minlength=num_observations)
        drawn += np.bincount(rows, minlength=num_observations)
        waiting = np.concatenate([np.setdiff1d(queue, filled, assume_unique=True), waiting[size:]])
        number += 1
        _check(accepted, drawn, min_acceptance, np.unique(waiting // num_samples))
    share = accepted / drawn
    if share.min() < _LOW:
        warnings.warn(
            f"only {share.min():.2%} of the draws of `flow` lie within the support of `prior`"
            f"{_at(share)}: a density that leaves the support so often is seldom a good one. Train longer, or give the "
            "flow a transform into the support, such as `fp.Bounded(low, high)`",
            stacklevel=3,
        )
    assert samples is not None
    return jnp.asarray(samples).reshape(num_observations, num_samples, *samples.shape[1:])


def _candidates(
    flows: Sequence[Flow],
    prior: WithSupport,
    features: Sequence[PyTree],
    rows: Int[np.ndarray, " round"],
    columns: Int[np.ndarray, " round"],
    attempt: Int[np.ndarray, " round"],
    member: Int[np.ndarray, " round"],
    integrator: AbstractODEIntegrator,
    key: PRNGKey,
) -> tuple[Float[np.ndarray, "round *shape"], Bool[np.ndarray, " round"]]:
    """Candidates in the order of `rows`, and which of them lie within the support."""
    found = []
    for index, (flow, of_flow) in enumerate(zip(flows, features, strict=True)):
        chosen = np.flatnonzero(member == index)
        places = (rows[chosen], columns[chosen], attempt[chosen])
        points, inside, failed = _draw(flow, prior, of_flow, places, integrator, key)
        found.append((chosen, np.asarray(settled(points, failed, throw=True)), np.asarray(inside)))
    order = np.argsort(np.concatenate([chosen for chosen, _, _ in found]))
    points, inside = (np.concatenate(parts)[order] for parts in list(zip(*found, strict=True))[1:])
    return points, inside


@compiled
def _draw(
    flow: Flow,
    prior: WithSupport,
    features: PyTree,
    places: tuple[Array, Array, Array],
    integrator: AbstractODEIntegrator,
    key: PRNGKey,
) -> tuple[Array, Array, Array]:
    def one(row: Array, column: Array, attempt: Array) -> tuple[Point, Bool[Array, ""], Bool[Array, ""]]:
        own = key
        for number in (row, column, attempt):
            own = jax.random.fold_in(own, number)
        z = flow.draw_noise(key=own)
        theta, succeeded = solve_to_data(flow, z, jax.tree.map(lambda leaf: leaf[row], features), integrator, None)
        return theta, prior.in_support(theta), ~succeeded

    return jax.vmap(one)(*places)


def _members(size: int, num_flows: int, key: PRNGKey) -> Int[np.ndarray, " round"]:
    """Which member draws each candidate: as often one as another, in random order.

    The order has to be random: a sample whose candidates always came from one member would always be accepted from it
    in the end, even if that member were outside of the support most of the time.
    """
    if num_flows == 1:
        return np.zeros(size, int)
    return np.asarray(jax.random.permutation(key, size)) % num_flows


def _round_size(num_draws: int, numbers: int, num_flows: int) -> int:
    """A power of two, so that few programs are compiled, at most what is solved at once; a multiple of `num_flows`."""
    size = min(max(64, 2 ** math.ceil(math.log2(num_draws))), default_batch_size(numbers))
    return -(-size // num_flows) * num_flows


def _check(
    accepted: Float[np.ndarray, " rows"], drawn: Float[np.ndarray, " rows"], minimum: float, waiting: np.ndarray
) -> None:
    """Raise an error if an observation for which samples are missing accepts too few draws."""
    # Ten were to be expected at the smallest share that is allowed.
    enough = drawn[waiting] * minimum >= 10
    tiny = waiting[enough & (accepted[waiting] < drawn[waiting] * minimum)]
    if tiny.size:
        row = tiny[0]
        where = f" at row {row} of `x`" if len(drawn) > 1 else ""
        raise RuntimeError(
            f"{int(accepted[row])} of {int(drawn[row])} draws of `flow`{where} lie within the support of `prior`, less "
            f"than `min_acceptance`, {minimum:g}: check that `x` is like the simulations and that `prior` is the one "
            "of the training, train longer, or give the flow a transform into the support, such as "
            "`fp.Bounded(low, high)`"
        )


def _at(share: Float[np.ndarray, " rows"]) -> str:
    return f" at row {int(share.argmin())} of `x`" if len(share) > 1 else ""
