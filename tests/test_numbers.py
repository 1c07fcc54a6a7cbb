"""A setting that is NaN, infinite or out of range is refused where it is given, by name."""

import re

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


KEY = jax.random.key(0)
NAN, INF = float("nan"), float("inf")


def zero(t, z, x=None):
    return jnp.zeros_like(z)


FLOW = fp.fm_flow(zero, shape=(2,))

# The argument, how it is given, and values that are refused besides NaN and infinity.
SETTINGS = {
    "SigmoidNoiseSchedule": ("scale", lambda v: fp.SigmoidNoiseSchedule(v), [0, -1]),
    "LearnableNoiseSchedule": ("gamma_range", lambda v: fp.LearnableNoiseSchedule((4,), (v, 4.0), key=KEY), [5.0]),
    "PreconditionedPrediction": ("data_std", lambda v: fp.PreconditionedPrediction(v), [0, -1]),
    "EarlyStopPrediction": ("end", lambda v: fp.EarlyStopPrediction(fp.VelocityPrediction(), v), [0, 1, 2]),
    "fm_flow": ("end", lambda v: fp.fm_flow(zero, shape=(2,), end=v), [0, 1, 2]),
    "MinSNRWeighting": ("limit", lambda v: fp.MinSNRWeighting(v), [0, -5]),
    "LogitNormalTimeSampling, mean": ("mean", lambda v: fp.LogitNormalTimeSampling(v), []),
    "LogitNormalTimeSampling": ("std", lambda v: fp.LogitNormalTimeSampling(0.0, v), [0, -1]),
    "PowerTimeSampling": ("exponent", lambda v: fp.PowerTimeSampling(v), [0, -1]),
    "SinkhornCoupling": ("epsilon", lambda v: fp.SinkhornCoupling(v), [0, -1]),
    "SinkhornCoupling, tolerance": ("tolerance", lambda v: fp.SinkhornCoupling(0.1, v), [0, -1]),
    "DistanceCost": ("ratio", lambda v: fp.DistanceCost(v), [0, 1, 2]),
    "ODEIntegrator": ("dt0", lambda v: fp.ODEIntegrator(dfx.Heun(), dt0=v), [0, -0.1, 5, 10]),
    "SDEIntegrator": ("churn", lambda v: fp.SDEIntegrator(10, churn=v), [-1]),
    "AncestralIntegrator": ("stochasticity", lambda v: fp.AncestralIntegrator(10, stochasticity=v), [-0.1, 2]),
    "guide": ("scale", lambda v: fp.guide(FLOW, jnp.zeros(1), v), []),
    "ConditionDropout": ("rate", lambda v: fp.ConditionDropout(FLOW, jnp.zeros(1), v), [-0.1, 1.1]),
    "one_hot_embedding": ("norm", lambda v: fp.one_hot_embedding(3, norm=v), [0, -1]),
    "learned_embedding": ("norm", lambda v: fp.learned_embedding(3, 2, norm=v, key=KEY), [0, -1]),
    "orthogonal_embedding": ("norm", lambda v: fp.orthogonal_embedding(3, 2, norm=v, key=KEY), [0, -1]),
    "RadialReadout": ("scale", lambda v: fp.RadialReadout(v), [0, -1]),
    "ELBOObjective": ("eta", lambda v: fp.ELBOObjective(v), [0, -1]),
    "FlowMatchingObjective": ("path_noise", lambda v: fp.FlowMatchingObjective(v), [-1]),
    "MaximumLikelihood": ("kinetic", lambda v: fp.MaximumLikelihood(FLOW, kinetic=v), [-1]),
    "MaximumLikelihood, jacobian": ("jacobian", lambda v: fp.MaximumLikelihood(FLOW, jacobian=v), [-1]),
    "BitsPerDimension": ("scale", lambda v: fp.BitsPerDimension("test", scale=v), [0, -1]),
    "estimate_log_prob": ("tolerance", lambda v: fp.estimate_log_prob(FLOW, jnp.zeros((1, 2)), tolerance=v), [0, -1]),
    "SinusoidalFeatures": ("max_frequency", lambda v: fp.nn.SinusoidalFeatures(4, 0.25, v), [0, 0.1]),
    "FourierFeatures": ("scale", lambda v: fp.nn.FourierFeatures(2, 4, scale=v, key=KEY), [0, -1]),
    "Linear": ("gain", lambda v: fp.nn.Linear(2, 2, gain=v, key=KEY), []),
    "Standardise": ("std", lambda v: fp.Standardise(0.0, v), [0, -1]),
    "Bounded": ("low", lambda v: fp.Bounded(v, 1.0), [1.0, 2.0]),
    "Circular": ("period", lambda v: fp.Circular(v), [0, -1]),
    "solve": ("t1", lambda v: fp.solve(FLOW, jnp.zeros(2), t1=v), [-0.1, 2]),
}
CASES = [
    pytest.param(argument, make, value, id=f"{name}={value}")
    for name, (argument, make, values) in SETTINGS.items()
    for value in [NAN, INF, *values]
]


@pytest.mark.parametrize(("argument", "make", "value"), CASES)
def test_it_is_refused_by_name(argument, make, value):
    with pytest.raises(ValueError, match=re.escape(f"`{argument}`")):
        make(value)


@pytest.mark.parametrize("kind", [np.float32, np.float64, jnp.float32, lambda v: jnp.asarray(v, jnp.bfloat16)])
@pytest.mark.parametrize("name", ["SigmoidNoiseSchedule", "PreconditionedPrediction", "ODEIntegrator", "RadialReadout"])
def test_numbers_of_numpy_and_jax_are_taken(name, kind):
    _, make, _ = SETTINGS[name]
    for ours, plain in zip(jax.tree.leaves(make(kind(0.5))), jax.tree.leaves(make(0.5)), strict=True):
        np.testing.assert_array_equal(ours, plain)
