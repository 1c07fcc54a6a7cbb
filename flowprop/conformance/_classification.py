"""Checks of classifiers that flow a label: what they may see, and what they may cost.

Their inputs are those of [`flowprop.conformance.labelled_inputs`][], and [`flowprop.conformance.ClassPosterior`][] is
the network that needs no training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._types import PRNGKey, checked
from ._check import AbstractCheck, Report, as_points
from ._instruments import Tally, blinded
from ._labels import labelled_inputs


_NUM_INPUTS = 400


def _standard_error(num_classes: int) -> float:
    """Of the accuracy of a guess."""
    return float(np.sqrt((num_classes - 1) / _NUM_INPUTS) / num_classes)


@checked
@dataclass(frozen=True)
class ClassesAreFound(AbstractCheck):
    """Around the exact network a classifier finds classes that are beyond doubt.

    Without this, one that knows nothing would pass the checks of what it must not know.

    **Arguments:**

    - `predict`: the subject's, a callable `predict(inputs, key)` from inputs `(n, k)` to classes `(n,)`.
    - `num_classes`: `k`.
    """

    predict: Callable[..., Any]
    num_classes: int = 3

    def measure(self, *, key: PRNGKey) -> Report:
        inputs, labels = labelled_inputs(_NUM_INPUTS, self.num_classes, key=key)
        found = as_points("predict(inputs, key)", self.predict(inputs, key), (_NUM_INPUTS,))
        return self.report("accuracy", np.mean(found == labels), least=0.97, most=1)


@checked
@dataclass(frozen=True)
class LabelsAreUnseen(AbstractCheck):
    """On inputs that say nothing of the class, the accuracy is chance.

    An evaluation that starts from the true label, in place of noise, finds it again.

    **Arguments:**

    - `evaluate`: the subject's, a callable `evaluate(inputs, labels, key)` that returns the accuracy, a fraction.
    - `num_classes`: how many classes.
    """

    evaluate: Callable[..., Any]
    num_classes: int = 3

    def measure(self, *, key: PRNGKey) -> Report:
        key_labels, key = jax.random.split(key)
        labels = jax.random.randint(key_labels, (_NUM_INPUTS,), 0, self.num_classes)
        inputs = jnp.full((_NUM_INPUTS, self.num_classes), -np.log(self.num_classes), float)
        error = float(self.evaluate(inputs, labels, key)) - 1 / self.num_classes
        deviation = abs(error) / _standard_error(self.num_classes)
        return self.report("accuracy without a clue less chance, in standard errors", deviation, most=5)


@checked
@dataclass(frozen=True)
class ReadoutIsBlind(AbstractCheck):
    """A flow whose network knows nothing ends at points that say nothing of the class: the accuracy is chance.

    A readout that sees the input beside the point is an ordinary classifier, and its accuracy says nothing of the flow.

    **Arguments:**

    - `predict`: the subject's, a callable `predict(blinded, inputs, key)` that puts `blinded(network)` in place of the
      flow's network, and returns classes `(n,)`.
    - `num_classes`: how many classes.
    """

    predict: Callable[..., Any]
    num_classes: int = 3

    def measure(self, *, key: PRNGKey) -> Report:
        inputs, labels = labelled_inputs(_NUM_INPUTS, self.num_classes, key=key)
        found = as_points("predict(blinded, inputs, key)", self.predict(blinded, inputs, key), (_NUM_INPUTS,))
        above = max(np.mean(found == labels) - 1 / self.num_classes, 0.0) / _standard_error(self.num_classes)
        return self.report("accuracy without a network above chance, in standard errors", above, most=5)


@checked
@dataclass(frozen=True)
class EncoderRunsOnce(AbstractCheck):
    """An input is encoded once, not at every step of the solver.

    **Arguments:**

    - `predict`: the subject's, a callable `predict(counted, inputs, key)` that puts `counted(encoder)` in place of its
      encoder.
    - `num_classes`: how many classes, which is the size of an input.
    """

    predict: Callable[..., Any]
    num_classes: int = 3

    def measure(self, *, key: PRNGKey) -> Report:
        inputs, _ = labelled_inputs(_NUM_INPUTS, self.num_classes, key=key)
        tally = Tally()
        jax.block_until_ready(self.predict(tally.counted, inputs[:1], key))
        return self.report("calls of the encoder for one input", tally.count, least=1, most=1)


@checked
@dataclass(frozen=True)
class RaggedBatchesShareAProgram(AbstractCheck):
    """A last batch that is not full compiles nothing anew.

    **Arguments:**

    - `run`: the subject's, a callable `run(traced, num_examples)` that puts `traced(network)` in place of a network and
      goes through so many examples in batches of 4.
    """

    run: Callable[..., Any]

    def measure(self, *, key: PRNGKey) -> Report:
        full, ragged = Tally(), Tally()
        self.run(full.traced, 12)
        self.run(ragged.traced, 10)
        return self.report(
            "programs for a ragged last batch, by those for a full one", ragged.count / full.count, most=1
        )
