"""NoProp's table of test accuracies (arXiv:2503.24322, table 1), measured anew, with its claims put to the test.

Rows: back-propagation through T blocks, NoProp-DT, the adjoint method, NoProp-CT, NoProp-FM, and, because it is the
question that the table leaves open, an ordinary classifier with the same encoder. Columns: labels as one-hot vectors,
as learned vectors of dimension 20, and as learned prototypes that are images. (`--methods df` is another row, which the
paper has not: noise prediction.) Every run is kept in a file of its own the moment it is done: stop when you like, and
the same command goes on from there.

    FLOWPROP_DATA=path/to/mnist python examples/noprop_table.py                  # downloads without FLOWPROP_DATA
    python examples/noprop_table.py --dataset digits --epochs 20                 # nothing to download
    python examples/noprop_table.py --methods fm --embeddings one-hot --augment --epochs 40 --channels 32 64
    python examples/noprop_table.py --no-share-encoder                           # ten encoders, as the paper has them
    python examples/noprop_table.py --dataset cifar10 --encoder resnet18 --augment --epochs 100     # with a GPU

What is printed beside the accuracies says what they are worth: the accuracy when the flow's end is replaced by noise
before the class is read off it (chance, unless the readout sees more than it should), and that of a single evaluation
of the network, before the label has flowed anywhere.
"""

import functools
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from kept_runs import KeptRuns
from noprop_models import OrdinaryClassifier, label_parts, make_model

import flowprop as fp


Method = Literal["backprop", "dt", "adjoint", "ct", "fm", "df", "ordinary"]
EmbeddingName = Literal["one-hot", "dim-20", "prototype"]


@dataclass
class Config:
    """NoProp's table for a data set."""

    dataset: Literal["mnist", "digits", "cifar10", "cifar100"] = "mnist"
    methods: tuple[Method, ...] = ("ordinary", "fm", "ct", "dt", "backprop", "adjoint")
    embeddings: tuple[EmbeddingName, ...] = ("one-hot", "dim-20", "prototype")
    seed: int = 0
    """The first of them."""
    num_seeds: int = 2
    draws: int = 5
    """Runs of inference for each trained model, each from other noise."""
    measured_on: Literal["test", "held-out"] = "test"
    """The images that accuracies are of: a budget is chosen on those held out of training."""
    epochs: int = 10
    block_epochs: int | None = None
    """Epochs of the methods that have blocks, `dt` and `backprop`. By default as many."""
    adjoint_epochs: int | None = 4
    """Epochs of the adjoint method, which learns in few (the paper: 2 to 4) and in slow ones."""
    steps: int | None = None
    """Steps of training, instead of epochs: for a trial."""
    num_blocks: int = 10
    encoder: Literal["conv", "mixer", "resnet18", "resnet50", "resnet152"] = "conv"
    channels: tuple[int, ...] = (16, 32, 64)
    """Of the convolutional encoder; the width of a ResNet or mixer is the first of them."""
    block_channels: tuple[int, ...] = (16, 32)
    """The same for a block's own encoder, whose convolutions have strides instead of pooling: ten are trained."""
    share_encoder: bool = True
    """Whether the blocks share one encoder, that of the other methods, instead of one each as in the paper."""
    features: int = 128
    objective: Literal["cross-entropy", "paper"] = "cross-entropy"
    """Cross-entropy at every time, or the paper's own: its algorithms 1 to 3, learnable schedule, linear readout."""
    augment: bool = False
    """Random shifts of MNIST with slight turns, crops and flips of CIFAR; in training only."""
    batch_size: int = 128
    learning_rate: float = 2e-3
    """At its peak, after a short warm-up and before a cosine decay to zero."""
    weight_decay: float = 1e-2
    ema: float = 0.999
    output: Path | None = None
    """By default results/noprop_table/DATASET."""


#: Test accuracy in per cent, and what the paper says of its budget: 3 seeds, 5 runs of inference each, no augmentation.
PAPER = {
    "mnist": {
        "backprop": (99.46, 99.43, 99.44),
        "dt": (99.47, 99.49, 99.54),
        "adjoint": (98.62, None, None),
        "ct": (97.84, 97.70, 97.17),
        "fm": (99.21, 99.29, 98.52),
    },
    "cifar10": {
        "backprop": (79.92, 79.30, 79.58),
        "dt": (79.25, 79.12, 80.54),
        "adjoint": (66.78, None, None),
        "ct": (73.35, 71.77, 66.54),
        "fm": (73.14, 73.50, 75.18),
    },
    "cifar100": {
        "backprop": (45.85, 46.57, 47.80),
        "dt": (45.93, 45.19, 46.06),
        "adjoint": (25.03, None, None),
        "ct": (33.66, 33.99, 21.31),
        "fm": (6.38, 31.14, 37.57),
    },
}
NAMES = {
    "ordinary": "ordinary classifier",
    "backprop": "back-propagation",
    "dt": "NoProp-DT",
    "adjoint": "adjoint",
    "ct": "NoProp-CT",
    "fm": "NoProp-FM",
    "df": "NoProp-DF",
}


# The data


def load(config: Config):
    """Images with their labels: to train on, held out of that, and to measure the trained model on."""
    images, labels, *test = getattr(fp.data, config.dataset)()
    order = np.random.default_rng(0).permutation(len(images))
    held_out, rest = np.split(order, [len(order) // 12])
    validation = images[held_out], labels[held_out]
    return (images[rest], labels[rest]), validation, tuple(test) if config.measured_on == "test" else validation


def augmentation(config: Config):
    if not config.augment:
        return None
    if config.dataset.startswith("cifar"):
        return fp.data.Augmentation(fp.data.RandomCrop(4), fp.data.RandomFlip())
    return fp.data.RandomAffine(degrees=10.0, scale=(0.9, 1.1), translate=2.0)


# Training and measuring


def train(config: Config, method: Method, model, training, validation, key):
    """The trained model, the validation accuracy at the end of each epoch, and the seconds of training until then."""
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
    """Bytes that the compiler sets aside for a step's activations and gradients, beside parameters and data."""
    parameters, rest = eqx.partition(model, fp.trainable(model))
    batch = [jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype) for array in map(jnp.asarray, training)]

    def loss(parameters, batch, key):
        return eqx.combine(parameters, rest).loss(*batch, key=key)

    compiled = jax.jit(jax.grad(loss)).lower(parameters, batch, jax.random.key(0)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@eqx.filter_jit
def noise_accuracy(model, labels, key):
    """The accuracy when the class is read off noise instead of the flow's end."""
    embedding, readout = label_parts(model)
    noise = jax.random.normal(key, (len(labels), *embedding.matrix.shape[1:]))
    read = jax.lax.map(lambda z: readout(z, embedding.matrix).argmax(), noise, batch_size=500)
    return (read == labels).mean()


@eqx.filter_jit
def one_evaluation_accuracy(model, images, labels, key):
    """The accuracy of the target as the network first estimates it, from noise and the image alone."""
    embedding, readout = label_parts(model)
    inner = getattr(model, "blocks", getattr(model, "classifier", model))
    first = inner.block(0) if isinstance(inner, fp.NoPropDT) else inner

    def one(example):
        image, key = example
        target = first.flow.target(0.0, first.flow.draw_noise(key=key), first.condition(image))
        return readout(target, embedding.matrix).argmax()

    keys = jax.random.split(key, len(labels))
    return (jax.lax.map(one, (images, keys), batch_size=500) == labels).mean()


def test_accuracies(config: Config, model, images, labels, key):
    """Of each run of inference by itself, as in the paper, and of the mean of their probabilities."""
    if isinstance(model, OrdinaryClassifier):
        accuracy = float((model.predict(images, key=key) == labels).mean())
        return {"accuracies": [accuracy], "averaged_accuracy": accuracy}
    runs = np.stack([model.predict_proba(images, key=k) for k in jax.random.split(key, config.draws)])
    return {
        "accuracies": [float(accuracy) for accuracy in (runs.argmax(axis=-1) == labels).mean(axis=1)],
        "averaged_accuracy": float((runs.mean(axis=0).argmax(axis=-1) == labels).mean()),
    }


def measure(config: Config, method: Method, name: EmbeddingName, seed: int, data) -> dict:
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


# The table


def summary(records):
    """Mean over seeds of the mean over draws, in per cent, and its standard error over seeds."""
    means = [100 * np.mean(record["accuracies"]) for record in records]
    error = np.std(means, ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return float(np.mean(means)), float(error)


def print_table(config: Config, records):
    paper = PAPER.get(config.dataset, {})
    print(f"\nAccuracy in per cent on the {config.measured_on} images of {config.dataset}:", end=" ")
    print("mean over seeds, standard error [the paper's figure]")
    print(f"{'':>20}" + "".join(f"{name:>26}" for name in config.embeddings))
    for method in config.methods:
        cells = []
        for name in config.embeddings:
            rows = [r for r in records if r["method"] == method and r["embedding"] == name]
            if not rows:
                cells.append(f"{'':>26}")
                continue
            mean, error = summary(rows)
            column = ("one-hot", "dim-20", "prototype").index(name)
            published = paper.get(method, (None, None, None))[column]
            spread = f"+- {error:4.2f}" if math.isfinite(error) else "one seed"
            cells.append(f"{mean:>10.2f} {spread:<8} [{'' if published is None else published:>5}]")
        print(f"{NAMES[method]:>20}" + "".join(cells))
    measures = {
        "draws averaged": ("averaged_accuracy", 100),
        "from noise": ("noise_accuracy", 100),
        "one evaluation": ("one_evaluation_accuracy", 100),
        "evaluations": ("function_evaluations", 1),
        "seconds": ("seconds", 1),
        "memory, MB": ("memory", 1e-6),
    }
    print("\nWhat the figures are worth, means over seeds and embeddings")
    print(f"{'':>20}" + "".join(f"{title:>16}" for title in measures))
    for method in config.methods:
        rows = [r for r in records if r["method"] == method]
        if not rows:
            continue
        cells = []
        for name, scale in measures.values():
            values = [row[name] for row in rows if name in row]
            cells.append(f"{scale * np.mean(values):>16.2f}" if values else f"{'':>16}")
        print(f"{NAMES[method]:>20}" + "".join(cells))


def draw_curves(config: Config, records, output):
    """Accuracy against training time, the paper's figure 3: mean over seeds, for one-hot labels."""
    curves = {}
    for method in config.methods:
        rows = [r["curve"] for r in records if r["method"] == method and r["embedding"] == config.embeddings[0]]
        if rows:
            curves[NAMES[method]] = np.mean([row[: min(map(len, rows))] for row in rows], axis=0)
    fp.plot.save(fp.plot.accuracy_against_time(curves), output / "accuracy_against_time.png")


def main(config: Config) -> None:
    output = config.output or Path("results", "noprop_table", config.dataset)
    kept = KeptRuns(output, config, {"methods", "embeddings", "seed", "num_seeds", "output"})
    data = load(config)
    # Column by column, seed by seed: the table can be looked at early.
    runs = [
        (method, name, seed)
        for seed in range(config.seed, config.seed + config.num_seeds)
        for name in config.embeddings
        for method in config.methods
        if method != "ordinary" or name == config.embeddings[0]
    ]
    records = []
    for number, (method, name, seed) in enumerate(runs, 1):
        title = f"run {number} of {len(runs)}: {NAMES[method]}, {name}, seed {seed}"
        measured = functools.partial(measure, config, method, name, seed, data)
        records.append(kept.record(f"{method}-{name}-{seed}", title, measured))
        accuracy = 100 * np.mean(records[-1]["accuracies"])
        print(f"{NAMES[method]:>20} {name:>10} seed {seed}: {accuracy:.2f} per cent", flush=True)
    print_table(config, records)
    draw_curves(config, records, output)
    (output / "results.json").write_text(json.dumps(records, indent=1))
    print(f"\nFigure and results.json are in {output}")


if __name__ == "__main__":
    main(tyro.cli(Config))
