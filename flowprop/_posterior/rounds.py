"""A posterior of one observation, by rounds of simulations where that posterior may lie."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .._train.history import History
from .._types import PRNGKey, Real, check_key, check_number, check_positive, checked
from .fit_posterior import Simulator, fit_posterior, simulated
from .posterior import Posterior
from .prior import WithSupport, as_prior


#: Candidates from the prior in one call of the density.
_CANDIDATES = 4096
#: How many draws of the posterior lie outside of its region: the error of this number is about a seventh of it.
_OUTSIDE = 50
#: The smallest share of the prior within the region that is sampled by rejection.
_LEAST = 1e-3


@checked
def fit_posterior_rounds(
    simulator: Simulator,
    x: PyTree,
    *,
    prior: Any,
    budget: int,
    rounds: int = 3,
    outside: Real = 0.01,
    checkpoint: str | Path | None = None,
    key: PRNGKey,
    progress: bool = True,
    **options: Any,
) -> tuple[Posterior, list[History]]:
    """Learn the posterior of one observation in rounds: each simulates only where the last posterior allows.

    The first round simulates from the prior. Every other round simulates from the prior within a region: where the
    last round did, and the density of the present posterior is highest, so that the region leaves out the share
    `outside` of it (truncated proposals, [Deistler et al. 2022](https://arxiv.org/abs/2210.04815), algorithm 1). Within
    the last region the proposals of all rounds are proportional to the prior, so that no correction is needed, and the
    flow is trained further on the simulations of all rounds. The result holds for `x` alone: for other observations,
    the last region may leave out what they need.

    A smaller `outside` loses less of the posterior in each round, and needs more simulations: a flow that is not yet
    well trained has a few draws far from the others, which a small `outside` keeps inside of the region.

    **Arguments:**

    - `simulator`: a function in JAX, `simulator(theta, key=key)`, that returns the observation of one `theta`.
    - `x`: the observation, without the batch axis.
    - `prior`: the prior, see [`flowprop.Posterior`][].
    - `budget`: how many simulations to make in each round.
    - `rounds`: how many rounds. By default 3.
    - `outside`: the share of the posterior that a round leaves out of the region. By default 0.01.
    - `checkpoint`: a folder for the checkpoints of the training, one folder in it for each round. The same call
      simulates again, and continues the training where it stopped. By default nothing is saved.
    - `key`: the random key of simulations, network and training.
    - `progress`: whether to show progress bars.
    - `options`: further arguments of [`flowprop.fit_posterior`][], for all rounds.

    **Returns:** the [`flowprop.Posterior`][] of the last round, and a list of the histories of all rounds. Each has one
    more entry, `acceptance`: the share of the prior within the region.

    **Raises:** `RuntimeError` if less than a thousandth of the prior lies within the region; the errors of
    [`flowprop.fit_posterior`][].

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    def simulator(theta, *, key):
        return theta + 0.1 * jax.random.normal(key, theta.shape)

    posterior, histories = fp.fit_posterior_rounds(
        simulator,
        jnp.zeros(1),
        prior=fp.BoxUniform(-jnp.ones(1), jnp.ones(1)),
        budget=300,
        rounds=2,
        outside=0.1,
        network=lambda key: fp.nn.ResidualMLP((1,), 1, width=16, depth=1, key=key),
        steps=200,
        key=jax.random.key(0),
        progress=False,
    )
    print(float(histories[1]["acceptance"]) < float(histories[0]["acceptance"]))  # True
    ```
    """
    check_key("key", key)
    check_positive(budget=budget, rounds=rounds)
    check_number("outside", outside, above=0, below=1, remedy="give a small share, for example 0.0001")
    support = as_prior(prior)
    posterior: Posterior | None = None
    theta: Any = None
    simulations: PyTree = None
    histories: list[History] = []
    regions: list[_Region] = []
    for number, own in enumerate(jax.random.split(key, rounds), 1):
        key_region, key_theta, key_x, key_fit = jax.random.split(own, 4)
        if posterior is not None:
            regions.append(_region(posterior, x, float(outside), key=key_region))
        new, share = _proposals(support, regions, x, budget, key=key_theta)
        made = simulated(simulator, new, progress, key=key_x)
        if posterior is None:
            theta, simulations = np.asarray(new), made
        else:
            theta = np.concatenate([theta, new])
            simulations = jax.tree.map(lambda *parts: np.concatenate(parts), simulations, made)
            options = {name: options[name] for name in options if name not in _OF_NEW_FLOWS}
        posterior, history = fit_posterior(
            theta,
            simulations,
            prior=prior,
            start=posterior,
            checkpoint=None if checkpoint is None else Path(checkpoint) / f"round_{number}",
            key=key_fit,
            progress=progress,
            **options,
        )
        history["acceptance"] = np.asarray(share)
        histories.append(history)
    assert posterior is not None
    return posterior, histories


#: Arguments of `fit_posterior` that only the first round needs.
_OF_NEW_FLOWS = ("network", "encoder", "transform", "time_sampling", "num_flows")


class _Region(NamedTuple):
    """Where the density of a posterior is at least `lowest`."""

    posterior: Posterior
    lowest: float

    def holds(self, theta: Float[Array, "n *shape"], x: PyTree) -> np.ndarray:
        return np.asarray(self.posterior.log_prob(theta, x, acceptance=1.0, throw=False)) >= self.lowest


def _region(posterior: Posterior, x: PyTree, outside: float, *, key: PRNGKey) -> _Region:
    draws = posterior.sample(x, math.ceil(_OUTSIDE / outside), key=key)
    return _Region(posterior, float(np.quantile(posterior.log_prob(draws, x, acceptance=1.0), outside)))


def _proposals(
    prior: WithSupport, regions: list[_Region], x: PyTree, budget: int, *, key: PRNGKey
) -> tuple[Float[Array, "budget *shape"], float]:
    """Parameters from the prior within all regions, and the share of the prior that lies there."""
    if not regions:
        return prior.sample(key, (budget,)), 1.0
    found: list[Array] = []
    accepted = drawn = 0
    while accepted < budget:
        key, own = jax.random.split(key)
        candidates = prior.sample(own, (_CANDIDATES,))
        inside = np.logical_and.reduce([region.holds(candidates, x) for region in regions])
        found.append(candidates[inside])
        accepted, drawn = accepted + int(inside.sum()), drawn + _CANDIDATES
        if drawn * _LEAST >= 10 and accepted < drawn * _LEAST:
            raise RuntimeError(
                f"{accepted} of {drawn} draws of `prior` lie within the region of the posterior, less than {_LEAST:g}: "
                "use fewer rounds with a larger `budget`, or a larger `outside`"
            )
    return jnp.concatenate(found)[:budget], accepted / drawn
