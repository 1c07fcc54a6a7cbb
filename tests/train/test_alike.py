"""Which optimisers count as made alike."""

import jax.numpy as jnp
import optax
import pytest

from flowprop._train.alike import Alike
from flowprop._train.optimiser import as_transformation


SCHEDULE = optax.linear_schedule(1.0, 0.0, 10)
#: Each call makes an optimiser of its own. No two lines of the table are alike.
OPTIMISERS = {
    "adam": lambda: optax.adam(1e-3),
    "adam, another rate": lambda: optax.adam(2e-3),
    "adam, an integer": lambda: optax.adam(1),
    "adam, a number equal to it": lambda: optax.adam(1.0),
    "adamw": lambda: optax.adamw(1e-3),
    "adamw, a mask": lambda: optax.adamw(1e-3, mask=jnp.ndim),
    "sgd": lambda: optax.sgd(1e-3),
    "momentum": lambda: optax.sgd(1e-3, momentum=0.9),
    "Nesterov": lambda: optax.sgd(1e-3, momentum=0.9, nesterov=True),
    "cosine": lambda: optax.adam(optax.cosine_decay_schedule(1e-3, 10)),
    "cosine, longer": lambda: optax.adam(optax.cosine_decay_schedule(1e-3, 11)),
    "warm-up": lambda: optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 2, 10)),
    "a schedule of the caller": lambda: optax.adam(SCHEDULE),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)),
    "chain, the other order": lambda: optax.chain(optax.adam(1e-3), optax.clip_by_global_norm(1.0)),
    "lion": lambda: optax.lion(1e-3),
    "lookahead": lambda: optax.lookahead(optax.sgd(1e-3), 5, 0.5),
    "plateau": lambda: optax.chain(optax.adam(1e-3), optax.contrib.reduce_on_plateau(patience=3)),
}
MADE = {name: (Alike(as_transformation(make())), Alike(as_transformation(make()))) for name, make in OPTIMISERS.items()}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_two_of_the_same_call_are_equal_and_all_others_differ(name):
    one, same = MADE[name]
    assert one == same
    assert hash(one) == hash(same)
    assert all(one != other for key, (other, _) in MADE.items() if key != name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.adam(lambda count: 1e-3),
        lambda: optax.sgd(jnp.asarray(1e-3)),
        lambda: optax.masked(optax.sgd(1e-3), lambda tree: tree),
    ],
    ids=["a schedule", "an array", "a mask"],
)
def test_what_a_caller_has_made_anew_is_another(make):
    assert Alike(make()) != Alike(make())


def test_a_transformation_without_a_name():
    """Functions that are not of Optax."""
    own = optax.GradientTransformation(lambda parameters: (), lambda updates, state, parameters=None: (updates, state))
    assert Alike(own) == Alike(own)
