"""What a flow of labels is trained to do at one time: to lower an error, or the terms of a bound."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from ._embedding import Embedding
from ._flow import Flow
from ._frozen import trainable
from ._readout import AbstractReadout
from ._types import Point, Real, Scalar, Time, check_number, checked


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

    An objective states:

    - `trains_ends`: whether its terms hold a learnable schedule's end points in place. A plain regression would let
      them run away.
    - `needs_logits`: whether the network's output must be logits over the classes.
    - `needs_gaussian_noise`: whether its terms are right only if noise is gaussian given the data. Others take any
      source and coupling.
    - `reads_class`: whether its terms read the class off a point, so that they need the readout's gradient and train
      its parameters.
    - `path_noise`: the standard deviation of noise that is added to every point of a path, by default 0. A positive one
      needs a straight path.
    """

    trains_ends: eqx.AbstractClassVar[bool]
    needs_logits: eqx.AbstractClassVar[bool]
    needs_gaussian_noise: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """Whether the terms hold a log-probability of `readout`, given what is trained."""

    @abc.abstractmethod
    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """The terms of one example at one time."""

    @property
    def path_noise(self) -> Real:
        """The standard deviation of noise that is added to every point of a path."""
        return 0.0


class RegressionObjective(AbstractObjective):
    """The flow's own weighted squared error. It uses the embedded label only, and no readout.

    It is right for any source and coupling. If the embedding is learned, prefer an objective that keeps the embeddings
    apart, such as [`flowprop.FlowMatchingObjective`][].

    ```python
    import flowprop as fp
    import jax

    net = fp.nn.MLP(shape=(3,), condition_size=4, key=jax.random.key(0))
    clf = fp.Classifier(
        flow=fp.fm_flow(net, shape=(3,)), embedding=fp.one_hot_embedding(3), objective=fp.RegressionObjective()
    )
    ```
    """

    trains_ends: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    needs_gaussian_noise: ClassVar[bool] = False

    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """No."""
        return False

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """`regression`."""
        return {"regression": sample.weight * sample.error(flow)}


class CrossEntropyObjective(AbstractObjective):
    """Cross-entropy of the logits of a categorical prediction, with the same weight at every time.

    It has the same optimum as the squared error, `p(k | z_t, x)`, and is far better conditioned
    ([Dieleman et al. 2022](https://arxiv.org/abs/2211.15089), section 3.2). It is right for any source and coupling.

    ```python
    import flowprop as fp
    import jax

    net = fp.nn.MLP(shape=(3,), condition_size=4, key=jax.random.key(0))
    flow = fp.Flow(net, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(3,))
    clf = fp.Classifier(flow=flow, embedding=fp.one_hot_embedding(3), objective=fp.CrossEntropyObjective())
    ```
    """

    trains_ends: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = True
    needs_gaussian_noise: ClassVar[bool] = False

    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """No: the network's own logits are trained, not the readout's."""
        return False

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """`cross_entropy`."""
        entropy = optax.losses.softmax_cross_entropy_with_integer_labels(sample.output, sample.label)
        return {"cross_entropy": entropy}


@checked
class ELBOObjective(AbstractObjective):
    """The bound on `-log p(y | x)` that NoProp-DT and NoProp-CT minimise.

    (Algorithms 1 and 2, equations 8 and 14 of [NoProp](https://arxiv.org/abs/2503.24322).) Its terms:

    - `readout`: `-log p_out(y | z_1)`, with `z_1 = u_y + sigma(1)/alpha(1) eps` drawn from its own
      distribution, in data coordinates;
    - `prior`: `KL(q(z_0 | y) || N(0, I)) = (alpha_0^2 |u_y|^2 - d alpha_0^2 - d log(1 - alpha_0^2)) / 2`;
    - `regression`: `eta` times the flow's weighted error, which with
      [`flowprop.ELBOWeighting`][] is `eta SNR'(t)/2 |u - u_y|^2`, and `eta T/2 (SNR_i - SNR_{i-1})` times
      the same in block i of [`flowprop.NoPropDT`][].

    The first two train embeddings, readout and end points; the third alone trains the network. The bound holds for
    gaussian noise that is paired independently: a classifier refuses any other source or coupling with this objective.

    ```python
    import flowprop as fp
    import jax

    net = fp.nn.MLP(shape=(3,), condition_size=4, key=jax.random.key(0))
    clf = fp.Classifier(
        flow=fp.ct_flow(net, shape=(3,)), embedding=fp.one_hot_embedding(3), objective=fp.ELBOObjective(eta=1.0)
    )
    ```

    **Arguments:**

    - `eta`: the weight of the regression. The bound itself has 1, which is the paper's for CT; the
      paper's for DT is 0.1.

    **Raises:** `ValueError` if `eta` is not positive and finite.
    """

    eta: Real = 1.0

    trains_ends: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    needs_gaussian_noise: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_number("eta", self.eta, above=0, remedy="only a positive weight trains the network")

    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """Always: it is a term of the bound."""
        return True

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """`readout`, `prior` and `regression`."""
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
    """Flow matching with an anchor.

    (Algorithm 3 and equation 24 of [NoProp](https://arxiv.org/abs/2503.24322).) Its terms:

    - `regression`: the flow's weighted error, `|v - (z_1 - z_0)|^2` for a velocity;
    - `anchor`: `-log p_out(y | z_t + (1 - t) v)`, the class read off the target that the velocity points
      to. It is there if embedding or readout is trained, and keeps the embeddings apart.

    It is right for any source and coupling.

    ```python
    import flowprop as fp
    import jax

    key_net, key_embedding = jax.random.split(jax.random.key(0))
    net = fp.nn.MLP(shape=(8,), condition_size=4, key=key_net)
    clf = fp.Classifier(
        flow=fp.fm_flow(net, shape=(8,)),
        embedding=fp.learned_embedding(3, 8, key=key_embedding),
        objective=fp.FlowMatchingObjective(),
    )
    ```

    **Arguments:**

    - `path_noise`: the `sigma` of equation 10, `z_t ~ N(t z_1 + (1 - t) z_0, sigma^2 I)`, with the same
      `z_1 - z_0` to be learned. 0 or positive, and positive on a straight path only, such as
      [`flowprop.CondOTPath`][].

    **Raises:** `ValueError` if `path_noise` is negative or not finite.
    """

    path_noise: Real = 0.0

    trains_ends: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    needs_gaussian_noise: ClassVar[bool] = False

    def __check_init__(self) -> None:
        check_number("path_noise", self.path_noise, at_least=0, remedy="give a standard deviation, 0 for none")

    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """If the embedding or the readout has parameters to train."""
        return any(jax.tree.leaves(trainable((embedding, readout))))

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """`regression` and, if the class is read, `anchor`."""
        terms = {"regression": sample.weight * sample.error(flow)}
        if self.reads_class(embedding, readout):
            z = flow.path.interpolate(sample.t, sample.z0, sample.z1)
            target = flow.prediction.estimate(flow.path, sample.t, z, sample.output, sample.condition).target
            terms["anchor"] = -readout(target, embedding.matrix)[sample.label]
        return terms
