"""Maximum-likelihood training: the terms of its loss, and that it fits."""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


ODE = fp.ODEIntegrator(dfx.Heun(), dt0=0.05)


class Linear(eqx.Module):
    """`v = a + M z`: a flow from N(0, I) to a gaussian, with paths in closed form."""

    shift: jax.Array
    matrix: jax.Array

    def __call__(self, t, z, x):
        return self.shift + self.matrix @ z


def model(matrix, shift=(0.0, 0.0), **options):
    flow = fp.fm_flow(Linear(jnp.asarray(shift), jnp.asarray(matrix)), shape=(2,))
    return fp.MaximumLikelihood(flow, divergence=fp.ExactDivergence(), integrator=ODE, **options)


def test_the_loss_is_the_mean_negative_log_likelihood_and_the_penalties(key, x64):
    """For v = m z on the diagonal: |v|^2 = m^2 |z_1|^2 e^(-2 m (1 - t)), integrated over t, and |J|_F^2 = sum m^2.

    Heun with 20 steps has an error below 1e-3.
    """
    rates = np.array([0.8, -0.5])
    z1 = np.random.default_rng(0).standard_normal((6, 2))
    plain = model(np.diag(rates)).loss(z1, key=key)
    nats = -fp.log_prob(model(np.diag(rates)).flow, z1, integrator=ODE).mean()
    assert float(plain) == pytest.approx(float(nats), rel=1e-12)
    both = model(np.diag(rates), kinetic=0.3, jacobian=0.2).loss(z1, key=key)
    energy = np.mean(z1**2 @ (rates**2 * (1 - np.exp(-2 * rates)) / (2 * rates)))
    assert float(both - plain) == pytest.approx(0.3 * energy + 0.2 * np.sum(rates**2), rel=1e-3)


@pytest.mark.slow
def test_it_fits_a_gaussian(key):
    """With 4,000 points the mean log-likelihood comes within 0.01 nats of that of the fitted gaussian."""
    data = (
        np.random.default_rng(1).multivariate_normal([0.5, -0.3], [[0.6, 0.35], [0.35, 0.4]], 4000).astype(np.float32)
    )
    fitted, _ = fp.fit(
        model(np.zeros((2, 2), np.float32)),
        (data,),
        optax.adam(0.03),
        steps=300,
        batch_size=500,
        key=key,
        progress=False,
    )
    wanted = -0.5 * (np.linalg.slogdet(2 * np.pi * np.cov(data.T))[1] + 2)
    assert float(fp.log_prob(fitted.flow, data).mean()) == pytest.approx(wanted, abs=0.01)


@pytest.mark.slow
def test_it_improves_a_trained_flow(key):
    """Fine-tuning after flow matching, with one probe, removes a third of the gap to the optimum on two moons."""
    data, _ = fp.data.two_moons(4_000, 0.3, key=key)
    keys = jax.random.split(key, 3)
    flow = fp.fm_flow(fp.nn.MLP(shape=(2,), width=32, depth=2, key=keys[0]), shape=(2,))
    flow, _ = fp.fit(flow, (data,), optax.adam(3e-3), steps=400, batch_size=256, key=keys[1], progress=False)
    tuned, _ = fp.fit(
        fp.MaximumLikelihood(flow, kinetic=1e-3, integrator=fp.ODEIntegrator(dfx.Heun(), dt0=0.1)),
        (data,),
        optax.adam(1e-3),
        steps=150,
        batch_size=256,
        key=keys[2],
        progress=False,
    )
    test, _ = fp.data.two_moons(4_000, 0.3, key=keys[2])
    truth, before, after = (
        float(values.mean())
        for values in (fp.data.TwoMoons(0.3).log_prob(test), fp.log_prob(flow, test), fp.log_prob(tuned.flow, test))
    )
    assert truth - after < 0.67 * (truth - before)


@pytest.mark.parametrize("name", ["kinetic", "jacobian"])
def test_a_negative_penalty_is_refused(name):
    with pytest.raises(ValueError, match=f"`{name}` is -1"):
        model(np.zeros((2, 2)), **{name: -1.0})
