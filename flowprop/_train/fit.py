"""`fit`: training a model on data in memory."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from tqdm.auto import tqdm

from .._checked import described, is_key
from .._types import PRNGKey, Real, check_key, check_number, check_positive, checked, is_traced
from .data import check_finite, collect, example_weights, named_arrays, to_device
from .loss import SOUND, check_loss, check_names, is_real_scalar
from .optimiser import as_transformation
from .trainer import Trainer


@runtime_checkable
class ChecksData(Protocol):
    """A model that checks the whole data set before training. It raises an error or warns."""

    def check_data(self, *data: PyTree) -> None: ...


#: Any object. `fit` itself checks that it has a `loss`, so that its message can name what is missing.
Model = TypeVar("Model")
Augment = Callable[..., PyTree]
History = dict[str, np.ndarray]


@checked
def fit(
    model: Model,
    data: Any,
    optimiser: Any,
    *,
    steps: int,
    batch_size: int,
    key: PRNGKey,
    weights: Any = None,
    ema: Real | None = None,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    augment: Augment | None = None,
    steps_per_call: int | None = None,
    progress: bool = True,
) -> tuple[Model, History]:
    """Trains a model on data in memory, by minibatch gradient descent with an Optax optimiser.

    The model is a flow, a classifier, or a model of your own (see below). `fit` moves the data to the device once and
    runs many steps in one call of the device. Each epoch shuffles the examples and splits them into full batches. `fit`
    drops the last incomplete batch of an epoch; the next epoch shuffles all examples again. Every floating-point array
    of the model is trained, except those in a [`flowprop.Frozen`][].

    **A model of your own** is a PyTree, for example an `equinox.Module`, with

    - a method `loss(*batch, key=key)`. It is given one argument for each entry of `data`, with `batch_size` rows, and a
      typed key for its random draws. If `fit` is given `weights`, it is also given `weights=...`. It returns one of
        - `loss`, a real scalar: the mean over the batch.
        - `(loss, metrics)`, where `metrics` is a dict of scalars. `fit` records them in the history.
        - `(loss, metrics, model)`, where `model` is the model with other arrays, made with `equinox.tree_at`. `fit`
          takes from it the arrays that are not trained, for example the running mean of a batch normalisation in a
          [`flowprop.Frozen`][]. Only the optimiser changes the trained arrays.
    - if wanted, a method `check_data(*data)`. `fit` calls it once with the whole data set, before the data move to the
      device. It raises an error or warns if the data do not suit the model.

    ```python
    import flowprop as fp
    import jax
    import optax

    points, _ = fp.data.two_moons(200, key=jax.random.key(0))
    net = fp.nn.MLP(shape=(2,), width=16, depth=1, key=jax.random.key(1))
    flow, history = fp.fit(
        fp.fm_flow(net, shape=(2,)),
        points,
        optax.adam(1e-2),
        steps=100,
        batch_size=50,
        key=jax.random.key(2),
        progress=False,
    )
    print(history["step"][-1], history["loss"].shape)  # 100 (100,)
    ```

    A model of your own:

    ```python
    import equinox as eqx
    import flowprop as fp
    import jax
    import jax.numpy as jnp
    import optax


    class Line(eqx.Module):
        slope: jax.Array

        def loss(self, x, y, *, key):
            error = jnp.square(self.slope * x - y)
            return error.mean(), {"largest_error": error.max()}


    x = jnp.linspace(0.0, 1.0, 100)
    line, history = fp.fit(
        Line(jnp.zeros(())),
        (x, 3 * x),
        optax.adam(0.1),
        steps=200,
        batch_size=50,
        key=jax.random.key(0),
        progress=False,
    )
    print(f"{line.slope:.2f}", sorted(history))  # 3.00 ['largest_error', 'loss', 'step']
    ```

    **Arguments:**

    - `model`: the model to train. It is not changed.
    - `data`: an array, or a tuple or list with one entry for each argument of `loss`. An entry is an array, or a PyTree
      of arrays such as a dict. All arrays have the same first axis `n`, the axis of examples, and a batch is the same
      rows of each array. Arrays of NumPy and JAX, and objects that convert to one, such as a data frame of numbers,
      are accepted. Each array keeps its type, except that JAX holds 64-bit numbers in 32 bits unless `jax_enable_x64`
      is set.
    - `optimiser`: any Optax optimiser, for example `optax.adam(1e-3)`; also `optax.MultiSteps`, `optax.lbfgs`,
      `optax.lookahead` and schedule-free optimisers. It is given the whole tree of trained parameters. For the last two
      kinds, the model that is returned, evaluated and averaged has the parameters meant for use, not those at which
      gradients are evaluated.
    - `steps`: the number of training steps.
    - `batch_size`: the number of examples in a batch, at most `n`.
    - `key`: a typed key for the order of the examples and the random draws of the model. The same key and the same
      model give the same result. A model that has been trained further gets other draws under the same key, since
      `fit` mixes the initial values of the parameters into the key.
    - `weights`: a weight for each example, `(n,)`: finite numbers with a positive sum. `fit` divides them by their
      mean, and passes those of a batch to the model's `loss` as `weights`, `(batch_size,)`. By default none.
    - `ema`: the decay of an exponential moving average of the parameters, between 0 and 1, for example 0.999. The model
      that is returned and evaluated then has the averaged parameters. The average warms up: early in training it covers
      fewer steps, so that the initial values do not remain in it. It is kept in 32 bits at least. By default there is
      no average.
    - `evaluate`: a function from the (averaged) model to a dict of numbers, which `fit` records in the history, for
      example a validation loss. `fit` calls it before the first step, every `evaluate_every` steps, and at the end.
    - `evaluate_every`: the number of steps between two evaluations. By default `fit` evaluates only before the first
      step and at the end.
    - `augment`: data augmentation, a callable `augment(example, key=key)` that returns a changed example of the same
      shape and type, such as [`flowprop.data.RandomCrop`][]`(4)`. `fit` applies it to each example of the first entry
      of a training batch.
    - `steps_per_call`: how many steps run in one call of the device. By default 50, but 1 for networks with
      convolutions on a CPU, since XLA computes their gradients much more slowly inside a loop
      ([jax-ml/jax#12868](https://github.com/jax-ml/jax/issues/12868)). The result does not depend on it, except for
      rounding.
    - `progress`: whether to show a progress bar.

    **Returns:** the trained model and its history, a dict of arrays. `step` (from 1), `loss` and the metrics of the
    loss have one value for each step. With `evaluate`, `evaluation_step` (from 0) and the numbers that `evaluate`
    returns have one value for each evaluation.

    **Raises:**

    - `ValueError` or `TypeError` before the first step, if data, sizes, optimiser, augmentation, loss or evaluation do
      not fit together, or if the data contain NaN or infinity.
    - `FloatingPointError` during training, if a loss is not finite and `optax.apply_if_finite` has not skipped the
      step.
    """
    _check_sizes(steps, evaluate_every, steps_per_call, ema, key)
    entries = collect(data)
    if is_traced(model, entries, key, weights):
        raise TypeError(
            "`fit` cannot be transformed by `jax.jit`, `jax.vmap` or `jax.grad`: to train an ensemble, give `fit` one "
            "model that holds all members, with the sum of their losses"
        )
    num_examples = named_arrays(entries)[0][1].shape[0]
    if not 0 < batch_size <= num_examples:
        raise ValueError(f"`batch_size` is {batch_size} where `data` has {num_examples} examples: give at most as many")
    transformation = as_transformation(optimiser)
    check_loss(model, entries, weights)
    weights = None if weights is None else jnp.asarray(example_weights(weights, num_examples), float)
    check_finite(entries)
    if isinstance(model, ChecksData):
        model.check_data(*entries)
    if augment is not None:
        _check_augment(augment, entries[0], key)
    train = Trainer(
        model,
        to_device(entries),
        transformation,
        batch_size=batch_size,
        key=key,
        ema=ema,
        augment=augment,
        steps_per_call=steps_per_call,
        weights=weights,
    )
    return _repeat(train, steps, evaluate, steps if evaluate_every is None else evaluate_every, progress)


def _repeat(
    train: Trainer, steps: int, evaluate: Callable[..., Any] | None, evaluate_every: int, progress: bool
) -> tuple[Any, History]:
    """Run all steps, with evaluations in between."""
    state = train.init()
    reports: list[dict[str, np.ndarray]] = []
    evaluations: list[dict[str, Any]] = []

    def record(step: int) -> None:
        if evaluate is not None:
            values = _evaluated(evaluate, train.model(state), step, train.metrics)
            if evaluations and (names := {"evaluation_step", *values}) != evaluations[0].keys():
                other = sorted(names ^ evaluations[0].keys())
                raise ValueError(
                    f"`evaluate` returns other names at step {step} than before, {other}: always return the same names"
                )
            evaluations.append({"evaluation_step": step, **values})

    record(0)
    with tqdm(total=steps, unit="step", disable=not progress) as bar:

        def wait_for(values: dict[str, Array], first: int, count: int) -> None:
            found = {name: np.asarray(value)[:count] for name, value in values.items()}
            _check_losses(found, first)
            reports.append(found)
            bar.set_postfix(loss=f"{found['loss'][-1]:.4g}", refresh=False)
            bar.update(count)

        done, under_way = 0, []
        while done < steps:
            stop = min(steps, done + evaluate_every - done % evaluate_every) if evaluate else steps
            count = min(train.steps_per_call, stop - done)
            state, values = train(state, count)
            under_way.append((values, done + 1, count))
            done += count
            # While this waits for one call, the device already has the next one, but never more than that.
            while len(under_way) > (done < stop):
                wait_for(*under_way.pop(0))
            if done == stop:
                record(done)
    history = {"step": np.arange(1, steps + 1)}
    for name in reports[0]:
        if name != SOUND:
            history[name] = np.concatenate([values[name] for values in reports])
    for name in evaluations[0] if evaluations else ():
        history[name] = np.asarray([values[name] for values in evaluations])
    return train.model(state), history


def _evaluated(evaluate: Callable[..., Any], model: Any, step: int, metrics: tuple[str, ...]) -> Mapping[str, Any]:
    """The dict of numbers that `evaluate` returns."""
    try:
        values = evaluate(model)
    except Exception as error:
        error.add_note(f"`evaluate` raised this in `flowprop.fit`, at step {step}")
        raise
    if not isinstance(values, Mapping):
        raise TypeError(
            f"`evaluate` returns {described(values)}: return a dict of numbers, such as {{'accuracy': 0.9}}"
        )
    check_names("evaluate", values, metrics)
    for name, value in values.items():
        if not is_real_scalar(value):
            raise TypeError(f"`evaluate` returns {described(value)} for {name!r}: return a number")
    return values


def _check_losses(reports: dict[str, np.ndarray], first: int) -> None:
    """Raise an error if a loss from step `first` on is not finite, unless the optimiser has skipped its step."""
    losses = reports["loss"]
    for index in np.flatnonzero(~reports.get(SOUND, np.isfinite(losses))):
        raise FloatingPointError(
            f"the loss is {losses[index]} at step {first + index}: lower the learning rate, clip the gradient "
            "(`optax.clip_by_global_norm`), or look for a label or a value out of range in `data`"
        )


def _check_sizes(
    steps: int, evaluate_every: int | None, steps_per_call: int | None, ema: Real | None, key: PRNGKey
) -> None:
    check_key("key", key)
    check_positive(steps=steps, evaluate_every=evaluate_every, steps_per_call=steps_per_call)
    if ema is not None:
        check_number("ema", ema, above=0, below=1, remedy="give a decay between 0 and 1, for example 0.999")


def _check_augment(augment: Augment, entry: PyTree, key: PRNGKey) -> None:
    """Raise a `TypeError` unless `augment` keeps the shapes and types of an example."""
    try:
        signature = inspect.signature(augment)
        signature.bind(None, key=key)
    except TypeError as error:
        raise TypeError(f"`augment` cannot be called as `augment(example, key=key)` ({error}): give it these") from None
    except ValueError:  # a callable without a signature
        pass
    example = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype if is_key(a) else jax.dtypes.canonicalize_dtype(a.dtype)),
        entry,
    )
    changed = jax.eval_shape(lambda example, key: augment(example, key=key), example, key)
    structure: Any = jax.tree.structure(changed)
    if structure != jax.tree.structure(example):
        raise TypeError(
            f"`augment` returns {described(changed)} where it is given {described(example)}: return the same structure"
        )
    for old, new in zip(jax.tree.leaves(example), jax.tree.leaves(changed), strict=True):
        if old.shape != new.shape:
            raise TypeError(f"`augment` returns the shape {new.shape} where an example has {old.shape}: keep the shape")
        if old.dtype != new.dtype:
            raise TypeError(
                f"`augment` returns {new.dtype} where an example has {old.dtype}: convert its result, "
                "`.astype(image.dtype)`"
            )
