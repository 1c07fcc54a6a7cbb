"""`fit`: training a model, from data to the trained model and its history."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from os import PathLike
from typing import Any, Literal, TypeVar

import jax
from jaxtyping import PyTree

from .._checked import described
from .._types import PRNGKey, Real, check_key, check_positive, checked, is_traced
from .batches import is_stream
from .checkpoints import Folder, configuration, without_addresses
from .examples import gather_examples
from .history import FitState, History
from .loop import Loop
from .run import Callback, Run, Settings
from .step import TrainState
from .trainer import Trainer
from .validation import ValidationLoss


#: Any object. `fit` itself checks that it has a `loss`, so that its message can name what is missing.
Model = TypeVar("Model")
Augment = Callable[..., PyTree]


@checked
def fit(
    model: Model,
    data: Any,
    optimiser: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int,
    key: PRNGKey,
    weights: Any = None,
    ema: Real | None = None,
    validation: Any = None,
    patience: int | None = None,
    evaluate: Callable[[Model], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    monitor: str | None = None,
    mode: Literal["min", "max"] = "min",
    callbacks: Callback | Sequence[Callback] = (),
    augment: Augment | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    state: FitState | None = None,
    mesh: Any = None,
    steps_per_call: int | None = None,
    progress: bool = True,
) -> tuple[Model, History]:
    """Trains a model, by minibatch gradient descent with an Optax optimiser.

    The model is a flow, a classifier, or a model of your own (see below). `fit` moves the data to the device once and
    runs many steps in one call of the device. Each epoch shuffles the examples and splits them into full batches. `fit`
    drops the last incomplete batch of an epoch; the next epoch shuffles all examples again. Every floating-point array
    of the model is trained, except those in a [`flowprop.Frozen`][].

    Nothing is lost when a training ends early. With `checkpoint`, the same call goes on where the last one stopped, and
    ends bit for bit as a call that nothing disturbed. Ctrl-C and SIGTERM end the training after the current steps:
    `fit` warns, saves, and returns what there is. An error of `evaluate`, of a callback or of `data` has the attributes
    `model` and `history` with the work so far. A step whose loss is not finite is not taken, see
    [`flowprop.NonFiniteLossError`][].

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
    - `data`: one of
        - an array, or a tuple or list with one entry for each argument of `loss`. An entry is an array, or a PyTree of
          arrays such as a dict. All arrays have the same first axis `n`, the axis of examples, and a batch is the same
          rows of each array. Arrays of NumPy and JAX, and objects that convert to one, such as a data frame of numbers,
          are accepted. Each array keeps its type, except that JAX holds 64-bit numbers in 32 bits unless
          `jax_enable_x64` is set. A memory-mapped array, `np.load(path, mmap_mode="r")`, stays on disk: `fit` reads the
          same batches as from memory, while the device computes.
        - an iterable of batches of any size, such as a `grain` pipeline or a `DataLoader`. Each item is what `data`
          would be. `fit` reads ahead and makes batches of `batch_size` rows from them; rows that are left begin the
          next batch. An iterable that can be read again is read again when it ends; the order of the rows is its own.
    - `optimiser`: any Optax optimiser, for example `optax.adam(1e-3)`; also `optax.MultiSteps`, `optax.lbfgs`,
      `optax.lookahead` and schedule-free optimisers. It is given the whole tree of trained parameters. For the last two
      kinds, the model that is returned, evaluated and averaged has the parameters meant for use, not those at which
      gradients are evaluated.
    - `steps`: the number of training steps, from the beginning.
    - `epochs`: in place of `steps`: how often all examples are used, `steps = epochs * (n // batch_size)`.
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
    - `validation`: examples that are not trained on: a share of `data` between 0 and 1, drawn by `key` alone, or arrays
      as in `data`. `fit` then records a `validation_loss` at each evaluation, and returns the model with the smallest.
      It is the mean loss of the (averaged) model in use, with the same times and noise at each evaluation, over at
      least 2,048 draws. By default none.
    - `patience`: the training ends after this many evaluations in a row without a new best model. By default never.
    - `evaluate`: a function from the (averaged) model to a dict of numbers, which `fit` records in the history. `fit`
      calls it before the first step, every `evaluate_every` steps, and at the end.
    - `evaluate_every`: the number of steps between two evaluations. By default, with `validation`, a fiftieth of
      `steps`, or more if the evaluations would otherwise take over some 5 % of the time; without, `fit` evaluates only
      before the first step and at the end.
    - `monitor`: the name of a number of the evaluations. `fit` returns the model for which it is best. By default
      `"validation_loss"` if there is a validation; without, `fit` returns the last model.
    - `mode`: whether the best is the smallest, `"min"`, or the largest, `"max"`.
    - `callbacks`: a function or several. Each is called at every evaluation with a [`flowprop.Report`][], and may
      return `True` to end the training. By default none.
    - `augment`: data augmentation, a callable `augment(example, key=key)` that returns a changed example of the same
      shape and type, such as [`flowprop.data.RandomCrop`][]`(4)`. `fit` applies it to each example of the first entry
      of a training batch.
    - `checkpoint`: a folder in which `fit` saves the training, so that the same call goes on from there: parameters,
      averages, optimiser, step, key, position in the data, and history. Only `steps` and the arguments that do not
      change a step may differ. The folder has a `history.jsonl` with one line for each evaluation. Needs the extra
      `flowprop[train]`. By default nothing is saved.
    - `checkpoint_every`: the number of steps between two checkpoints. By default `fit` saves once a minute, and when
      the training ends. The last two checkpoints are kept.
    - `state`: the `state` of an earlier history, to go on from it up to step `steps`. By default from the beginning.
    - `mesh`: a `jax.sharding.Mesh`: each device computes an equal part of each batch. Arrays of `data` and `model` that
      are sharded over its devices stay so; all others are copied to each device. By default the mesh over which
      `data` are sharded, or one device.
    - `steps_per_call`: how many steps run in one call of the device. By default 50, but 1 for networks with
      convolutions on a CPU, since XLA computes their gradients much more slowly inside a loop
      ([jax-ml/jax#12868](https://github.com/jax-ml/jax/issues/12868)). The result does not depend on it, except for
      rounding.
    - `progress`: whether to show a progress bar.

    **Returns:** the trained model and its [`flowprop.History`][], a dict of arrays. `step` (from 1), `loss` and the
    metrics of the loss have one value for each step. `evaluation_step` (from 0), `validation_loss` and the numbers that
    `evaluate` returns have one value for each evaluation.

    **Raises:**

    - `ValueError` or `TypeError` before the first step, if data, sizes, optimiser, augmentation, loss or evaluation do
      not fit together, if the data contain NaN or infinity, or if `checkpoint` holds another training. The folder is
      then as before.
    - [`flowprop.NonFiniteLossError`][], a `FloatingPointError`, during training, if a loss is not finite and
      `optax.apply_if_finite` has not skipped the step.

    **Warns:** if Ctrl-C, SIGTERM or the end of `data` ended the training early.
    """
    check_key("key", key)
    if (steps is None) == (epochs is None):
        raise ValueError("`steps` and `epochs`: give one of the two")
    if checkpoint is not None and state is not None:
        raise ValueError("`checkpoint` and `state` are both given, and each says where to begin: leave one out")
    check_positive(
        steps=steps,
        epochs=epochs,
        evaluate_every=evaluate_every,
        patience=patience,
        checkpoint_every=checkpoint_every,
        steps_per_call=steps_per_call,
    )
    if is_traced(model, () if is_stream(data) else data, key, weights):
        raise TypeError(
            "`fit` cannot be transformed by `jax.jit`, `jax.vmap` or `jax.grad`: to train an ensemble, give `fit` one "
            "model that holds all members, with the sum of their losses"
        )
    trainer = Trainer(model, optimiser, ema=ema, augment=augment)
    examples = gather_examples(model, data, weights, validation, batch_size=batch_size, mesh=mesh, key=key)
    if augment is not None:
        _check_augment(augment, examples.example.data[0], key)
    if epochs is not None:
        if examples.num_examples is None:
            raise ValueError("`epochs` is given where `data` is an iterable of batches: give `steps`")
        steps = epochs * (examples.num_examples // batch_size)
    assert steps is not None
    if monitor is None and examples.validation is not None:
        monitor = "validation_loss"
    if monitor is not None and examples.validation is None and evaluate is None:
        raise ValueError(f"`monitor` is {monitor!r}, and nothing is evaluated: give `evaluate`, or `validation`")
    if patience is not None and monitor is None:
        raise ValueError("`patience` needs a number to watch: give `validation`, or `monitor` with `evaluate`")
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        evaluate=evaluate,
        evaluate_every=evaluate_every or _evaluate_every(steps, batch_size, examples.validation),
        monitor=monitor,
        largest=mode == "max",
        patience=patience,
        callbacks=(callbacks,) if callable(callbacks) else tuple(callbacks),
        checkpoint_every=checkpoint_every,
        progress=progress,
    )
    loop = Loop(
        trainer,
        examples.example,
        batch_size=batch_size,
        steps_per_call=steps_per_call,
        streamed=examples.source is None,
        layout=examples.layout,
        key=key,
    )
    training = loop.init()
    first = FitState(training, None if monitor is None else trainer.arrays(training), {}, {})
    if state is not None:
        _check_state(state.training, training)
    if checkpoint is None:
        return Run(settings, trainer, loop, examples, None, state or first, None)()
    config = configuration(model, optimiser=trainer.rule.optimiser.optimiser, state=training, data=examples.parts)
    options = {
        "batch_size": batch_size,
        "ema": None if ema is None else float(ema),
        "monitor": monitor,
        "mode": mode,
        "augment": without_addresses(repr(augment)),
    }
    folder = Folder(checkpoint, {"version": version("flowprop"), **config, **options})
    try:
        restored, position = folder.restore(first) or (first, None)
        return Run(settings, trainer, loop, examples, folder, restored, position)()
    finally:
        folder.close()


def _kind(tree: PyTree) -> tuple:
    """The structure of a PyTree, and the shapes and types of its arrays."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(leaf.shape, leaf.dtype) for leaf in leaves]


def _check_state(state: TrainState, first: TrainState) -> None:
    """Raise a `ValueError` unless a state has the structure, shapes and types of the first one."""
    for name, given, needed in zip(TrainState._fields, state, first, strict=True):
        if _kind(given) != _kind(needed):
            raise ValueError(
                f"`state` belongs to another training, with another `{name}`: give the model, the optimiser and the "
                "`ema` with which it was made"
            )


def _evaluate_every(steps: int, batch_size: int, validation: ValidationLoss | None) -> int | None:
    """A fiftieth of the steps, but so seldom that evaluations take about a twentieth of the time."""
    if validation is None:
        return None
    # An evaluation of an example costs a third of a step's share for it: the loss without its gradient.
    return min(steps, max(1, steps // 50, 20 * validation.num_examples // (3 * batch_size)))


def _check_augment(augment: Augment, example: PyTree, key: PRNGKey) -> None:
    """Raise a `TypeError` unless `augment` keeps the shapes and types of an example."""
    try:
        signature = inspect.signature(augment)
        signature.bind(None, key=key)
    except TypeError as error:
        raise TypeError(f"`augment` cannot be called as `augment(example, key=key)` ({error}): give it these") from None
    except ValueError:  # a callable without a signature
        pass
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
