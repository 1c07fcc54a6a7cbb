"""Every kind of model is saved, loaded, pickled and copied, and never read into a model of another kind."""

import copy
import dataclasses
import functools
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowprop as fp


KEY = jax.random.key(0)
nn = fp.nn


def mlp(condition_size=0, **kwargs):
    return nn.MLP((2,), condition_size, width=3, depth=1, key=KEY, **kwargs)


def vp_flow(network=None, prediction=None, *, schedule=None, **kwargs):
    path = fp.VPPath(fp.CosineNoiseSchedule() if schedule is None else schedule)
    prediction = fp.TargetPrediction() if prediction is None else prediction
    return fp.Flow(mlp() if network is None else network, path, prediction, shape=(2,), **kwargs)


def fm(network=None, **kwargs):
    return fp.fm_flow(mlp() if network is None else network, shape=kwargs.pop("shape", (2,)), **kwargs)


def in_units(network=None, **kwargs):
    network = mlp() if network is None else network
    return fp.Flow(network, fp.CondOTPath(), fp.VelocityPrediction(), shape=(2,), **kwargs)


def label_flow(**kwargs):
    return fp.Flow(mlp(4, out_shape=(3,)), fp.CondOTPath(), fp.CategoricalPrediction(), shape=(2,), **kwargs)


def classifier(embedding=None, flow=None, **kwargs):
    embedding = fp.learned_embedding(3, 2, key=KEY) if embedding is None else embedding
    flow = label_flow() if flow is None else flow
    return fp.Classifier(encoder=nn.Linear(3, 4, key=KEY), flow=flow, embedding=embedding, **kwargs)


def blocks():
    networks = [mlp(4) for _ in range(2)]
    return fp.NoPropDT(networks, encoder=nn.Linear(3, 4, key=KEY), embedding=fp.learned_embedding(3, 2, key=KEY))


class Scaled(eqx.Module):
    """A user's network with a fixed array, features and a number."""

    network: nn.MLP
    features: eqx.Module
    scale: fp.Frozen
    power: float = 1.0

    def __call__(self, t, z, x):
        return self.scale.value**self.power * self.network(t, self.features(z), x)


class Solved(eqx.Module):
    """A user's model that holds an integrator."""

    flow: fp.Flow
    integrator: fp.AbstractIntegrator


def scaled(features, **kwargs):
    return fm(Scaled(nn.MLP((features.size,), width=3, depth=1, out_shape=(2,), key=KEY), features, **kwargs))


def solved(integrator):
    return Solved(fm(), integrator)


def plain_network(t, z, x):
    return t * z


def rising(t):
    return 1 + t


POINTS = np.random.default_rng(0).standard_normal((4, 2)).astype(np.float32)
SCALE = fp.Frozen(jnp.asarray(2.0))

FLOWS = {
    "FM": fm,
    "CT": lambda: fp.ct_flow(mlp(), shape=(2,)),
    "DF": lambda: fp.df_flow(mlp(), shape=(2,)),
    "another shape": lambda: fm(nn.MLP((1, 2), width=3, depth=1, out_shape=(1, 2), key=KEY), shape=(1, 2)),
    "linear schedule": lambda: vp_flow(schedule=fp.LinearNoiseSchedule()),
    "cosine schedule": vp_flow,
    "sigmoid schedule": lambda: vp_flow(schedule=fp.SigmoidNoiseSchedule(9.0)),
    "learnable schedule": lambda: vp_flow(schedule=fp.LearnableNoiseSchedule((3,), key=KEY)),
    "trainable ends": lambda: vp_flow(schedule=fp.LearnableNoiseSchedule((3,), trainable_ends=True, key=KEY)),
    "noise": lambda: vp_flow(prediction=fp.NoisePrediction()),
    "velocity": lambda: vp_flow(prediction=fp.VelocityPrediction()),
    "preconditioned": lambda: vp_flow(prediction=fp.PreconditionedPrediction(0.7)),
    "early stop": lambda: vp_flow(prediction=fp.EarlyStopPrediction(fp.TargetPrediction())),
    "another early stop": lambda: vp_flow(prediction=fp.EarlyStopPrediction(fp.TargetPrediction(), 0.9)),
    "early stop of noise": lambda: vp_flow(prediction=fp.EarlyStopPrediction(fp.NoisePrediction())),
    "an end": lambda: fm(end=0.9),
    "another end": lambda: fm(end=0.95),
    "categorical": label_flow,
    "tanh": lambda: fm(mlp(activation=jnp.tanh)),
    "relu": lambda: fm(mlp(activation=jax.nn.relu)),
    "another frequency": lambda: fm(mlp(time_features=nn.SinusoidalFeatures(max_frequency=64.0))),
    "fewer frequencies": lambda: fm(mlp(time_features=nn.SinusoidalFeatures(3))),
    "another width": lambda: fm(nn.MLP((2,), width=4, depth=1, key=KEY)),
    "another depth": lambda: fm(nn.MLP((2,), width=3, depth=2, key=KEY)),
    "a condition": lambda: fm(mlp(1)),
    "half precision": lambda: fm(jax.tree.map(lambda a: a.astype(jnp.float16) if eqx.is_array(a) else a, mlp())),
    "ConcatSquash": lambda: fm(nn.ConcatSquashMLP((2,), width=3, depth=1, key=KEY)),
    "Residual": lambda: fm(nn.ResidualMLP((2,), width=3, depth=1, key=KEY)),
    "linear-gaussian": lambda: fm(nn.LinearGaussian(mlp(1), jnp.ones((2, 1)), jnp.zeros(2))),
    "another matrix": lambda: fm(nn.LinearGaussian(mlp(1), 2 * jnp.ones((2, 1)), jnp.zeros(2))),
    "Fuse": lambda: fm(nn.FuseNetwork(nn.LabelEncoder((2,), 3, key=KEY), 0, (2,), width=3, depth=1, key=KEY)),
    "ImageMixer": lambda: fm(nn.ImageMixer((2, 2, 1), patch_size=1, width=2, depth=1, key=KEY), shape=(2, 2, 1)),
    "function": lambda: fm(plain_network),
    "Fourier features": lambda: scaled(nn.FourierFeatures(2, 3, key=KEY), scale=SCALE),
    "positional features": lambda: scaled(nn.PositionalFeatures(2, 1), scale=SCALE),
    "trained scale": lambda: scaled(nn.PositionalFeatures(2, 1), scale=jnp.asarray(2.0)),
    "ELBO": lambda: vp_flow(weighting=fp.ELBOWeighting()),
    "normalised ELBO": lambda: vp_flow(weighting=fp.NormalisedELBOWeighting()),
    "batch-normalised ELBO": lambda: vp_flow(weighting=fp.BatchNormalisedELBOWeighting()),
    "step ELBO": lambda: vp_flow(weighting=fp.StepELBOWeighting(3)),
    "min-SNR": lambda: vp_flow(weighting=fp.MinSNRWeighting(3.0)),
    "uniform times": lambda: fm(time_sampling=fp.UniformTimeSampling()),
    "logit-normal times": lambda: fm(time_sampling=fp.LogitNormalTimeSampling(0.5, 2.0)),
    "power times": lambda: fm(time_sampling=fp.PowerTimeSampling(2.0)),
    "grid times": lambda: fm(time_sampling=fp.GridTimeSampling(4)),
    "empirical source": lambda: fm(source=fp.EmpiricalSource(POINTS)),
    "OT": lambda: fm(coupling=fp.OTCoupling()),
    "Sinkhorn": lambda: fm(coupling=fp.SinkhornCoupling(0.1)),
    "conditional OT, classes": lambda: fm(coupling=fp.ConditionalOTCoupling()),
    "conditional OT, distances": lambda: fm(coupling=fp.ConditionalOTCoupling(fp.DistanceCost())),
    "standardised": lambda: in_units(transform=fp.Standardise(np.zeros(2), np.ones(2))),
    "whitened": lambda: in_units(transform=fp.Whiten(np.zeros(2), np.eye(2))),
    "bounded": lambda: in_units(transform=fp.Bounded(0.0, 1.0)),
    "encoder": lambda: in_units(mlp(4), encoder=nn.Linear(3, 4, key=KEY)),
    "given a condition": lambda: fp.given(fm(mlp(1)), jnp.zeros(1)),
    "guided": lambda: fp.guide(fm(mlp(1)), jnp.zeros(1), 2.0),
    "guided by a function": lambda: fp.guide(fm(mlp(1)), jnp.zeros(1), rising),
    "guided, a tree": lambda: fp.guide(fm(mlp(1)), {"a": jnp.zeros(1)}, 2.0),
    "another path": lambda: fp.change_path(vp_flow(), fp.CondOTPath()),
}
OTHERS = {
    "classifier": classifier,
    "nearest": lambda: classifier(readout=fp.NearestReadout(), objective=fp.CrossEntropyObjective()),
    "radial": lambda: classifier(readout=fp.RadialReadout(0.3)),
    "linear readout": lambda: classifier(
        readout=fp.LinearReadout((2,), 3, key=KEY), objective=fp.FlowMatchingObjective(0.1)
    ),
    "ELBO objective": lambda: classifier(
        flow=vp_flow(mlp(4)), readout=fp.LinearReadout((2,), 3, key=KEY), objective=fp.ELBOObjective(0.1)
    ),
    "one-hot": lambda: classifier(fp.one_hot_embedding(2, norm=2.0), flow=fm(mlp(4))),
    "no norm": lambda: classifier(fp.Embedding(jnp.ones((3, 2)))),
    "NoProp-DT": blocks,
    "back-propagation": lambda: fp.BackpropClassifier(blocks()),
    "adjoint": lambda: fp.AdjointClassifier(classifier()),
    "regressor": lambda: fp.Regressor(flow=fm(mlp(4)), encoder=nn.Linear(2, 4, key=KEY)),
    "condition dropout": lambda: fp.ConditionDropout(fm(mlp(1)), jnp.zeros(1), 0.2),
    "paired": lambda: fp.PairedFlow(fm()),
    "maximum likelihood": lambda: fp.MaximumLikelihood(fm(), kinetic=0.1),
    "maximum likelihood, probes": lambda: fp.MaximumLikelihood(fm(), divergence=fp.HutchinsonDivergence(2)),
    "bits per dimension": lambda: fp.BitsPerDimension("test", num_levels=4),
    "bits per dimension, validation": lambda: fp.BitsPerDimension("validation", num_levels=4),
    "posterior": lambda: fp.Posterior(fm(), fp.BoxUniform(np.zeros(2), np.ones(2))),
    "ensemble": lambda: fp.FlowEnsemble([fm(), fm()]),
    "Tsit5": lambda: solved(fp.ODEIntegrator()),
    "Heun": lambda: solved(fp.ODEIntegrator(dfx.Heun(), dt0=0.1)),
    "Kvaerno5": lambda: solved(fp.ODEIntegrator(dfx.Kvaerno5(), dfx.PIDController(rtol=1e-3, atol=1e-3))),
    "more steps": lambda: solved(fp.ODEIntegrator(max_steps=99)),
    "SDE": lambda: solved(fp.SDEIntegrator(5)),
    "SDE, more steps": lambda: solved(fp.SDEIntegrator(6)),
    "ancestral": lambda: solved(fp.AncestralIntegrator(5)),
    "ConvEncoder": lambda: nn.ConvEncoder((4, 4, 1), 3, channels=(2,), key=KEY),
    "ConvEncoder, no pooling": lambda: nn.ConvEncoder((2, 2, 1), 3, channels=(2,), pool=None, key=KEY),
    "ResNet": lambda: nn.ResNet((4, 4, 1), 3, depths=(1, 1), width=2, key=KEY),
    "SetEncoder": lambda: nn.SetEncoder((2,), 3, width=2, key=KEY),
    "SeriesEncoder": lambda: nn.SeriesEncoder((4, 1), 3, channels=(2,), key=KEY),
    "MixerEncoder": lambda: nn.MixerEncoder((4, 4, 1), 3, patch_size=2, width=2, depth=1, key=KEY),
    "GroupNorm": lambda: nn.GroupNorm(4, 2),
    "GroupNorm, other groups": lambda: nn.GroupNorm(4, 4),
    "schedule": lambda: fp.LearnableNoiseSchedule((3,), key=KEY),
    "tuple": lambda: (fm(), 1.0),
    "list": lambda: [fm(), 1.0],
    "longer tuple": lambda: (fm(), 1.0, None),
}
KINDS = FLOWS | OTHERS
NAMES = list(KINDS)
#: Those whose constructors look at the values of arrays, which `eqx.filter_eval_shape` does not have.
NEED_VALUES = ["standardised", "whitened", "bounded", "another path", "posterior", "ensemble"]

#: Those with a part that is defined here.
NEED_LIKE = [
    *("function", "guided by a function", "Fourier features", "positional features", "trained scale"),
    *("Tsit5", "Heun", "Kvaerno5", "more steps", "SDE", "SDE, more steps", "ancestral"),
]


@functools.cache
def made(name):
    return KINDS[name]()


def signature(leaf):
    """The part of a leaf that is not loaded: the types and shapes of values, and all other leaves."""
    if isinstance(leaf, jax.Array | np.ndarray):
        return (leaf.shape, str(leaf.dtype))
    return type(leaf) if isinstance(leaf, bool | int | float) else leaf


def same_kind(one, other):
    """Equal structure by JAX's own comparison, which `fp.save` does not use."""
    return jax.tree.structure(one) == jax.tree.structure(other) and [*map(signature, jax.tree.leaves(one))] == [
        *map(signature, jax.tree.leaves(other))
    ]


def identical(one, other):
    """Equal structure and equal leaves: arrays bit for bit."""
    return bool(eqx.tree_equal(one, other, typematch=True))


def other_values(model):
    def change(leaf):
        if eqx.is_inexact_array(leaf):
            return leaf + 1
        return type(leaf)(not leaf) if isinstance(leaf, bool | int | float) else leaf

    return jax.tree.map(change, model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a file of every kind of model."""
    folder = tmp_path_factory.mktemp("kinds")
    for number, name in enumerate(NAMES):
        fp.save(folder / str(number), made(name))
    return folder


def differs(field, part, other):
    """Whether a file must not be read into a model with another part: for static fields, if the values differ."""
    return part != other if field.metadata.get("static") else not same_kind(part, other)


@pytest.mark.parametrize("name", NAMES)
class TestEveryKind:
    """Each kind of model with itself, and with each other kind."""

    def test_is_loaded_leaf_by_leaf(self, name, folder):
        path, model = folder / str(NAMES.index(name)), made(name)
        assert identical(fp.load(path, other_values(model)), model)
        # Models without arrays.
        make = (lambda: model) if name in NEED_VALUES else KINDS[name]
        assert identical(fp.load(path, eqx.filter_eval_shape(make)), model)
        # The same file again, byte for byte.
        fp.save(folder / "again", model)
        assert (folder / "again").read_bytes() == path.read_bytes()

    def test_is_made_from_its_file(self, name, folder):
        path, model = folder / str(NAMES.index(name)), made(name)
        if name in NEED_LIKE:
            with pytest.raises(ValueError, match=rf"holds .*`{__name__}\.\w+`.* cannot make from a file: give `like`"):
                fp.load(path)
        else:
            loaded = fp.load(path)
            assert identical(loaded, model)
            assert jax.tree.structure(loaded) == jax.tree.structure(model)

    def test_is_not_read_into_another(self, name, folder):
        path = folder / str(NAMES.index(name))
        refused = 0
        for other in NAMES:
            if same_kind(made(name), made(other)):
                assert identical(fp.load(path, made(other)), made(name))
                continue
            with pytest.raises(ValueError, match=r"^`like` is not the model in .*: make `like` with") as error:
                fp.load(path, made(other))
            _, first, *_ = str(error.value).splitlines()
            assert re.match(r"  (`[.\[].*`|the model itself) is .* in (`like`|the file)", first)
            refused += 1
            if name in FLOWS and other in FLOWS:
                wrong = {
                    field.name
                    for field in dataclasses.fields(made(name))
                    if differs(field, getattr(made(name), field.name), getattr(made(other), field.name))
                }
                named = set(re.findall(r"^  `\.(\w+)", str(error.value), re.MULTILINE))
                assert named <= wrong
                assert named == wrong or "more" in str(error.value)
        # All but itself and at most one twin.
        assert refused >= len(NAMES) - 3

    def test_is_pickled_and_copied(self, name):
        model = made(name)
        for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
            if name == "Kvaerno5":  # Diffrax tells a default tolerance by an object, of which a pickle is another
                again = eqx.tree_at(lambda m: m.integrator.solver, again, model.integrator.solver)
            assert identical(again, model)


def test_another_process_makes_them_from_their_files(folder):
    """It saves each model again, which gives the same file, byte for byte."""
    numbers = [str(number) for number, name in enumerate(NAMES) if name not in NEED_LIKE]
    code = f"""
import flowprop as fp
for number in {numbers}:
    fp.save(f"again {{number}}", fp.load(number))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(fp.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=folder)
    for number in numbers:
        assert (folder / f"again {number}").read_bytes() == (folder / number).read_bytes()


@pytest.mark.parametrize("name", ["classifier", "nearest"])
def test_one_made_from_its_file_predicts_the_same(name, folder):
    loaded = fp.load(folder / str(NAMES.index(name)))
    inputs = np.random.default_rng(1).standard_normal((2, 3)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict_proba(inputs, key=KEY), made(name).predict_proba(inputs, key=KEY))


class Normalised(eqx.Module):
    """A network of a user with a state, whose markers are different objects in each model."""

    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.linear = eqx.nn.Linear(3, 2, key=key)
        self.norm = eqx.nn.BatchNorm(2, axis_name="batch", mode="batch")

    def __call__(self, t, z, x, state):
        z, state = self.norm(z, state)
        return self.linear(jnp.append(z, t)), state


def test_a_network_with_a_state(tmp_path):
    saved, like = (fm(nn.Stateful(*eqx.nn.make_with_state(Normalised)(jax.random.key(seed)))) for seed in range(2))
    fp.save(tmp_path / "model", saved)
    loaded = fp.load(tmp_path / "model", like)
    z = jnp.array([0.3, -1.0])
    assert np.all(like.velocity(0.5, z) != saved.velocity(0.5, z))
    np.testing.assert_array_equal(loaded.velocity(0.5, z), saved.velocity(0.5, z))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(saved)).velocity(0.5, z), saved.velocity(0.5, z))


#: Flows whose likelihood is quick: one of each kind of network, path, prediction and units.
DENSITIES = ["FM", "learnable schedule", "preconditioned", "ConcatSquash", "Fuse", "Fourier features", "bounded"]


@pytest.mark.parametrize("name", DENSITIES)
def test_a_copy_has_the_same_density(name, folder):
    model = made(name)
    integrator = fp.ODEIntegrator(dfx.Heun(), dt0=0.5)
    log_prob = eqx.filter_jit(lambda flow: fp.log_prob(flow, jax.nn.sigmoid(POINTS), integrator=integrator))
    before = log_prob(model)
    np.testing.assert_array_equal(log_prob(pickle.loads(pickle.dumps(model))), before)
    np.testing.assert_array_equal(log_prob(copy.deepcopy(model)), before)
    if name not in NEED_LIKE:
        np.testing.assert_array_equal(log_prob(fp.load(folder / str(NAMES.index(name)))), before)
    assert np.all(log_prob(other_values(model)) != before)


#: Activations of JAX that `pickle` refuses or takes.
ACTIVATIONS = [
    *(jax.nn.celu, jax.nn.elu, jax.nn.gelu, jax.nn.hard_sigmoid, jax.nn.hard_silu, jax.nn.hard_tanh, jax.nn.leaky_relu),
    *(jax.nn.log_sigmoid, jax.nn.mish, jax.nn.relu, jax.nn.relu6, jax.nn.selu, jax.nn.sigmoid, jax.nn.silu),
    *(jax.nn.soft_sign, jax.nn.softplus, jax.nn.squareplus, jax.nn.swish, jnp.tanh, jnp.sin, jnp.cos),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda activation: activation.__name__)
def test_an_activation_of_jax_can_be_pickled_and_stays_what_it_is(activation, tmp_path):
    network = mlp(activation=activation)
    again = pickle.loads(pickle.dumps(network))
    values = jnp.linspace(-3, 3, 7)
    for function in (network.activation, again.activation):
        np.testing.assert_array_equal(function(values), activation(values))
        np.testing.assert_array_equal(
            jax.vmap(jax.grad(function))(values + 0.1), jax.vmap(jax.grad(activation))(values + 0.1)
        )
    # A network that holds the function itself is the same model: each is read into the other.
    original = eqx.tree_at(lambda network: network.activation, network, activation)
    fp.save(tmp_path / "model", network)
    fp.save(tmp_path / "original", original)
    assert fp.load(tmp_path / "model", original).activation is activation
    assert fp.load(tmp_path / "original", network).activation is network.activation
    assert fp.model_info(tmp_path / "model").description == fp.model_info(tmp_path / "original").description


def test_an_activation_of_ones_own_is_kept():
    module = eqx.nn.PReLU()
    assert mlp(activation=module).activation is module
    assert mlp(activation=np.abs).activation is np.abs
