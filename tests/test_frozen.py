"""Frozen arrays stay the same bit for bit, and all others are trained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


class Model(eqx.Module):
    """A trained vector, a frozen vector, an integer, a typed key and a function."""

    trained: jax.Array
    frozen: fp.Frozen
    count: jax.Array
    key: jax.Array
    function: object

    def loss(self, rows, *, key):
        return jnp.mean(jnp.square(rows - self.trained[None])) + jnp.sum(jnp.square(self.frozen.value))


@pytest.fixture
def model():
    return Model(jnp.full(3, 2.0), fp.Frozen(jnp.full(3, 5.0)), jnp.arange(3), jax.random.key(7), jnp.tanh)


DATA = (jnp.zeros((8, 3)),)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_weight_decay_leaves_frozen_arrays_alone(model, key, ema):
    optimiser = optax.adamw(1e-2, weight_decay=10.0)
    trained, _ = fp.fit(model, DATA, optimiser, steps=30, batch_size=4, key=key, ema=ema, progress=False)
    np.testing.assert_array_equal(trained.frozen.array, np.full(3, 5.0))
    np.testing.assert_array_equal(trained.count, np.arange(3))
    np.testing.assert_array_equal(jax.random.key_data(trained.key), jax.random.key_data(model.key))
    # Weight decay of 10 at rate 0.01 alone takes 2 to 2 * 0.9^30 = 0.08 in 30 steps; their average is larger.
    assert np.all(np.asarray(trained.trained) < 0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda key: fp.LearnableNoiseSchedule(key=key).end_points.start,
        lambda key: fp.LearnableNoiseSchedule(key=key).end_points.log_rise,
        lambda key: fp.one_hot_embedding(4).rows,
        lambda key: fp.nn.FourierFeatures(2, key=key).frequencies,
    ],
    ids=["schedule's start", "schedule's rise", "one-hot matrix", "Fourier frequencies"],
)
def test_the_library_freezes_fixed_arrays(make, key):
    frozen = make(key)
    assert isinstance(frozen, fp.Frozen)
    assert not any(jax.tree.leaves(fp.trainable(frozen)))


def test_the_ends_of_a_schedule_are_trained_when_asked(key):
    spec = fp.trainable(fp.LearnableNoiseSchedule((2,), trainable_ends=True, key=key))
    assert jax.tree.leaves(spec.end_points) == [True, True]


def test_trainable_is_true_only_on_trained_floating_point_arrays(model):
    spec = fp.trainable(model)
    assert spec.trained is True
    assert [spec.frozen.array, spec.count, spec.key, spec.function] == [False] * 4


def test_partition_gives_back_the_model(model):
    trained, rest = eqx.partition(model, fp.trainable(model))
    assert [leaf.tolist() for leaf in jax.tree.leaves(trained)] == [[2.0, 2.0, 2.0]]
    assert rest.trained is None
    assert eqx.tree_equal(eqx.combine(trained, rest), model)


def test_frozen_inside_a_container_is_found():
    nested = {"a": [fp.Frozen(jnp.ones(2)), jnp.ones(2)], "b": (fp.Frozen(jnp.ones(1)),)}
    spec = fp.trainable(nested)
    assert jax.tree.leaves(spec["a"][0]) == [False]
    assert spec["a"][1] is True
    assert jax.tree.leaves(spec["b"]) == [False]


def test_no_gradient_flows_through_the_value():
    frozen = fp.Frozen(jnp.arange(3.0))
    gradient = eqx.filter_grad(lambda f: jnp.sum(f.value**2))(frozen)
    np.testing.assert_array_equal(gradient.array, np.zeros(3))
    # The array itself is differentiable: only `value` stops the gradient.
    bare = eqx.filter_grad(lambda f: jnp.sum(f.array**2))(frozen)
    np.testing.assert_array_equal(bare.array, 2 * np.arange(3.0))


def test_the_optimiser_never_sees_frozen_arrays(model, key):
    seen = []

    def init(parameters):
        seen.append(jax.tree.leaves(parameters))
        return optax.EmptyState()

    def update(gradient, state, parameters=None):
        seen.append(jax.tree.leaves(gradient))
        return jax.tree.map(jnp.negative, gradient), state

    optimiser = optax.GradientTransformation(init, update)
    fp.fit(model, DATA, optimiser, steps=2, batch_size=4, key=key, progress=False)
    assert [len(leaves) for leaves in seen] == [1] * len(seen)
    assert len(seen) >= 2


def test_a_model_with_nothing_to_train_is_refused(model, key):
    still = eqx.tree_at(lambda m: m.trained, model, fp.Frozen(model.trained))
    with pytest.raises(ValueError, match="`model` has nothing to train"):
        fp.fit(still, DATA, optax.sgd(0.1), steps=1, batch_size=4, key=key, progress=False)
