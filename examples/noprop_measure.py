"""One run of `noprop_table.py`: load the data, train a model, and measure it.

`config` is the `Config` of `noprop_table.py`.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import flowprop as fp


# As a script, or as a module of the installed package `flowprop_examples`.
if __package__:
    from .noprop_models import OrdinaryClassifier, label_parts, make_model
else:
    from noprop_models import OrdinaryClassifier, label_parts, make_model


def load(config):
    """Images with their labels: for training, held out of training, and to evaluate the trained model on."""
    images, labels, *test = getattr(fp.data, config.dataset)()
    order = np.random.default_rng(0).permutation(len(images))
    held_out, rest = np.split(order, [len(order) // 12])
    validation = images[held_out], labels[held_out]
    return (images[rest], labels[rest]), validation, tuple(test) if config.measured_on == "test" else validation


def augmentation(config):
    if not config.augment:
        return None
    if config.dataset.startswith("cifar"):
        return fp.data.Augmentation(fp.data.RandomCrop(4), fp.data.RandomFlip())
    return fp.data.RandomAffine(degrees=10.0, scale=(0.9, 1.1), translate=2.0)


def train(config, method, model, training, validation, key):
    """The trained model, and a list of (seconds of training, validation accuracy), one at the end of each epoch."""
    images, labels = (array[:2000] for array in validation)
    key_train, key_val = jax.random.split(key)
    epoch = len(training[0]) // config.batch_size
    own = {"dt": config.block_epochs, "backprop": config.block_epochs, "adjoint": config.adjoint_epochs}
    epochs = own.get(method) or config.epochs
    steps = config.steps or epochs * epoch
    rate = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, min(epoch // 2, steps // 4), steps)
    curve, looking, began = [], 0.0, time.perf_counter()

    def evaluate(model):
        nonlocal looking
        stopped = time.perf_counter()
        accuracy = float((model.predict(images, key=key_val) == labels).mean())
        curve.append((stopped - began - looking, accuracy))
        looking += time.perf_counter() - stopped
        return {"accuracy": accuracy}

    model, _ = fp.fit(
        model,
        training,
        optax.adamw(rate, weight_decay=config.weight_decay),
        steps=steps,
        batch_size=config.batch_size,
        key=key_train,
        ema=config.ema,
        evaluate=evaluate,
        evaluate_every=epoch,
        augment=augmentation(config),
    )
    return model, curve


def training_memory(model, training, batch_size):
    """Bytes that the compiler allocates for the activations and gradients of a step, without parameters and data."""
    parameters, rest = eqx.partition(model, fp.trainable(model))
    batch = [jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype) for array in map(jnp.asarray, training)]

    def loss(parameters, batch, key):
        return eqx.combine(parameters, rest).loss(*batch, key=key)

    compiled = jax.jit(jax.grad(loss)).lower(parameters, batch, jax.random.key(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@eqx.filter_jit
def noise_accuracy(model, labels, key):
    """The accuracy when the class is read from noise instead of the end of the flow."""
    embedding, readout = label_parts(model)
    noise = jax.random.normal(key, (len(labels), *embedding.matrix.shape[1:]))
    read = jax.lax.map(lambda z: readout(z, embedding.matrix).argmax(), noise, batch_size=500)
    return (read == labels).mean()


@eqx.filter_jit
def one_evaluation_accuracy(model, images, labels, key):
    """The accuracy of the network's first estimate of the target, from noise and the image."""
    embedding, readout = label_parts(model)
    inner = getattr(model, "blocks", getattr(model, "classifier", model))
    first = inner.block(0) if isinstance(inner, fp.NoPropDT) else inner

    def one(example):
        image, key = example
        target = first.flow.target(0.0, first.flow.draw_noise(key=key), first.condition(image))
        return readout(target, embedding.matrix).argmax()

    keys = jax.random.split(key, len(labels))
    return (jax.lax.map(one, (images, keys), batch_size=500) == labels).mean()


def test_accuracies(config, model, images, labels, key):
    """The accuracy of each run of inference, as in the paper, and of the mean of their probabilities."""
    if isinstance(model, OrdinaryClassifier):
        accuracy = float((model.predict(images, key=key) == labels).mean())
        return {"accuracies": [accuracy], "averaged_accuracy": accuracy}
    runs = np.stack([model.predict_proba(images, key=k) for k in jax.random.split(key, config.draws)])
    return {
        "accuracies": [float(accuracy) for accuracy in (runs.argmax(axis=-1) == labels).mean(axis=1)],
        "averaged_accuracy": float((runs.mean(axis=0).argmax(axis=-1) == labels).mean()),
    }


def measure(config, method, name, seed: int, data) -> dict:
    training, validation, (images, labels) = data
    key_model, key_train, key_test = jax.random.split(jax.random.key(seed), 3)
    model = make_model(config, method, name, training, key_model)
    model, curve = train(config, method, model, training, validation, key_train)
    record = {
        "method": method,
        "embedding": name,
        "seed": seed,
        **test_accuracies(config, model, images, labels, key_test),
        "curve": curve,
        "seconds": curve[-1][0],
        "memory": training_memory(model, training, config.batch_size),
        "device": str(jax.devices()[0].device_kind),
    }
    if method != "ordinary":
        embedding, _ = label_parts(model)
        diagnostics = fp.embedding_diagnostics(embedding)
        record |= {
            "noise_accuracy": float(noise_accuracy(model, labels, key_test)),
            "one_evaluation_accuracy": float(one_evaluation_accuracy(model, images, labels, key_test)),
            "smallest_distance": float(diagnostics.smallest_distance),
            "effective_rank": float(diagnostics.effective_rank),
        }
    if isinstance(model, fp.Classifier):
        record["function_evaluations"] = float(model.function_evaluations(images[:500], key=key_test).mean())
    elif method in ("dt", "backprop"):
        record["function_evaluations"] = float(config.num_blocks)
    elif method == "adjoint":
        record["function_evaluations"] = 20.0
    return record
