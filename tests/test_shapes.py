"""A wrong shape or type given to a public entry point is an error that names the argument.

The rest of the tests run with the whole package checked by beartype; users do without. The table is
therefore gone through twice: here, and in a process of its own without that check.
"""

import functools
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import diffrax as dfx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowprop as fp


KEY = jax.random.key(0)
RAW = np.zeros(2, np.uint32)  # what `jax.random.PRNGKey` gives


class Zero:
    """A network whose velocity is 0 and that compiles at once."""

    def __call__(self, t, z, x):
        return jnp.zeros_like(z)


class Wrong:
    """A network that returns another shape."""

    def __call__(self, t, z, x):
        return jnp.zeros(5)


def points(*shape):
    return np.zeros(shape, np.float32)


def point(*shape):
    return jnp.zeros(shape)


@functools.cache
def flow():
    return fp.fm_flow(Zero(), shape=(2,))


@functools.cache
def classifier():
    return fp.Classifier(flow=flow(), embedding=fp.one_hot_embedding(2))


@functools.cache
def image_classifier():
    encoder = fp.nn.ConvEncoder((4, 4, 1), 3, channels=(2,), key=KEY)
    return fp.Classifier(encoder=encoder, flow=flow(), embedding=fp.one_hot_embedding(2))


def noprop(networks=(Zero(),) * 2, **kwargs):
    return fp.NoPropDT(networks, **{"embedding": fp.one_hot_embedding(2)} | kwargs)


@functools.cache
def blocks():
    return noprop()


LABELLED = (blocks, lambda: fp.BackpropClassifier(blocks()), lambda: fp.AdjointClassifier(classifier()))


@functools.cache
def regressor():
    return fp.Regressor(flow=flow())


@functools.cache
def categorical():
    return fp.Flow(Zero(), fp.CondOTPath(), fp.CategoricalPrediction(), shape=(2,))


def trained():
    """A flow that has something to train."""
    return fp.fm_flow(fp.nn.MLP((2,), width=2, depth=1, key=KEY), shape=(2,))


def fit(model=None, data=(points(4, 2),), optimiser=None, **kwargs):
    settings = {"steps": 1, "batch_size": 2, "key": KEY} | kwargs
    return fp.fit(trained() if model is None else model, data, optimiser or optax.sgd(0.1), **settings)


METHODS = ("velocity", "target", "noise", "score")

# What is done -> how, and the argument that the error must name.
TABLE = {
    # One example's methods of a flow.
    **{f"{m}, t a vector": (lambda m=m: getattr(flow(), m)(jnp.zeros(3), point(2)), "t") for m in METHODS},
    **{f"{m}, t a string": (lambda m=m: getattr(flow(), m)("0", point(2)), "t") for m in METHODS},
    **{f"{m}, t outside": (lambda m=m: getattr(flow(), m)(1.5, point(2)), "t") for m in METHODS},
    **{f"{m}, z of another size": (lambda m=m: getattr(flow(), m)(0.5, point(3)), "z") for m in METHODS},
    **{f"{m}, z a batch": (lambda m=m: getattr(flow(), m)(0.5, point(4, 2)), "z") for m in METHODS},
    **{f"{m}, z integers": (lambda m=m: getattr(flow(), m)(0.5, jnp.zeros(2, int)), "z") for m in METHODS},
    "score, no noise": (lambda: flow().score(1.0, point(2)), "t"),
    "velocity, network's output": (
        lambda: fp.fm_flow(Wrong(), shape=(2,)).velocity(0.5, point(2)),
        "network(t, z, x)",
    ),
    "velocity, categorical without embeddings": (lambda: categorical().velocity(0.5, point(2)), "x"),
    "error, t": (lambda: flow().error(jnp.zeros(1), point(2), point(2)), "t"),
    "error, z0": (lambda: flow().error(0.5, point(3), point(2)), "z0|z1"),
    "error, z1": (lambda: flow().error(0.5, point(3), point(3)), "z0|z1"),
    "loss, one example": (lambda: flow().loss(points(2), key=KEY), "z1"),
    "loss, another size": (lambda: flow().loss(points(4, 3), key=KEY), "z1"),
    "loss, no examples": (lambda: flow().loss(points(0, 2), key=KEY), "z1"),
    "loss, integers": (lambda: flow().loss(np.zeros((4, 2), int), key=KEY), "z1"),
    "loss, x of another batch": (lambda: flow().loss(points(4, 2), points(3, 1), key=KEY), "x"),
    "loss, x without batch": (lambda: flow().loss(points(4, 2), 1.0, key=KEY), "x"),
    "loss, raw key": (lambda: flow().loss(points(4, 2), key=RAW), "key"),
    "loss, many keys": (lambda: flow().loss(points(4, 2), key=jax.random.split(KEY)), "key"),
    # Sampling, likelihood, solving.
    "sample, flow": (lambda: fp.sample(Zero(), 3, key=KEY), "flow"),
    "sample, a float": (lambda: fp.sample(flow(), 3.0, key=KEY), "num_samples"),
    "sample, none": (lambda: fp.sample(flow(), 0, key=KEY), "num_samples"),
    "sample, x": (lambda: fp.sample(flow(), 3, points(2, 1), key=KEY), "x"),
    "sample, raw key": (lambda: fp.sample(flow(), 3, key=RAW), "key"),
    "sample, integrator": (lambda: fp.sample(flow(), 3, key=KEY, integrator=dfx.Euler()), "integrator"),
    "log_prob, flow": (lambda: fp.log_prob(Zero(), points(4, 2)), "flow"),
    "log_prob, one example": (lambda: fp.log_prob(flow(), points(2)), "z1"),
    "log_prob, another size": (lambda: fp.log_prob(flow(), points(4, 3)), "z1"),
    "log_prob, integers": (lambda: fp.log_prob(flow(), np.zeros((4, 2), int)), "z1"),
    "log_prob, x": (lambda: fp.log_prob(flow(), points(4, 2), points(3, 1)), "x"),
    "log_prob, SDE": (lambda: fp.log_prob(flow(), points(4, 2), integrator=fp.SDEIntegrator()), "integrator"),
    "log_prob, divergence": (lambda: fp.log_prob(flow(), points(4, 2), divergence="exact"), "divergence"),
    "log_prob, no key": (lambda: fp.log_prob(flow(), points(4, 2), divergence=fp.HutchinsonDivergence()), "key"),
    "log_prob, raw key": (lambda: fp.log_prob(flow(), points(4, 2), key=RAW), "key"),
    "solve, z": (lambda: fp.solve(flow(), point(3)), "z"),
    "solve, z a batch": (lambda: fp.solve(flow(), point(4, 2)), "z"),
    "solve, t0": (lambda: fp.solve(flow(), point(2), t0=-0.5), "t0"),
    "solve, t1": (lambda: fp.solve(flow(), point(2), t1=2), "t1"),
    "solve, t1 a string": (lambda: fp.solve(flow(), point(2), t1="1"), "t1"),
    "solve, saveat": (lambda: fp.solve(flow(), point(2), saveat=0.5), "saveat"),
    "solve, integrator": (lambda: fp.solve(flow(), point(2), integrator="ode"), "integrator"),
    "solve, no key": (lambda: fp.solve(flow(), point(2), integrator=fp.SDEIntegrator()), "key"),
    "function_evaluations, solution": (lambda: fp.function_evaluations(3, fp.ODEIntegrator()), "solution"),
    "ODEIntegrator, solver": (lambda: fp.ODEIntegrator("heun"), "solver"),
    "ODEIntegrator, dt0": (lambda: fp.ODEIntegrator(dt0=-0.1), "dt0"),
    "ODEIntegrator, stepsize_controller": (lambda: fp.ODEIntegrator(None, 0.1), "stepsize_controller"),
    "ODEIntegrator, max_steps": (lambda: fp.ODEIntegrator(max_steps=1.5), "max_steps"),
    "SDEIntegrator, num_steps": (lambda: fp.SDEIntegrator(0), "num_steps"),
    "SDEIntegrator, num_steps a float": (lambda: fp.SDEIntegrator(10.0), "num_steps"),
    "SDEIntegrator, solver": (lambda: fp.SDEIntegrator(solver="euler"), "solver"),
    "HutchinsonDivergence": (lambda: fp.HutchinsonDivergence(0), "num_probes"),
    "HutchinsonDivergence, a string": (lambda: fp.HutchinsonDivergence("3"), "num_probes"),
    # Flows and what they are made of.
    "Flow, network": (lambda: fp.fm_flow(3, shape=(2,)), "network"),
    "Flow, path": (lambda: fp.Flow(Zero(), "ot", fp.TargetPrediction(), shape=(2,)), "path"),
    "Flow, prediction": (lambda: fp.Flow(Zero(), fp.CondOTPath(), "target", shape=(2,)), "prediction"),
    "Flow, shape a fraction": (lambda: fp.fm_flow(Zero(), shape=2.5), "shape"),
    "Flow, shape with a batch": (lambda: fp.fm_flow(Zero(), shape=(-1, 2)), "shape"),
    "fm_flow, weighting": (lambda: fp.fm_flow(Zero(), shape=(2,), weighting=1.0), "weighting"),
    "fm_flow, time_sampling": (lambda: fp.fm_flow(Zero(), shape=(2,), time_sampling="uniform"), "time_sampling"),
    "ct_flow, schedule": (lambda: fp.ct_flow(Zero(), shape=(2,), schedule="linear"), "schedule"),
    "ct_flow, prediction": (lambda: fp.ct_flow(Zero(), shape=(2,), prediction="target"), "prediction"),
    "df_flow, schedule": (lambda: fp.df_flow(Zero(), shape=(2,), schedule=fp.LinearNoiseSchedule), "schedule"),
    "VPPath": (lambda: fp.VPPath(13.0), "schedule"),
    **{f"CondOTPath.{m}": (lambda m=m: getattr(fp.CondOTPath(), m)("half"), "t") for m in ("alpha", "sigma", "gamma")},
    **{
        f"VPPath.{m}": (lambda m=m: getattr(fp.VPPath(fp.LinearNoiseSchedule()), m)("half"), "t")
        for m in ("alpha", "sigma", "gamma")
    },
    **{
        f"{type(s).__name__}.gamma": (lambda s=s: s.gamma([0.5]), "t")
        for s in (fp.LinearNoiseSchedule(), fp.CosineNoiseSchedule(), fp.SigmoidNoiseSchedule())
    },
    "SigmoidNoiseSchedule": (lambda: fp.SigmoidNoiseSchedule(-1), "scale"),
    "SigmoidNoiseSchedule, a string": (lambda: fp.SigmoidNoiseSchedule("13"), "scale"),
    "LearnableNoiseSchedule, hidden_dims": (lambda: fp.LearnableNoiseSchedule(64.5, key=KEY), "hidden_dims"),
    "LearnableNoiseSchedule, gamma_range": (
        lambda: fp.LearnableNoiseSchedule(gamma_range=(4, -4), key=KEY),
        "gamma_range",
    ),
    "LearnableNoiseSchedule, three ends": (
        lambda: fp.LearnableNoiseSchedule(gamma_range=(-4, 0, 4), key=KEY),
        "gamma_range",
    ),
    "LearnableNoiseSchedule, raw key": (lambda: fp.LearnableNoiseSchedule(key=RAW), "key"),
    "LearnableNoiseSchedule, trainable_ends": (
        lambda: fp.LearnableNoiseSchedule(trainable_ends="both", key=KEY),
        "trainable_ends",
    ),
    "PreconditionedPrediction": (lambda: fp.PreconditionedPrediction(0), "data_std"),
    "PreconditionedPrediction, an array": (lambda: fp.PreconditionedPrediction(points(2)), "data_std"),
    "StepELBOWeighting": (lambda: fp.StepELBOWeighting(2.5), "num_steps"),
    "StepELBOWeighting, none": (lambda: fp.StepELBOWeighting(0), "num_steps"),
    "MinSNRWeighting": (lambda: fp.MinSNRWeighting("5"), "limit"),
    "LogitNormalTimeSampling, mean": (lambda: fp.LogitNormalTimeSampling("0"), "mean"),
    "LogitNormalTimeSampling, std": (lambda: fp.LogitNormalTimeSampling(0, None), "std"),
    "PowerTimeSampling": (lambda: fp.PowerTimeSampling("2"), "exponent"),
    # Embeddings and classifiers.
    "one_hot_embedding": (lambda: fp.one_hot_embedding(3.0), "num_classes"),
    "learned_embedding, dim": (lambda: fp.learned_embedding(3, 0, key=KEY), "dim"),
    "learned_embedding, raw key": (lambda: fp.learned_embedding(3, 2, key=RAW), "key"),
    "Embedding": (lambda: fp.Embedding([[0.0, 1.0]]), "rows"),
    "Embedding, norm": (lambda: fp.Embedding(point(2, 2), norm="1"), "norm"),
    "Embedding's call, floats": (lambda: fp.one_hot_embedding(3)(points(4)), "labels"),
    "Embedding's call, two axes": (lambda: fp.one_hot_embedding(3)(np.zeros((4, 1), int)), "labels"),
    "RadialReadout": (lambda: fp.RadialReadout("0.2"), "scale"),
    "Classifier, flow": (lambda: fp.Classifier(flow=Zero(), embedding=fp.one_hot_embedding(2)), "flow"),
    "Classifier, embedding": (lambda: fp.Classifier(flow=flow(), embedding=jnp.eye(2)), "embedding"),
    "Classifier, sizes": (lambda: fp.Classifier(flow=flow(), embedding=fp.one_hot_embedding(3)), "flow"),
    "Classifier, encoder": (
        lambda: fp.Classifier(flow=flow(), embedding=fp.one_hot_embedding(2), encoder=3),
        "encoder",
    ),
    "Classifier, objective": (
        lambda: fp.Classifier(flow=flow(), embedding=fp.one_hot_embedding(2), objective=fp.CrossEntropyObjective()),
        "objective",
    ),
    "Classifier, readout": (
        lambda: fp.Classifier(
            flow=flow(), embedding=fp.one_hot_embedding(2), readout=fp.LinearReadout((2,), 2, key=KEY)
        ),
        "readout",
    ),
    "ELBOObjective": (lambda: fp.ELBOObjective(0), "eta"),
    "ELBOObjective, a string": (lambda: fp.ELBOObjective("1"), "eta"),
    "Classifier.loss, a scalar": (lambda: classifier().loss(jnp.zeros(()), np.zeros(4, int), key=KEY), "inputs"),
    "Classifier.loss, a list": (lambda: classifier().loss([1.0], np.zeros(4, int), key=KEY), "inputs"),
    "Classifier.loss, fewer labels": (lambda: classifier().loss(points(4, 2), np.zeros(3, int), key=KEY), "labels"),
    "Classifier.loss, one-hot labels": (lambda: classifier().loss(points(4, 2), points(4, 2), key=KEY), "labels"),
    "Classifier.loss, a label": (lambda: classifier().loss(points(1, 2), np.array([2]), key=KEY), "labels"),
    "Classifier.loss, raw key": (lambda: classifier().loss(points(4, 2), np.zeros(4, int), key=RAW), "key"),
    "Classifier.loss, images": (
        lambda: image_classifier().loss(points(4, 4, 5, 1), np.zeros(4, int), key=KEY),
        "image",
    ),
    **{
        f"Classifier.{m}, {what}": (lambda m=m, a=a, k=k: getattr(image_classifier(), m)(*a, **k), name)
        for m in ("predict", "predict_proba", "function_evaluations")
        for what, a, k, name in (
            ("inputs", (3.0,), {"key": KEY}, "inputs"),
            ("images", (points(4, 5, 4, 1),), {"key": KEY}, "image"),
            ("raw key", (points(4, 4, 4, 1),), {"key": RAW}, "key"),
            ("integrator", (points(4, 4, 4, 1),), {"key": KEY, "integrator": dfx.Heun()}, "integrator"),
            ("num_draws", (points(4, 4, 4, 1),), {"key": KEY, "num_draws": 0}, "num_draws"),
            ("batch_size", (points(4, 4, 4, 1),), {"key": KEY, "batch_size": 2.0}, "batch_size"),
        )
        if not (m == "function_evaluations" and name == "num_draws")
    },
    # Blocks, references, regression.
    "NoPropDT, one network": (lambda: fp.NoPropDT(Zero(), embedding=fp.one_hot_embedding(2)), "networks"),
    "NoPropDT, no network": (lambda: noprop([]), "networks"),
    "NoPropDT, numbers": (lambda: noprop([1, 2]), "networks"),
    "NoPropDT, other networks": (lambda: noprop([jnp.sin, jnp.cos]), "networks[1]"),
    "NoPropDT, embedding": (lambda: noprop(embedding=jnp.eye(2)), "embedding"),
    "NoPropDT, encoder": (lambda: noprop(encoder=3), "encoder"),
    "NoPropDT, encoders": (lambda: noprop(encoder=[jnp.sin]), "encoder"),
    "NoPropDT, schedule": (lambda: noprop(schedule="cosine"), "schedule"),
    "NoPropDT, prediction": (lambda: noprop(prediction="target"), "prediction"),
    "NoPropDT, objective": (lambda: noprop(objective="elbo"), "objective"),
    "NoPropDT, stochasticity": (lambda: noprop(stochasticity=2), "stochasticity"),
    "NoPropDT, stochasticity a string": (lambda: noprop(stochasticity="1"), "stochasticity"),
    "NoPropDT, keep_activations": (lambda: noprop(keep_activations="all"), "keep_activations"),
    "NoPropDT.block": (lambda: blocks().block(0.5), "index"),
    "NoPropDT.with_block": (lambda: blocks().with_block(0, Zero()), "block"),
    "BackpropClassifier": (lambda: fp.BackpropClassifier(classifier()), "blocks"),
    "AdjointClassifier, classifier": (lambda: fp.AdjointClassifier(blocks()), "classifier"),
    "AdjointClassifier, integrator": (lambda: fp.AdjointClassifier(classifier(), dfx.Euler()), "integrator"),
    **{
        f"{type(make()).__name__}.{m}, {what}": (lambda make=make, m=m, a=a, k=k: getattr(make(), m)(*a, key=k), name)
        for make in LABELLED
        for m in ("loss", "terms", "block_losses")[: 3 if make is blocks else 1]
        for what, a, k, name in (
            ("a scalar", (jnp.zeros(()), np.zeros(4, int)), KEY, "inputs"),
            ("fewer labels", (points(4, 2), np.zeros(3, int)), KEY, "labels"),
            ("a label", (points(1, 2), np.array([2])), KEY, "labels"),
            ("raw key", (points(4, 2), np.zeros(4, int)), RAW, "key"),
        )
    },
    **{
        f"{type(make()).__name__}.{m}, {what}": (lambda make=make, m=m, a=a, k=k: getattr(make(), m)(a, **k), name)
        for make in LABELLED
        for m in ("predict", "predict_proba")
        for what, a, k, name in (
            ("inputs", 3.0, {"key": KEY}, "inputs"),
            ("raw key", points(4, 2), {"key": RAW}, "key"),
            ("num_draws", points(4, 2), {"key": KEY, "num_draws": 0}, "num_draws"),
            ("batch_size", points(4, 2), {"key": KEY, "batch_size": 2.0}, "batch_size"),
        )
    },
    "Regressor, flow": (lambda: fp.Regressor(flow=Zero()), "flow"),
    "Regressor, encoder": (lambda: fp.Regressor(flow=flow(), encoder=3), "encoder"),
    "Regressor.loss, inputs": (lambda: regressor().loss(3.0, points(4, 2), key=KEY), "inputs"),
    "Regressor.loss, targets": (lambda: regressor().loss(points(4, 2), points(4, 3), key=KEY), "targets"),
    "Regressor.loss, fewer targets": (lambda: regressor().loss(points(4, 2), points(3, 2), key=KEY), "targets"),
    "Regressor.loss, integers": (lambda: regressor().loss(points(4, 2), np.zeros((4, 2), int), key=KEY), "targets"),
    "Regressor.loss, raw key": (lambda: regressor().loss(points(4, 2), points(4, 2), key=RAW), "key"),
    "Regressor.sample, none": (lambda: regressor().sample(points(4, 2), 0, key=KEY), "num_samples"),
    "Regressor.sample, raw key": (lambda: regressor().sample(points(4, 2), 1, key=RAW), "key"),
    "Regressor.sample, integrator": (
        lambda: regressor().sample(points(4, 2), 1, key=KEY, integrator="ode"),
        "integrator",
    ),
    "Regressor.predict, inputs": (lambda: regressor().predict(3.0, key=KEY), "inputs"),
    "Regressor.predict, num_samples": (
        lambda: regressor().predict(points(4, 2), key=KEY, num_samples=0),
        "num_samples",
    ),
    "Regressor.predict, batch_size": (lambda: regressor().predict(points(4, 2), key=KEY, batch_size=0), "batch_size"),
    # Training and checkpoints.
    "fit, model": (lambda: fit(Zero()), "model"),
    "fit, a dict": (lambda: fit(data={"z1": points(4, 2)}), "data"),
    "fit, lists": (lambda: fit(data=([[1.0, 2.0]],)), "data[0]"),
    "fit, lengths": (lambda: fit(data=(points(4, 2), points(3, 1))), "data[1]"),
    "fit, optimiser": (lambda: fit(optimiser="adam"), "optimiser"),
    "fit, steps": (lambda: fit(steps=10.0), "steps"),
    "fit, batch_size": (lambda: fit(batch_size=5), "batch_size"),
    "fit, raw key": (lambda: fit(key=RAW), "key"),
    "fit, ema": (lambda: fit(ema="0.9"), "ema"),
    "fit, augment": (lambda: fit(augment=3), "augment"),
    "fit, evaluate": (lambda: fit(evaluate=3), "evaluate"),
    "save": (lambda: fp.save(3, flow()), "path"),
    "load": (lambda: fp.load(None, flow()), "path"),
    "load, another model": (lambda: _load_another(), "like"),
    # Networks.
    **{
        f"{make.__name__}, {what}": (lambda make=make, k=k: make(**({"shape": (2,), "key": KEY} | k)), next(iter(k)))
        for make in (fp.nn.MLP, fp.nn.ConcatSquashMLP)
        for what, k in (
            ("shape", {"shape": 2.5}),
            ("condition_size", {"condition_size": -1}),
            ("width", {"width": 1.5}),
            ("depth", {"depth": 0}),
            ("out_shape", {"out_shape": "2"}),
            ("activation", {"activation": "relu"}),
            ("time_features", {"time_features": 8}),
            ("raw key", {"key": RAW}),
        )
    },
    **{
        f"{make.__name__}'s call, {name}": (lambda make=make, a=a: _network(make)(*a), name)
        for make in (fp.nn.MLP, fp.nn.ConcatSquashMLP)
        for name, a in (
            ("t", (points(2), point(2), point(1))),
            ("z", (0.5, point(3), point(1))),
            ("x", (0.5, point(2), point(2))),
        )
    },
    "Linear": (lambda: fp.nn.Linear(0, 2, key=KEY), "in_size"),
    "Linear's call": (lambda: fp.nn.Linear(2, 3, key=KEY)(point(3)), "x"),
    "Linear's call, a batch": (lambda: fp.nn.Linear(2, 3, key=KEY)(point(4, 2)), "x"),
    "Conv": (lambda: fp.nn.Conv(1, 2, "3", key=KEY), "kernel_size"),
    "Conv's call": (lambda: fp.nn.Conv(1, 2, key=KEY)(point(4, 4, 3)), "image"),
    "Conv's call, a batch": (lambda: fp.nn.Conv(1, 2, key=KEY)(point(5, 4, 4, 1)), "image"),
    "ConvEncoder": (lambda: fp.nn.ConvEncoder((28, 28), key=KEY), "shape"),
    "ConvEncoder, too small": (lambda: fp.nn.ConvEncoder((3, 3, 1), key=KEY), "shape"),
    "ConvEncoder's call": (lambda: image_classifier().encoder(point(4, 4)), "image"),
    "ConvEncoder's call, integers": (lambda: image_classifier().encoder(jnp.zeros((4, 4, 1), int)), "image"),
    "SinusoidalFeatures": (lambda: fp.nn.SinusoidalFeatures(0), "num_frequencies"),
    "SinusoidalFeatures, a string": (lambda: fp.nn.SinusoidalFeatures(4, "1"), "min_frequency"),
    "SinusoidalFeatures' call": (lambda: fp.nn.SinusoidalFeatures()(point(3)), "t"),
    "FourierFeatures": (lambda: fp.nn.FourierFeatures(0, key=KEY), "in_size"),
    "FourierFeatures' call": (lambda: fp.nn.FourierFeatures(2, key=KEY)(point(3)), "z"),
    "PositionalFeatures": (lambda: fp.nn.PositionalFeatures(2, 0), "num_octaves"),
    "PositionalFeatures' call": (lambda: fp.nn.PositionalFeatures(2)(point(3)), "z"),
}


@functools.cache
def _network(make):
    return make((2,), 1, width=3, depth=1, key=KEY)


def _load_another():
    with tempfile.TemporaryDirectory() as folder:
        fp.save(f"{folder}/model", {"a": 1})
        fp.load(f"{folder}/model", {"b": 1})


def complaint(do, argument):
    """What is wrong with the error that `do` raises, or `None`."""
    try:
        do()
    except (ValueError, TypeError) as error:
        message = str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return "no error"
    names = "|".join(rf"`{re.escape(name)}`|parameter '{name}'" for name in argument.split("|"))
    return None if re.search(names, message) else message


@pytest.mark.parametrize(("do", "argument"), TABLE.values(), ids=TABLE)
def test_the_error_names_the_argument(do, argument):
    assert complaint(do, argument) is None


def test_so_it_does_for_users():
    """Without the import hook of the tests, which checks functions that are not public entry points too."""
    code = "import test_shapes as t; print(*[(k, c) for k, a in t.TABLE.items() if (c := t.complaint(*a))], sep='\\n')"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(fp.__file__).parent.parent)},
    )
    assert (run.stdout.strip(), run.returncode) == ("", 0), run.stdout + run.stderr


@pytest.mark.parametrize(
    "make",
    [
        lambda n: fp.SigmoidNoiseSchedule(n),
        lambda n: fp.PreconditionedPrediction(n),
        lambda n: fp.ODEIntegrator(dt0=n / 4),
        lambda n: fp.one_hot_embedding(3, norm=n),
        lambda n: fp.RadialReadout(n),
        lambda n: fp.ELBOObjective(n),
        lambda n: fp.LogitNormalTimeSampling(n, n),
        lambda n: fp.LearnableNoiseSchedule((2,), (-n, n), key=KEY),
        lambda n: fp.nn.SinusoidalFeatures(4, n, 2 * n)(0.3),
    ],
)
def test_a_whole_number_does_where_a_float_would(make):
    pairs = zip(jax.tree.leaves(make(2)), jax.tree.leaves(make(2.0)), strict=True)
    assert all(np.array_equal(whole, real) for whole, real in pairs)
