"""`fit`: training a model on data in memory."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree
from tqdm.auto import tqdm

from ._checked import described, is_key
from ._data import check_finite, collect, example_weights, named_arrays, to_device
from ._loss import SOUND, check_loss, check_names, is_real_scalar
from ._optimiser import as_transformation
from ._trainer import Trainer
from ._types import PRNGKey, Real, check_key, check_number, check_positive, checked, is_traced


@runtime_checkable
class ChecksData(Protocol):
    """A model that looks at the whole of its data before it is trained, to refuse some or to warn of them."""

    def check_data(self, *data: PyTree) -> None: ...


#: What has a `loss`. `fit` asks for that itself, to say what is missing.
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
    """Train any model with a `loss(*batch, key=key)`: a flow, a classifier, one of your own.

    The data go to the device once. Each epoch sees them in a new random order, in whole batches: `fit` drops the
    last incomplete batch of an epoch, and the next epoch shuffles all examples again. Whatever is wrapped in
    [`flowprop.Frozen`][] is not trained.

    The model's `loss` gets one argument for each entry of `data`, and returns one of

    - `loss`, a real scalar;
    - `(loss, metrics)`: `metrics` is a dict of scalars, which `fit` keeps in the history;
    - `(loss, metrics, model)`: `model` is the model with other arrays, made by `equinox.tree_at`. `fit` takes from
      it every array that is not trained, such as the running mean of a batch normalisation in a
      [`flowprop.Frozen`][]. The trained arrays are the optimiser's alone.

    A model with a method `check_data(*data)` is given the data as they lie on the host, once, before the first step.
    It raises an error, or warns, if they do not suit it.

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
        Line(jnp.zeros(())), (x, 3 * x), optax.adam(0.1), steps=200, batch_size=50, key=jax.random.key(0)
    )
    print(line.slope, history["loss"][-1], history["largest_error"][-1])
    ```

    **Arguments:**

    - `model`: the model. It is not changed.
    - `data`: an array, or a tuple or list with one entry for each argument of `loss`: an array, or a PyTree of arrays
      such as a dict. All arrays share their first axis `n`, the one of the examples; a batch is the same rows of
      each. NumPy's and JAX's arrays do, and what converts itself to one, such as a data frame of numbers. Each
      keeps its type, except that JAX holds 64-bit numbers in 32 bits unless `jax_enable_x64` is set.
    - `optimiser`: any Optax optimiser, also `optax.MultiSteps`, `optax.lbfgs`, `optax.lookahead` and the
      schedule-free ones. It is given the whole tree of trained parameters. With the last two kinds, the model
      returned, evaluated and averaged has the parameters that are meant for use, not those that are trained.
    - `steps`: how many.
    - `batch_size`: at most the number of examples.
    - `key`: for the order of the data and the model's own draws. The same key and the same model give the same
      result. A model that has been trained gets other draws under the same key: `fit` mixes the initial values of
      the parameters into the key.
    - `weights`: of the examples, `(n,)`: finite numbers with a positive sum, which `fit` divides by their mean. The
      model's `loss` gets those of its batch as `weights`, `(batch_size,)`.
    - `ema`: the decay of an exponential moving average of the parameters, between 0 and 1, for example 0.999. The
      model returned then has the average. Early in training the average covers fewer steps, so that the initial
      values do not remain in it. It is kept in 32 bits at least.
    - `evaluate`: a function from the (averaged) model to a dict of numbers, which go into the history. `fit` calls
      it before the first step, every `evaluate_every` steps, and at the end.
    - `evaluate_every`: a number of steps. By default `fit` evaluates before the first step and at the end only.
    - `augment`: a callable `augment(example, key=key)` that returns a changed example of the same shape and type,
      such as [`flowprop.data.RandomCrop`][]`(4)`. It is applied to the first entry of each training batch.
    - `steps_per_call`: how many steps run in one call of the device. By default 50, and 1 for networks with
      convolutions on a CPU, where XLA slows their gradients inside a loop.
    - `progress`: whether to draw a progress bar.

    **Returns:** the trained model and its history. The history has the arrays `step` (from 1), `loss` and the
    metrics of the loss, one value for each step; with `evaluate` also `evaluation_step` (from 0) and what
    `evaluate` named.

    **Raises:** before the first step `ValueError` or `TypeError` for data, sizes, an optimiser, an augmentation, a
    loss or an evaluation that do not fit, and `ValueError` for NaN or infinity in the data; during training
    `FloatingPointError` when a loss is not finite, unless `optax.apply_if_finite` has skipped the step.
    """
    _check_sizes(steps, evaluate_every, steps_per_call, ema, key)
    entries = collect(data)
    if is_traced(model, entries, key, weights):
        raise TypeError(
            "`fit` cannot be transformed by `jax.jit`, `jax.vmap` or `jax.grad`: to train an ensemble, give it one "
            "model that holds several and has the sum of their losses"
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
    """Take all steps, with evaluations on the way."""
    state = train.init()
    reports: list[dict[str, np.ndarray]] = []
    evaluations: list[dict[str, Any]] = []

    def record(step: int) -> None:
        if evaluate is not None:
            values = _evaluated(evaluate, train.model(state), step, train.metrics)
            if evaluations and (names := {"evaluation_step", *values}) != evaluations[0].keys():
                other = sorted(names ^ evaluations[0].keys())
                raise ValueError(
                    f"`evaluate` returns other names at step {step} than before, {other}: return the same each time"
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
            # While this waits for a call the device has the next, and never more of them.
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
    """What `evaluate` returns, if it is a dict of numbers."""
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
    """Raise an error unless the losses from step `first` on are finite, or the optimiser has skipped the step."""
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
        check_number("ema", ema, above=0, below=1, remedy="the decay lies between 0 and 1, 0.999 for example")


def _check_augment(augment: Augment, entry: PyTree, key: PRNGKey) -> None:
    """Raise a `TypeError` unless an augmentation keeps the shapes and types of an example."""
    try:
        signature = inspect.signature(augment)
        signature.bind(None, key=key)
    except TypeError as error:
        raise TypeError(f"`augment` cannot be called as `augment(example, key=key)` ({error}): give it these") from None
    except ValueError:  # a callable that does not tell its arguments
        pass
    example = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype if is_key(a) else jax.dtypes.canonicalize_dtype(a.dtype)),
        entry,
    )
    changed = jax.eval_shape(lambda example, key: augment(example, key=key), example, key)
    structure: Any = jax.tree.structure(changed)
    if structure != jax.tree.structure(example):
        raise TypeError(
            f"`augment` returns {described(changed)} where it is given {described(example)}: return the same"
        )
    for old, new in zip(jax.tree.leaves(example), jax.tree.leaves(changed), strict=True):
        if old.shape != new.shape:
            raise TypeError(f"`augment` returns the shape {new.shape} where an example has {old.shape}: keep the shape")
        if old.dtype != new.dtype:
            raise TypeError(
                f"`augment` returns {new.dtype} where an example has {old.dtype}: convert what it returns, "
                "`.astype(image.dtype)`"
            )
