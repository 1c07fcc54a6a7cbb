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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import tyro


# As a script, or as a module of the installed package `flowprop_examples`.
if __package__:
    from .kept_runs import KeptRuns
    from .noprop_measure import load, measure
    from .noprop_report import NAMES, draw_curves, print_accuracies, print_checks
else:
    from kept_runs import KeptRuns
    from noprop_measure import load, measure
    from noprop_report import NAMES, draw_curves, print_accuracies, print_checks


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
    print_accuracies(config, records)
    print_checks(config, records)
    draw_curves(config, records, output)
    (output / "results.json").write_text(json.dumps(records, indent=1))
    print(f"\nThe figure and results.json are in {output}")


if __name__ == "__main__":
    main()
