"""Numbers of rows are padded to few sizes, so that few programs are compiled."""

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp
from flowprop._batch import bucket_size


KEY = jax.random.key(0)
EULER = fp.ODEIntegrator(dfx.Euler(), dt0=0.5)
ONE_HOT = fp.one_hot_embedding(2)
ROWS = jax.random.normal(KEY, (16, 2))


class Network:
    """A velocity that counts how often it is traced."""

    def __init__(self):
        self.traced = 0

    def __call__(self, t, z, x):
        self.traced += 1
        return jnp.sin(z) if x is None else jnp.sin(z) + x


def density(network):
    return fp.fm_flow(network, shape=(2,))


def classifier(network):
    return fp.Classifier(flow=density(network), embedding=ONE_HOT)


#: A model of a network, and a function of the model and of rows whose results have one row for each.
FUNCTIONS = {
    "log_prob": (density, lambda m, z: fp.log_prob(m, z, integrator=EULER)),
    "log_prob, given x": (density, lambda m, z: fp.log_prob(m, z, z, integrator=EULER)),
    "log_prob, probes": (
        density,
        lambda m, z: fp.log_prob(m, z, integrator=EULER, divergence=fp.HutchinsonDivergence(), key=KEY),
    ),
    "estimate_log_prob": (density, lambda m, z: fp.estimate_log_prob(m, z, integrator=EULER).value),
    "sample": (density, lambda m, z: fp.sample(m, len(z), key=KEY, integrator=EULER)),
    "sample, given x": (density, lambda m, z: fp.sample(m, len(z), z, key=KEY, integrator=EULER)),
    "sample_and_log_prob": (
        density,
        lambda m, z: jnp.column_stack(fp.sample_and_log_prob(m, len(z), key=KEY, integrator=EULER)),
    ),
    "Classifier": (classifier, lambda m, z: m.predict_proba(z, key=KEY)),
    "Regressor": (lambda network: fp.Regressor(flow=density(network)), lambda m, z: m.sample(z, 3, key=KEY)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_program_serves_a_bucket(name):
    make, call = FUNCTIONS[name]
    network = Network()
    model = make(network)
    whole = call(model, ROWS)
    traced = network.traced
    assert traced > 0
    for count in (9, 13, 15):
        part = call(model, ROWS[:count])
        assert part.shape == (count, *whole.shape[1:])
        np.testing.assert_array_equal(part, whole[:count])
    assert network.traced == traced


def test_blocks_share_a_program():
    """`NoPropDT` wants networks with arrays, so that their traces are not counted here."""
    model = fp.NoPropDT(
        [fp.nn.MLP((2,), condition_size=2, width=4, depth=1, key=key) for key in jax.random.split(KEY, 2)],
        embedding=ONE_HOT,
    )
    whole = model.predict_proba(ROWS, key=KEY)
    for count in (9, 15):
        np.testing.assert_array_equal(model.predict_proba(ROWS[:count], key=KEY), whole[:count])


def test_a_failed_row_is_named_by_its_place():
    flow = fp.fm_flow(lambda t, z, x: jnp.where(z[0] > 100, jnp.nan, 0.0) * z, shape=(2,))
    rows = ROWS[:9].at[8, 0].set(1e3)
    with pytest.raises(RuntimeError, match=r"1 of 9 rows \(8\)"):
        fp.log_prob(flow, rows)
    assert jnp.isnan(fp.log_prob(flow, rows, throw=False)).sum() == 1


def test_traced_rows_are_not_padded():
    def log_prob(z):
        return fp.log_prob(density(Network()), z, integrator=EULER)

    program = str(jax.make_jaxpr(log_prob)(ROWS[:9]))
    assert "f32[9,2]" in program
    assert "f32[16" not in program


def test_sizes_of_buckets():
    sizes = np.array([bucket_size(count) for count in range(1, 20_000)])
    counts = np.arange(1, 20_000)
    assert (sizes >= counts).all()
    assert (np.diff(sizes) >= 0).all()
    assert all(bucket_size(int(size)) == size for size in np.unique(sizes))
    assert sizes[:16].tolist() == [1, 2, 4, 4, 8, 8, 8, 8, *[16] * 8]
    # Those that are solved for nothing: a quarter at most, and a sixteenth above 1,024.
    assert (sizes / counts)[64:].max() < 1.25
    assert (sizes / counts)[1024:].max() < 1.0625
    # A server that gets up to 1,000 points compiles few programs.
    assert len(np.unique(sizes[:1000])) == 23
