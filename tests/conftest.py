"""float64 on, unless JAX_ENABLE_X64=0: CI runs the derivative tests a second time so.

Most of the suite's time is compilation, so XLA optimises little here unless GRU_JAX_TESTS_OPTIMIZED=1, as in CI on Python 3.12.

Many tests compile the same programs: each process keeps what it compiled, in a folder of its own that goes when it ends.
"""

import atexit
import os
import shutil
import tempfile

import jax
import pytest

jax.config.update("jax_disable_most_optimizations", os.environ.get("GRU_JAX_TESTS_OPTIMIZED", "0") == "0")
jax.config.update("jax_enable_x64", os.environ.get("JAX_ENABLE_X64", "1") != "0")

compiled = tempfile.mkdtemp(prefix="gru_jax_tests_")
atexit.register(shutil.rmtree, compiled, ignore_errors=True)
jax.config.update("jax_compilation_cache_dir", compiled)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(autouse=True)
def _highest_matmul_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture
def needs_x64():
    """Skips a test that compares with float64 where the run has none."""
    if not jax.config.jax_enable_x64:
        pytest.skip("float64 is off in this run")
