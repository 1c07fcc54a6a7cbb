"""What a flow of labels is trained to do at one time: an error, or the terms of a bound."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ._embedding import Embedding
from ._flow import Flow
from ._frozen import trainable
from ._path import CondOTPath
from ._readout import AbstractReadout
from ._types import Point, PRNGKey, Real, Scalar, Time, checked


Terms = dict[str, Scalar]


class LabelSample(NamedTuple):
    """One training example: a label hidden in noise, and what the network made of it."""

    label: Int[Array, ""]
    t: Time
    z0: Point
    z1: Point
    output: Array
    condition: PyTree
    weight: Scalar
    end_noise: Point

    def error(self, flow: Flow) -> Scalar:
        """The squared error in the units of the network's output."""
        return flow.prediction.error(flow.path, self.t, self.z0, self.z1, self.output, self.condition)


class AbstractObjective(eqx.Module):
    """One example's training error, as named terms whose sum is minimised.

    An objective says whether it trains a readout that has parameters, and whether its terms hold a
    learnable schedule's end points, which a plain regression would let run away.
    """

    trains_readout: eqx.AbstractClassVar[bool]
    trains_ends: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """The terms of one example at one time."""

    @property
    def path_noise(self) -> Real:
        """The standard deviation of the noise that is added to every point of a path."""
        return 0.0


class RegressionObjective(AbstractObjective):
    """The flow's own weighted squared error, which sees the embedded label only."""

    trains_readout: ClassVar[bool] = False
    trains_ends: ClassVar[bool] = False

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        return {"regression": sample.weight * sample.error(flow)}


class CrossEntropyObjective(AbstractObjective):
    """Cross-entropy of the logits of a categorical prediction, at every time alike.

    It has the optimum of the squared error, `p(k | z_t, x)`, and is far better conditioned
    (Dieleman et al. 2022, section 3.2).
    """

    trains_readout: ClassVar[bool] = False
    trains_ends: ClassVar[bool] = False

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        entropy = optax.losses.softmax_cross_entropy_with_integer_labels(sample.output, sample.label)
        return {"cross_entropy": entropy}


@checked
class ELBOObjective(AbstractObjective):
    """The bound on `-log p(y | x)` that NoProp-DT and CT minimise (NoProp, algorithms 1 and 2; eq. 8 and 14).

    Its terms:

    - `readout`: `-log p_out(y | z_1)`, with `z_1 = u_y + sigma(1)/alpha(1) eps` drawn from its own
      distribution, in data coordinates;
    - `prior`: `KL(q(z_0 | y) || N(0, I)) = (alpha_0^2 |u_y|^2 - d alpha_0^2 - d log(1 - alpha_0^2)) / 2`;
    - `regression`: `eta` times the flow's weighted error, which with
      [`flowprop.ELBOWeighting`][] is `eta SNR'(t)/2 |u - u_y|^2`, and `eta T/2 (SNR_i - SNR_{i-1})` times
      the same in block i of [`flowprop.NoPropDT`][].

    The first two have to do with learned embeddings, readouts and end points; the third alone
    trains the network.

    **Arguments:**

    - `eta`: the weight of the regression. The bound itself has 1, which is the paper's for CT; the
      paper's for DT is 0.1.

    **Raises:** `ValueError` if `eta` is not positive.
    """

    eta: Real = 1.0

    trains_readout: ClassVar[bool] = True
    trains_ends: ClassVar[bool] = True

    def __check_init__(self) -> None:
        if self.eta <= 0:
            raise ValueError(f"`eta` is {self.eta}: the network is trained by a positive weight only")

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        path, z1 = flow.path, sample.z1
        end = z1 + path.sigma(1.0) / path.alpha(1.0) * sample.end_noise
        share = jnp.square(path.alpha(0.0))
        prior = (share * jnp.sum(jnp.square(z1)) - z1.size * (share + jnp.log1p(-share))) / 2
        return {
            "readout": -readout(end, embedding.matrix)[sample.label],
            "prior": prior,
            "regression": self.eta * sample.weight * sample.error(flow),
        }


@checked
class FlowMatchingObjective(AbstractObjective):
    """Flow matching with an anchor (NoProp, algorithm 3; eq. 24).

    Its terms:

    - `regression`: the flow's weighted error, `|v - (z_1 - z_0)|^2` for a velocity;
    - `anchor`: `-log p_out(y | z_t + (1 - t) v)`, the class read off the target that the velocity points
      to. It is there if embedding or readout is trained, and keeps the embeddings apart.

    **Arguments:**

    - `path_noise`: the `sigma` of eq. 10, `z_t ~ N(t z_1 + (1 - t) z_0, sigma^2 I)`, with the same `z_1 - z_0` to be
      learned. 0 or positive, and positive on a [`flowprop.CondOTPath`][] only.

    **Raises:** `ValueError` if `path_noise` is negative.
    """

    path_noise: Real = 0.0

    trains_readout: ClassVar[bool] = True
    trains_ends: ClassVar[bool] = False

    def __check_init__(self) -> None:
        if not self.path_noise >= 0:
            raise ValueError(f"`path_noise` is {self.path_noise}: give a standard deviation, 0 for none")

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        terms = {"regression": sample.weight * sample.error(flow)}
        if any(jax.tree.leaves(trainable((embedding, readout)))):
            z = flow.path.interpolate(sample.t, sample.z0, sample.z1)
            target = flow.prediction.estimate(flow.path, sample.t, z, sample.output, sample.condition).target
            terms["anchor"] = -readout(target, embedding.matrix)[sample.label]
        return terms


def choose_objective(
    objective: AbstractObjective | None, flow: Flow, embedding: Embedding, readout: AbstractReadout
) -> AbstractObjective:
    """The objective, or by default cross-entropy for a categorical prediction, regression for any other.

    **Raises:** `ValueError` if the parts do not fit together.
    """
    shape = embedding.matrix.shape[1:]
    if shape != flow.shape:
        raise ValueError(f"`flow` has shape {flow.shape} where `embedding` has points of {shape}: make them equal")
    classes = embedding.matrix.shape[:1]
    takes_embeddings = flow.prediction.takes_embeddings
    categorical = takes_embeddings and flow.prediction.output_shape(shape, (None, embedding.matrix)) == classes
    if objective is None:
        objective = CrossEntropyObjective() if categorical else RegressionObjective()
    if isinstance(objective, CrossEntropyObjective) and not categorical:
        raise ValueError(
            f"`objective` is the cross-entropy of logits, and the network of `flow` gives "
            f"{type(flow.prediction).__name__}: use `fp.CategoricalPrediction()` or `fp.RegressionObjective()`"
        )
    if objective.path_noise > 0 and not isinstance(flow.path, CondOTPath):
        raise ValueError(
            f"`path_noise` of the objective is {objective.path_noise} and the path of `flow` a "
            f"{type(flow.path).__name__}: give 0, or a flow on `fp.CondOTPath()`"
        )
    if any(jax.tree.leaves(trainable(readout))) and not objective.trains_readout:
        raise ValueError(
            f"`readout` is {type(readout).__name__}, which has parameters, and `objective` "
            f"{type(objective).__name__}, which does not train them: use `fp.ELBOObjective()`, "
            "`fp.FlowMatchingObjective()`, or a readout without parameters"
        )
    return objective


def condition_of(flow: Flow, features: PyTree, embedding: Embedding) -> PyTree:
    """What a flow of labels is given: the features, with the embeddings if its prediction needs them."""
    return (features, embedding.matrix) if flow.prediction.takes_embeddings else features


def label_terms(
    objective: AbstractObjective,
    flow: Flow,
    embedding: Embedding,
    readout: AbstractReadout,
    features: PyTree,
    labels: Int[Array, " batch"],
    t: Float[Array, " batch"],
    *,
    key: PRNGKey,
) -> Terms:
    """The objective's terms, mean over a batch of encoded inputs with a time each."""
    z1 = embedding(labels)
    z0, other = jax.random.normal(key, (2, *z1.shape), z1.dtype)
    # On the straight path noise at both ends is the same noise at every point between.
    blur = objective.path_noise * other
    fixed = flow.with_fixed_shape() if objective.trains_ends else flow.with_fixed_path()

    def one(label: Array, t: Array, z0: Point, z1: Point, end: Point, x: PyTree, w: Scalar) -> tuple[Terms, Scalar]:
        condition = condition_of(flow, x, embedding)
        output = fixed.output(t, fixed.path.interpolate(t, z0, z1), condition)
        sample = LabelSample(label, t, z0, z1, output, condition, w, end)
        return objective.terms(fixed, embedding, readout, sample), sample.error(fixed)

    terms, errors = jax.vmap(one)(labels, t, z0 + blur, z1 + blur, other, features, fixed.weight(t))
    means = jax.tree.map(jnp.mean, terms)
    learnable = any(jax.tree.leaves(trainable(flow.path)))
    return means | ({"schedule": flow.schedule_loss(t, errors)} if learnable else {})
