"""The training losses of NoProp (CT's and DT's evidence lower bound, FM's, cross-entropy), of one example."""

import abc
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PyTree

from .._flow.flow import Flow
from .._frozen import trainable
from .._types import Point, Real, Scalar, Time, check_number, checked
from .embedding import Embedding
from .readout import AbstractReadout


Terms = dict[str, Scalar]


class LabelSample(NamedTuple):
    """One training example: a label, its noise, a time, and the network's output there."""

    label: Int[Array, ""]
    t: Time
    z0: Point
    z1: Point
    output: Array
    condition: PyTree
    weight: Scalar
    end_noise: Point

    def error(self, flow: Flow) -> Scalar:
        """The squared error of the network's output."""
        return flow.prediction.error(flow.path, self.t, self.z0, self.z1, self.output, self.condition)


class AbstractObjective(eqx.Module):
    """Base class of training losses for [`flowprop.Classifier`][] and [`flowprop.NoPropDT`][].

    An objective gives the loss of one example at one time as named terms, whose sum is minimised. A class of your own
    defines:

    - `trains_ends`: a class attribute, whether its terms train the end points of a learnable noise schedule. Set it to
      `False` for a plain regression, which would let the end points diverge.
    - `needs_logits`: a class attribute, whether the network must return logits over the classes.
    - `needs_gaussian_noise`: a class attribute, whether its terms are correct only for gaussian noise that is
      independent of the data. If not, any source and coupling will do.
    - `reads_class`: a method, whether its terms decode the class with the readout. If so, they train the readout's
      parameters, and need its gradient.
    - `terms`: a method that returns the terms.
    - `path_noise`: if wanted, the standard deviation of noise that is added to every point of a path. By default 0. A
      positive value needs a straight path.
    """

    trains_ends: eqx.AbstractClassVar[bool]
    needs_logits: eqx.AbstractClassVar[bool]
    needs_gaussian_noise: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """Whether the terms contain a log-probability of the readout.

        **Arguments:**

        - `embedding`: the label embedding, trained or not.
        - `readout`: the readout, with or without parameters.

        **Returns:** a boolean.
        """

    @abc.abstractmethod
    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """The terms of the loss for one example at one time.

        **Arguments:**

        - `flow`: the flow.
        - `embedding`: the label embedding.
        - `readout`: the readout.
        - `sample`: the example: its `label`, time `t`, noise `z0`, embedded label `z1`, the network's `output` at `t`,
          the flow's `condition`, the `weight` of the time, and `end_noise`, standard gaussian noise of the shape of
          `z1`. `sample.error(flow)` is the squared error of the output.

        **Returns:** a dict from names to scalars.
        """

    @property
    def path_noise(self) -> Real:
        """The standard deviation of noise that is added to every point of a path."""
        return 0.0


class RegressionObjective(AbstractObjective):
    """The flow's own loss: the weighted squared error of the network's output. It does not use the readout.

    It is correct for any source and coupling. If the embedding is trained, prefer an objective that keeps the points of
    the classes apart, such as [`flowprop.FlowMatchingObjective`][].

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(3,), condition_size=4, width=16, depth=1, key=jax.random.key(0))
    flow, embedding = fp.fm_flow(net, shape=(3,)), fp.one_hot_embedding(3)
    clf = fp.Classifier(flow=flow, embedding=embedding, objective=fp.RegressionObjective())
    terms = clf.terms(jnp.ones((2, 4)), [0, 2], key=jax.random.key(1))
    print(list(terms))  # ['regression']
    ```
    """

    trains_ends: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    needs_gaussian_noise: ClassVar[bool] = False

    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """`False`: the readout is not used."""
        return False

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """One term, `regression`: the weighted squared error."""
        return {"regression": sample.weight * sample.error(flow)}


class CrossEntropyObjective(AbstractObjective):
    """The cross-entropy of the network's logits with the label, weighted equally at all times.

    It needs a [`flowprop.CategoricalPrediction`][]. Its optimum is the same as that of the squared error: the
    probabilities `p(k | z_t, x)`. But it is far better conditioned ([Dieleman et al.
    2022](https://arxiv.org/abs/2211.15089), section 3.2). It is correct for any source and coupling.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(3,), condition_size=4, width=16, depth=1, key=jax.random.key(0))
    flow = fp.Flow(net, fp.CondOTPath(), fp.CategoricalPrediction(), shape=(3,))
    embedding = fp.one_hot_embedding(3)
    clf = fp.Classifier(flow=flow, embedding=embedding, objective=fp.CrossEntropyObjective())
    terms = clf.terms(jnp.ones((2, 4)), [0, 2], key=jax.random.key(1))
    print(list(terms))  # ['cross_entropy']
    ```
    """

    trains_ends: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = True
    needs_gaussian_noise: ClassVar[bool] = False

    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """`False`: the logits are those of the network, not of the readout."""
        return False

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """One term, `cross_entropy`, in nats."""
        entropy = optax.losses.softmax_cross_entropy_with_integer_labels(sample.output, sample.label)
        return {"cross_entropy": entropy}


@checked
class ELBOObjective(AbstractObjective):
    """The evidence bound (negative ELBO) of NoProp-DT and NoProp-CT, an upper bound on `-log p(y | x)`.

    Its terms are ([NoProp](https://arxiv.org/abs/2503.24322), algorithms 1 and 2, equations 8 and 14):

    - `readout`: `-log p_out(y | z_1)`, where `z_1 = u_y + sigma(1)/alpha(1) eps` is the end point in data coordinates,
      with gaussian noise `eps`.
    - `prior`: `KL(q(z_0 | y) || N(0, I)) = (alpha_0^2 |u_y|^2 - d alpha_0^2 - d log(1 - alpha_0^2)) / 2`, where `d` is
      the number of dimensions and `alpha_0 = alpha(0)`.
    - `regression`: `eta` times the flow's weighted error. With [`flowprop.ELBOWeighting`][] it is
      `eta SNR'(t)/2 |u - u_y|^2`. In block `i` of [`flowprop.NoPropDT`][] it is
      `eta T/2 (SNR_i - SNR_{i-1}) |u_i - u_y|^2`.

    `readout` and `prior` train the embedding, the readout and the end points of the schedule. `regression` trains the
    network. The bound holds for gaussian noise that is independent of the labels: with this objective, a classifier
    refuses any other source or coupling.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    net = fp.nn.MLP(shape=(3,), condition_size=4, width=16, depth=1, key=jax.random.key(0))
    flow, embedding = fp.ct_flow(net, shape=(3,)), fp.one_hot_embedding(3)
    clf = fp.Classifier(flow=flow, embedding=embedding, objective=fp.ELBOObjective(eta=1.0))
    terms = clf.terms(jnp.ones((2, 4)), [0, 2], key=jax.random.key(1))
    print(sorted(terms))  # ['prior', 'readout', 'regression']
    ```

    **Arguments:**

    - `eta`: the weight of the regression term. The bound holds for 1, which is also the paper's value for CT. The
      paper's value for DT is 0.1.

    **Raises:** `ValueError` if `eta` is not positive and finite.
    """

    eta: Real = 1.0

    trains_ends: ClassVar[bool] = True
    needs_logits: ClassVar[bool] = False
    needs_gaussian_noise: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_number("eta", self.eta, above=0, remedy="give a positive weight: 0 would not train the network")

    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """`True`: the readout is a term of the bound."""
        return True

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """Three terms, `readout`, `prior` and `regression`, in nats."""
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
    """The flow matching loss of NoProp-FM, with a cross-entropy that keeps trained embeddings apart (the anchor).

    Its terms are ([NoProp](https://arxiv.org/abs/2503.24322), algorithm 3 and equation 24):

    - `regression`: the flow's weighted error. For a velocity prediction it is `|v - (z_1 - z_0)|^2`.
    - `anchor`: `-log p_out(y | z_t + (1 - t) v)`. The readout decodes the class from the predicted target, that is from
      the point to which the velocity leads. This term is present only if the embedding or the readout is trained.

    It is correct for any source and coupling.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp

    key_net, key_embedding, key = jax.random.split(jax.random.key(0), 3)
    net = fp.nn.MLP(shape=(8,), condition_size=4, width=16, depth=1, key=key_net)
    clf = fp.Classifier(
        flow=fp.fm_flow(net, shape=(8,)),
        embedding=fp.learned_embedding(3, 8, key=key_embedding),
        objective=fp.FlowMatchingObjective(),
    )
    terms = clf.terms(jnp.ones((2, 4)), [0, 2], key=key)
    print(sorted(terms))  # ['anchor', 'regression']
    ```

    **Arguments:**

    - `path_noise`: the standard deviation `sigma` in equation 10, `z_t ~ N(t z_1 + (1 - t) z_0, sigma^2 I)`. The
      velocity to learn is still `z_1 - z_0`. By default 0. A positive value needs a straight path, such as
      [`flowprop.CondOTPath`][].

    **Raises:** `ValueError` if `path_noise` is negative or not finite.
    """

    path_noise: Real = 0.0

    trains_ends: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    needs_gaussian_noise: ClassVar[bool] = False

    def __check_init__(self) -> None:
        check_number("path_noise", self.path_noise, at_least=0, remedy="give a standard deviation, or 0 for no noise")

    def reads_class(self, embedding: Embedding, readout: AbstractReadout) -> bool:
        """`True` if the embedding or the readout has parameters to train."""
        return any(jax.tree.leaves(trainable((embedding, readout))))

    def terms(self, flow: Flow, embedding: Embedding, readout: AbstractReadout, sample: LabelSample) -> Terms:
        """The term `regression`, and `anchor` if the embedding or the readout is trained."""
        terms = {"regression": sample.weight * sample.error(flow)}
        if self.reads_class(embedding, readout):
            z = flow.path.interpolate(sample.t, sample.z0, sample.z1)
            target = flow.prediction.estimate(flow.path, sample.t, z, sample.output, sample.condition).target
            terms["anchor"] = -readout(target, embedding.matrix)[sample.label]
        return terms
