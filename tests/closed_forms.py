"""Flows with exact networks for each path and prediction, the pushforward of a gaussian, and labelled clusters."""

import jax
import jax.numpy as jnp
import numpy as np

import flowprop as fp
from flowprop.conformance import (
    GAUSSIAN as GAUSSIAN,
    MIXTURE as MIXTURE,
    ClassPosterior as ClassPosterior,
    Denoiser as Denoiser,
    Exact as Exact,
    Mixture as Mixture,
    exact_flow as exact_flow,
)


Posterior = ClassPosterior
CENTRES = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], np.float32)


def blobs(seed, n=240):
    """Three labelled clusters with distance 3.4 and standard deviation 0.5. The best accuracy is 99.9 %."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, n)
    return (CENTRES[labels] + 0.5 * draw.standard_normal((n, 2))).astype(np.float32), labels


def learnable():
    schedule = fp.LearnableNoiseSchedule(hidden_dims=(16,), gamma_range=(-7.0, 6.0), key=jax.random.key(3))
    # The initial schedule is a straight line. These parameters are different.
    return jax.tree.map(lambda leaf: leaf + 0.4 if leaf.ndim == 2 else leaf, schedule)


# All constructors, and all pairs of path and prediction that `Flow` accepts. The ends of the schedules are far from 0
# and 1 (scale 4: alpha(1) = 0.94) or close to them.
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


# Pairs with paths from two functions, and with unbounded schedules.
MORE_PAIRS = {
    "straight velocity": lambda: (fp.AffinePath(lambda t: t, lambda t: 1 - t), fp.VelocityPrediction()),
    "trigonometric velocity": lambda: (fp.trigonometric_path(), fp.VelocityPrediction()),
    "trigonometric target": lambda: (fp.trigonometric_path(), fp.TargetPrediction()),
    "trigonometric noise": lambda: (fp.trigonometric_path(), fp.NoisePrediction()),
    "polynomial velocity": lambda: (fp.polynomial_path(2), fp.VelocityPrediction()),
    "exploding preconditioned": lambda: (fp.variance_exploding_path(), fp.PreconditionedPrediction(0.7)),
    "exploding noise": lambda: (fp.variance_exploding_path(0.01, 30.0, rho=5), fp.NoisePrediction()),
    "exploding velocity": lambda: (fp.variance_exploding_path(), fp.VelocityPrediction()),
    "ct quadratic": lambda: (fp.VPPath(fp.QuadraticNoiseSchedule()), fp.TargetPrediction()),
    "ct cauchy": lambda: (fp.VPPath(fp.CauchyNoiseSchedule()), fp.PreconditionedPrediction(0.7)),
    "df laplace": lambda: (fp.VPPath(fp.LaplaceNoiseSchedule()), fp.NoisePrediction()),
    "vp exponential velocity": lambda: (fp.VPPath(fp.ExponentialNoiseSchedule()), fp.VelocityPrediction()),
}


def pushforward_moments(flow, data):
    """The mean and the covariance of a gaussian flow that starts at N(0, b^2 I), in data coordinates.

    The ODE multiplies `z - alpha m` by the square root of the ratio of the marginal covariances
    `alpha^2 S + sigma^2 I`, which commute. `b` is 1 if the marginal of unit data at the start is N(0, I).
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


def runge_kutta_log_prob(flow, z):
    """The log-density of the same pushforward for any mixture, with the classical Runge-Kutta method."""
    return Exact(flow.network.data, flow.path, flow.span).log_prob(z)
