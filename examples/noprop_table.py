"""The table of test accuracies in the NoProp paper (https://arxiv.org/abs/2503.24322, table 1), measured again.

Rows: back-propagation through T blocks, NoProp-DT, the adjoint method, NoProp-CT, NoProp-FM, and an ordinary classifier
with the same encoder, which the paper does not have. `--methods df` adds noise prediction, which the paper does not
have either. Columns: labels as one-hot vectors, as learned vectors of dimension 20, and as learned prototypes, which
are images.

The example saves every run in its own file as soon as the run ends. If you stop it, the same command continues.

    python examples/noprop_table.py                           # digits of 8 x 8 pixels, no download: one minute
    python examples/noprop_table.py --dataset mnist --long    # the table on the results page: hours on a CPU
    python examples/noprop_table.py --methods fm --augment --epochs 100
    python examples/noprop_table.py --no-share-encoder        # ten encoders, as in the paper
    python examples/noprop_table.py --dataset cifar10 --long --encoder resnet18 --augment --epochs 100    # on a GPU

MNIST and CIFAR are downloaded, unless the environment variable FLOWPROP_DATA names their folder. With flowprop
installed, `flowprop-noprop-table` is the same command.

A second table shows how far to trust the accuracies. It has the accuracy when noise replaces the end of the flow before
the class is read from it: this must be chance, unless the readout receives more than it should. It also has the
accuracy after one evaluation of the network, before the label has moved.
"""

import functools
import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import flowprop as fp


# As a script, or as a module of the installed package `flowprop_examples`.
if __package__:
    from .kept_runs import KeptRuns
    from .noprop_models import OrdinaryClassifier, label_parts, make_model
else:
    from kept_runs import KeptRuns
    from noprop_models import OrdinaryClassifier, label_parts, make_model


Method = Literal["backprop", "dt", "adjoint", "ct", "fm", "df", "ordinary"]
EmbeddingName = Literal["one-hot", "dim-20", "prototype"]


@dataclass
class Config:
    """Measure NoProp's table on a data set.

    The default run takes about one minute on two cores and downloads nothing: one column, with one seed. Options
    that show None take their value from the chosen run.
    """

    dataset: Literal["digits", "mnist", "cifar10", "cifar100"] = "digits"
    """digits: 1797 images of 8 x 8 pixels from scikit-learn. The others are downloaded."""
    long: bool = False
    """Compute the whole table with two seeds."""
    methods: tuple[Method, ...] = ("ordinary", "fm", "ct", "dt", "backprop", "adjoint")
    """The rows of the table."""
    embeddings: tuple[EmbeddingName, ...] | None = None
    """The columns of the table. Default: one-hot; long: one-hot, dim-20 and prototype."""
    seed: int = 0
    """The first seed."""
    num_seeds: int | None = None
    """Number of seeds. Default: 1, long: 2."""
    draws: int = 5
    """Runs of inference for each trained model, each from other noise."""
    measured_on: Literal["test", "held-out"] = "test"
    """The images for the accuracies. Use those held out of training to choose a budget."""
    epochs: int | None = None
    """Passes over the training images. Default: 40 for digits, 1 for the others; long: 80 and 10."""
    block_epochs: int | None = None
    """Epochs of the methods with blocks, dt and backprop. Default: the same as epochs."""
    adjoint_epochs: int | None = None
    """Epochs of the adjoint method, which is slow and needs few (the paper: 2 to 4).
    Default: 8 for digits, 1 for the others; long: 16 and 4."""
    steps: int | None = None
    """Training steps instead of epochs, for a trial."""
    num_blocks: int = 10
    """Number of blocks of dt and backprop."""
    encoder: Literal["conv", "mixer", "resnet18", "resnet50", "resnet152"] = "conv"
    """The network that computes features of an image."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the convolutional encoder. The first is the width of a ResNet or mixer."""
    block_channels: tuple[int, ...] = (16, 32)
    """Channels of the encoder of each block, whose convolutions have strides instead of pooling, to train quickly."""
    share_encoder: bool = True
    """Whether the blocks share the encoder of the other methods, instead of one encoder each as in the paper."""
    features: int = 128
    """Number of features that an encoder computes from an image."""
    objective: Literal["cross-entropy", "paper"] = "cross-entropy"
    """Cross-entropy at every time, or the paper's losses (algorithms 1 to 3), learnable schedule and linear readout."""
    augment: bool = False
    """Change training images at random: shifts and slight turns of digits and MNIST, crops and flips of CIFAR."""
    batch_size: int = 128
    """Images in one training step."""
    learning_rate: float = 2e-3
    """The largest learning rate: after a short warm-up, and before a cosine decay to zero."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    ema: float = 0.999
    """Decay of the moving average of the parameters."""
    output: Path | None = None
    """Folder of the runs, the figure and results.json. Default: results/noprop_table/DATASET, long: DATASET_long."""


def preset(config: Config) -> dict:
    """What the options that are None become."""
    small = config.dataset == "digits"
    folder = Path("results", "noprop_table")
    if config.long:
        return {
            "embeddings": ("one-hot", "dim-20", "prototype"),
            "num_seeds": 2,
            "epochs": 80 if small else 10,
            "adjoint_epochs": 16 if small else 4,
            "output": folder / f"{config.dataset}_long",
        }
    return {
        "embeddings": ("one-hot",),
        "num_seeds": 1,
        "epochs": 40 if small else 1,
        "adjoint_epochs": 8 if small else 1,
        "output": folder / config.dataset,
    }


#: How long the run takes on two cores.
DURATIONS = {
    ("digits", False): "about one minute",
    ("digits", True): "about half an hour",
    ("mnist", False): "about half an hour",
    ("mnist", True): "several hours",
}


#: The paper's test accuracies in per cent: means over 3 seeds with 5 runs of inference each, without augmentation.
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
    """Images with their labels: for training, held out of training, and to evaluate the trained model on."""
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


def test_accuracies(config: Config, model, images, labels, key):
    """The accuracy of each run of inference, as in the paper, and of the mean of their probabilities."""
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
    print("\nHow far to trust the accuracies: means over seeds and embeddings")
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
    """Accuracy against training time, as in the paper's figure 3: mean over seeds, for the first column."""
    curves = {}
    for method in config.methods:
        rows = [r["curve"] for r in records if r["method"] == method and r["embedding"] == config.embeddings[0]]
        if rows:
            curves[NAMES[method]] = np.mean([row[: min(map(len, rows))] for row in rows], axis=0)
    fp.plot.save(fp.plot.accuracy_against_time(curves), output / "accuracy_against_time.png")


def main() -> None:
    config = tyro.cli(Config)
    if duration := DURATIONS.get((config.dataset, config.long)):
        hint = "" if config.long else "; use --long for the whole table"
        print(f"This run takes {duration} on two cores{hint}.", flush=True)
    else:
        print("This run needs a GPU.", flush=True)
    config = replace(config, **{name: value for name, value in preset(config).items() if getattr(config, name) is None})
    output = config.output
    kept = KeptRuns(output, config, {"methods", "embeddings", "seed", "num_seeds", "output", "long"})
    data = load(config)
    # Column by column, seed by seed, so that the first column is complete early.
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
    print(f"\nThe figure and results.json are in {output}")


if __name__ == "__main__":
    main()
