"""Exact and stochastic traces of a Jacobian that is far from diagonal."""

import itertools
import subprocess
import sys
import textwrap

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import all_but

import flowprop as fp


SHAPE = (2, 3)
SIZE = 6
PROBES = {
    "rademacher": fp.RademacherProbes(),
    "gaussian": fp.GaussianProbes(),
    "sphere": fp.SphereProbes(),
    "orthogonal": fp.OrthogonalProbes(),
}
STOCHASTIC = {
    **{f"hutchinson {name}": fp.HutchinsonDivergence(3, probes) for name, probes in PROBES.items()},
    "hutchinson 1": fp.HutchinsonDivergence(),
    "hutch++": fp.HutchPlusPlusDivergence(6),
    "xtrace": fp.XTraceDivergence(6),
}
every_stochastic = pytest.mark.parametrize("divergence", STOCHASTIC.values(), ids=STOCHASTIC)


def case():
    """A nonlinear field whose Jacobian is full and not symmetric, and a point."""
    draw = np.random.default_rng(11)
    matrix, point = jnp.asarray(draw.standard_normal((SIZE, SIZE))), jnp.asarray(draw.standard_normal(SHAPE))

    def field(z):
        flat = z.ravel()
        return (jnp.tanh(matrix @ flat) + flat * jnp.roll(flat, 1) ** 2).reshape(SHAPE)

    return field, point


def jacobian(field, z):
    return np.asarray(jax.jacfwd(field)(z)).reshape(z.size, z.size)


@eqx.filter_jit
def estimates(divergence, field, z, keys):
    def one(key):
        return divergence.value_and_divergence(field, z, divergence.draw(z, key=key))[1]

    return jax.vmap(one)(keys)


def test_exact_is_the_trace_of_the_jacobian(x64):
    field, z = case()
    matrix = jacobian(field, z)
    # If the Jacobian were diagonal, its trace would equal the sum of all entries.
    assert np.max(np.abs(matrix - np.diag(np.diag(matrix)))) > 0.3
    divergence = fp.ExactDivergence()
    value, trace = divergence.value_and_divergence(field, z, divergence.draw(z, key=None))
    np.testing.assert_array_equal(value, field(z))
    assert float(trace) == pytest.approx(np.trace(matrix), rel=1e-13)


@pytest.mark.parametrize("products_at_once", all_but([4, 6], [1, 4, 5, 6, 7]))
def test_exact_in_groups(products_at_once, x64):
    """The trace and its gradient in a parameter, with a last group that is full or not full."""
    field, z = case()
    divergence = fp.ExactDivergence(products_at_once=products_at_once)

    def trace(scale):
        return divergence.value_and_divergence(lambda z: field(scale * z), z, divergence.draw(z, key=None))[1]

    def wanted(scale):
        return jnp.trace(jax.jacfwd(lambda z: field(scale * z))(z).reshape(SIZE, SIZE))

    assert float(trace(1.0)) == pytest.approx(float(wanted(1.0)), rel=1e-13)
    assert float(jax.grad(trace)(1.0)) == pytest.approx(float(jax.grad(wanted)(1.0)), rel=1e-12)


def test_exact_in_single_precision():
    field, z = case()
    divergence = fp.ExactDivergence()
    probes = divergence.draw(z, key=None)
    assert probes.dtype == z.dtype == jnp.float32
    _, trace = divergence.value_and_divergence(field, z, probes)
    assert float(trace) == pytest.approx(np.trace(jacobian(field, z)), rel=1e-5)


def test_hutchinson_is_exact_over_all_signs(x64):
    """The mean over all possible probes, which have equal probability, is the expectation."""
    field, z = case()
    signs = jnp.asarray(list(itertools.product([-1.0, 1.0], repeat=SIZE))).reshape(-1, *SHAPE)
    value, trace = fp.HutchinsonDivergence(num_probes=len(signs)).value_and_divergence(field, z, signs)
    np.testing.assert_array_equal(value, field(z))
    assert float(trace) == pytest.approx(np.trace(jacobian(field, z)), rel=1e-12)


@every_stochastic
def test_the_estimate_is_unbiased(divergence, key, x64):
    """Within four standard errors of 4,000 draws: a wrong one would pass once in 16,000 keys' time."""
    field, z = case()
    values = estimates(divergence, field, z, jax.random.split(key, 4000))
    error = float(jnp.std(values)) / 4000**0.5
    assert error > 0
    assert abs(float(jnp.mean(values)) - np.trace(jacobian(field, z))) < 4 * error


@pytest.mark.parametrize("name", all_but(["hutchinson 1", "hutch++", "xtrace"], STOCHASTIC))
def test_the_gradient_is_unbiased(name, key, x64):
    """In a parameter that changes the directions of the Jacobian and its trace."""
    field, z, divergence = *case(), STOCHASTIC[name]

    @eqx.filter_jit
    def gradients(keys):
        def estimate(scale, key):
            return divergence.value_and_divergence(lambda z: field(scale * z), z, divergence.draw(z, key=key))[1]

        return jax.vmap(jax.grad(estimate), in_axes=(None, 0))(1.0, keys)

    exact = jax.grad(lambda scale: jnp.trace(jax.jacfwd(lambda z: field(scale * z))(z).reshape(SIZE, SIZE)))(1.0)
    values = gradients(jax.random.split(key, 4000))
    assert abs(float(jnp.mean(values) - exact)) < 4 * float(jnp.std(values)) / 4000**0.5


@every_stochastic
def test_the_estimate_depends_only_on_the_key(divergence, key):
    z = jnp.ones(SHAPE)
    probes = divergence.draw(z, key=key)
    assert probes.shape[1:] == SHAPE
    assert probes.dtype == z.dtype
    np.testing.assert_array_equal(probes, divergence.draw(z, key=key))
    assert np.any(np.asarray(probes) != np.asarray(divergence.draw(z, key=jax.random.key(1))))


@pytest.mark.parametrize("probes", PROBES.values(), ids=PROBES)
def test_probes_have_identity_covariance(probes, key, x64):
    """Over 20,000 draws, each entry's standard error is at most sqrt(2 / 20,000)."""
    z = jnp.zeros(SHAPE)
    drawn = jax.vmap(lambda key: probes.sample(2, z, key=key))(jax.random.split(key, 20_000))[:, 1].reshape(-1, SIZE)
    np.testing.assert_allclose(drawn.T @ drawn / len(drawn), np.eye(SIZE), atol=5 * (2 / 20_000) ** 0.5)


@pytest.mark.parametrize("name", ["hutchinson rademacher", "hutchinson 1"])
def test_signs_are_exact_on_a_diagonal_jacobian(name, key, x64):
    z = case()[1]
    (trace,) = estimates(STOCHASTIC[name], jnp.sin, z, key[None])
    assert float(trace) == pytest.approx(float(jnp.sum(jnp.cos(z))), rel=1e-13)


@pytest.mark.parametrize("name", ["hutchinson sphere", "hutchinson orthogonal", "hutch++", "xtrace"])
def test_a_multiple_of_the_identity_has_no_variance(name, key, x64):
    (trace,) = estimates(STOCHASTIC[name], lambda z: -7.0 * z, case()[1], key[None])
    assert float(trace) == pytest.approx(-7.0 * SIZE, rel=1e-12)


@pytest.mark.parametrize(
    "divergence", [fp.HutchPlusPlusDivergence(6), fp.XTraceDivergence(6)], ids=["hutch++", "xtrace"]
)
def test_a_jacobian_of_low_rank_is_traced_exactly(divergence, key, x64):
    """Rank 1, less than the two or three directions of the basis; and rank 0."""
    left, right = np.random.default_rng(3).standard_normal((2, SIZE))
    matrix = jnp.asarray(np.outer(left, right))

    def field(z):
        return (matrix @ z.ravel()).reshape(SHAPE)

    values = estimates(divergence, field, case()[1], jax.random.split(key, 20))
    np.testing.assert_allclose(values, left @ right, rtol=1e-9)
    values = estimates(divergence, jnp.zeros_like, case()[1], jax.random.split(key, 3))
    np.testing.assert_array_equal(values, 0.0)


def test_d_orthogonal_probes_are_exact(key, x64):
    field, z = case()
    (trace,) = estimates(fp.HutchinsonDivergence(SIZE, fp.OrthogonalProbes()), field, z, key[None])
    assert float(trace) == pytest.approx(np.trace(jacobian(field, z)), rel=1e-12)


@pytest.mark.parametrize("num_products", [12, pytest.param(24, marks=pytest.mark.slow)])
def test_adaptive_estimators_have_less_variance_at_equal_cost(num_products):
    """Log p at the origin for z' = A z in 64 dimensions, A rotated and with eigenvalues 2^(1 - i), over 400 draws.

    The variance is at most half of Hutchinson's; a ratio of two such variances has a relative error of 0.1.
    """
    dim = 64
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((dim, dim)))[0]
    matrix = jnp.asarray(rotation @ np.diag(2.0 * 0.5 ** np.arange(dim)) @ rotation.T, jnp.float32)
    flow = fp.fm_flow(lambda t, z, x: matrix @ z, shape=(dim,))
    exact = -dim / 2 * np.log(2 * np.pi) - float(jnp.trace(matrix))

    def variance(divergence):
        # The field does not depend on time, so that two steps integrate the divergence exactly.
        ode = fp.ODEIntegrator(solver=dfx.Euler(), dt0=0.5)
        values = fp.log_prob(flow, jnp.zeros((400, dim)), key=jax.random.key(2), divergence=divergence, integrator=ode)
        assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / 20 + 1e-3
        return float(values.var())

    hutchinson = variance(fp.HutchinsonDivergence(num_products))
    hutch_plus_plus = variance(fp.HutchPlusPlusDivergence(num_products))
    assert hutch_plus_plus < 0.4 * hutchinson
    assert variance(fp.XTraceDivergence(num_products)) < hutch_plus_plus


@pytest.mark.parametrize("num_probes", [2, SIZE, SIZE + 3, 2 * SIZE])
def test_orthogonal_probes_are_at_right_angles_in_groups(num_probes, key, x64):
    probes = np.asarray(fp.OrthogonalProbes().sample(num_probes, jnp.zeros(SHAPE), key=key)).reshape(num_probes, SIZE)
    for group in np.split(probes, range(SIZE, num_probes, SIZE)):
        np.testing.assert_allclose(group @ group.T, SIZE * np.eye(len(group)), atol=1e-12)


def test_rows_of_orthogonal_probes_are_uniform_rotations(key, x64):
    """The Haar distribution: entries of `v` have the fourth moments of the sphere, `3 d/(d + 2)`, and two rows have
    those of two axes of a uniform rotation, `d (d + 1)/((d + 2) (d - 1))`.

    The moments of 20,000 draws agree within 5 standard errors, computed from the draws.
    """
    draw = jax.vmap(lambda key: fp.OrthogonalProbes().sample(2, jnp.zeros(3), key=key))
    probes = np.asarray(draw(jax.random.split(key, 20_000)))
    for product, wanted in ((probes[:, 0, 0] ** 4, 9 / 5), (probes[:, 0, 0] ** 2 * probes[:, 1, 1] ** 2, 12 / 10)):
        assert abs(product.mean() - wanted) < 5 * product.std() / np.sqrt(len(product))


@pytest.mark.slow
@pytest.mark.parametrize(
    "divergence",
    ["fp.ExactDivergence()", "fp.HutchinsonDivergence(1, fp.OrthogonalProbes())"],
    ids=["exact", "orthogonal"],
)
def test_memory_in_image_dimensions_is_bounded(divergence):
    """512 points in 784 dimensions, a network of 2 x 256, one Euler step: at most 0.6 GB more than before.

    All products at once needed 2.1 GB, and a full rotation for each point 5 GB. The compiler's own count misses this.
    """
    program = f"""
    import resource, diffrax as dfx, jax, flowprop as fp
    key = jax.random.key(0)
    flow = fp.fm_flow(fp.nn.MLP((784,), width=256, depth=2, key=key), shape=(784,))
    z = jax.random.normal(key, (512, 784))
    memory = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = memory()
    ode = fp.ODEIntegrator(dfx.Euler(), dt0=1.0)
    fp.log_prob(flow, z, key=key, divergence={divergence}, integrator=ode, batch_size=512).block_until_ready()
    print(memory() - before)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 600_000  # in kB


def test_the_field_is_evaluated_once():
    calls = []

    def field(z):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.tanh(z)

    divergence = fp.ExactDivergence()
    z = jnp.ones(5)
    jax.block_until_ready(divergence.value_and_divergence(field, z, divergence.draw(z, key=None)))
    jax.effects_barrier()
    assert len(calls) == 1


@every_stochastic
def test_no_key_is_refused(divergence):
    with pytest.raises(ValueError, match="`key` is None"):
        divergence.draw(jnp.zeros(SHAPE), key=None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fp.ExactDivergence(products_at_once=0), "`products_at_once` is 0"),
        (lambda: fp.HutchinsonDivergence(0), "`num_probes` is 0"),
        (lambda: fp.HutchinsonDivergence(-2), "`num_probes` is -2"),
        (lambda: fp.HutchPlusPlusDivergence(7), "`num_products` is 7: Hutch"),
        (lambda: fp.XTraceDivergence(5), "`num_products` is 5: XTrace"),
        (lambda: fp.HutchPlusPlusDivergence(6).draw(jnp.zeros(2), key=jax.random.key(0)), "is 6 in 2 dimensions"),
        (lambda: fp.XTraceDivergence(6).draw(jnp.zeros(2), key=jax.random.key(0)), "is 6 in 2 dimensions"),
    ],
)
def test_invalid_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
