"""The loss of a batch of labels: whether its parts fit together, and its terms."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._flow.flow import Flow, check_stateless
from .._frozen import trainable
from .._types import Point, PRNGKey, Scalar, is_traced
from .embedding import Embedding
from .labelled import weighted_mean
from .objective import AbstractObjective, CrossEntropyObjective, LabelSample, RegressionObjective, Terms
from .readout import AbstractReadout


def choose_objective(
    objective: AbstractObjective | None, flow: Flow, embedding: Embedding, readout: AbstractReadout
) -> AbstractObjective:
    """The objective, or by default cross-entropy for a categorical prediction and regression for any other.

    **Raises:** `ValueError` if the parts do not fit together.
    """
    check_stateless(flow, "a classifier")
    if not flow.transform.is_identity:
        raise ValueError(
            f"`flow` has the transform {type(flow.transform).__name__}, and labels have no units: use none"
        )
    if flow.encoder is not None:
        raise ValueError("`flow` has an encoder of its own: give it as the classifier's `encoder`, and the flow none")
    shape = embedding.matrix.shape[1:]
    if shape != flow.shape:
        raise ValueError(f"`flow` has shape {flow.shape} where `embedding` has points of {shape}: make them equal")
    classes = embedding.matrix.shape[:1]
    takes_embeddings = flow.prediction.takes_embeddings
    has_logits = takes_embeddings and flow.prediction.output_shape(shape, (None, embedding.matrix)) == classes
    if objective is None:
        objective = CrossEntropyObjective() if has_logits else RegressionObjective()
    name = type(objective).__name__
    if objective.needs_logits and not has_logits:
        raise ValueError(
            f"`objective` is the cross-entropy of logits, and the network of `flow` gives "
            f"{type(flow.prediction).__name__}: use `fp.CategoricalPrediction()` or `fp.RegressionObjective()`"
        )
    if objective.needs_gaussian_noise:
        flow.check_gaussian(f"`{name}`")
        alpha = flow.path.alpha(0.0)
        if not is_traced(alpha) and float(alpha) >= 1:
            raise ValueError(
                f"`path` of the flow is a {type(flow.path).__name__}, which begins with the whole of the data, and the "
                f"prior of `{name}` is infinite there: give a variance-preserving path"
            )
    if objective.path_noise > 0 and not flow.path.is_straight:
        raise ValueError(
            f"`path_noise` of the objective is {objective.path_noise} and the path of `flow` a "
            f"{type(flow.path).__name__}: give 0, or a flow on `fp.CondOTPath()`"
        )
    reads_class = objective.reads_class(embedding, readout)
    if reads_class:
        check_gradient(readout, f"`objective` {name}")
    if any(jax.tree.leaves(trainable(readout))) and not reads_class:
        raise ValueError(
            f"`readout` is {type(readout).__name__}, which has parameters, and `objective` "
            f"{name}, which does not train them: use `fp.ELBOObjective()`, "
            "`fp.FlowMatchingObjective()`, or a readout without parameters"
        )
    return objective


def check_gradient(readout: AbstractReadout, who: str) -> None:
    """Raise a `ValueError` if `readout` has no gradient: whoever trains through it needs one."""
    if not readout.has_gradient:
        raise ValueError(
            f"`readout` is {type(readout).__name__}, which has no gradient, and {who} trains through it: use "
            "`fp.RadialReadout()`, and put the other in place after training"
        )


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
    weights: Float[Array, " batch"] | None = None,
    *,
    key: PRNGKey,
) -> Terms:
    """The objective's terms, mean over a batch of encoded inputs with a time each, and perhaps a weight each.

    The noise is drawn from the flow's source, where predictions start too, and paired with the embedded labels by the
    flow's coupling. The coupling's condition is the features, since they are what a prediction knows.
    """
    key_source, key_pairs, key_noise, key_network = jax.random.split(key, 4)
    z1 = embedding(labels)
    t = t.astype(z1.dtype)
    z0 = flow.source.sample(labels.shape[0], flow.shape, key=key_source).astype(z1.dtype)
    z0 = flow.coupling.pair(z0, z1, features, key=key_pairs)
    other = jax.random.normal(key_noise, z1.shape, z1.dtype)
    # On a straight path the same noise at both ends is the same noise at every point between.
    blur = objective.path_noise * other
    fixed = flow.with_fixed_shape() if objective.trains_ends else flow.with_fixed_path()

    def one(
        label: Array, t: Array, z0: Point, z1: Point, end: Point, x: PyTree, w: Scalar, key: PRNGKey
    ) -> tuple[Terms, Scalar]:
        condition = condition_of(flow, x, embedding)
        output, _ = fixed.training_output(t, fixed.path.interpolate(t, z0, z1), condition, key=key)
        sample = LabelSample(label, t, z0, z1, output, condition, w, end)
        return objective.terms(fixed, embedding, readout, sample), sample.error(fixed)

    keys = jax.random.split(key_network, labels.shape[0])
    terms, errors = jax.vmap(one)(labels, t, z0 + blur, z1 + blur, other, features, fixed.weight(t), keys)
    means = {name: weighted_mean(term, weights) for name, term in terms.items()}
    if any(jax.tree.leaves(trainable(flow.path))):
        # It is made of squares of the errors.
        weighted = errors if weights is None else jnp.sqrt(weights).astype(errors.dtype) * errors
        means["schedule"] = flow.schedule_loss(t, weighted)
    return means


def sum_of(terms: Terms) -> Scalar:
    """The sum of a loss's terms."""
    return jnp.sum(jnp.stack(list(terms.values())))
