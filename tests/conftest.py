"""Every test runs with the whole package checked by beartype, and without rank promotion."""

from jaxtyping import install_import_hook


with install_import_hook("flowprop", "beartype.beartype"):
    import flowprop  # noqa: F401

import jax
import pytest


jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    """The key that a test splits."""
    return jax.random.key(0)
