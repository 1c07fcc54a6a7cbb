"""The examples as installed commands, such as `flowprop-two-moons`. In the wheel this folder is `flowprop_examples`."""

from functools import partial
from importlib import import_module


def run(name: str) -> None:
    """Run the example of this name, with the arguments of the command line."""
    try:
        example = import_module(f".{name}", __name__)
    except ImportError as error:
        raise SystemExit(f"this example needs {error.name}: pip install 'flowprop[examples]'") from error
    example.main()


run_two_moons = partial(run, "two_moons")
run_mnist = partial(run, "mnist")
run_mnist_generate = partial(run, "mnist_generate")
run_density_2d = partial(run, "density_2d")
run_likelihood = partial(run, "likelihood")
run_noprop_table = partial(run, "noprop_table")
run_posterior = partial(run, "posterior")
run_sbi_benchmark = partial(run, "sbi_benchmark")
