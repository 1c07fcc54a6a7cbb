"""Every test runs with the whole package checked by beartype, and without rank promotion."""

import gc
import itertools
import os

import jaxlib.version
from jaxtyping import install_import_hook


# The suite compiles much and computes little: in a third of the time by these flags, and with fewer looks for garbage.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
        "--xla_cpu_parallel_codegen_split_count=1",
        # A later jaxlib does not know it, and ends the process that sets it.
        "--xla_cpu_use_fusion_emitters=false" if jaxlib.version.__version_info__ < (0, 11) else "",
    ]
)

with install_import_hook("flowprop", "beartype.beartype"):
    import flowprop  # noqa: F401

import equinox
import jax
import pytest


jax.config.update("jax_numpy_rank_promotion", "raise")
gc.set_threshold(50_000, 20, 50)


modules = itertools.count(1)


@pytest.fixture(scope="module", autouse=True)
def forget():
    """Thousands of programs kept alive slow down each further compilation: none outlives four modules."""
    yield
    if next(modules) % 4 == 0:
        jax.clear_caches()
        equinox.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    """The key that a test splits."""
    return jax.random.key(0)
