"""Flows whose every quantity is known: gaussian and gaussian-mixture data under the optimal denoiser.

For a component N(m, S), with `C = alpha^2 S + sigma^2 I` and `r = C^-1 (z - alpha m)`:
`E[z_1 | z] = m + alpha S r` and `E[z_0 | z] = sigma r`. A mixture weighs these by its posterior.
"""

from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowprop as fp
from flowprop._path import derivative


class Mixture(eqx.Module):
    """A gaussian mixture: its moments, density, and optimal denoiser at every time of a path.

    The covariance of component k is `V_k diag(l_k) V_k^T`.
    """

    weights: np.ndarray
    means: np.ndarray
    variances: np.ndarray
    axes: np.ndarray

    def __init__(self, weights, means, covariances):
        self.weights, self.means = np.array(weights), np.array(means)
        self.variances, self.axes = np.linalg.eigh(np.array(covariances))

    @property
    def covariances(self):
        return np.einsum("kij,kj,klj->kil", self.axes, self.variances, self.axes)

    @property
    def mean(self):
        return self.weights @ self.means

    @property
    def covariance(self):
        centred = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, self.covariances + centred[:, :, None] * centred[:, None, :])

    def expectations(self, alpha, sigma, z):
        """`E[z_1 | z_t = z]` and `E[z_0 | z_t = z]`."""
        weights, means, variances, axes = (jnp.asarray(array, z.dtype) for array in jax.tree.leaves(self))
        marginal = alpha**2 * variances + sigma**2
        differences = jnp.einsum("kij,ki->kj", axes, z[None] - alpha * means)
        residuals = differences / marginal
        log_weights = jnp.log(weights) - 0.5 * jnp.sum(differences * residuals + jnp.log(marginal), axis=-1)
        posterior = jax.nn.softmax(log_weights)
        targets = means + alpha * jnp.einsum("kij,kj->ki", axes, variances * residuals)
        return posterior @ targets, sigma * jnp.einsum("k,kij,kj->i", posterior, axes, residuals)


# A mean that is not 0 and a covariance with off-diagonal terms: both are needed to catch an error.
# Written as a mixture of itself, the gaussian shares the compiled programs of the mixture.
GAUSSIAN = Mixture([0.5, 0.5], [[0.7, -0.4]] * 2, [[[0.6, 0.35], [0.35, 0.4]]] * 2)
MIXTURE = Mixture([0.3, 0.7], [[-1.0, 0.5], [0.8, -0.3]], [[[0.2, 0.08], [0.08, 0.1]], [[0.15, -0.05], [-0.05, 0.3]]])


class Denoiser(eqx.Module):
    """The network that knows the data: returns what the prediction asks for, exactly."""

    data: Mixture
    path: fp.AbstractPath
    prediction: fp.AbstractPrediction

    def __call__(self, t, z, x=None):
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        target, noise = self.data.expectations(alpha, sigma, z)
        match self.prediction:
            case fp.TargetPrediction():
                return target
            case fp.NoisePrediction():
                return noise
            case fp.VelocityPrediction():
                return derivative(self.path.alpha, t) * target + derivative(self.path.sigma, t) * noise
            case fp.PreconditionedPrediction(data_std=s):
                return (sigma / s * target - alpha * s * noise) / jnp.hypot(alpha * s, sigma)
        raise TypeError(self.prediction)


class Posterior(eqx.Module):
    """The logits `log p(k | z_t, x)` of one-hot labels, where the input is `log p(k | x)`: Bayes' rule on the path."""

    path: fp.AbstractPath

    def __call__(self, t, z, x):
        points = self.path.alpha(t) * jnp.eye(x.size)
        return x - jnp.sum(jnp.square(z[None] - points), axis=1) / (2 * jnp.square(self.path.sigma(t)))


CENTRES = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], np.float32)


def blobs(seed, n=240):
    """Three clusters 3.4 apart, of standard deviation 0.5, with their labels: the best rule is right on 99.9 %."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, n)
    return (CENTRES[labels] + 0.5 * draw.standard_normal((n, 2))).astype(np.float32), labels


def exact_flow(data, path, prediction):
    return fp.Flow(Denoiser(data, path, prediction), path, prediction, shape=(2,))


def learnable():
    schedule = fp.LearnableNoiseSchedule(hidden_dims=(16,), gamma_range=(-7.0, 6.0), key=jax.random.key(3))
    # Away from the straight line that it begins as.
    return jax.tree.map(lambda leaf: leaf + 0.4 if leaf.ndim == 2 else leaf, schedule)


# Every constructor, and every pair of path and prediction that Flow takes. The schedules' ends are
# far from 0 and 1 (`wide` scale 4: alpha(1) = 0.94) as well as close to them.
PAIRS = {
    "fm": lambda: (fp.CondOTPath(), fp.VelocityPrediction()),
    "ct cosine": lambda: (fp.VPPath(fp.CosineNoiseSchedule()), fp.TargetPrediction()),
    "ct sigmoid": lambda: (fp.VPPath(fp.SigmoidNoiseSchedule(13.0)), fp.TargetPrediction()),
    "ct narrow": lambda: (fp.VPPath(fp.SigmoidNoiseSchedule(4.0)), fp.TargetPrediction()),
    "ct learnable": lambda: (fp.VPPath(learnable()), fp.TargetPrediction()),
    "ct preconditioned": lambda: (fp.VPPath(fp.SigmoidNoiseSchedule(13.0)), fp.PreconditionedPrediction(0.7)),
    "df": lambda: (fp.VPPath(fp.LinearNoiseSchedule()), fp.NoisePrediction()),
    "df cosine": lambda: (fp.VPPath(fp.CosineNoiseSchedule()), fp.NoisePrediction()),
    "vp velocity": lambda: (fp.VPPath(fp.CosineNoiseSchedule()), fp.VelocityPrediction()),
    "condot target": lambda: (fp.CondOTPath(), fp.TargetPrediction()),
    "condot noise": lambda: (fp.CondOTPath(), fp.NoisePrediction()),
    "condot preconditioned": lambda: (fp.CondOTPath(), fp.PreconditionedPrediction(0.7)),
}


def pushforward_moments(flow, data):
    """Mean and covariance of a gaussian's flow from N(0, b^2 I) by its ODE, in data coordinates.

    The ODE maps `z - alpha m` by the square root of the ratio of the marginal covariances
    `alpha^2 S + sigma^2 I`, which commute; `b` is 1 where the marginal at the start is N(0, I) for
    unit data.
    """
    start, end = flow.span
    alpha = [float(flow.path.alpha(jnp.asarray(t, float))) for t in (start, end)]
    sigma = [float(flow.path.sigma(jnp.asarray(t, float))) for t in (start, end)]
    values, vectors = np.linalg.eigh(data.covariance)
    spread = [a**2 * values + s**2 for a, s in zip(alpha, sigma, strict=True)]
    stretch = np.sqrt(spread[1] / spread[0])
    mean = alpha[1] * data.mean - alpha[0] * vectors @ (stretch * (vectors.T @ data.mean))
    variances = (alpha[0] ** 2 + sigma[0] ** 2) * stretch**2
    return mean / alpha[1], vectors @ np.diag(variances) @ vectors.T / alpha[1] ** 2


def gaussian_log_prob(z, mean, covariance):
    difference = np.asarray(z, float) - mean
    quadratic = np.sum(difference * np.linalg.solve(covariance, difference.T).T, axis=-1)
    return -0.5 * quadratic - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]


def runge_kutta_log_prob(flow, z, num_steps=500):
    """The same pushforward by the classical Runge-Kutta method, without Diffrax.

    Steps are finer towards both ends, where a schedule's velocity turns quickest.
    """

    def field(t, state):
        z, _ = state
        return flow.velocity(t, z), jnp.trace(jax.jacfwd(lambda z: flow.velocity(t, z))(z))

    def step(state, times):
        t, h = times[0], times[1] - times[0]

        def stage(carry, tableau):
            slope, total = carry
            node, weight = tableau
            here = jax.tree.map(lambda y, k: y + node * h * k, state, slope)
            slope = field(t + node * h, here)
            return (slope, jax.tree.map(lambda y, k: y + weight * h * k, total, slope)), None

        tableau = jnp.array([[0, 1 / 6], [1 / 2, 1 / 3], [1 / 2, 1 / 3], [1, 1 / 6]])
        (_, total), _ = jax.lax.scan(stage, (jax.tree.map(jnp.zeros_like, state), state), tableau)
        return total, None

    start, end = flow.span
    grid = end + (start - end) * (1 - np.cos(np.linspace(0, np.pi, num_steps + 1))) / 2
    alpha = flow.path.alpha(jnp.asarray(end, float))
    base = jnp.hypot(flow.path.alpha(jnp.asarray(start, float)), flow.path.sigma(jnp.asarray(start, float)))

    def one(z):
        (z0, change), _ = jax.lax.scan(step, (alpha * z, jnp.zeros(())), jnp.array(list(pairwise(grid))))
        normal = -0.5 * jnp.sum((z0 / base) ** 2) - z.size * jnp.log(jnp.sqrt(2 * jnp.pi) * base)
        return normal + change + z.size * jnp.log(alpha)

    return jax.jit(jax.vmap(one))(z)
