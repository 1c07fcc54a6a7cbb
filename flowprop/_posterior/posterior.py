"""A posterior: a flow of parameters given an observation, within the support of a prior."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from .._divergence import AbstractDivergence, ExactDivergence
from .._flow.checks import check_condition, refuse_if
from .._flow.flow import Flow
from .._flow.given import given
from .._likelihood.estimate_log_prob import LogProbEstimate, estimate_log_prob
from .._likelihood.importance_weights import ImportanceWeights, importance_weights
from .._likelihood.log_prob import likelihood_integrator, log_prob
from .._solve import AbstractIntegrator, AbstractODEIntegrator
from .._types import Point, PRNGKey, Real, check_key, check_number, check_positive, checked, is_traced
from .acceptance import Acceptance, draw_keys, fixed_noise, never_leaves, share_inside
from .ensemble import FlowEnsemble, members, mixture
from .mode import climb
from .observations import check_observations, encoded, one_row, without_encoder
from .posterior_log_prob import PosteriorLogProb
from .prior import WithSupport, as_prior, check_points
from .rejection import draw_within


class Posterior(eqx.Module):
    """The posterior `p(theta | x)` that a flow has learned, within the support of its prior.

    The flow was trained on pairs of parameters `theta` and observations `x`, with `theta` as the data and `x` as the
    condition ([Wildberger et al. 2023](https://arxiv.org/abs/2305.17161), section 3). A flow `q(theta | x)` puts some
    probability outside of the support of the prior, where the posterior has none. This class draws from the flow and
    rejects what lies outside, so that its density is

    `p(theta | x) = q(theta | x) 1[theta in support] / Z(x)`,

    with `Z(x)` the probability of the flow within the support ([Greenberg et al.
    2019](https://arxiv.org/abs/1905.07488)). If the flow's transform maps every point into the support, as
    [`flowprop.Bounded`][] does for a box, nothing is rejected and `Z(x) = 1`.

    No method changes the object, and all random draws come from the keys. [`flowprop.save`][] stores flow, prior and
    integrator.

    **Arguments:**

    - `flow`: the flow of `theta` given `x`, or a [`flowprop.FlowEnsemble`][].
    - `prior`: the prior from which `theta` was drawn: [`flowprop.BoxUniform`][], a distribution of NumPyro, flowjax or
      distrax, or any object with `log_prob(theta)`, `sample(key, sample_shape)` and `event_shape`. Its support is where
      its log-density is finite.
    - `integrator`: an integrator that has a likelihood. By default [`flowprop.ODEIntegrator`][]`()`.
    - `divergence`: how to compute the divergence. By default [`flowprop.ExactDivergence`][]`()`. A stochastic
      divergence needs a key for each log-density.

    **Raises:** `TypeError` for an integrator without a likelihood, or a `prior` that is no distribution; `ValueError`
    if `prior` has another shape than `flow`, or a batch shape.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    network = fp.nn.MLP((2,), condition_size=3, width=8, depth=1, key=jax.random.key(0))
    flow = fp.fm_flow(network, shape=(2,))
    posterior = fp.Posterior(flow, fp.BoxUniform(-jnp.ones(2), jnp.ones(2)))
    x = jnp.array([0.1, 0.2, 0.3])
    theta = posterior.sample(x, 100, key=jax.random.key(1))
    print(theta.shape, float(abs(theta).max()) <= 1)  # (100, 2) True
    print(posterior.log_prob(theta, x).shape)  # (100,)
    print(posterior.log_prob(jnp.array([0.0, 2.0]), x))  # -inf
    ```
    """

    flow: Flow | FlowEnsemble
    prior: WithSupport
    integrator: AbstractODEIntegrator
    divergence: AbstractDivergence
    never_rejects: bool = eqx.field(static=True)

    @checked
    def __init__(
        self,
        flow: Flow | FlowEnsemble,
        prior: Any,
        *,
        integrator: AbstractIntegrator | None = None,
        divergence: AbstractDivergence | None = None,
    ) -> None:
        self.flow = flow
        self.prior = as_prior(prior)
        if self.prior.event_shape != flow.shape:
            raise ValueError(
                f"`prior` has shape {self.prior.event_shape} where the flow's `shape` is {flow.shape}: give the prior "
                "of the parameters that the flow draws"
            )
        self.integrator = likelihood_integrator(integrator)
        self.divergence = ExactDivergence() if divergence is None else divergence
        self.never_rejects = all(never_leaves(member, self.prior) for member in members(flow))

    @checked
    def sample(
        self, x: PyTree, num_samples: int, *, key: PRNGKey, min_acceptance: Real = 0.001
    ) -> Float[Array, "samples *shape"]:
        """Draw samples for one observation.

        The observation is encoded once. Draws outside of the support of the prior are rejected and replaced.

        **Arguments:**

        - `x`: one observation, without the batch axis.
        - `num_samples`: how many samples to draw.
        - `key`: the random key. The first samples do not depend on `num_samples`, unless the flow is an ensemble.
        - `min_acceptance`: the smallest share of accepted draws, above which the draws go on. By default 0.001.

        **Returns:** samples in the units of the parameters, `(num_samples, *shape)`.

        **Warns:** if less than a tenth of the draws is accepted.

        **Raises:** `RuntimeError` if the share of accepted draws is below `min_acceptance`, or if a solve fails;
        `ValueError` if `x` holds NaN, infinity or no array, or if `num_samples` is not positive.
        """
        return self.sample_each(one_row(x), num_samples, key=key, min_acceptance=min_acceptance)[0]

    @checked
    def sample_each(
        self, x: PyTree, num_samples: int, *, key: PRNGKey, min_acceptance: Real = 0.001
    ) -> Float[Array, "batch samples *shape"]:
        """Draw samples for each of several observations, by one compiled program.

        **Arguments:**

        - `x`: the observations; each leaf has the batch axis first.
        - `num_samples`: how many samples to draw for each observation.
        - `key`: the random key.
        - `min_acceptance`: the smallest share of accepted draws of an observation, above which the draws go on. By
          default 0.001.

        **Returns:** samples in the units of the parameters, `(batch, num_samples, *shape)`.

        **Warns:** if less than a tenth of the draws for one of the observations is accepted.

        **Raises:** `RuntimeError` if the share of accepted draws is below `min_acceptance`, or if a solve fails;
        `ValueError` if `x` holds NaN, infinity or no array, or if `num_samples` is not positive.
        """
        check_key("key", key)
        check_positive(num_samples=num_samples)
        remedy = "give a positive number of at most 1"
        check_number("min_acceptance", min_acceptance, above=0, at_most=1, remedy=remedy)
        if is_traced(self, x, key):
            raise TypeError(
                "`sample` counts what it rejects, and cannot be transformed by `jax.jit`, `jax.vmap` or `jax.grad`: "
                "use `fp.sample(fp.given(flow, x), n, key=key)` inside of them"
            )
        num_observations = check_observations(x)
        return draw_within(
            [without_encoder(flow) for flow in members(self.flow)],
            self.prior,
            [encoded(flow, x) for flow in members(self.flow)],
            num_observations,
            num_samples,
            self.integrator,
            min_acceptance,
            key=key,
        )

    @checked
    def acceptance(self, x: PyTree, *, key: PRNGKey | None = None, num_draws: int = 10_000) -> Acceptance:
        """Estimate `Z(x)`, the probability that the flow puts within the support of the prior, for one observation.

        **Arguments:**

        - `x`: one observation, without the batch axis.
        - `key`: the random key of the draws. By default every call uses the same evenly spread gaussian noise, so
          that the result is always the same, and closer than that of random draws in few dimensions.
        - `num_draws`: how many draws of the flow to count. By default 10,000, which gives a standard error of at most
          0.005.

        **Returns:** an [`flowprop.Acceptance`][]. If the flow's transform maps every point into the support, it is 1,
        without any draw.

        **Raises:** `ValueError` if no key is given and the flow's source is not gaussian.
        """
        check_positive(num_draws=num_draws)
        if self.never_rejects:
            return Acceptance(jnp.ones(()), jnp.zeros(()), 0)
        flows = members(self.flow)
        count = -(-num_draws // len(flows))
        noise: Any
        if key is None:
            if not all(flow.source.is_gaussian for flow in flows):
                raise ValueError("`key` is None where the flow's source is not gaussian: give `jax.random.key(seed)`")
            noise = fixed_noise(count, self.flow.shape)
            noises = [noise] * len(flows)
        else:
            check_key("key", key)
            noises = [draw_keys(own, count) for own in jax.random.split(key, len(flows))]
        shares = jnp.stack(
            [
                share_inside(without_encoder(flow), self.prior, flow.encode(x), noise, self.integrator)
                for flow, noise in zip(flows, noises, strict=True)
            ]
        )
        careful = (shares * count + 1) / (count + 2)
        error = jnp.sqrt(jnp.sum(careful * (1 - careful) / count)) / len(flows)
        return Acceptance(jnp.mean(shares), error, count * len(flows))

    @checked
    def acceptance_each(self, x: PyTree, *, key: PRNGKey | None = None, num_draws: int = 1_000) -> Acceptance:
        """Estimate `Z(x)` for each of several observations.

        **Arguments:**

        - `x`: the observations; each leaf has the batch axis first.
        - `key`: the random key of the draws. By default all observations, in every call, use the same fixed noise.
        - `num_draws`: how many draws of the flow to count for each observation. By default 1,000, which gives a
          standard error of at most 0.016.

        **Returns:** an [`flowprop.Acceptance`][] with fields of shape `(batch,)`.

        **Raises:** `ValueError` if no key is given and the flow's source is not gaussian.
        """
        rows = check_observations(x)
        if self.never_rejects:
            return Acceptance(jnp.ones(rows), jnp.zeros(rows), 0)
        shares = [
            self.acceptance(
                jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf)[row], x),
                key=None if key is None else jax.random.fold_in(key, row),
                num_draws=num_draws,
            )
            for row in range(rows)
        ]
        return jax.tree.map(lambda *values: jnp.stack(values), *shares)

    @checked
    def log_prob(
        self,
        theta: ArrayLike | list | tuple,
        x: PyTree,
        *,
        key: PRNGKey | None = None,
        acceptance: Acceptance | Real | Float[Array | np.ndarray, ""] | None = None,
        num_draws: int = 10_000,
        throw: bool = True,
    ) -> Float[Array, "*batch"]:
        """Compute `log p(theta | x)` for one observation: `log q(theta | x) - log Z(x)` within the prior's support.

        `Z(x)` is estimated from draws of the flow, unless it is known to be 1 or given as `acceptance`. Its standard
        error is about 0.005 nats for 10,000 draws of which 80 % lie inside; `posterior.acceptance(x)` states it. If you
        compute log-densities for one observation several times, compute the acceptance once and give it.

        **Arguments:**

        - `theta`: one point in the units of the parameters, or an array of points, `(*batch, *shape)`.
        - `x`: one observation, without the batch axis.
        - `key`: the random key of the draws for `Z(x)` and of a stochastic divergence. By default `Z(x)` is estimated
          from fixed noise.
        - `acceptance`: `Z(x)`, a number or the result of `posterior.acceptance(x)`. 1 gives the density of the flow
          itself inside the support.
        - `num_draws`: how many draws to use for `Z(x)`. By default 10,000.
        - `throw`: whether a solve that fails raises an error. If not, its result is NaN. By default `True`.

        **Returns:** log-densities in nats, of shape `batch`: minus infinity outside of the support of the prior, and
        NaN for a point that is not finite.

        **Raises:** `ValueError` if the last axes of `theta` are not the shape of the parameters, if no draw lies within
        the support, or if a key is needed and missing; `RuntimeError` if a solve fails and `throw` is true.
        """
        points, batch = self._rows(theta)
        key_share, key_probes = (None, None) if key is None else jax.random.split(key)
        share = self._share(x, key_share, acceptance, num_draws)
        flows = [given(flow, x) for flow in members(self.flow)]
        values = self._within(
            points,
            lambda safe: mixture(
                [
                    log_prob(
                        flow,
                        safe,
                        key=key_probes,
                        divergence=self.divergence,
                        integrator=self.integrator,
                        throw=throw,
                    )
                    for flow in flows
                ]
            ),
        )
        return (values - jnp.log(share.value)).reshape(batch)

    @checked
    def log_prob_each(
        self,
        theta: Float[Array | np.ndarray, "batch *points_and_shape"],
        x: PyTree,
        *,
        key: PRNGKey | None = None,
        acceptance: Acceptance | Real | Float[Array | np.ndarray, "*batch"] | None = None,
        num_draws: int = 1_000,
        throw: bool = True,
    ) -> Float[Array, "batch *points"]:
        """Compute `log p(theta_i | x_i)` for pairs of parameters and observations, or for many points of each.

        **Arguments:**

        - `theta`: one point for each observation, `(batch, *shape)`, or arrays of points, `(batch, *points, *shape)`.
        - `x`: the observations; each leaf has the batch axis first.
        - `key`: the random key of the draws for `Z(x)` and of a stochastic divergence. By default `Z(x)` is estimated
          from fixed noise.
        - `acceptance`: `Z(x)` of each observation, a number, `(batch,)`, or the result of
          `posterior.acceptance_each(x)`. 1 gives the density of the flow itself inside the support.
        - `num_draws`: how many draws to use for each `Z(x)`. By default 1,000.
        - `throw`: whether a solve that fails raises an error. If not, its result is NaN. By default `True`.

        **Returns:** log-densities in nats, `(batch, *points)`: minus infinity outside of the support of the prior, and
        NaN for a point that is not finite.

        **Raises:** `ValueError` if `theta` or `x` has the wrong shape, if for an observation no draw lies within the
        support, or if a key is needed and missing; `RuntimeError` if a solve fails and `throw` is true.
        """
        points, batch = self._rows(theta)
        if not batch:
            raise ValueError(f"`theta` has shape {self.flow.shape}: give a batch axis, one row for each observation")
        check_condition(x, batch[0])
        key_share, key_probes = (None, None) if key is None else jax.random.split(key)
        if acceptance is None:
            acceptance = self.acceptance_each(x, key=key_share, num_draws=num_draws)
        share = self._share(x, None, acceptance, num_draws)
        row = np.repeat(np.arange(batch[0]), len(points) // batch[0])
        values = self._within(
            points,
            lambda safe: mixture(
                [
                    log_prob(
                        without_encoder(flow),
                        safe,
                        jax.tree.map(lambda leaf: leaf[row], encoded(flow, x)),
                        key=key_probes,
                        divergence=self.divergence,
                        integrator=self.integrator,
                        throw=throw,
                    )
                    for flow in members(self.flow)
                ]
            ),
        )
        of_rows = jnp.broadcast_to(jnp.log(share.value), batch[:1])[row]
        return (values - of_rows).reshape(batch)

    @checked
    def estimate_log_prob(
        self,
        theta: Float[Array | np.ndarray, "n *shape"],
        x: PyTree,
        *,
        key: PRNGKey | None = None,
        acceptance: Acceptance | Real | Float[Array | np.ndarray, ""] | None = None,
        num_draws: int = 10_000,
        tolerance: Real | None = None,
    ) -> PosteriorLogProb:
        """Compute `log p(theta | x)` with its errors: of the solver, of random probes, and of the estimated `Z(x)`.

        **Arguments:**

        - `theta`: points in the units of the parameters, `(n, *shape)`.
        - `x`: one observation, without the batch axis.
        - `key`: the random key of the draws for `Z(x)` and of a stochastic divergence. By default `Z(x)` is estimated
          from fixed noise.
        - `acceptance`: `Z(x)`, a number or the result of `posterior.acceptance(x)`.
        - `num_draws`: how many draws to use for `Z(x)`. By default 10,000.
        - `tolerance`: an error in nats. If it is given, a `UserWarning` reports larger errors of the flow's
          log-density. By default none.

        **Returns:** a [`flowprop.PosteriorLogProb`][].

        **Raises:** the errors of `log_prob` and of [`flowprop.estimate_log_prob`][].
        """
        points, _ = self._rows(theta)
        key_share, key_probes = (None, None) if key is None else jax.random.split(key)
        share = self._share(x, key_share, acceptance, num_draws)
        estimates: list[LogProbEstimate] = []

        def densities(safe: Array) -> Array:
            for flow in members(self.flow):
                estimate = estimate_log_prob(
                    given(flow, x),
                    safe,
                    key=key_probes,
                    divergence=self.divergence,
                    integrator=self.integrator,
                    tolerance=tolerance,
                )
                estimates.append(estimate)
            return mixture([estimate.value for estimate in estimates])

        values = self._within(points, densities)
        flow = dataclasses.replace(
            estimates[0],
            value=values,
            probe_error=_mean([estimate.probe_error for estimate in estimates]),
            solver_error=_mean([estimate.solver_error for estimate in estimates]),
            function_evaluations=sum((e.function_evaluations for e in estimates), jnp.asarray(0)),
        )
        return PosteriorLogProb(flow, values - jnp.log(share.value), share)

    @checked
    def weights(
        self,
        theta: Float[Array | np.ndarray, "n *shape"],
        x: PyTree,
        *,
        log_likelihood: Callable[[Any, Any], Any] | None = None,
        prior: Any = None,
        acceptance: Acceptance | Real | Float[Array | np.ndarray, ""] | None = None,
    ) -> ImportanceWeights:
        """Compute importance weights of samples of this posterior: for a known likelihood, or for another prior.

        With `log_likelihood`, the weights are proportional to `p(x | theta) p(theta) / q(theta | x)`, and correct the
        errors of the flow ([Dax et al. 2023](https://arxiv.org/abs/2210.05686)); `log_normaliser` is then the
        log-evidence `log p(x)`. Without, they are proportional to `prior(theta) / p(theta)`, the posterior with
        another prior, and rely on the flow. Give the weights to [`flowprop.resample`][] to draw samples, and look at
        their `effective_sample_size` before.

        **Arguments:**

        - `theta`: samples from `sample(x, n, key=key)`, `(n, *shape)`.
        - `x`: the observation, without the batch axis.
        - `log_likelihood`: a function in JAX, `log_likelihood(theta, x)` of one `theta`, in nats. By default it is not
          known.
        - `prior`: another prior, in the same form as that of the posterior. Its support has to lie within that of the
          posterior's prior. By default the posterior's own.
        - `acceptance`: `Z(x)`, if it is known; it matters for `log_normaliser` alone.

        **Returns:** an [`flowprop.ImportanceWeights`][].

        **Raises:** `ValueError` if neither `log_likelihood` nor `prior` is given, and the errors of `log_prob` and of
        [`flowprop.importance_weights`][].
        """
        if log_likelihood is None and prior is None:
            raise ValueError("give `log_likelihood`, or another `prior`, or both")
        points = jnp.asarray(theta, float)
        wanted = (self.prior if prior is None else as_prior(prior)).log_prob(points)
        if log_likelihood is None:
            return importance_weights(wanted, self.prior.log_prob(points))
        likelihood = jax.vmap(lambda one: jnp.asarray(log_likelihood(one, x)))(points)
        return importance_weights(likelihood + wanted, self.log_prob(points, x, acceptance=acceptance))

    @checked
    def map(
        self,
        x: PyTree,
        *,
        key: PRNGKey,
        num_samples: int = 1_000,
        num_starts: int = 8,
        steps: int = 100,
    ) -> Point:
        """Find the maximum of the density (maximum a posteriori, MAP) for one observation.

        The best of many samples are the starts of a gradient ascent by Adam, in units of the samples' standard
        deviations. A step that would leave the support of the prior in one coordinate is not taken in that coordinate.
        The mode depends on the parameters' units: another parametrisation has another one.

        **Arguments:**

        - `x`: one observation, without the batch axis.
        - `key`: the random key of the samples.
        - `num_samples`: how many samples to draw. By default 1,000.
        - `num_starts`: from how many of them to ascend. By default 8.
        - `steps`: the number of steps. By default 100.

        **Returns:** the point of the largest density that was found, of the shape of the parameters.

        **Raises:** the errors of `sample` and `log_prob`.
        """
        check_positive(num_starts=num_starts, steps=steps)
        key_samples, key_probes = jax.random.split(key)
        samples = self.sample(x, max(num_samples, num_starts), key=key_samples)
        values = self.log_prob(samples, x, acceptance=1.0, key=key_probes)
        starts = samples[jnp.argsort(-values)[:num_starts]]
        scale = jnp.maximum(jnp.std(samples, axis=0), 1e-6)

        flows = [given(flow, x) for flow in members(self.flow)]
        return climb(flows, self.prior, starts, scale, steps, self.integrator, self.divergence, key_probes)

    def _rows(self, theta: Any) -> tuple[Float[Array, "n *shape"], tuple[int, ...]]:
        """The points along one axis, and the axes that they had."""
        points = jnp.asarray(theta, float)
        batch = check_points("theta", points, self.flow.shape)
        if 0 in batch:
            raise ValueError(f"`theta` has shape {points.shape}: give at least one point")
        return points.reshape(-1, *self.flow.shape), batch

    def _share(self, x: PyTree, key: PRNGKey | None, acceptance: Any, num_draws: int) -> Acceptance:
        """The acceptance that is given, or an estimate of it; an error if it is 0."""
        if acceptance is None:
            acceptance = self.acceptance(x, key=key, num_draws=num_draws)
        if not isinstance(acceptance, Acceptance):
            value = jnp.asarray(acceptance, float)
            acceptance = Acceptance(value, jnp.zeros_like(value), 0)
        message = (
            "`acceptance` is not above 0: no draw of the flow lies within the support of `prior`, or a wrong number is "
            "given. Check that `x` is like the simulations and that `prior` is the one of the training"
        )
        value = refuse_if(acceptance.value, ~jnp.all(acceptance.value > 0), message)
        return dataclasses.replace(acceptance, value=value)

    def _within(self, points: Float[Array, "n *shape"], density: Any) -> Float[Array, " n"]:
        """`density(points)` within the support, minus infinity outside, and NaN for points that are not finite.

        Outside of the support the flow is evaluated at the centre of its coordinates, where a solve is easy.
        """
        inside = self.prior.in_support(points)
        finite = jnp.all(jnp.isfinite(points.reshape(len(points), -1)), axis=1)
        wide = inside.reshape(-1, *[1] * (points.ndim - 1))
        centre = members(self.flow)[0].transform.inverse(jnp.zeros(self.flow.shape, points.dtype))
        values = density(jnp.where(wide, points, jnp.asarray(centre, points.dtype)[None]))
        return jnp.where(inside, values, jnp.where(finite, -jnp.inf, jnp.nan))


def _mean(errors: list[Float[Array, " n"]]) -> Float[Array, " n"]:
    return jnp.mean(jnp.stack(errors), axis=0)
