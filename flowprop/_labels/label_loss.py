"""A batch of labels to the terms of its objective, and a check that the parts of a classifier fit together."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from .._flow.flow import Flow, check_stateless
from .._flow.noise import check_gaussian
from .._flow.training import schedule_term, training_output, with_fixed_path, with_fixed_shape
from .._frozen import trainable
from .._types import Point, PRNGKey, Scalar, is_traced
from .embedding import Embedding
from .labelled import weighted_mean
from .objective import AbstractObjective, CrossEntropyObjective, LabelSample, RegressionObjective, Terms
from .readout import AbstractReadout


def choose_objective(
    objective: AbstractObjective | None, flow: Flow, embedding: Embedding, readout: AbstractReadout
) -> AbstractObjective:
    """`objective`, or the default: cross-entropy for a categorical prediction, and regression for any other.

    **Raises:** `ValueError` if the parts do not fit together.
    """
    check_stateless(flow, "a classifier")
    if not flow.transform.is_identity:
        raise ValueError(
            f"`flow` has the transform {type(flow.transform).__name__}, and labels have no units: give no transform"
        )
    if flow.encoder is not None:
        raise ValueError("`flow` has an encoder of its own: give that encoder to the classifier instead, as `encoder`")
    shape = embedding.matrix.shape[1:]
    if shape != flow.shape:
        raise ValueError(f"`flow` has shape {flow.shape} where `embedding` has points of {shape}: make them equal")
    given, output_shape = flow.prediction.interface(shape, (None, embedding.matrix))
    # Logits: a number for each class, from the features alone.
    has_logits = given is None and output_shape == embedding.matrix.shape[:1]
    if objective is None:
        objective = CrossEntropyObjective() if has_logits else RegressionObjective()
    name = type(objective).__name__
    if objective.needs_logits and not has_logits:
        raise ValueError(
            f"`objective` {name} needs a network that returns logits, and the prediction of `flow` is "
            f"{type(flow.prediction).__name__}: use `fp.CategoricalPrediction()` or `fp.RegressionObjective()`"
        )
    if objective.needs_gaussian_noise:
        check_gaussian(flow, f"`{name}`")
        alpha = flow.path.alpha(0.0)
        if not is_traced(alpha) and float(alpha) >= 1:
            raise ValueError(
                f"`path` of the flow is a {type(flow.path).__name__}, which starts with undiminished data, so that the "
                f"prior term of `{name}` is infinite: give a variance-preserving path"
            )
    if objective.path_noise > 0 and not flow.path.is_straight:
        raise ValueError(
            f"`path_noise` of the objective is {objective.path_noise}, and the path of `flow` is a "
            f"{type(flow.path).__name__}, which is not straight: give 0, or a flow on `fp.CondOTPath()`"
        )
    reads_class = objective.reads_class(embedding, readout)
    if reads_class:
        check_gradient(readout, f"`objective` {name}")
    if any(jax.tree.leaves(trainable(readout))) and not reads_class:
        raise ValueError(
            f"`readout` is {type(readout).__name__}, whose parameters the `objective` {name} does not train: use "
            "`fp.ELBOObjective()`, `fp.FlowMatchingObjective()`, or a readout without parameters"
        )
    return objective


def check_gradient(readout: AbstractReadout, who: str) -> None:
    """Raise a `ValueError` if `readout` has no gradient, which `who` needs for training."""
    if not readout.has_gradient:
        raise ValueError(
            f"`readout` is {type(readout).__name__}, which has no gradient, and {who} trains through it: train with "
            "`fp.RadialReadout()`, and replace it after training"
        )


def condition_of(flow: Flow, features: PyTree, embedding: Embedding) -> PyTree:
    """The condition of a flow of labels: the features, with the embedding matrix if the prediction needs it."""
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
    """The terms of the objective, averaged over a batch of features with times `t` and (optional) weights.

    The noise is drawn from the flow's source, where prediction starts too. The flow's coupling pairs it with the
    embedded labels. The condition of the coupling is the features, since prediction knows these and not the labels.
    """
    key_source, key_pairs, key_noise, key_network = jax.random.split(key, 4)
    z1 = embedding(labels)
    t = t.astype(z1.dtype)
    z0 = flow.source.sample(labels.shape[0], flow.shape, key=key_source).astype(z1.dtype)
    z0 = flow.coupling.pair(z0, z1, features, key=key_pairs)
    other = jax.random.normal(key_noise, z1.shape, z1.dtype)
    # On a straight path, equal noise at both ends adds the same noise to every point in between.
    blur = objective.path_noise * other
    fixed = with_fixed_shape(flow) if objective.trains_ends else with_fixed_path(flow)

    def one(
        label: Array, t: Array, z0: Point, z1: Point, end: Point, x: PyTree, w: Scalar, key: PRNGKey
    ) -> tuple[Terms, Scalar]:
        condition = condition_of(flow, x, embedding)
        output, _ = training_output(fixed, t, fixed.path.interpolate(t, z0, z1), condition, key=key)
        sample = LabelSample(label, t, z0, z1, output, condition, w, end)
        return objective.terms(fixed, embedding, readout, sample), sample.error(fixed)

    keys = jax.random.split(key_network, labels.shape[0])
    terms, errors = jax.vmap(one)(labels, t, z0 + blur, z1 + blur, other, features, fixed.weight(t), keys)
    means = {name: weighted_mean(term, weights) for name, term in terms.items()}
    if any(jax.tree.leaves(trainable(flow.path))):
        # The schedule's loss is made of squared errors, so the root of a weight weighs it rightly.
        weighted = errors if weights is None else jnp.sqrt(weights).astype(errors.dtype) * errors
        means["schedule"] = schedule_term(flow, t, weighted)
    return means


def sum_of(terms: Terms) -> Scalar:
    """The sum of the terms of a loss."""
    return jnp.sum(jnp.stack(list(terms.values())))
