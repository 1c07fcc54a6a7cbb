"""The commands and their options."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from . import use
from .settings import Protocol, Task
from .train import train


@dataclass
class Train:
    """Train a model on a table and save it as DIR/model.fp. The same command again goes on where it stopped."""

    data: Positional[Path]
    """The table: a .csv, .npy, .npz or .parquet file. A matrix x of an .npz file has the columns x_0, x_1, ..."""
    task: Literal["density", "conditional", "classify", "regress"]
    """density: p(columns). conditional: p(columns | condition). classify: p(target | columns), the target a class.
    regress: p(target | columns), the target a number."""
    output: Path
    """The folder for model.fp, results.json and the checkpoints. It must be new, or that of the same command."""
    protocol: Literal["fm", "ct", "df", "dt"] = "fm"
    """fm: flow matching. ct: diffusion in continuous time. df: diffusion that predicts the noise. dt: independent
    blocks (NoProp-DT), for classify only."""
    columns: tuple[str, ...] = ()
    """The columns to model (density, conditional), or to predict from (classify, regress). Default: all others."""
    condition: tuple[str, ...] = ()
    """The columns that a conditional density is conditioned on."""
    target: str | None = None
    """The column to predict (classify, regress). Classes are whole numbers 0, 1, 2, ..."""
    validation: float = 0.1
    """The share of the rows that choose the best model and end the training."""
    test: float = 0.1
    """The share of the rows on which results.json is measured, and nothing else. 0 for none."""
    steps: int = 5000
    """The largest number of training steps."""
    patience: int = 10
    """The training ends after this many evaluations on the validation rows without a better model."""
    batch_size: int = 256
    """The number of rows in a training step; all training rows if there are fewer."""
    learning_rate: float = 1e-3
    """The learning rate of the first step. It decays to 0 along a half cosine."""
    weight_decay: float = 0.0
    """The weight decay of AdamW."""
    ema: float = 0.995
    """The decay of the moving average of the parameters, which is the model that is saved."""
    width: int | None = None
    """The size of each hidden layer. Default: four times the number of columns, from 64 to 1024."""
    depth: int = 3
    """The number of hidden layers."""
    blocks: int = 10
    """The number of blocks of the protocol dt."""
    seed: int = 0
    """The seed of the split of the rows, the initial weights and the training. The same seed gives the same model."""
    progress: bool = True
    """Whether to show a progress bar."""

    def run(self) -> None:
        """Train."""
        task = Task(self.task, Protocol(self.protocol), self.columns, self.condition, self.target)
        train(self, task)


@dataclass
class Sample:
    """Draw samples from a model, in the units of its data, and write them to a file."""

    model: Positional[Path]
    """The model.fp that train has saved."""
    output: Path
    """The file to write: .csv, .npy, .npz or .parquet."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 1000
    """The number of samples: in all, or for each row of --given."""
    given: Path | None = None
    """For conditional and regress: a table with the columns that the model is conditioned on."""
    overwrite: bool = False
    """Replace the output file if it exists."""
    seed: int = 0
    """The seed of the samples."""

    def run(self) -> None:
        """Draw and write."""
        use.sample(self.model, self.output, self.n, self.given, self.seed, overwrite=self.overwrite)


@dataclass
class LogProb:
    """Write the log-likelihood of each row of a table, in nats. For classify, that of the class of the row."""

    model: Positional[Path]
    """The model.fp that train has saved."""
    data: Positional[Path]
    """A table with the columns of the model."""
    output: Path | None = None
    """The file to write: .csv, .npy, .npz or .parquet. Default: print a CSV."""
    overwrite: bool = False
    """Replace the output file if it exists."""
    seed: int = 0
    """The seed of the draws of a classifier."""

    def run(self) -> None:
        """Compute and write."""
        use.log_prob(self.model, self.data, self.output, self.seed, overwrite=self.overwrite)


@dataclass
class Evaluate:
    """Print as JSON how well a model describes a table: log-likelihood; accuracy (classify) or error (regress)."""

    model: Positional[Path]
    """The model.fp that train has saved."""
    data: Positional[Path]
    """A table with the columns of the model."""
    seed: int = 0
    """The seed of the draws of a classifier or regressor."""

    def run(self) -> None:
        """Compute and print."""
        use.evaluate(self.model, self.data, self.seed)


@dataclass
class Info:
    """Print as JSON what a model is: its task, protocol, columns, size and training."""

    model: Positional[Path]
    """The model.fp that train has saved."""

    def run(self) -> None:
        """Print."""
        use.info(self.model)


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": Train,
    "sample": Sample,
    "log-prob": LogProb,
    "evaluate": Evaluate,
    "info": Info,
}


def parse(arguments: Sequence[str]) -> Train | Sample | LogProb | Evaluate | Info:
    """The command that the words of a command line give, or `SystemExit`."""
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog="flowprop",
        description="Train a flow on a table, and use it.",
        args=list(arguments),
    )
