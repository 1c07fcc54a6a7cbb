"""Every test runs with the whole package checked by beartype, and without rank promotion."""

import gc
import itertools
import os
import tempfile

import jaxlib.version
import pytest


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
gc.set_threshold(50_000, 20, 50)


def pytest_configure(config):
    """Import the package, but not in the process of `pytest -n` that only hands out tests: its workers wait for it."""
    if config.getoption("tx", None) and not hasattr(config, "workerinput"):
        return
    import jax
    from jaxtyping import install_import_hook

    # To read a program from JAX's cache takes half as long as to trace and compile it. Each worker has a folder of its
    # own, because JAX writes a file while others may read it.
    if folder := jax.config.jax_compilation_cache_dir:
        folder = os.path.join(folder, os.environ.get("PYTEST_XDIST_WORKER", "main"))
    else:
        temporary = tempfile.TemporaryDirectory(prefix="flowprop-tests-")
        config.add_cleanup(temporary.cleanup)
        folder = temporary.name
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    with install_import_hook("flowprop", "beartype.beartype"):
        import flowprop  # noqa: F401
    jax.config.update("jax_numpy_rank_promotion", "raise")


tests = itertools.count(1)


@pytest.fixture(autouse=True)
def forget():
    """Thousands of programs kept alive slow down each further compilation: none outlives a hundred tests."""
    yield
    if next(tests) % 100 == 0:
        import equinox
        import jax

        jax.clear_caches()
        equinox.clear_caches()
        gc.collect()


@pytest.fixture
def x64():
    """Double precision for one test."""
    import jax

    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    """The key that a test splits."""
    import jax

    return jax.random.key(0)
