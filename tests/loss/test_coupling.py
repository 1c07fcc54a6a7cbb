"""How noise is paired with data: against SciPy's assignment, Sinkhorn in NumPy, and the theory of the bias."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import ot
import pytest
from scipy.optimize import linear_sum_assignment

import flowprop as fp
from flowprop._loss.assignment import log_plan


N = 64
pair = eqx.filter_jit(lambda coupling, z0, z1, x, key: coupling.pair(z0, z1, x, key=key))
COUPLINGS = [
    fp.IndependentCoupling(),
    fp.OTCoupling(),
    fp.SinkhornCoupling(epsilon=1.0),
    fp.ConditionalOTCoupling(),
    fp.ConditionalOTCoupling(fp.DistanceCost()),
]


def batch(key, shape=(2,), dtype=jnp.float32):
    """Noise, and data with another scale and mean."""
    key_0, key_1 = jax.random.split(key)
    z0 = jax.random.normal(key_0, (N, *shape), dtype)
    return z0, 3 * jax.random.normal(key_1, (N, *shape), dtype) + 2


def rows_of(paired, z0):
    """The index of each row of the result in the noise."""
    same = np.all(np.asarray(paired).reshape(N, 1, -1) == np.asarray(z0).reshape(1, N, -1), axis=-1)
    assert (same.sum(axis=1) == 1).all()
    return same.argmax(axis=1)


def transport_cost(z0, z1):
    return np.sum((np.asarray(z0, float) - np.asarray(z1, float)) ** 2) / len(z0)


def best_cost(z0, z1):
    a, b = (np.asarray(z, float).reshape(len(z), -1) for z in (z0, z1))
    cost = ((a[:, None] - b[None]) ** 2).sum(axis=-1)
    return cost[linear_sum_assignment(cost)].sum() / len(a)


class TestOT:
    @pytest.mark.parametrize("shape", [(2,), (), (4, 3)])
    def test_is_the_best_permutation(self, shape, key):
        z0, z1 = batch(key, shape)
        paired = pair(fp.OTCoupling(), z0, z1, None, key)
        assert sorted(rows_of(paired, z0)) == list(range(N))
        # Both are sums of squares of the same pairs, or of pairs that are as good in single precision.
        assert transport_cost(paired, z1) == pytest.approx(best_cost(z0, z1), rel=1e-6)
        assert transport_cost(paired, z1) < 0.95 * transport_cost(z0, z1)

    def test_in_double_precision(self, x64, key):
        z0, z1 = batch(key, dtype=jnp.float64)
        paired = pair(fp.OTCoupling(), z0, z1, None, key)
        assert paired.dtype == jnp.float64
        assert transport_cost(paired, z1) == pytest.approx(best_cost(z0, z1), rel=1e-14)

    def test_far_from_the_origin(self, key):
        """Where the squares are a million times larger than their differences."""
        z0, z1 = batch(key)
        paired = pair(fp.OTCoupling(), z0 + 1000, z1 + 1000, None, key)
        assert transport_cost(paired, z1 + 1000) == pytest.approx(best_cost(z0, z1), rel=1e-3)

    def test_equal_points(self, key):
        """All costs are 0, and the code divides by their mean."""
        z0 = jnp.ones((N, 2))
        np.testing.assert_array_equal(pair(fp.OTCoupling(), z0, z0, None, key), z0)

    def test_scanned(self, key):
        keys = jax.random.split(key, 5)

        @jax.jit
        def scanned(keys):
            def body(_, key):
                z0, z1 = batch(key)
                return None, fp.OTCoupling().pair(z0, z1, None, key=key)

            return jax.lax.scan(body, None, keys)[1]

        for key, paired in zip(keys, scanned(keys), strict=True):
            z0, z1 = batch(key)
            np.testing.assert_array_equal(paired, pair(fp.OTCoupling(), z0, z1, None, key))

    def test_vmapped(self, key):
        z0, z1 = jax.vmap(batch)(jax.random.split(key, 3))
        together = jax.vmap(lambda z0, z1: fp.OTCoupling().pair(z0, z1, None, key=key))(z0, z1)
        for a, b, paired in zip(z0, z1, together, strict=True):
            np.testing.assert_array_equal(paired, pair(fp.OTCoupling(), a, b, None, key))

    def test_data_that_are_learned(self, key):
        """A gradient flows through the pairs, not through the choice of pairs."""
        z0, z1 = batch(key)

        def loss(z1):
            return jnp.sum((fp.OTCoupling().pair(z0, z1, None, key=key) - z1) ** 2)

        paired = pair(fp.OTCoupling(), z0, z1, None, key)
        np.testing.assert_allclose(jax.jit(jax.grad(loss))(z1), 2 * (z1 - paired), rtol=1e-6)

    def test_stays_on_the_device(self, key):
        """On one core, a callback with a large array never returns (jax-ml/jax#24255)."""
        pairing = jax.make_jaxpr(lambda z0, z1: fp.OTCoupling().pair(z0, z1, None, key=key))
        assert "callback" not in str(pairing(*batch(key)))

    def test_not_a_number(self, key):
        """NaN in the data still gives pairs. The loss is then NaN."""
        z0, z1 = batch(key)
        assert rows_of(pair(fp.OTCoupling(), z0, z1.at[0, 0].set(jnp.nan), None, key), z0).shape == (N,)


class TestSinkhorn:
    def draws(self, coupling, z0, z1, key, num_draws=500):
        keys = jax.random.split(key, num_draws)
        paired = jax.jit(jax.vmap(lambda key: coupling.pair(z0, z1, None, key=key)))(keys)
        # Draws, columns, rows.
        return jnp.all(paired[:, :, None] == z0[None, None], axis=-1).mean(axis=0)

    def test_towards_the_exact_plan(self, key):
        z0, z1 = (z[:8] for z in batch(key))
        exact = pair(fp.OTCoupling(), z0, z1, None, key)
        sharp = fp.SinkhornCoupling(0.02, tolerance=1e-4, max_iterations=20_000)
        np.testing.assert_array_equal(pair(sharp, z0, z1, None, key), exact)
        assert (pair(fp.SinkhornCoupling(20.0), z0, z1, None, key) != exact).any()

    def test_frequencies_are_the_plans(self, key):
        z0, z1 = (z[:8] for z in batch(key))
        cost = ((np.asarray(z0)[:, None] - np.asarray(z1)[None]) ** 2).sum(axis=-1)
        plan = np.exp(-cost / 4.0)
        for _ in range(1000):
            plan /= plan.sum(axis=1, keepdims=True)
            plan /= plan.sum(axis=0, keepdims=True)
        frequencies = self.draws(fp.SinkhornCoupling(4.0, tolerance=1e-4), z0, z1, key)
        # 500 draws: four and a half standard errors, for there are 64 frequencies.
        assert np.abs(frequencies.T - plan).max() < 4.5 * np.sqrt(0.25 / 500)
        assert plan.max() > 0.5

    def test_towards_independence(self, key):
        z0, z1 = batch(key)
        frequencies = self.draws(fp.SinkhornCoupling(1e4), z0[:8], z1[:8], key)
        assert np.abs(frequencies - 1 / 8).max() < 4.5 * np.sqrt(1 / 8 * 7 / 8 / 500)

    @pytest.mark.parametrize("epsilon", [0.3, 2.0, 50.0])
    def test_the_plan_is_that_of_pot(self, epsilon, key, x64):
        z0, z1 = (np.asarray(z, float) for z in batch(key))
        cost = ((z0[:, None] - z1[None]) ** 2).sum(axis=-1)
        marginal = np.full(N, 1 / N)
        exactly = {"stopThr": 1e-12, "numItermax": 100_000}
        wanted = ot.sinkhorn(marginal, marginal, cost, epsilon, method="sinkhorn_log", **exactly)
        plan = np.exp(log_plan(jnp.asarray(cost), epsilon, 1e-11, 100_000))
        np.testing.assert_allclose(plan, wanted, atol=1e-11)
        assert plan.max() > 2 / N**2

    def test_a_plan_that_is_cut_short_still_has_its_columns(self, key):
        """In single precision. With too few iterations, the sums of the rows are wrong by more than the tolerance."""
        cost = jnp.sum((batch(key)[0][:, None] - batch(key)[1][None]) ** 2, axis=-1)
        for iterations, met in ((1, False), (3, False), (20_000, True)):
            plan = np.exp(log_plan(cost, 0.2, 1e-3, iterations))
            np.testing.assert_allclose(plan.sum(axis=0), np.full(N, 1 / N), rtol=1e-4)
            assert (np.abs(plan.sum(axis=1) - 1 / N).sum() < 1.1e-3) == met

    @pytest.mark.parametrize("name", ["epsilon", "tolerance", "max_iterations"])
    def test_refuses(self, name):
        with pytest.raises(ValueError, match=f"`{name}` is 0: give a positive number"):
            fp.SinkhornCoupling(**{"epsilon": 1.0, name: 0})

    @pytest.mark.parametrize("name", ["epsilon", "tolerance"])
    def test_refuses_what_is_not_a_number(self, name):
        with pytest.raises(ValueError, match=f"`{name}` is nan"):
            fp.SinkhornCoupling(**{"epsilon": 1.0, name: np.nan})


class TestConditional:
    def two_classes(self, key, n=512):
        """On a line, with one class on each side."""
        key_0, key_1, key_x = jax.random.split(key, 3)
        labels = jax.random.randint(key_x, (n,), 0, 2)
        return jax.random.normal(key_0, (n, 1)), 4.0 * labels[:, None] - 2 + jax.random.normal(key_1, (n, 1)), labels

    def test_noise_is_independent_of_the_class(self, key):
        z0, z1, labels = self.two_classes(key)
        for coupling, biased in ((fp.ConditionalOTCoupling(), False), (fp.OTCoupling(ignore_condition=True), True)):
            paired = pair(coupling, z0, z1, labels, key)[:, 0]
            for label in (0, 1):
                noise = paired[labels == label]
                error = abs(noise.mean()) * np.sqrt(len(noise))
                # Plain transport gives each class one half of the noise, of mean 0.8.
                assert error > 10 if biased else error < 4
                assert biased or abs(noise.std() - 1) * np.sqrt(2 * len(noise)) < 4

    def test_is_the_best_within_each_class(self, key):
        z0, z1 = batch(key)
        labels = jax.random.randint(key, (N,), 0, 3)
        paired = pair(fp.ConditionalOTCoupling(), z0, z1, labels, key)
        assert sorted(rows_of(paired, z0)) == list(range(N))
        for label in range(3):
            own = labels == label
            # Its noise, in another order, can do no better.
            assert transport_cost(paired[own], z1[own]) == pytest.approx(best_cost(paired[own], z1[own]), rel=1e-6)

    def test_conditions_are_any_pytree(self, key):
        z0, z1 = batch(key)
        labels = jax.random.randint(key, (N,), 0, 6)
        coupling = fp.ConditionalOTCoupling()
        paired = pair(coupling, z0, z1, labels, key)
        for x in (jnp.eye(6)[labels], {"a": labels // 2, "b": (jnp.eye(2)[labels % 2],)}):
            np.testing.assert_array_equal(pair(coupling, z0, z1, x, key), paired)

    def test_conditions_that_never_repeat(self, key):
        """Only one assignment is possible."""
        z0, z1 = batch(key)
        paired = pair(fp.ConditionalOTCoupling(), z0, z1, z1, key)
        np.testing.assert_array_equal(paired, jax.random.permutation(key, z0))

    @pytest.mark.parametrize("ratio", [0.05, 0.3])
    def test_weight_fits_the_ratio(self, ratio, key):
        z0, z1 = batch(key)
        cost = jnp.sum((z0[:, None] - z1[None]) ** 2, axis=-1)
        weighted = eqx.filter_jit(fp.DistanceCost(ratio).add)(cost, z1[:, :1])
        assert abs(float(jnp.mean(weighted <= jnp.diagonal(cost)[None])) - ratio) < 2 / N
        # The unit of the condition, or a shift, does not matter.
        again = eqx.filter_jit(fp.DistanceCost(ratio).add)(cost, 10 + 100 * z1[:, :1])
        np.testing.assert_allclose(again, weighted, rtol=1e-3)

    def test_a_small_ratio_leaves_little_bias(self, key):
        key_0, key_1 = jax.random.split(key)
        z0, z1 = jax.random.normal(key_0, (512, 1)), jax.random.normal(key_1, (512, 1))
        correlations = []
        for ratio in (0.4, 0.05, 0.01):
            paired = pair(fp.ConditionalOTCoupling(fp.DistanceCost(ratio)), z0, z1, {"x": z1}, key)
            correlations.append(np.corrcoef(paired[:, 0], z1[:, 0])[0, 1])
        # Of 512 independent pairs it has a standard error of 0.044; of plain transport it is 1.
        assert correlations[0] > 0.5 > correlations[1] > correlations[2] - 0.02
        assert abs(correlations[2]) < 0.15

    def test_one_condition_for_all(self, key):
        z0, z1 = batch(key)
        for condition_cost in (fp.ClassCost(), fp.DistanceCost()):
            paired = pair(fp.ConditionalOTCoupling(condition_cost), z0, z1, jnp.full((N, 1), 0.1), key)
            assert transport_cost(paired, z1) == pytest.approx(best_cost(z0, z1), rel=1e-6)

    @pytest.mark.parametrize("ratio", [0.0, 1.0])
    def test_refuses_a_ratio(self, ratio):
        with pytest.raises(ValueError, match=f"`ratio` is {ratio}: a fraction of all pairs"):
            fp.DistanceCost(ratio)

    def test_refuses_conditions(self, key):
        z0, z1 = batch(key)
        with pytest.raises(ValueError, match="`x` is empty and the coupling compares conditions"):
            fp.ConditionalOTCoupling().pair(z0, z1, None, key=key)
        with pytest.raises(ValueError, match=rf"`x` has a leaf of shape \(3,\) where the batch has {N} examples"):
            fp.ConditionalOTCoupling().pair(z0, z1, (jnp.zeros(3),), key=key)


@pytest.mark.parametrize("make", [fp.OTCoupling, lambda **kwargs: fp.SinkhornCoupling(1.0, **kwargs)])
def test_plain_transport_refuses_conditions_by_default(make, key):
    """In the loss too, and before anything is run. A condition without leaves counts as no condition."""
    z0, z1 = batch(key)
    labels = jnp.arange(N) % 3
    flow = fp.fm_flow(lambda t, z, x: -z, shape=(2,), coupling=make())
    for attempt in (
        lambda: make().pair(z0, z1, labels, key=key),
        lambda: flow.loss(z1, labels, key=key),
        lambda: jax.eval_shape(lambda x: flow.loss(z1, x, key=key), {"label": labels}),
    ):
        with pytest.raises(ValueError, match=r"`x` is given and `coupling` is .*: give `fp.ConditionalOTCoupling\(\)`"):
            attempt()
    assert np.isfinite(jax.jit(flow.loss)(z1, key=key))
    paired = pair(make(ignore_condition=True), z0, z1, labels, key)
    np.testing.assert_array_equal(paired, pair(make(), z0, z1, (), key))


def test_only_one_coupling_is_independent():
    assert [coupling.is_independent for coupling in COUPLINGS] == [True, False, False, False, False]


@pytest.mark.parametrize("coupling", COUPLINGS[1:], ids=lambda coupling: type(coupling).__name__)
def test_refuses_a_wrong_shape(coupling, key):
    x = jnp.zeros(N) if isinstance(coupling, fp.ConditionalOTCoupling) else None
    with pytest.raises(ValueError, match=rf"`z1` has shape \(3, 2\) where \({N}, 2\) is needed: noise and data"):
        coupling.pair(jnp.zeros((N, 2)), jnp.zeros((3, 2)), x, key=key)


class TestFlow:
    def test_loss_is_that_of_the_pairs(self, key):
        """The error of a velocity of 0 is the squared distance of a pair."""
        z1 = batch(jax.random.key(1))[1]
        losses = {
            type(coupling).__name__: float(
                jax.jit(fp.fm_flow(lambda t, z, x: jnp.zeros(2), shape=(2,), coupling=coupling).loss)(z1, key=key)
            )
            for coupling in COUPLINGS[:2]
        }
        # For each of two coordinates 9 + 1 + 4: spreads and means. Transport makes of 9 + 1 the square of 3 - 1.
        assert losses["IndependentCoupling"] == pytest.approx(28, abs=7)
        assert losses["OTCoupling"] == pytest.approx(16, abs=5)

    def test_trains(self, key):
        data = (batch(key)[1], jnp.arange(N)[:, None] % 3)
        network = fp.nn.MLP(shape=(2,), condition_size=1, width=8, depth=1, key=key)
        flow = fp.fm_flow(network, shape=(2,), coupling=fp.ConditionalOTCoupling())
        _, history = fp.fit(flow, data, optax.adam(0.02), steps=40, batch_size=32, key=key, progress=False)
        assert history["loss"][-5:].mean() < 0.8 * history["loss"][:5].mean()
