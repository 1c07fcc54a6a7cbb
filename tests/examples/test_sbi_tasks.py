"""The tasks of simulation-based inference: simulators against their likelihoods and the reference posteriors."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_but

import flowprop as fp


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import sbi_tasks


TASKS = sbi_tasks.tasks()
KEY = jax.random.key(0)
#: Those whose x is continuous, so that a density of x can be integrated.
CLOSED = [name for name, task in TASKS.items() if task.normaliser is not None]
needs_wheel = pytest.mark.skipif(
    sbi_tasks.find_wheel() is None,
    reason=f"needs {sbi_tasks.WHEEL} in $FLOWPROP_DATA or the cache: run examples/sbi_tasks.py",
)


@pytest.fixture(autouse=True)
def promotion():
    """Diffrax and the examples rely on rank promotion, which is an error in the other tests."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", all_but({*TASKS} - {"sir", "lotka_volterra"}, TASKS))
def test_simulations_have_finite_likelihoods(name):
    task = TASKS[name]
    theta, x = task.simulations(20, key=KEY)
    assert x.shape[0] == 20
    assert np.isfinite(np.asarray(x)).all()
    assert np.all(fp.Prior(task.prior).in_support(theta))
    values = jax.vmap(task.log_likelihood)(theta, x)
    assert np.isfinite(np.asarray(values)).all()
    # The true parameters are more likely than those of other simulations, on average.
    assert float(jnp.mean(values)) > float(jnp.mean(jnp.maximum(jax.vmap(task.log_likelihood)(theta, x[::-1]), -1e4)))


@pytest.mark.parametrize("name", ["two_moons", "gaussian_mixture"])
def test_closed_posteriors_integrate_to_one(name):
    task = TASKS[name]
    _, x = task.simulations(1, key=KEY)
    bound = float(task.prior.high[0])
    axis = (np.arange(800) + 0.5) / 400 * bound - bound
    theta = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    total = np.exp(np.asarray(task.log_posterior(theta, x[0]), float)).sum() * (bound / 400) ** 2
    np.testing.assert_allclose(total, 1, atol=0.02)


@needs_wheel
@pytest.mark.slow
class TestReference:
    """The simulators and likelihoods are those of the published reference posteriors."""

    @pytest.mark.parametrize("name", TASKS)
    def test_the_score_has_mean_zero(self, name):
        """Under the true posterior `E[grad log p(theta | x) f(theta)] = -E[grad f]`; with f = theta - mean it is -1.

        It holds where the posterior vanishes at the edges of the prior, or has no edges.
        """
        task = TASKS[name]
        for number in (1, 2):
            found = sbi_tasks.reference(task, number)
            assert found.samples.shape == (10_000, found.theta.size)
            assert np.all(fp.Prior(task.prior).in_support(found.samples))
            if name in ("gaussian_linear_uniform", "slcp", "slcp_distractors", "two_moons"):
                continue  # edges, or a score that is not integrable
            score = jax.vmap(jax.grad(lambda one, x: task.log_posterior(one[None], x)[0]), (0, None))(
                found.samples[:2000], found.x
            )
            centred = found.samples[:2000] - found.samples[:2000].mean(axis=0)
            terms = np.asarray(score) * centred
            error = terms.std(axis=0) / 2000**0.5
            np.testing.assert_array_less(np.abs(terms.mean(axis=0) + 1), 5 * error + 0.05)

    @pytest.mark.parametrize("name", ["slcp", "slcp_distractors"])
    def test_slcp_signs(self, name):
        """The likelihood depends on the squares of two parameters: the reference has both signs, as likely."""
        task = TASKS[name]
        found = sbi_tasks.reference(task, 1)
        flipped = found.samples[:500] * np.array([1, 1, -1, -1, 1], np.float32)
        np.testing.assert_allclose(
            task.log_posterior(flipped, found.x), task.log_posterior(found.samples[:500], found.x), rtol=1e-4
        )
        assert abs((found.samples[:, 2:4] > 0).mean() - 0.5) < 0.05

    def test_distractors_are_where_sbibm_puts_them(self):
        for number in range(1, 11):
            plain = sbi_tasks.reference(TASKS["slcp"], number)
            hidden = sbi_tasks.reference(TASKS["slcp_distractors"], number)
            order = sbi_tasks._distractors()[2]
            np.testing.assert_allclose(hidden.x[np.argsort(order)[:8]], plain.x, rtol=1e-5)

    @pytest.mark.parametrize("name", ["gaussian_linear", "gaussian_linear_uniform", "gaussian_mixture", "two_moons"])
    def test_entropy(self, name):
        """The mean log-density of the reference samples is minus the entropy, here from resampled prior draws."""
        task = TASKS[name]
        found = sbi_tasks.reference(task, 1)
        values = np.asarray(task.log_posterior(found.samples, found.x), float)
        known = {"two_moons": 3.65, "gaussian_linear": -5 * np.log(2 * np.pi * np.e * 0.05)}
        if name in known:
            np.testing.assert_allclose(values.mean(), known[name], atol=0.05)
        assert np.isfinite(values).all()

    def test_two_moons_radii(self):
        found = sbi_tasks.reference(TASKS["two_moons"], 1)
        shifts = np.asarray(jax.vmap(sbi_tasks._moons_shift)(found.samples))
        radius = np.linalg.norm(found.x - shifts - np.array([0.25, 0.0]), axis=1)
        np.testing.assert_allclose([radius.mean(), radius.std()], [0.1, 0.01], atol=[5e-4, 5e-4])


def test_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWPROP_DATA", str(tmp_path))
    monkeypatch.setattr(sbi_tasks, "_folders", lambda: [tmp_path])
    monkeypatch.setattr(sbi_tasks.sys, "executable", "false")
    with pytest.raises(ConnectionError, match=r"Without a network, put sbibm-1\.1\.0"):
        sbi_tasks.wheel()
    (tmp_path / sbi_tasks.WHEEL).write_bytes(b"no wheel")
    with pytest.raises(ValueError, match="is not the wheel that PyPI publishes"):
        sbi_tasks.wheel()
