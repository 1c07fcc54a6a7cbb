"""Guidance: conditions are dropped completely, and mixed outputs are mixed velocities, scores and targets."""

import closed_forms as exact
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_but

import flowprop as fp


class Switch(eqx.Module):
    """The exact network of the mixture if `x` is 1, of the Gaussian if it is 0."""

    path: fp.AbstractPath
    prediction: fp.AbstractPrediction

    def __call__(self, t, z, x):
        without, given = (exact.Denoiser(d, self.path, self.prediction)(t, z) for d in (exact.GAUSSIAN, exact.MIXTURE))
        return jnp.where(x > 0, given, without)


class Affine(eqx.Module):
    """A condition that scales the velocity of unit noise to `N(0, exp(2 x))` in one dimension."""

    def __call__(self, t, z, x):
        s = jnp.exp(x)
        return (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2) * z


AFFINE = fp.fm_flow(Affine(), shape=(1,))
ONE = jnp.ones(())


class TestGuide:
    @pytest.mark.parametrize("pair", all_but(["fm", "ct preconditioned", "df"], exact.PAIRS))
    def test_mixes_every_view(self, pair):
        """Compared with the two separate flows, for every prediction."""
        path, prediction = exact.PAIRS[pair]()
        without, given = (exact.exact_flow(data, path, prediction) for data in (exact.GAUSSIAN, exact.MIXTURE))
        guided = fp.guide(fp.Flow(Switch(path, prediction), path, prediction, shape=(2,)), 0.0, 2.5)
        t, z = jnp.float32(0.4), jnp.array([0.3, -0.8])
        views = [(*flow.estimate(t, z, ONE), flow.score(t, z, ONE)) for flow in (without, given, guided)]
        for low, high, mixed in zip(*views, strict=True):
            assert np.abs(high - low).max() > 1e-2
            # Rounding, magnified by the path's coefficients.
            np.testing.assert_allclose(mixed, -1.5 * low + 2.5 * high, rtol=2e-4, atol=1e-4)

    def test_scale_1_and_0_leave_one_branch(self):
        z = jnp.array([0.7])
        for scale, x in ((1.0, ONE), (0, -ONE)):
            velocity = fp.guide(AFFINE, -1.0, scale).velocity(0.3, z, ONE)
            np.testing.assert_array_equal(velocity, AFFINE.velocity(0.3, z, x))

    def test_calls_the_network_once_on_two_conditions(self, key):
        calls = []
        net = fp.nn.MLP(shape=(2,), condition_size=3, width=8, depth=2, key=key)

        def counted(t, z, x):
            calls.append(x)
            return net(t, z, x)

        flow = fp.fm_flow(counted, shape=(2,))
        z, x = jnp.zeros(2), jnp.ones(3)
        plain = str(jax.make_jaxpr(lambda z: flow.velocity(0.5, z, x))(z))
        guided = str(jax.make_jaxpr(lambda z: fp.guide(flow, jnp.zeros(3), 2.0).velocity(0.5, z, x))(z))
        assert len(calls) == 2
        # As many matrix products, of two rows each.
        assert guided.count("dot_general") == plain.count("dot_general") == 3
        assert guided.count("f32[2,8] = dot_general") == 2

    def test_the_scale_may_depend_on_time(self):
        guided = fp.guide(AFFINE, -1.0, lambda t: jnp.where((t > 0.2) & (t < 0.6), 3.0, 1.0))
        z = jnp.array([0.7])
        for t, scale in ((0.1, 1.0), (0.4, 3.0), (0.8, 1.0)):
            wanted = fp.guide(AFFINE, -1.0, scale).velocity(t, z, ONE)
            np.testing.assert_array_equal(guided.velocity(t, z, ONE), wanted)

    def test_the_likelihood_is_that_of_the_guided_ode(self):
        """From N(0, 1) by two linear fields: N(0, s_1^(2w) s_0^(2 - 2w)), which is not the guided density.

        The fields are the slopes of the logarithms of their marginals' deviations, and mix as these do.
        """
        low, high, w = 0.3, -0.5, 2.0
        grid = jnp.linspace(-3, 3, 601)[:, None]
        log_p = fp.log_prob(fp.guide(AFFINE, low, w), grid, jnp.full(601, high))
        deviation = np.exp(w * high + (1 - w) * low)
        wanted = exact.gaussian_log_prob(grid, np.zeros(1), np.array([[deviation**2]]))
        # The solver's tolerance of 1e-5, in deviations of which the grid spans 11.
        np.testing.assert_allclose(log_p, wanted, atol=2e-3)
        np.testing.assert_allclose(jnp.exp(log_p).sum() * 0.01, 1.0, atol=1e-4)
        precision = w * np.exp(-2 * high) + (1 - w) * np.exp(-2 * low)
        assert abs(deviation - precision**-0.5) > 0.1

    def test_another_scale_compiles_nothing_new(self):
        traces = []

        @eqx.filter_jit
        def velocity(flow):
            traces.append(flow)
            return flow.velocity(0.5, jnp.ones(1), ONE)

        assert velocity(fp.guide(AFFINE, 0.0, 1.0)) != velocity(fp.guide(AFFINE, 0.0, 2.0))
        assert len(traces) == 1

    def test_logits_mix_to_powers_of_probabilities(self):
        given, without = jnp.array([0.2, 0.5, 0.3]), jnp.array([0.5, 0.25, 0.25])
        network = eqx.nn.Lambda(lambda x: x)
        flow = fp.Flow(lambda t, z, x: network(jnp.log(x)), fp.CondOTPath(), fp.CategoricalPrediction(), shape=(3,))
        target = fp.guide(flow, without, 2.0).target(0.5, jnp.zeros(3), (given, jnp.eye(3)))
        wanted = given**2 / without
        np.testing.assert_allclose(target, wanted / wanted.sum(), rtol=1e-5)

    def test_refuses_arguments_that_do_not_fit(self):
        z = jnp.zeros(1)
        with pytest.raises(ValueError, match="`null` holds no array"):
            fp.guide(AFFINE, None, 2.0)
        with pytest.raises(ValueError, match=r"`null` is a PyTreeDef.* where the condition `x` is a"):
            fp.guide(AFFINE, (0.0,), 2.0).velocity(0.5, z, ONE)
        with pytest.raises(ValueError, match=r"`null` has shape \(3,\) where \(\) is needed"):
            fp.guide(AFFINE, jnp.zeros(3), 2.0).velocity(0.5, z, ONE)
        with pytest.raises(ValueError, match=r"`scale\(t\)` has shape \(2,\)"):
            fp.guide(AFFINE, 0.0, lambda t: jnp.stack([t, t])).velocity(0.5, z, ONE)


class TestConditionDropout:
    def test_drops_all_leaves_of_some_examples(self, key):
        """The error is 0 for a kept condition, 1 for a dropped one and over 100 if only a part was dropped."""
        network = lambda t, z, x: jnp.stack([x["a"][0], 10.0 * (x["a"][0] - x["b"])])  # noqa: E731
        flow = fp.Flow(network, fp.CondOTPath(), fp.TargetPrediction(), shape=(2,))
        n, rate = 10_000, 0.2
        x = {"a": jnp.zeros((n, 1)), "b": np.zeros(n, np.int32)}
        model = fp.ConditionDropout(flow, {"a": np.ones(1), "b": 1}, rate)
        # Four standard errors of a share of n.
        assert abs(model.loss(jnp.zeros((n, 2)), x, key=key) - rate) < 4 * np.sqrt(rate * (1 - rate) / n)

    def test_rate_0_is_the_flow_given_the_condition_and_1_without(self, key):
        flow = fp.fm_flow(lambda t, z, x: x, shape=(2,))
        z1, x, null = jax.random.normal(key, (6, 2)), jnp.arange(12.0).reshape(6, 2), jnp.full(2, 7.0)
        kept, dropped = (fp.ConditionDropout(flow, null, rate).loss(z1, x, key=key) for rate in (0, 1.0))
        _, key_loss = jax.random.split(key)
        np.testing.assert_allclose(kept, flow.loss(z1, x, key=key_loss), rtol=1e-6)
        np.testing.assert_allclose(dropped, flow.loss(z1, jnp.tile(null, (6, 1)), key=key_loss), rtol=1e-6)

    def test_the_null_is_not_trained(self):
        model = fp.ConditionDropout(fp.fm_flow(eqx.nn.Linear(2, 2, key=jax.random.key(1)), shape=(2,)), jnp.ones(2))
        trained = fp.trainable(model)
        assert any(jax.tree.leaves(trained.flow.network))
        assert not any(jax.tree.leaves((trained.null, trained.rate)))
        guided = fp.trainable(fp.guide(model.flow, jnp.ones(2), 2.0))
        assert jax.tree.leaves(guided).count(True) == jax.tree.leaves(trained).count(True)

    def test_its_null_can_be_used_for_guidance(self):
        """The null of a model that was read from disk can be used."""
        model = fp.ConditionDropout(AFFINE, 0.4)
        velocities = [fp.guide(model.flow, null, 2.0).velocity(0.5, jnp.ones(1), ONE) for null in (model.null, 0.4)]
        np.testing.assert_array_equal(*velocities)

    def test_refuses_arguments_that_do_not_fit(self, key):
        categorical = fp.Flow(lambda t, z, x: x, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(3,))
        with pytest.raises(ValueError, match=r"`rate` is 1\.5: give a probability"):
            fp.ConditionDropout(AFFINE, 0.0, 1.5)
        with pytest.raises(ValueError, match="`flow` has a categorical prediction"):
            fp.ConditionDropout(categorical, jnp.zeros(3))
        with pytest.raises(ValueError, match=r"`null` has shape \(4, 1\) where \(1,\) is needed"):
            fp.ConditionDropout(AFFINE, jnp.zeros((4, 1))).loss(jnp.zeros((4, 1)), jnp.zeros((4, 1)), key=key)
        with pytest.raises(ValueError, match=r"`x` has a leaf of shape \(3,\) where the batch has 4"):
            fp.ConditionDropout(AFFINE, 0.0).loss(jnp.zeros((4, 1)), jnp.zeros(3), key=key)
