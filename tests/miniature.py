"""A small hand-written flow library as a dictionary of functions, and the defects of others as replacements."""

import functools
import pickle
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import flowprop as fp
from flowprop import conformance
from flowprop._path.span import derivative


PATH = fp.VPPath(fp.SigmoidNoiseSchedule(8.0))
EXACT = conformance.Exact(conformance.MIXTURE, PATH)
POSTERIOR = conformance.ClassPosterior(fp.CondOTPath())
velocity = jax.vmap(EXACT.velocity, (None, 0))


def euler(field, t, y, h):
    return y + h * field(t, y)


def heun(field, t, y, h):
    slope = field(t, y)
    return y + h / 2 * (slope + field(t + h, y + h * slope))


def midpoint(field, t, y, h):
    return y + h * field(t + h / 2, y + h / 2 * field(t, y))


@functools.partial(jax.jit, static_argnums=(0, 1))
def solve(step, field, z0, num_steps):
    h = 1 / num_steps
    return jax.lax.fori_loop(0, num_steps, lambda i, z: step(field, i * h, z, h), z0) / PATH.alpha(1.0)


@functools.partial(jax.jit, static_argnums=0)
def solve_adaptively(step, z0, tolerance):
    """Adaptive steps. The error estimate is the difference from an Euler step."""

    def body(state):
        t, h, z = state
        h = jnp.minimum(h, 1 - t)
        new = step(velocity, t, z, h)
        error = jnp.abs(new - euler(velocity, t, z, h)).max()
        t, z = jax.lax.cond(error < tolerance, lambda: (t + h, new), lambda: (t, z))
        return t, h * jnp.clip(0.9 * jnp.sqrt(tolerance / error), 0.2, 4), z

    return jax.lax.while_loop(lambda state: state[0] < 1 - 1e-6, body, (0.0, 0.1, z0))[2] / PATH.alpha(1.0)


@functools.partial(jax.jit, static_argnums=(0, 1))
def estimate_log_prob(probe, combine, z1, key, num_steps):
    def field(s, y):  # from data back to noise, s = 1 - t
        t = 1 - s
        value, product = jax.linearize(lambda z: velocity(t, z), y[:, :-1])
        probes = probe(key, t, value)
        traces = combine(jnp.sum(probes * jax.vmap(product)(probes), axis=-1), axis=0)
        return -jnp.concatenate([value, traces[:, None]], axis=1)

    start = jnp.concatenate([PATH.alpha(1.0) * z1, jnp.zeros((len(z1), 1))], axis=1)
    end = solve(heun, field, start, num_steps) * PATH.alpha(1.0)
    return jax.scipy.stats.norm.logpdf(end[:, :-1]).sum(axis=1) + end[:, -1] + 2 * jnp.log(PATH.alpha(1.0))


def basis(key, t, z):
    return jnp.broadcast_to(jnp.eye(2)[:, None], (2, *z.shape))


def held(key, t, z):
    return jax.random.rademacher(key, (3, *z.shape), z.dtype)


def classify(start, condition, readout, inputs, labels, key, network=POSTERIOR.target, encode=eqx.nn.Identity()):
    """Classify one input with ten Euler steps towards the target."""
    features = condition(encode, inputs)
    z0 = start(jax.random.normal(key, (3,)), labels)

    def step(i, z):
        t = i / 10
        return z + 0.1 * (network(t, z, features()) - z) / (1 - t)

    z = jax.lax.fori_loop(0, 10, step, z0)
    return readout(z, inputs)


def encoded_once(encode, x):
    features = encode(x)
    return lambda: features


@functools.partial(jax.jit, static_argnames=("start", "condition", "readout", "network", "encode"))
def classify_all(start, condition, readout, inputs, labels, key, **parts):
    keys = jax.random.split(key, len(inputs))
    one = functools.partial(classify, start, condition, readout, **parts)
    return jax.vmap(one)(inputs, labels, keys)


def padded(inputs):
    """Batches of four. The last batch is padded with repeated inputs."""
    return np.resize(inputs, (-(-len(inputs) // 4) * 4, inputs.shape[1])).reshape(-1, 4, inputs.shape[1])


def log_prob(z1):
    return estimate_log_prob(basis, jnp.sum, z1, None, 128)


#: The functions of the correct library. For each there is another library with a defect.
SOUND = {
    "velocity": jax.jit(EXACT.velocity),
    "target": jax.jit(EXACT.target),
    "noise": jax.jit(EXACT.noise),
    "score": jax.jit(EXACT.score),
    "to_data": lambda z: z / PATH.alpha(1.0),
    "log_prob": log_prob,
    "network": POSTERIOR.target,
    "sampling_field": velocity,
    "second_order": heun,
    "adaptive": functools.partial(solve_adaptively, heun),
    "probe": held,
    "combine": jnp.mean,
    "bits": lambda log_p: -log_p.mean() / (2 * np.log(2)),
    "evaluations": lambda num_steps, stages: num_steps * stages,
    "start": lambda noise, label: noise,
    "condition": encoded_once,
    "readout": lambda z, x: jnp.argmax(z),
    "batches": padded,
    "gamma": lambda t: 10 * t - 4 * (1 - t),
    "features": lambda t: jnp.cos(2 * jnp.pi * jnp.array([0.25, 1, 4]) * t),
    "load": lambda path: np.load(path, allow_pickle=False),
    "requirements": ("jax", "equinox", "numpy", "jaxtyping", "scikit_learn>=1.5", "tqdm", "pooch ; extra == 'data'"),
}


def evaluate(start, condition, readout, inputs, labels, key):
    return jnp.mean(classify_all(start, condition, readout, inputs, labels, key) == labels)


def predict(start, condition, readout, inputs, key, **parts):
    return classify_all(start, condition, readout, inputs, jnp.zeros(len(inputs), int), key, **parts)


def solve_and_count(counted, evaluations):
    jax.block_until_ready(solve(heun, jax.vmap(counted(EXACT.velocity), (None, 0)), jnp.zeros((1, 2)), 8))
    return evaluations(8, 2)


def go_through(traced, num_examples, batches):
    program = jax.jit(jax.vmap(traced(jnp.sin)))
    for batch in batches(np.ones((num_examples, 3), np.float32)):
        program(batch)


#: The checks. The names of the arguments say which functions of the library a check needs.
ADAPTER = [
    lambda velocity: conformance.VelocityIsExact(EXACT, velocity),
    lambda target: conformance.TargetIsExact(EXACT, target),
    lambda noise: conformance.NoiseIsExact(EXACT, noise),
    lambda score: conformance.ScoreIsExact(EXACT, score),
    lambda to_data: conformance.EndPointsAreExact(
        EXACT, lambda z0: to_data(PATH.alpha(1.0) * solve(heun, velocity, z0, 128))
    ),
    lambda log_prob: conformance.LogProbIsExact(EXACT, log_prob),
    lambda: conformance.SolverHasOrder(EXACT, lambda z0, n: solve(euler, velocity, z0, n), order=1),
    lambda sampling_field: conformance.SamplesHaveMoments(
        EXACT, lambda n, key: solve(heun, sampling_field, jax.random.normal(key, (n, 2)), 128)
    ),
    lambda second_order: conformance.SolverHasOrder(EXACT, lambda z0, n: solve(second_order, velocity, z0, n), order=2),
    lambda adaptive: conformance.ToleranceIsHeeded(EXACT, adaptive),
    lambda: conformance.ToleranceIsHeeded(EXACT, functools.partial(solve_adaptively, midpoint)),
    lambda probe, combine: conformance.ProbesAreHeld(EXACT, functools.partial(estimate_log_prob, probe, combine)),
    lambda probe, combine: conformance.ProbesAreAveraged(
        EXACT, lambda z1, key: estimate_log_prob(probe, combine, z1, key, 128)
    ),
    lambda bits: conformance.BitsArePerDimension(EXACT, lambda z1: bits(log_prob(z1))),
    lambda evaluations: conformance.EvaluationsAreCounted(functools.partial(solve_and_count, evaluations=evaluations)),
    lambda start, condition, readout, network: conformance.ClassesAreFound(
        functools.partial(predict, start, condition, readout, network=network)
    ),
    lambda start, condition, readout: conformance.LabelsAreUnseen(
        functools.partial(evaluate, start, condition, readout)
    ),
    lambda start, condition, readout: conformance.ReadoutIsBlind(
        lambda blinded, x, key: predict(start, condition, readout, x, key, network=blinded(POSTERIOR.target))
    ),
    lambda start, condition, readout: conformance.EncoderRunsOnce(
        lambda counted, x, key: predict(start, condition, readout, x, key, encode=counted(eqx.nn.Identity()))
    ),
    lambda batches: conformance.RaggedBatchesShareAProgram(functools.partial(go_through, batches=batches)),
    lambda gamma: conformance.ScheduleRises(gamma),
    lambda gamma: conformance.ScheduleMeetsItsEnds(gamma, ends=(-4.0, 10.0)),
    lambda features: conformance.TimesAreToldApart(features),
    lambda load: conformance.PicklesAreRefused(load),
    lambda requirements: conformance.ImportsAreDeclared(Path(fp.data.__file__).parent, requirements),
]


def redrawn(key, t, z):
    return held(jax.random.fold_in(key, jax.lax.bitcast_convert_type(jnp.float32(t), jnp.uint32)), t, z)


def reverse_drift(t, z):
    return velocity(t, z) - PATH.diffusion(t)[1] * jax.vmap(EXACT.noise, (None, 0))(t, z)


def heun_of_a_derivative(field, t, z, h):
    def wrong(t, z):  # gamma'/2 alpha (u - alpha z), with alpha' instead of the first alpha
        target = jax.vmap(EXACT.target, (None, 0))(t, z)
        return 4 * derivative(PATH.alpha, t) * (target - PATH.alpha(t) * z)

    slope = field(t, z)
    return z + h / 2 * (slope + wrong(t + h, z + h * slope))


def unpickle(path):
    with open(path, "rb") as file:
        return pickle.load(file)


#: For each defect: the replaced function, and the name of the check that must fail.
DEFECTS = {
    "the target used as the velocity": ({"velocity": SOUND["target"]}, "VelocityIsExact"),
    "the noise used as the target": ({"target": SOUND["noise"]}, "TargetIsExact"),
    "the target used as the noise": ({"noise": SOUND["target"]}, "NoiseIsExact"),
    "a score of the wrong sign": ({"score": lambda t, z: -SOUND["score"](t, z)}, "ScoreIsExact"),
    "samples in the coordinates of the path": ({"to_data": lambda z: z}, "EndPointsAreExact"),
    "a mean over dimensions instead of a sum": ({"log_prob": lambda z1: log_prob(z1) / 2}, "LogProbIsExact"),
    "a network that does not receive its condition": (
        {"network": lambda t, z, x: jnp.full(3, 1 / 3)},
        "ClassesAreFound",
    ),
    "a probe drawn again at each evaluation": ({"probe": redrawn}, "ProbesAreHeld"),
    "a tolerance ignored by one of the solvers": (
        {"adaptive": lambda z0, tolerance: solve(heun, velocity, z0, 20)},
        "ToleranceIsHeeded",
    ),
    "bits per dimension that are summed nats": ({"bits": lambda log_p: -log_p.sum()}, "BitsArePerDimension"),
    "bits that are not divided by the dimension": (
        {"bits": lambda log_p: -log_p.mean() / np.log(2)},
        "BitsArePerDimension",
    ),
    "a sum over probes that is not divided by their number": ({"combine": jnp.sum}, "ProbesAreAveraged"),
    "steps reported as function evaluations": (
        {"evaluations": lambda num_steps, stages: num_steps},
        "EvaluationsAreCounted",
    ),
    "the drift of the reverse SDE integrated as if it were the ODE": (
        {"sampling_field": reverse_drift},
        "SamplesHaveMoments",
    ),
    "a Heun corrector with a derivative instead of the coefficient": (
        {"second_order": heun_of_a_derivative},
        "SolverHasOrder",
    ),
    "an evaluation that starts from the true label": (
        {"start": lambda noise, label: jax.nn.one_hot(label, 3) + 0.1 * noise},
        "LabelsAreUnseen",
    ),
    "a readout that receives the input": ({"readout": lambda z, x: jnp.argmax(z + x)}, "ReadoutIsBlind"),
    "a schedule that is not monotone": (
        {"gamma": lambda t: 10 * t - 4 * (1 - t) + 4 * jnp.sin(2 * jnp.pi * t)},
        "ScheduleRises",
    ),
    "a schedule that misses its end points": ({"gamma": lambda t: 9 * t - 3}, "ScheduleMeetsItsEnds"),
    "time features that stay below one period": (
        {"features": lambda t: jnp.sin(t / 10_000 ** jnp.linspace(0, 1, 8))},
        "TimesAreToldApart",
    ),
    "an encoder that runs at every step": ({"condition": lambda encode, x: lambda: encode(x)}, "EncoderRunsOnce"),
    "a partial last batch that is compiled again": (
        {"batches": lambda inputs: (inputs[i : i + 4] for i in range(0, len(inputs), 4))},
        "RaggedBatchesShareAProgram",
    ),
    "pickle.load": ({"load": unpickle}, "PicklesAreRefused"),
    "an array of objects": ({"load": lambda path: np.load(path, allow_pickle=True)}, "PicklesAreRefused"),
    "an import that is not declared": (
        {"requirements": ("jax", "equinox", "numpy", "scikit-learn", "pooch", "tqdm")},
        "ImportsAreDeclared",
    ),
}
