"""Checks of classifiers that generate a label with a flow: what they may use, and what they may cost.

The inputs come from [`flowprop.conformance.labelled_inputs`][]. [`flowprop.conformance.ClassPosterior`][] is the exact
network for them, so that no training is needed.
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
    """The standard error of the accuracy of random guesses."""
    return float(np.sqrt((num_classes - 1) / _NUM_INPUTS) / num_classes)


@checked
@dataclass(frozen=True)
class ClassesAreFound(AbstractCheck):
    """Checks that a classifier with the exact network finds the right class of unambiguous inputs (accuracy >= 0.97).

    It catches a network that does not receive its condition, that is, the input. Use it together with
    [`flowprop.conformance.LabelsAreUnseen`][] and [`flowprop.conformance.ReadoutIsBlind`][]: a classifier that only
    guesses passes these two.

    **Arguments:**

    - `predict`: the callable under test, `predict(inputs, key)`, from inputs `(n, k)` to classes `(n,)`.
    - `num_classes`: the number `k` of classes, which is also the size of an input. By default 3.

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax

    path = fp.CondOTPath()
    network = fp.conformance.ClassPosterior(path)
    flow = fp.Flow(network, path, fp.CategoricalPrediction(), shape=(3,))
    embedding = fp.one_hot_embedding(3)
    classifier = fp.Classifier(encoder=eqx.nn.Identity(), flow=flow, embedding=embedding)


    def predict(inputs, key):
        return classifier.predict(inputs, key=key)


    check = fp.conformance.ClassesAreFound(predict)
    fp.conformance.assert_conforms([check], key=jax.random.key(0))
    ```
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
    """Checks that an evaluation does not use the true labels: on uninformative inputs the accuracy must be chance.

    It catches an evaluation that starts the flow at the true label instead of at noise, and so finds the label again.

    **Arguments:**

    - `evaluate`: the callable under test, `evaluate(inputs, labels, key)`, from inputs `(n, k)` and labels `(n,)` to
      the accuracy, a fraction.
    - `num_classes`: the number `k` of classes, which is also the size of an input. By default 3.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp


    def guess(inputs, labels, key):
        return jnp.mean(jax.random.randint(key, labels.shape, 0, 3) == labels)


    def cheat(inputs, labels, key):  # starts at the true label
        return jnp.mean(jnp.argmax(inputs + jax.nn.one_hot(labels, 3), axis=1) == labels)


    checks = [fp.conformance.LabelsAreUnseen(guess), fp.conformance.LabelsAreUnseen(cheat)]
    reports = fp.conformance.run(checks, key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    evaluate: Callable[..., Any]
    num_classes: int = 3

    def measure(self, *, key: PRNGKey) -> Report:
        key_labels, key = jax.random.split(key)
        labels = jax.random.randint(key_labels, (_NUM_INPUTS,), 0, self.num_classes)
        inputs = jnp.full((_NUM_INPUTS, self.num_classes), -np.log(self.num_classes), float)
        error = float(self.evaluate(inputs, labels, key)) - 1 / self.num_classes
        deviation = abs(error) / _standard_error(self.num_classes)
        return self.report("accuracy on uninformative inputs minus chance, in standard errors", deviation, most=5)


@checked
@dataclass(frozen=True)
class ReadoutIsBlind(AbstractCheck):
    """Checks that the readout (the decoding of a class from the end point) uses only the end point, not the input.

    It catches a readout that also receives the input. Such a readout is an ordinary classifier, and its accuracy does
    not measure the flow. The check sets the output of the network to zero. The end points then contain no information
    about the class, and the accuracy must not be above chance.

    **Arguments:**

    - `predict`: the callable under test, `predict(blinded, inputs, key)`. It uses `blinded(network)` in place of the
      network of the flow, and returns classes `(n,)`. `blinded` makes the network return zeros.
    - `num_classes`: the number `k` of classes, which is also the size of an input. By default 3.

    ```python
    import flowprop as fp
    import jax

    network = jax.vmap(fp.conformance.ClassPosterior(fp.CondOTPath()).target, (None, 0, 0))


    def end_point(network, inputs, key):  # one step from noise to the target
        z = jax.random.normal(key, inputs.shape)
        return z + (network(0.0, z, inputs) - z)


    def predict(blinded, inputs, key):
        return end_point(blinded(network), inputs, key).argmax(axis=1)


    def cheat(blinded, inputs, key):
        return (end_point(blinded(network), inputs, key) + inputs).argmax(axis=1)


    checks = [fp.conformance.ReadoutIsBlind(predict), fp.conformance.ReadoutIsBlind(cheat)]
    reports = fp.conformance.run(checks, key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    predict: Callable[..., Any]
    num_classes: int = 3

    def measure(self, *, key: PRNGKey) -> Report:
        inputs, labels = labelled_inputs(_NUM_INPUTS, self.num_classes, key=key)
        found = as_points("predict(blinded, inputs, key)", self.predict(blinded, inputs, key), (_NUM_INPUTS,))
        above = max(np.mean(found == labels) - 1 / self.num_classes, 0.0) / _standard_error(self.num_classes)
        return self.report("accuracy above chance without the network, in standard errors", above, most=5)


@checked
@dataclass(frozen=True)
class EncoderRunsOnce(AbstractCheck):
    """Checks that a classifier encodes each input once, and not again at every step of the solver.

    It catches an encoder, often the largest part of the model, that runs inside the ODE solve.

    **Arguments:**

    - `predict`: the callable under test, `predict(counted, inputs, key)`. It uses `counted(encoder)` in place of its
      encoder. `counted` counts the calls, also in compiled loops.
    - `num_classes`: the number `k` of classes, which is also the size of an input. By default 3.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp


    def once(counted, inputs, key, num_steps=4):
        features, z = counted(jnp.tanh)(inputs), jax.random.normal(key, inputs.shape)
        for _ in range(num_steps):
            z = z + (features - z) / num_steps
        return z.argmax(axis=1)


    def every_step(counted, inputs, key, num_steps=4):
        z = jax.random.normal(key, inputs.shape)
        for _ in range(num_steps):
            z = z + (counted(jnp.tanh)(inputs) - z) / num_steps
        return z.argmax(axis=1)


    checks = [fp.conformance.EncoderRunsOnce(run) for run in (once, every_step)]
    reports = fp.conformance.run(checks, key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
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
    """Checks that a partial last batch uses the same compiled program as the full batches.

    It catches a library that passes the partial batch on in its own shape, so that JAX compiles the network again. The
    usual remedy is to pad the last batch.

    **Arguments:**

    - `run`: the callable under test, `run(traced, num_examples)`. It uses `traced(network)` in place of a network and
      processes `num_examples` examples in batches of 4. `traced` counts the compilations.

    ```python
    import flowprop as fp
    import jax
    import jax.numpy as jnp


    def padded(traced, num_examples):
        program = jax.jit(traced(jnp.sin))
        for _ in range(0, num_examples, 4):
            program(jnp.ones(4))


    def partial(traced, num_examples):
        program = jax.jit(traced(jnp.sin))
        for start in range(0, num_examples, 4):
            program(jnp.ones(min(4, num_examples - start)))


    checks = [fp.conformance.RaggedBatchesShareAProgram(run) for run in (padded, partial)]
    reports = fp.conformance.run(checks, key=jax.random.key(0))
    print([report.passed for report in reports])  # [True, False]
    ```
    """

    run: Callable[..., Any]

    def measure(self, *, key: PRNGKey) -> Report:
        full, ragged = Tally(), Tally()
        self.run(full.traced, 12)
        self.run(ragged.traced, 10)
        return self.report(
            "compilations with a partial last batch over those with full batches", ragged.count / full.count, most=1
        )
