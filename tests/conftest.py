"""Every test runs with the whole package checked by beartype, and without rank promotion."""

import gc
import os

from jaxtyping import install_import_hook


# The suite compiles much and computes little.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

with install_import_hook("flowprop", "beartype.beartype"):
    import flowprop  # noqa: F401

import equinox
import jax
import pytest


jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="module", autouse=True)
def forget():
    """Thousands of programs kept alive slow down each further compilation: none outlives its module."""
    yield
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
